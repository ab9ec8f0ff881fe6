"""What is special to notebook 04; what holds for each notebook is tested once for all of them."""

import re

import nbformat
import numpy as np
import papermill
import pytest

from lesson_helpers import ladder, paths

NOTEBOOK = paths.root() / "notebooks/04-htcondor-gpu.ipynb"
GOOD = 98.7  # per cent of the 10,000 test images


def execute(workspace, made, **parameters):
    """Run the notebook in a workspace and return it with its outputs."""
    papermill.execute_notebook(
        str(NOTEBOOK), str(made), {"folder": str(workspace), **parameters},
        kernel_name="python3", execution_timeout=300, progress_bar=False,
    )  # fmt: skip
    return nbformat.read(made, as_version=4)


@pytest.fixture(scope="module")
def done(pool, tmp_path_factory):
    """Give a workspace and the notebook that was run in it, against a pool that was there before."""
    folder = tmp_path_factory.mktemp("notebook-04")
    workspace = folder / "workspace"
    notebook = execute(workspace, folder / "executed.ipynb", pool="existing", limit=280)
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return workspace, notebook, "".join(output.get("text", "") for output in outputs)


def test_the_model_that_comes_back_from_the_pool_is_good(done):
    workspace, _, printed = done
    said = float(re.search(r"Accuracy on the 10,000 test images: ([\d.]+) %", printed)[1])
    assert said >= GOOD
    with np.load(workspace / "jobs/predictions.npz") as now:
        assert now["labels"].shape == (10_000,)
        assert round(100 * (now["predictions"] == now["labels"]).mean(), 2) == said


def test_it_reads_the_same_here_as_on_the_execute_point(done):
    workspace, _, printed = done
    (returned,) = (workspace / "jobs/results").glob("*/predictions.npz")
    with np.load(returned) as there, np.load(workspace / "jobs/predictions.npz") as now:
        assert (there["predictions"] == now["predictions"]).mean() > 0.999
    assert "Read here as on the execute point: " in printed


def test_the_gpu_check_ran_on_the_execute_point_and_says_what_it_saw(done, pool):
    workspace, _, printed = done
    (out,) = (workspace / "jobs/results").glob("*/job.out")
    text = out.read_text()
    assert text.strip() in printed
    assert re.search(r"GPUs given to this job: GPU-\w+", text)
    assert ("The GPU of this slot is simulated" in text) == pool.gpus.simulated
    assert ("1 simulated GPU" in printed) == pool.gpus.simulated


def test_a_cuda_that_no_slot_has_is_found_by_the_analysis(done):
    *_, printed = done
    assert "RequireGPUs = MaxSupportedVersion >= GPUsMinRuntime" in printed
    assert re.search(r"^\[\d+\] +0 +countMatches\(MY.RequireGPUs", printed, re.MULTILINE)


def test_the_held_job_says_why_and_goes_on_when_it_is_mended(done):
    *_, printed = done
    assert "raport.txt: (errno 2) No such file or directory" in printed
    assert "hold code 12" in printed
    assert printed.index("is released, back in the queue") < printed.index("All is well.")


def test_it_leaves_nothing_in_the_queue_and_the_pool_of_others_running(done, pool):
    _, notebook, _ = done
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert "0 jobs;" in last.outputs[0].text
    assert pool.answers()


def test_an_existing_pool_is_said_to_be_one(done):
    assert [rung.part for rung in ladder.read(done[1])] == ["pool"]


@pytest.mark.parametrize(
    ("given", "what", "fix"),
    [
        ({"pool": "personnel"}, "No pool is called 'personnel'.", "Use personal or existing."),
        ({"image": "docker://a/b:1"}, "A personal pool starts no containers.", "Leave it empty."),
    ],
)
def test_a_parameter_that_cannot_work_is_refused_at_once(given, what, fix, workspace):
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        execute(workspace, workspace / "executed.ipynb", **given)
    assert what in caught.value.evalue
    assert fix in caught.value.evalue
    assert f"parameter {next(iter(given))}" in caught.value.evalue
