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
