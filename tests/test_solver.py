import pytest
from small import MANIFEST

from lesson_helpers import lockfiles, paths, platforms, solver
from lesson_helpers.errors import LessonError

KIT_LOCK = paths.root() / "pixi.lock"


def linux(**declared):
    """Return a Linux machine with what is declared."""
    return platforms.declare(None, "linux-64", {f"__{name}": value for name, value in declared.items()})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Give a manifest and the lock that was made for it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "pixi.toml").write_text(MANIFEST)
    solver.make(folder / "pixi.toml", KIT_LOCK, folder / "pixi.lock")
    return folder


def test_without_cuda_it_is_the_cpu_build():
    found = solver.solve(["pytorch"], linux())
    assert found.package("pytorch").build.startswith("cpu_")
    assert not any(package.name.startswith("libcu") for package in found.packages)


def test_with_cuda_12_it_is_the_cuda_build():
    found = solver.solve(["pytorch"], linux(cuda="12"))
    assert found.package("pytorch").build.startswith("cuda129_")
    assert any(package.name == "libcublas" for package in found.packages)


def test_what_was_found_reads_well():
    table = solver.solve(["pytorch"], linux(cuda="12")).table()
    assert table.title == "pytorch on linux-64 with cuda 12"
    assert [row[0] for row in table.rows] == ["pytorch"]
    assert "packages with all they need" in table.note


def test_the_learners_manifest_is_solved_as_it_is_and_with_another_cuda(made):
    gpu = solver.explain(made / "pixi.toml", "gpu")
    assert gpu.package("pytorch").build.startswith("cuda129_")
    with pytest.raises(LessonError) as caught:
        solver.explain(made / "pixi.toml", "gpu", cuda=None)
    assert "can't be had on linux-64. " in caught.value.what
    assert "`__cuda`: an NVIDIA driver, which this platform does not have" in caught.value.what
    assert caught.value.where == f"{made}/pixi.toml, environment gpu"
    assert "CONDA_OVERRIDE_CUDA" in caught.value.fix
    with pytest.raises(LessonError) as caught:
        solver.explain(made / "pixi.toml", "gpu", cuda="11.8")
    assert "an NVIDIA driver, here 11.8" in caught.value.what


def test_the_solver_works_inside_of_a_running_loop():
    """A notebook has one."""

    async def cell():
        return solver.solve(["python"], linux())

    assert solver.wait_for(cell()).package("python").version


@pytest.mark.parametrize(
    ("specs", "machine", "what", "fix"),
    [
        (
            ["pytorch-gpu >=2.8,<3", "python 3.13.*"],
            linux(),
            "`pytorch-gpu >=2.8,<3` can't be had on linux-64. "
            "pytorch-gpu 2.9.1 needs pytorch 2.9.1, which needs "
            "`__cuda`: an NVIDIA driver, which this platform does not have.",
            "Put it into a feature for a platform that has it, "
            '{ name = "linux-64-cuda", platform = "linux-64", cuda = "12" }; '
            "to prepare it on a machine without a GPU, set CONDA_OVERRIDE_CUDA=12.",
        ),
        (
            ["pytorch-gpu"],
            linux(cuda="11.8"),
            "which needs cuda-version 12.9, which needs `__cuda >=12`: an NVIDIA driver, here 11.8.",
            "CONDA_OVERRIDE_CUDA=12",
        ),
        (
            ["pytorch"],
            linux(glibc="2.12"),
            "`__glibc >=2.17,<3.0.a0`: the C library, here 2.12.",
            'glibc = "2.17"',
        ),
        (
            ["pytorch-gpu", "python 3.12.*"],
            linux(cuda="12"),
            "which needs `python >=3.13,<3.14.0a0`, and you ask for `python 3.12.*`.",
            "Ask for `python >=3.13,<3.14.0a0`, or for another pytorch-gpu.",
        ),
        (
            ["pytorch", "python 3.12.*"],
            linux(),
            " needs `python >=3.13,<3.14.0a0`, and you ask for `python 3.12.*`.",
            "or for another pytorch.",
        ),
        (
            ["pytorch-gpu", "pytorch-cpu"],
            linux(cuda="12"),
            "pytorch 2.8.0 rules out what you ask for too, `pytorch-gpu`.",
            "give each a feature and an environment of its own",
        ),
        (
            ["pytorch-gpu >=3"],
            linux(cuda="12"),
            "`pytorch-gpu >=3` can't be had on linux-64-cuda-12. pytorch-gpu is known in 2.9.1 only.",
            "`pytorch-gpu=2.9.1`",
        ),
        (["pytorhc"], linux(), "there is no package pytorhc.", "Did you mean pytorch?"),
        (["zzzz"], linux(), "there is no package zzzz.", "conda-forge"),
        (
            ["pytorch-gpu"],
            platforms.declare(None, "osx-arm64", {}),
            "pytorch-gpu is known for linux-64 only.",
            "`platforms`",
        ),
        (["numpy >>2"], linux(), "`numpy >>2` is no requirement", "pytorch >=2.8,<3"),
    ],
)
def test_where_nothing_fits_two_sentences_say_why_and_one_what_to_change(specs, machine, what, fix):
    with pytest.raises(LessonError) as caught:
        solver.solve(specs, machine)
    assert what in caught.value.what
    assert caught.value.where == "the solver"
    assert fix in caught.value.fix


def test_an_environment_that_the_manifest_has_not_has_a_clear_message(made):
    with pytest.raises(LessonError) as caught:
        solver.explain(made / "pixi.toml", "gqu")
    assert "no environment 'gqu'" in caught.value.what
    assert caught.value.where == str(made / "pixi.toml")
    assert caught.value.fix == "Did you mean gpu?"


def test_a_platform_that_the_environment_is_not_for_has_a_clear_message(made):
    with pytest.raises(LessonError) as caught:
        solver.explain(made / "pixi.toml", "gpu", "osx-arm64")
    assert "'gpu' is not for the platform 'osx-arm64'" in caught.value.what
    assert caught.value.where == str(made / "pixi.toml")
    assert "linux-64-cuda" in caught.value.fix


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


def test_what_can_not_be_solved_has_the_solvers_reason(made, tmp_path):
    (tmp_path / "pixi.toml").write_text(MANIFEST.replace("pytorch-cpu", "pytorch-gpu"))
    with pytest.raises(LessonError) as caught:
        solver.make(tmp_path / "pixi.toml", KIT_LOCK, tmp_path / "pixi.lock")
    assert "can't be had on linux-64" in caught.value.what
    assert "__cuda" in caught.value.what
    assert "pixi.toml, environment cpu" in caught.value.where
    assert 'cuda = "12"' in caught.value.fix
    assert not list(tmp_path.glob("pixi.lock*"))
