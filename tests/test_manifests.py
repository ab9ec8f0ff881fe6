import re

import pytest

from lesson_helpers import manifests
from lesson_helpers.errors import LessonError

WORKSPACE = """
[workspace]
channels = ["conda-forge"]
platforms = ["linux-64", "win-64", { name = "linux-64-cuda", platform = "linux-64", cuda = "12" }]
"""


@pytest.fixture
def read(tmp_path):
    def read(text):
        (tmp_path / "pixi.toml").write_text(text)
        return manifests.read(tmp_path / "pixi.toml")

    return read


def wanted(manifest, environment):
    return {str(platform): specs for platform, specs in manifest.wanted[environment].items()}


def test_an_environment_is_wanted_on_the_platforms_all_its_features_run_on(read):
    manifest = read(
        WORKSPACE
        + """
        [dependencies]
        python = "3.13.*"
        [feature.gpu]
        platforms = ["linux-64-cuda"]
        dependencies = { pytorch-gpu = { version = ">=2.8", build = "*cuda*" } }
        [environments]
        gpu = ["gpu"]
        alone = { features = ["gpu"], no-default-feature = true }
        """
    )
    assert wanted(manifest, "gpu") == {"linux-64-cuda": ("pytorch-gpu >=2.8 *cuda*", "python 3.13.*")}
    assert wanted(manifest, "alone") == {"linux-64-cuda": ("pytorch-gpu >=2.8 *cuda*",)}
    assert set(wanted(manifest, "default")) == {"linux-64", "win-64", "linux-64-cuda"}


def test_a_target_adds_and_replaces(read):
    manifest = read(
        WORKSPACE
        + """
        [dependencies]
        python = "3.13.*"
        [target.unix.dependencies]
        patchelf = "*"
        [target.win-64.dependencies]
        python = "3.12.*"
        [target."*-cuda".dependencies]
        cuda-version = "12.*"
        """
    )
    assert wanted(manifest, "default") == {
        "linux-64": ("python 3.13.*", "patchelf *"),
        "win-64": ("python 3.12.*",),
        "linux-64-cuda": ("python 3.13.*", "patchelf *", "cuda-version 12.*"),
    }


def test_a_platform_has_what_it_declares_and_then_the_defaults(read):
    text = WORKSPACE.replace('cuda = "12"', 'cuda = { driver = "12.4", arch = "8.6" }, glibc = "2.34"')
    platform = read(text).platforms[-1]
    assert platform.virtual_packages[:3] == ("__cuda=12.4", "__cuda_arch=8.6", "__glibc=2.34")
    assert platform.virtual_packages[3:] == ("__unix=0=0", "__linux=4.18", "__archspec=0=x86_64")
    assert platform.declared == ("__cuda=12.4", "__cuda_arch=8.6", "__glibc=2.34")


def test_a_platform_without_a_name_gets_pixis_name(read):
    text = WORKSPACE.replace('name = "linux-64-cuda", ', "").replace('"12"', '"12.0"')
    assert read(text).platforms[-1].name == "linux-64-cuda-12-0"


@pytest.mark.parametrize(
    ("text", "what", "where", "fix"),
    [
        ("[workspace", "can't be read", "pixi.toml", "Mend"),
        ("[tasks]", "no [workspace]", "pixi.toml", "`pixi init`"),
        ("[workspace]\nchannels = ['conda-forge']", "`platforms` is missing", "[workspace]", "Add"),
        ("workspace = 3", "`workspace` is not a table", "pixi.toml", "a table"),
        ("[workspace]\nchannels = 'conda-forge'\nplatforms = []", "not a list", "[workspace]", "a list"),
        (WORKSPACE.replace('"win-64"', '"win64"'), "no platform 'win64'", "platforms", "mean win-64?"),
        (WORKSPACE.replace("cuda =", "cudda ="), "no key of a platform 'cudda'", "platforms", "mean cuda?"),
        (
            WORKSPACE.replace('cuda = "12"', "cuda = 12"),
            "__cuda = 12 is not a text",
            "platforms",
            'quotes: "12"',
        ),
        (
            WORKSPACE + "[environments]\ngpu = ['gppu']\n[feature.gpu]",
            "'gppu'",
            "[environments] gpu",
            "mean gpu?",
        ),
        (
            WORKSPACE + "[feature.gpu]\nplatforms = ['cuda']\n[environments]\ngpu = ['gpu']",
            "'cuda'",
            "feature.gpu",
            "",
        ),
        (
            WORKSPACE + "[dependencies]\npython = '3.13..*,'",
            "no version",
            "[dependencies]",
            "Write a version",
        ),
        (WORKSPACE + "[dependencies]\npython = 3", "can't be judged", "[dependencies]", "Write a version"),
        (
            WORKSPACE + "[dependencies]\nmine = { path = '.' }",
            "can't be judged",
            "[dependencies]",
            "pixi lock",
        ),
        (
            WORKSPACE + "[pypi-dependencies]\ntorch = '*'",
            "PyPI",
            "[pypi-dependencies]",
            "conda-forge package",
        ),
        (
            WORKSPACE + "[system-requirements]\ncuda = '12'",
            "Pixi refuses that",
            "[system-requirements]",
            "say it of a platform",
        ),
    ],
)
def test_a_broken_manifest_has_a_clear_message(read, text, what, where, fix):
    with pytest.raises(LessonError) as caught:
        read(text)
    assert what in caught.value.what
    assert where in caught.value.where
    assert "pixi.toml" in caught.value.where
    assert fix in caught.value.fix


def test_a_missing_manifest_has_a_clear_message(tmp_path):
    with pytest.raises(LessonError) as caught:
        manifests.read(tmp_path / "pixi.toml")
    assert "no manifest" in caught.value.what
    assert str(tmp_path) in caught.value.where
    assert "pixi init" in caught.value.fix


EVERY_TABLE = (
    WORKSPACE
    + """
[dependencies]
python = "3.13.*"
numpy = { version = "*", build = "*py313*" }

[tasks]
train = { cmd = "python train.py", cwd = "src" }

[activation]
scripts = ["setup.sh"]

[target.linux-64.dependencies]
patchelf = "*"

[feature.gpu]
platforms = ["linux-64-cuda"]

[feature.gpu.target.unix.tasks]
look = { cmd = "nvidia-smi" }

[environments]
gpu = { features = ["gpu"], no-default-feature = true }
"""
)


def test_a_manifest_with_every_table_is_read(read):
    assert set(read(EVERY_TABLE).wanted) == {"default", "gpu"}


@pytest.mark.parametrize(
    ("right", "wrong", "where"),
    [
        ("[dependencies]", "[dependenciez]", "pixi.toml"),
        ("channels =", "channelz =", "[workspace]"),
        ("cuda =", "coda =", "[workspace] platforms"),
        ("build =", "xbuild =", "[dependencies] numpy"),
        ("cwd =", "cdw =", "[tasks] train"),
        ("scripts =", "script =", "[activation]"),
        ("target.linux-64.", "target.linux64.", "[target]"),
        ("target.linux-64.dependencies", "target.linux-64.dependenciez", "[target.linux-64]"),
        ("[feature.gpu]\nplatforms", "[feature.gpu]\nplatform", "[feature.gpu]"),
        ("target.unix.", "target.unux.", "[feature.gpu.target]"),
        ("unix.tasks", "unix.task", "[feature.gpu.target.unix]"),
        ('cmd = "nvidia', 'cmdd = "nvidia', "[feature.gpu.target.unix.tasks] look"),
        ("features =", "feature =", "[environments] gpu"),
    ],
)
def test_a_typo_in_any_table_is_pointed_out_with_the_right_word(read, right, wrong, where):
    assert right in EVERY_TABLE
    with pytest.raises(LessonError) as caught:
        read(EVERY_TABLE.replace(right, wrong))
    word = re.search(r"There is no .* '(.+)'", caught.value.what)[1]
    assert word in wrong
    assert caught.value.where.endswith(where)
    meant = re.fullmatch(r"Did you mean (\S+)\?", caught.value.fix)[1]
    assert meant in right


def test_a_typo_inside_of_a_platforms_cuda_is_pointed_out(read):
    with pytest.raises(LessonError) as caught:
        read(WORKSPACE.replace('cuda = "12"', 'cuda = { driverr = "12.4" }'))
    assert "'driverr'" in caught.value.what
    assert caught.value.where.endswith("[workspace] platforms")
    assert caught.value.fix == "Did you mean driver?"


OLD = """
[project]
channels = ["conda-forge"]
platforms = ["linux-64", "osx-arm64"]

[feature.gpu]
platforms = ["linux-64"]

[feature.gpu.dependencies]
pytorch-gpu = "*"

[feature.gpu.system-requirements]
cuda = "12"
libc = { family = "glibc", version = "2.34" }

[feature.newer.system-requirements]
cuda = "12.4"

[environments]
gpu = ["gpu"]
newer = ["gpu", "newer"]
"""


def test_the_older_forms_count_as_what_they_mean(read):
    manifest = read(OLD)
    assert set(wanted(manifest, "default")) == {"linux-64", "osx-arm64"}
    (gpu,) = manifest.wanted["gpu"]
    assert gpu.declared == ("__cuda=12", "__glibc=2.34")
    assert gpu.name == "linux-64-cuda-12-glibc-2-34"


def test_of_two_older_tables_the_newer_version_counts(read):
    (newer,) = read(OLD).wanted["newer"]
    assert newer.declared == ("__cuda=12.4", "__glibc=2.34")


def test_what_to_write_instead_of_the_older_forms_is_said(read):
    said = read(OLD).old
    assert said[0] == "[project] is the older name of [workspace]: rename it."
    assert any('{ name = "…", platform = "linux-64", cuda = "12" }' in line for line in said)
    assert any('glibc = "2.34"' in line and "[feature.gpu]" in line for line in said)
    assert len(said) == len(set(said))


def test_a_manifest_without_older_forms_has_nothing_to_change(read):
    assert read(WORKSPACE).old == ()


@pytest.mark.parametrize("key", ["constraints", "host-dependencies", "build-dependencies", "dev"])
def test_what_only_pixi_can_judge_has_a_clear_message(read, key):
    with pytest.raises(LessonError) as caught:
        read(f"{WORKSPACE}[{key}]\nnumpy = '*'")
    assert f"`{key}` can't be judged here" in caught.value.what
    assert caught.value.where.endswith(f"[{key}]")
    assert "pixi lock --check" in caught.value.fix


def test_a_platform_that_only_pixi_knows_has_a_clear_message(read):
    with pytest.raises(LessonError) as caught:
        read(WORKSPACE.replace('"win-64"', '"linux-s390x"'))
    assert "linux-s390x can't be judged here" in caught.value.what
    assert caught.value.where.endswith("[workspace] platforms")
    assert "pixi lock --check" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("#" * 1_100_000, "too large"),
        ("a = " + "[" * 100_000, "can't be read"),
        (WORKSPACE.replace('cuda = "12"', 'cuda = "twelve"'), "is no version"),
        (WORKSPACE + "[environments]\ngpu = [1]", "no feature '1'"),
        (WORKSPACE + "[feature.gpu]\nplatforms = [{}]\n[environments]\ngpu = ['gpu']", "no platform"),
    ],
    ids=["too large", "too deep", "a version that is none", "a number for a feature", "a table for a name"],
)
def test_a_hostile_manifest_has_a_clear_message(read, text, what):
    with pytest.raises(LessonError) as caught:
        read(text)
    assert what in caught.value.what
    assert "pixi.toml" in caught.value.where
    assert caught.value.fix
