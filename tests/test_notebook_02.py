"""What is special to notebook 02; what holds for each notebook is tested once for all of them."""

import json
import re

import nbformat
import papermill
import pytest
import scripts

from lesson_helpers import ladder, paths

NOTEBOOK = paths.root() / "notebooks" / "02-train-on-cpu.ipynb"


@pytest.fixture(scope="module")
def done(mnist_data, tmp_path_factory):
    """Run the notebook for one epoch, as a learner has it who has solved no exercise yet."""
    folder = tmp_path_factory.mktemp("notebook-02")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells = [c for c in notebook.cells if "solution" not in c.metadata.get("tags", [])]
    nbformat.write(notebook, folder / "unsolved.ipynb")
    given = {"folder": str(folder / "workspace"), "epochs": 1, "seed": 5}
    papermill.execute_notebook(
        str(folder / "unsolved.ipynb"),
        str(folder / "done.ipynb"),
        given,
        kernel_name="python3",
        execution_timeout=300,
        progress_bar=False,
    )
    return folder / "workspace", nbformat.read(folder / "done.ipynb", as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(notebook):
    return "".join(output.text for output in outputs(notebook) if output.get("name") == "stdout")


def test_the_network_on_the_page_is_that_of_the_script(done):
    workspace, notebook = done
    script = (workspace / "jobs/src/mnist_network.py").read_text()
    shown = [o.data["text/plain"] for o in outputs(notebook) if "text/latex" in o.get("data", {})]
    (network,) = [text for text in shown if "def fast_network" in text]
    assert network in script
    assert network.endswith("nn.Linear(512, 10),")


def test_the_learner_sees_the_command_and_an_accuracy_above_987_in_1000(done):
    workspace, notebook = done
    said = printed(notebook)
    assert "$ python jobs/src/torch_mnist.py --epochs 1 --batch-size 128 --recipe fast --seed 5" in said
    last = json.loads((workspace / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["accuracy"] >= 0.987
    assert f"{100 * last['accuracy']:.2f} % of the test digits right after 1 epoch on cpu" in said
    wrong = 10_000 - round(10_000 * last["accuracy"])
    assert f"{wrong} of 10,000 test digits are wrong." in said


def test_there_are_pictures_curves_tables_and_a_pad_and_nothing_on_stderr(done):
    _, notebook = done
    data = [output.get("data", {}) for output in outputs(notebook)]
    assert sum("image/png" in one for one in data) == 2
    html = "".join(one.get("text/html", "") for one in data)
    assert html.count("Two curves, loss and accuracy") == 1
    assert "<progress" not in html
    assert "most often taken for" in html
    assert "Rows: what the digit is." in html
    (pad,) = [one for one in data if "application/vnd.jupyter.widget-view+json" in one]
    assert "The network says: a 7, " in pad["text/html"]
    assert not [output.text for output in outputs(notebook) if output.get("name") == "stderr"]


def test_the_page_says_which_python_trains(done):
    assert [rung.part for rung in ladder.read(done[1])] == ["training"]


def test_every_option_that_the_page_names_is_one_of_the_script(tmp_path):
    text = "\n".join(cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells)
    after_script = " ".join(re.findall(r"torch_mnist\.py(.*)", text))
    named = set(re.findall(r"--[a-z-]+", after_script)) | set(re.findall(r"`(--[a-z-]+)", text))
    (answer,) = scripts.answers([scripts.call("torch_mnist.py", tmp_path, "--help")])
    assert {"--epochs", "--seed", "--save-model", "--recipe", "--lr"} <= named
    assert named <= set(re.findall(r"--[a-z-]+", answer.out))
