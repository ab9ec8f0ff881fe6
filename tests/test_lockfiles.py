import shutil

import pytest

from lesson_helpers import lockcheck, lockfiles, paths, solver
from lesson_helpers.errors import LessonError

MANIFEST = """
[workspace]
channels = ["conda-forge"]
platforms = ["linux-64", "osx-arm64", { name = "linux-64-cuda", platform = "linux-64", cuda = "12" }]

[feature.cpu]
platforms = ["linux-64", "osx-arm64"]

[feature.cpu.dependencies]
pytorch-cpu = ">=2.8,<3"

[feature.gpu]
platforms = ["linux-64-cuda"]

[feature.gpu.dependencies]
pytorch-gpu = ">=2.8,<3"

[environments]
cpu = ["cpu"]
gpu = ["gpu"]
"""
KIT_LOCK = paths.root() / "pixi.lock"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Give a manifest and the lock that was made for it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "pixi.toml").write_text(MANIFEST)
    solver.make(folder / "pixi.toml", KIT_LOCK, folder / "pixi.lock")
    return folder


@pytest.fixture
def judge(made, tmp_path):
    """Give a function that swaps text in copies of the two files, and says what no longer fits."""

    def judge(in_manifest=None, in_lock=None):
        for name, swap in (("pixi.toml", in_manifest), ("pixi.lock", in_lock)):
            text = (made / name).read_text()
            if swap:
                assert swap[0] in text
                text = text.replace(*swap)
            (tmp_path / name).write_text(text)
        return lockcheck.check(tmp_path / "pixi.toml", tmp_path / "pixi.lock").problems

    return judge


def test_a_lock_that_was_made_satisfies_its_manifest(judge):
    assert judge() == ()


def test_the_solver_takes_the_cuda_build_only_where_the_platform_declares_cuda(made):
    lock = lockfiles.read(made / "pixi.lock")
    assert lock.part("cpu", "linux-64").package("pytorch").build.startswith("cpu")
    assert lock.part("gpu", "linux-64").package("pytorch").build.startswith("cuda")
    assert lock.part("gpu", "linux-64 with cuda 12").label == "linux-64 with cuda 12"


def test_a_declared_platform_has_a_short_name_in_the_lock_as_pixi_gives_it(made):
    assert [p.name for p in lockfiles.read(made / "pixi.lock").platforms] == ["linux-64", "osx-arm64", "p1"]


def test_made_from_its_own_records_the_kits_lock_comes_out_the_same(tmp_path):
    solver.make(paths.root() / "pixi.toml", KIT_LOCK, tmp_path / "pixi.lock")
    assert (tmp_path / "pixi.lock").read_bytes() == KIT_LOCK.read_bytes()


def test_a_changed_spec_is_found(judge):
    (problem,) = judge(in_manifest=('pytorch-gpu = ">=2.8,<3"', 'pytorch-gpu = ">=3"'))
    assert (problem.environment, problem.platform, problem.package) == ("gpu", "linux-64-cuda", "pytorch-gpu")
    assert str(problem).startswith("gpu on linux-64-cuda: the manifest asks for `pytorch-gpu >=3`, and")
    assert "2.9.1" in problem.says


def test_a_new_dependency_is_found(judge):
    (problem,) = judge(in_manifest=("pytorch-gpu =", 'scipy = "*"\npytorch-gpu ='))
    assert str(problem) == "gpu on linux-64-cuda: the manifest asks for `scipy *`, and no scipy is locked."


def test_a_dependency_that_was_taken_away_is_found(judge):
    problems = judge(in_manifest=('pytorch-gpu = ">=2.8,<3"', ""))
    assert "pytorch-gpu" in {problem.package for problem in problems}
    assert all("nothing asks for it" in problem.says for problem in problems)


def test_a_missing_environment_is_found(judge):
    (problem,) = judge(in_manifest=("[environments]", '[environments]\nboth = ["cpu"]'))
    assert str(problem) == "both: this environment is not in the lock."


def test_a_platform_too_many_in_the_lock_is_found(judge):
    problems = judge(in_manifest=('["linux-64", "osx-arm64"]', '["linux-64"]'))
    assert [(p.environment, p.platform) for p in problems] == [("cpu", "osx-arm64")]
    assert "does not ask for it" in problems[0].says


def test_a_platform_too_few_in_the_lock_is_found(judge):
    problems = judge(in_manifest=('"osx-arm64"', '"osx-arm64", "win-64"'))
    assert {problem.environment for problem in problems} == {"cpu", "default"}
    assert "cpu on win-64: the lock has no platform win-64." in map(str, problems)


def test_a_changed_virtual_package_is_found(judge):
    problems = [str(problem) for problem in judge(in_manifest=('cuda = "12"', 'cuda = "13"'))]
    assert "gpu on linux-64-cuda: the lock has no platform linux-64 with __cuda=13." in problems
    assert any(p.startswith("gpu on linux-64 with cuda 12: the lock has this platform") for p in problems)


def test_a_virtual_package_that_was_changed_in_the_lock_is_found(judge):
    problems = judge(in_lock=("__glibc=2.28", "__glibc=2.17"))
    assert {problem.environment for problem in problems} >= {"cpu", "gpu"}


def test_other_channels_are_found(judge):
    problems = judge(in_manifest=('["conda-forge"]', '["conda-forge", "nvidia"]'))
    assert {problem.environment for problem in problems} == {"cpu", "gpu", "default"}
    assert "conda.anaconda.org/nvidia" in problems[0].says


def test_a_dependency_that_is_not_met_any_more_is_found(judge):
    problems = judge(in_lock=("- python_abi 3.13.* *_cp313", "- python_abi 3.14.* *_cp314"))
    assert any(p.package == "python_abi" and "needs `python_abi 3.14.*" in p.says for p in problems)


def test_a_package_is_found_by_its_name_and_a_wrong_name_has_a_clear_message(made):
    part = lockfiles.read(made / "pixi.lock").part("cpu", "linux-64")
    assert part.package("pytorch").version == "2.8.0"
    with pytest.raises(LessonError) as caught:
        part.package("torch")
    assert "'torch'" in caught.value.what
    assert caught.value.where == "cpu on linux-64"
    assert caught.value.fix == "Did you mean pytorch?"


def test_an_environment_that_is_not_locked_has_a_clear_message(made):
    with pytest.raises(LessonError) as caught:
        lockfiles.read(made / "pixi.lock").part("gpu", "win-64")
    assert "no environment 'gpu' for 'win-64'" in caught.value.what
    assert "pixi.lock" in caught.value.where
    assert "gpu on linux-64 with cuda 12" in caught.value.fix


def test_what_can_not_be_solved_has_the_solvers_reason(made, tmp_path):
    (tmp_path / "pixi.toml").write_text(MANIFEST.replace("pytorch-cpu", "pytorch-gpu"))
    with pytest.raises(LessonError) as caught:
        solver.make(tmp_path / "pixi.toml", KIT_LOCK, tmp_path / "pixi.lock")
    assert "can't be had on linux-64" in caught.value.what
    assert "__cuda" in caught.value.what
    assert "pixi.toml, environment cpu" in caught.value.where
    assert 'cuda = "12"' in caught.value.fix
    assert not list(tmp_path.glob("pixi.lock*"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("version: 7", "version: 99"),
        lambda text: text.replace("sha256: ", "sha256: zz"),
        lambda text: "[1, 2",
    ],
    ids=["empty", "cut in half", "of a later format", "with wrong hashes", "not YAML"],
)
def test_a_broken_lock_has_a_clear_message(tmp_path, spoil):
    (tmp_path / "pixi.lock").write_text(spoil(KIT_LOCK.read_text()))
    with pytest.raises(LessonError) as caught:
        lockfiles.read(tmp_path / "pixi.lock")
    assert "can't be read" in caught.value.what
    assert str(tmp_path) in caught.value.where
    assert "pixi lock" in caught.value.fix


def test_a_missing_lock_has_a_clear_message(tmp_path):
    shutil.copy(paths.root() / "pixi.toml", tmp_path)
    with pytest.raises(LessonError) as caught:
        lockcheck.check(tmp_path / "pixi.toml", tmp_path / "pixi.lock")
    assert "no lock file" in caught.value.what
    assert str(tmp_path) in caught.value.where
    assert "pixi lock" in caught.value.fix
