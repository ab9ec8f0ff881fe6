"""Running notebooks: which ones, with which parameters, and what the report says of them."""

import io
import json
import time

import psutil
import pytest
import small

from lesson_helpers import notebooks, parameters, processes, report
from lesson_helpers.errors import LessonError
from lesson_helpers.ladder import Rung

RUNG = """from lesson_helpers.ladder import Rung
display(Rung("GPU", "a simulated GPU", "a real one", "this machine has none"))"""
SAY = """import pathlib, os
pathlib.Path(folder).mkdir()
print(epochs, folder, os.getcwd())"""


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """Make a folder with notebooks that pass, fail, take too long and die."""
    folder = tmp_path_factory.mktemp("lesson")
    small.notebook(folder / "01-first.ipynb", SAY, RUNG)
    small.notebook(
        folder / "02-second.ipynb",
        "x = 1",
        "from lesson_helpers.errors import LessonError",
        "# no such file\nraise LessonError('It is bad.', 'there', 'Do it well.')",
        parameters="rate: float = 0.1  # learning rate\nsizes: list[int] = [1, 2]  # of layers",
    )
    small.notebook(folder / "03-third.ipynb", "1 / 0", parameters="epochs: int = 1\nfast = True  # or exact")
    return folder


@pytest.fixture
def slow(tmp_path):
    code = "import subprocess, time\np = subprocess.Popen(['sleep', '300'])\ntime.sleep(epochs)"
    small.notebook(tmp_path / "01-slow.ipynb", "x = 1", code)
    return tmp_path


@pytest.fixture(scope="module")
def done(lesson, tmp_path_factory):
    """Run the three notebooks."""
    seen = []

    def watch(execution):
        seen.append((execution.path.stem, execution.cell, execution.done))

    folder = tmp_path_factory.mktemp("run")
    result = notebooks.run((), {"epochs": "7"}, notebooks=lesson, folder=folder, watch=watch)
    return result, seen


@pytest.mark.parametrize(
    "name", ["2", "02", "02-s", "02-second", "02-second.ipynb", "notebooks/02-second.ipynb"]
)
def test_a_notebook_is_found_by_its_number_its_beginning_or_its_name(lesson, name):
    assert [path.stem for path in notebooks.find([name], lesson)] == ["02-second"]


def test_all_notebooks_are_found_in_order_and_named_ones_once_each(lesson):
    assert [path.stem[:2] for path in notebooks.find((), lesson)] == ["01", "02", "03"]
    assert [path.stem[:2] for path in notebooks.find(["3", "1", "03"], lesson)] == ["03", "01"]


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("secnod", "There is no notebook 'secnod'.", "Did you mean 02-second?"),
        ("9", "There is no notebook '9'.", "Use one of: 01-first, 02-second, 03-third."),
        ("0", "There is no notebook '0'.", "Use one of: 01-first, 02-second, 03-third."),
        ("", "There is no notebook ''.", "Use one of: 01-first, 02-second, 03-third."),
    ],
)
def test_a_name_that_fits_none_is_told_with_the_nearest(lesson, name, what, fix):
    with pytest.raises(LessonError) as error:
        notebooks.find([name], lesson)
    assert (error.value.what, error.value.where, error.value.fix) == (what, "notebooks", fix)


def test_a_name_that_fits_several_and_a_folder_without_notebooks_are_told(tmp_path):
    with pytest.raises(LessonError) as error:
        notebooks.find((), tmp_path)
    assert error.value.what == "There are no notebooks."
    assert error.value.where == str(tmp_path)
    small.notebook(tmp_path / "04-a.ipynb")
    small.notebook(tmp_path / "04-b.ipynb")
    with pytest.raises(LessonError) as error:
        notebooks.find(["04"], tmp_path)
    assert error.value.what == "'04' fits several notebooks."
    assert error.value.where == "04-a, 04-b"
    assert error.value.fix == "Type more of the name, or the number."


def test_parameters_are_read_as_declared_and_go_to_the_notebooks_that_have_them(lesson):
    given = {"epochs": "3", "rate": "1", "sizes": "[3]", "fast": "false", "folder": "7"}
    values = parameters.check(notebooks.find((), lesson), given)
    assert {path.stem: value for path, value in values.items()} == {
        "01-first": {"epochs": 3, "folder": "7"},
        "02-second": {"rate": 1.0, "sizes": [3]},
        "03-third": {"epochs": 3, "fast": False},
    }
    assert type(values[lesson / "02-second.ipynb"]["rate"]) is float
    values = parameters.check([lesson / "01-first.ipynb"], {"epochs": 4, "folder": "'quoted'"})
    assert values == {lesson / "01-first.ipynb": {"epochs": 4, "folder": "quoted"}}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("epochs", "two", "a whole number (int, passes), and 'two' is not"),
        ("epochs", "2.0", "a whole number (int, passes), and '2.0' is not"),
        ("epochs", "True", "a whole number (int, passes), and 'True' is not"),
        ("epochs", "", "a whole number (int, passes), and '' is not"),
        ("epochs", True, "a whole number (int, passes), and True is not"),
        ("rate", "fast", "a number (float, learning rate), and 'fast' is not"),
        ("sizes", "3", "of the type list[int] (list[int], of layers), and '3' is not"),
        ("sizes", "[1, 'b']", "of the type list[int] (list[int], of layers), and \"[1, 'b']\" is not"),
        ("fast", "1", "True or False (bool, or exact), and '1' is not"),
        ("folder", 3, "text (str, your workspace), and 3 is not"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_before_anything_runs(lesson, tmp_path, name, value, words):
    with pytest.raises(LessonError) as error:
        notebooks.run((), {name: value}, notebooks=lesson, folder=tmp_path / "run")
    assert error.value.what == f"The parameter `{name}` is {words}."
    assert error.value.where.startswith(f"-p {name}={value}, for 0")
    assert error.value.fix.startswith(f"Give it a value like its default: -p {name}=")
    assert not (tmp_path / "run").exists()


def test_an_unknown_parameter_is_an_error_before_anything_runs(lesson, tmp_path):
    with pytest.raises(LessonError) as error:
        notebooks.run((), {"epoch": "3"}, notebooks=lesson, folder=tmp_path / "run")
    assert error.value.what == "There is no parameter `epoch` in 01-first, 02-second, 03-third."
    assert error.value.where == "-p epoch=3"
    assert error.value.fix == "Did you mean epochs (01-first, 03-third)?"
    assert not (tmp_path / "run").exists()
    with pytest.raises(LessonError) as error:
        parameters.check([lesson / "02-second.ipynb"], {"epochs": "3"})
    assert error.value.fix == "Use one of: rate (02-second); sizes (02-second)."


@pytest.mark.parametrize("text", ["epochs", "=3", "a b=3", ""])
def test_a_parameter_without_a_name_or_a_value_is_told(text):
    with pytest.raises(LessonError) as error:
        parameters.split(["fine=1", text])
    assert error.value.what == "A parameter is a name, an equals sign and a value."
    assert error.value.where == f"-p {text}"
    assert error.value.fix == "Type it like -p epochs=3."
    assert parameters.split(["a=b=c", "a=", "b= x"]) == {"a": "", "b": " x"}


def test_each_notebook_has_its_result_and_one_that_fails_does_not_keep_the_others(done):
    result, _ = done
    assert [(one.name, one.result) for one in result.notebooks] == [
        ("01-first", "passed"),
        ("02-second", "failed"),
        ("03-third", "failed"),
    ]
    assert result.result == "failed"
    first, second, third = result.notebooks
    assert (first.cell, first.line, first.error) == (0, "", "")
    assert second.line == "# no such file"
    assert second.error == "What: It is bad.\nWhere: there\nDo: Do it well."
    assert third.error == "ZeroDivisionError: division by zero"
    assert all(0 < one.seconds < 60 for one in result.notebooks)


def test_the_failing_cell_has_the_number_that_the_executed_copy_shows(done):
    import nbformat

    result, _ = done
    for one in result.notebooks[1:]:
        copy = nbformat.read(result.folder / f"{one.name}.ipynb", as_version=4)
        numbers = [cell.execution_count for cell in copy.cells if cell.get("execution_count")]
        assert max(numbers) == one.cell == one.cells


def test_a_fresh_workspace_and_the_parameters_reach_the_notebook_which_runs_where_jupyterlab_runs_it(
    done, lesson
):
    result, _ = done
    workspace = result.folder / "workspace"
    assert workspace.is_dir()
    first = result.notebooks[0]
    assert first.parameters == {"epochs": 7, "folder": str(workspace)}
    assert f"7 {workspace} {lesson}" in (result.folder / "01-first.ipynb").read_text()
    assert result.notebooks[1].parameters == {}


def test_the_report_has_all_and_can_be_read_again(done):
    result, _ = done
    content = json.loads((result.folder / "report.json").read_text())
    assert content["parameters"] == {"epochs": "7"}
    assert content["result"] == "failed"
    assert content["versions"]["python"].startswith("3.")
    assert {"papermill", "ipykernel", "nbclient"} <= set(content["versions"])
    assert "cores" in content["machine"]
    assert content["notebooks"][0]["rungs"][0]["part"] == "GPU"
    assert sorted(path.name for path in result.folder.iterdir() if path.is_file()) == [
        "01-first.ipynb",
        "02-second.ipynb",
        "03-third.ipynb",
        "report.json",
    ]
    again = report.read(result.folder)
    assert again == result
    assert again.notebooks[0].rungs == (
        Rung("GPU", "a simulated GPU", "a real one", "this machine has none"),
    )


def test_the_table_says_what_stood_in(done):
    from rich.console import Console

    result, _ = done
    console = Console(width=200, file=io.StringIO())
    console.print(result)
    table = console.file.getvalue()
    assert "▽ GPU: a simulated GPU, instead of a real one, because this machine has none." in table
    assert table.count("failed") == 2
    assert table.count("passed") == 1
    assert "cell 4: # no such file" in str(result)


def test_progress_is_told_cell_by_cell(done):
    _, seen = done
    assert [name for name, _, over in seen if over] == ["01-first", "02-second", "03-third"]
    cells = [cell for name, cell, _ in seen if name == "01-first"]
    assert cells == sorted(cells)
    assert cells[-1] == 4


def test_a_notebook_that_takes_too_long_is_ended_and_the_cell_is_named(slow, tmp_path):
    before = set(psutil.Process().children(recursive=True))
    given, folder = {"epochs": 200}, tmp_path / "run"
    result = notebooks.run((), given, notebooks=slow, folder=folder, limit=4).notebooks[0]
    assert result.result == "failed"
    assert result.seconds < 20
    what, where, fix = result.error.splitlines()
    assert what == "What: The notebook was not done within its limit of 4 seconds."
    assert where == "Where: cell 4: import subprocess, time"
    assert fix == "Do: Give it more time: ./lesson run 01 --limit 8."
    processes.end(set(psutil.Process().children(recursive=True)) - before, seconds=1)


def test_a_kernel_that_dies_is_told_with_its_cell(tmp_path):
    small.notebook(tmp_path / "01-dies.ipynb", "import os, signal", "os.kill(os.getpid(), signal.SIGKILL)")
    result = notebooks.run((), {}, notebooks=tmp_path, folder=tmp_path / "run").notebooks[0]
    assert result.result == "failed"
    what, where, fix = result.error.splitlines()
    assert what == "What: The notebook's Python ended by itself, most often because memory ran out."
    assert where == "Where: cell 4: os.kill(os.getpid(), signal.SIGKILL)"
    assert fix == "Do: Close other programs, then call ./lesson run again."


def test_an_interrupted_run_ends_its_kernel_and_says_so(slow, tmp_path):
    before = set(psutil.Process().children(recursive=True))
    small.notebook(slow / "02-next.ipynb")

    def watch(execution):
        if execution.cell == 4 and set(psutil.Process().children(recursive=True)) - before:
            raise KeyboardInterrupt

    given, folder = {"epochs": 200}, tmp_path / "run"
    began = time.monotonic()
    result = notebooks.run((), given, notebooks=slow, folder=folder, watch=watch)
    assert time.monotonic() - began < 30
    assert result.result == "interrupted"
    assert [one.result for one in result.notebooks] == ["interrupted", "not run"]
    assert report.read(folder).result == "interrupted"
    assert not [
        p for p in psutil.Process().children() if p not in before and "ipykernel_launcher" in p.cmdline()
    ]


def test_a_run_that_was_killed_is_read_as_interrupted(tmp_path):
    begun = report.begin({}, tmp_path)
    assert report.read(tmp_path).result == "running"
    content = json.loads((tmp_path / "report.json").read_text())
    content["owner"] = begun.owner.replace(":", ":9", 1)  # started at another time
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert report.read(tmp_path).result == "interrupted"


def test_a_folder_without_a_report_is_told(tmp_path):
    with pytest.raises(LessonError) as error:
        report.read(tmp_path)
    assert error.value.what == "There is no report of a run that can be read."
    assert error.value.where == str(tmp_path / "report.json")
    assert error.value.fix == "Call ./lesson run; it makes a new one."


def test_the_newest_runs_are_kept_and_so_is_one_that_runs(tmp_path):
    for number in range(8):
        begun = report.begin({}, tmp_path / f"run-{number}")
        if number != 1:
            report.replace(begun, result="passed").write()
    assert report.prune(tmp_path) == 2
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["1", "3", "4", "5", "6", "7"]
    assert report.prune(tmp_path / "nothing") == 0
