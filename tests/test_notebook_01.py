"""What is special to notebook 01; what holds for each notebook is tested once for all of them."""

import nbformat
import papermill
import pytest

from lesson_helpers import ladder, lockcheck, manifests, paths, pixi

NOTEBOOK = paths.root() / "notebooks" / "01-environment.ipynb"


def execute(notebook, workspace, **parameters):
    """Run the notebook in a workspace and return it with its outputs."""
    made = workspace.parent / f"{workspace.name}-executed.ipynb"
    given = {"folder": str(workspace), **parameters}
    papermill.execute_notebook(
        str(notebook), str(made), given, kernel_name="python3", execution_timeout=300, progress_bar=False
    )
    return nbformat.read(made, as_version=4)


def printed(notebook):
    """Return all that the notebook's cells print."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Give a workspace where the notebook was run, and the executed notebook."""
    workspace = tmp_path_factory.mktemp("notebook-01") / "workspace"
    return workspace, execute(NOTEBOOK, workspace)


@pytest.fixture
def no_pixi():
    if pixi.Pixi(paths.root()).program:
        pytest.skip("pixi is on PATH: what stands in for it is not used")


def test_the_learners_lock_satisfies_the_learners_manifest(done):
    workspace, _ = done
    assert lockcheck.check(workspace / "pixi.toml", workspace / "pixi.lock").fits


def test_cpu_is_for_three_platforms_and_gpu_for_the_one_with_cuda(done):
    workspace, _ = done
    wanted = manifests.read(workspace / "pixi.toml").wanted
    assert {str(platform) for platform in wanted["cpu"]} == {"linux-64", "osx-arm64", "win-64"}
    (cuda,) = wanted["gpu"]
    assert (cuda.name, cuda.declared) == ("linux-64-cuda", ("__cuda=12",))


def test_the_two_builds_of_pytorch_are_seen(done):
    _, notebook = done
    said = printed(notebook)
    assert "cpu: pytorch 2." in said
    assert " cuda12" in said.split("gpu: pytorch 2.")[1].splitlines()[0]


def test_one_question_has_two_answers_on_two_platforms_and_none_has_a_reason(done):
    said = printed(done[1])
    assert "pytorch on linux-64\n" in said
    assert "pytorch on linux-64 with cuda 12\n" in said
    assert "What: `pytorch-gpu >=2.8,<3` can't be had on linux-64." in said


def test_the_gpu_environment_is_looked_into(done, no_pixi):
    said = printed(done[1])
    assert "10 of 120 packages" in said
    assert "Why libmagma is in gpu" in said
    assert "33 only in gpu" in said
    assert "LicenseRef-NVIDIA-End-User-License-Agreement" in said


def test_each_of_the_three_broken_locks_fails(done):
    workspace, _ = done
    for number in (1, 2, 3):
        folder = workspace / "broken" / str(number)
        assert not lockcheck.check(folder / "pixi.toml", folder / "pixi.lock").fits


def test_the_pin_fits_where_that_version_is_locked_already(done, no_pixi):
    workspace, _ = done
    problems = lockcheck.check(workspace / "pinned.toml", workspace / "pixi.lock").problems
    assert {(problem.platform, problem.package) for problem in problems} == {("osx-arm64", "pytorch-cpu")}


def test_an_environment_is_made_and_a_program_runs_in_it(done):
    assert "Python in it: Python 3." in printed(done[1])
    assert "A real environment" in {rung.part for rung in ladder.read(done[1])}


def test_the_override_makes_the_other_build(done):
    said = printed(done[1])
    assert "with CONDA_OVERRIDE_CUDA=12: nothing is missing" in said
    assert "CONDA_OVERRIDE_CUDA='' installs the cpu build of device" in said
    assert "CONDA_OVERRIDE_CUDA='12' installs the cuda build of device" in said


def test_a_new_machine_runs_it_and_an_old_one_does_not(done):
    said = printed(done[1])
    assert "gpu on linux-64 with cuda 12 runs on a new node" in said
    assert "gpu on linux-64 with cuda 12 does not run on an old node" in said


def test_a_lock_that_does_not_fit_is_explained(done):
    (row,) = (line for line in printed(done[1]).splitlines() if "`pytorch-gpu >=3`, and" in line)
    assert row.split()[:3] == ["gpu", "linux-64-cuda", "pytorch-gpu"]


def test_the_page_says_what_stands_in_for_pixi(done, no_pixi):
    rungs = {rung.part: rung for rung in ladder.read(done[1])}
    assert rungs["Pixi"].instead_of == "pixi"
    assert rungs["The environment cpu"].instead_of == "the locked one"


def test_run_again_the_learners_own_edit_is_kept_and_said(done):
    workspace, _ = done
    edited = "# mine\n" + (workspace / "pixi.toml").read_text()
    (workspace / "pixi.toml").write_text(edited)
    again = execute(NOTEBOOK, workspace, cuda="12.4")
    assert "pixi.toml and pixi.lock of that time lie in earlier/1 now." in printed(again)
    assert (workspace / "earlier/1/pixi.toml").read_text() == edited
    (cuda,) = manifests.read(workspace / "pixi.toml").wanted["gpu"]
    assert cuda.declared == ("__cuda=12.4",)


def test_without_the_solution_the_message_is_kind(tmp_path, no_pixi):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells = [c for c in notebook.cells if "solution" not in c.metadata.get("tags", [])]
    nbformat.write(notebook, tmp_path / "unsolved.ipynb")
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        execute(tmp_path / "unsolved.ipynb", tmp_path / "workspace")
    assert "LessonError" in caught.value.ename
    assert "There is no environment 'gpu'" in caught.value.evalue
    assert "Traceback" not in "".join(caught.value.traceback)
