import shutil

import pytest
import yaml
from small import MANIFEST

from lesson_helpers import lockcheck, paths, solver
from lesson_helpers.errors import LessonError

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


def test_a_changed_spec_is_found(judge):
    (problem,) = judge(in_manifest=('pytorch-gpu = ">=2.8,<3"', 'pytorch-gpu = ">=3"'))
    assert problem.fix == "`pixi lock`; or, if you did not mean to change it, `git checkout pixi.toml`"
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
    broken = [p for p in problems if p.package == "python_abi" and "needs `python_abi 3.14.*" in p.says]
    assert broken
    assert all(problem.fix.startswith("`git checkout pixi.lock`, then `pixi lock`") for problem in broken)


def test_a_missing_lock_has_a_clear_message(tmp_path):
    shutil.copy(paths.root() / "pixi.toml", tmp_path)
    with pytest.raises(LessonError) as caught:
        lockcheck.check(tmp_path / "pixi.toml", tmp_path / "pixi.lock")
    assert "no lock file" in caught.value.what
    assert str(tmp_path) in caught.value.where
    assert "pixi lock" in caught.value.fix


OLD_MANIFEST = """
[project]
channels = ["conda-forge"]
platforms = ["linux-64"]

[dependencies]
python = "3.13.*"

[feature.gpu.dependencies]
pytorch-gpu = ">=2.8,<3"

[feature.gpu.system-requirements]
cuda = "12"

[environments]
gpu = ["gpu"]
"""


@pytest.fixture
def old(tmp_path):
    """Give a workspace as Pixi before 0.68 made it: [project], [system-requirements], lock format 6.

    The lock is made for today's form and then set back: format 6 has no table of platforms, and calls each
    by its subdir.
    """
    (tmp_path / "pixi.toml").write_text(OLD_MANIFEST)
    solver.make(tmp_path / "pixi.toml", KIT_LOCK, tmp_path / "pixi.lock")
    lock = yaml.safe_load((tmp_path / "pixi.lock").read_text())
    del lock["platforms"]
    lock["version"] = 6
    for environment in lock["environments"].values():
        (packages,) = environment["packages"].values()
        environment["packages"] = {"linux-64": packages}
    (tmp_path / "pixi.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    return tmp_path


def test_an_older_workspace_is_judged_and_what_to_change_is_said(old):
    verdict = lockcheck.check(old / "pixi.toml", old / "pixi.lock")
    assert verdict.fits
    said = " ".join(verdict.old)
    assert "[project] is the older name of [workspace]" in said
    assert "`cuda` in [feature.gpu.system-requirements] is the form before Pixi 0.71" in said
    assert 'platform = "linux-64", cuda = "12" }' in said
    assert "format 6" in said
    assert "`pixi lock` writes it anew" in str(verdict)


def test_an_older_workspace_that_does_not_fit_says_why(old):
    text = (old / "pixi.toml").read_text()
    (old / "pixi.toml").write_text(text.replace(">=2.8,<3", ">=3"))
    (problem,) = lockcheck.check(old / "pixi.toml", old / "pixi.lock").problems
    assert (problem.environment, problem.package) == ("gpu", "pytorch-gpu")
    assert problem.platform == "linux-64-cuda-12"


def test_in_an_older_lock_a_package_that_needs_what_no_table_asks_for_is_found(old):
    text = (old / "pixi.toml").read_text()
    (old / "pixi.toml").write_text(text.replace('[feature.gpu.system-requirements]\ncuda = "12"\n', ""))
    problems = lockcheck.check(old / "pixi.toml", old / "pixi.lock").problems
    assert any(p.package == "__cuda" and "no __cuda is declared" in p.says for p in problems)


def test_todays_lock_of_an_older_manifest_has_the_platform_that_its_table_makes(old):
    lock = solver.make(old / "pixi.toml", KIT_LOCK, old / "new.lock")
    assert [part.label for part in lock.parts] == ["linux-64", "linux-64 with cuda 12"]
    assert lockcheck.check(old / "pixi.toml", old / "new.lock").fits


def test_the_verdict_reads_well(judge, tmp_path):
    judge(in_manifest=("pytorch-gpu =", 'scipy = "*"\npytorch-gpu ='))
    table = lockcheck.check(tmp_path / "pixi.toml", tmp_path / "pixi.lock").table()
    assert table.title == "The lock file does not satisfy the manifest."
    assert table.head == ("environment", "platform", "package", "because", "type")
    assert table.rows[0][:3] == ("gpu", "linux-64-cuda", "scipy")
