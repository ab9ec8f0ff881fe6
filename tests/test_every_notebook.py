"""Every notebook: its form, and that it runs alone, again, and with other parameters.

An execution costs up to a minute, so the first one, with the defaults in an empty workspace, is shared by
the tests; the next one, with other parameters in the same workspace, is also the second time in a row.
"""

import ast
import re
from pathlib import Path

import nbformat
import papermill
import pytest
import small
from nbformat import v4

from lesson_helpers import ladder, notebooks, paths
from lesson_helpers.errors import LessonError

NOTEBOOKS = sorted((paths.root() / "notebooks").glob("*.ipynb"))
OTHER = {  # other parameters for each
    "01-environment": {"cuda": "13"},
    "02-train-on-cpu": {"epochs": 1, "batch_size": 256, "seed": 2},
    "03-container-image": {"image": "lesson/other", "tag": "2"},
    "04-htcondor-gpu": {"epochs": 1, "limit": 600},
}
LINES = 12  # of code in a cell
SHOWN = 60  # lines of text below a cell
BOX = ("Questions", "Objectives", "Prerequisites", "Time")
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
HTML = re.compile(r"</?[a-zA-Z][^>:@]*>")

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def prose(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def complaints(path: Path) -> list[str]:
    """Return what is wrong with a notebook's form."""
    notebook = nbformat.read(path, as_version=4)
    text, wrong = prose(notebook), []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]

    def expect(right, complaint):
        if not right:
            wrong.append(complaint)

    nbformat.validate(notebook)
    expect(notebook.nbformat_minor >= 5, "its format is older than 4.5, so its cells have no ids")
    expect(notebook.metadata.get("kernelspec", {}).get("name") == "python3", "its kernel isn't python3")
    expect(notebook.cells[0].source.startswith("# "), "it doesn't begin with its title")
    expect(len(re.findall(r"^# ", text, re.MULTILINE)) == 1, "it hasn't got one title")
    for word in BOX:
        expect(f"**{word}**" in notebook.cells[1].source, f"the box doesn't say its {word}")
    expect(re.search(r"\*\*Time\*\*: \d+ minutes", notebook.cells[1].source), "it doesn't say its minutes")
    expect("## What next" in text, "it doesn't say what is next")
    expect(not any(cell.outputs or cell.execution_count for cell in code), "it has outputs")
    for cell in code:
        length = len(cell.source.splitlines())
        expect(length <= LINES, f"a cell has {length} lines: {cell.source.splitlines()[:1]}")
    for target in LINK.findall(text):
        expect((path.parent / target).exists(), f"a link leads nowhere: {target}")
    expect("```{" not in text, "a directive has back-ticks, which JupyterLab shows in the open")
    without_code = re.sub(r"(`{3,}|~{3,}).*?\1|`[^`\n]*`", "", text, flags=re.DOTALL)
    expect(not HTML.findall(without_code), f"it has raw HTML: {HTML.findall(without_code)[:3]}")
    wrong += parameter_complaints(path, notebook)
    return wrong


def parameter_complaints(path, notebook):
    cells = tagged(notebook, "parameters")
    if len(cells) != 1:
        return [f"it has {len(cells)} cells tagged `parameters`"]
    wrong, lines = [], cells[0].source.splitlines()
    found = papermill.inspect_notebook(path)
    for statement in ast.parse(cells[0].source).body:
        if not isinstance(statement, ast.AnnAssign):
            wrong.append(f"a parameter has no type: {ast.unparse(statement)}")
            continue
        name, kind = statement.target.id, ast.unparse(statement.annotation)
        default = ast.literal_eval(statement.value)
        if type(default).__name__ != kind.partition("[")[0]:
            wrong.append(f"the default of `{name}` is no {kind}")
        if not re.search(r"  # \S", lines[statement.lineno - 1]):
            wrong.append(f"`{name}` isn't explained on its line")
        if found.get(name, {}).get("inferred_type_name") != kind:
            wrong.append(f"papermill doesn't see `{name}: {kind}`")
    if found.get("folder", {}).get("default") != '"workspace"':
        wrong.append('it has no parameter `folder: str = "workspace"`')
    return wrong


@each
def test_its_form_is_the_one_that_every_notebook_has(path):
    assert complaints(path) == []


def test_a_notebook_of_another_form_is_seen(tmp_path):
    """What is tested above can fail."""
    path = small.notebook(tmp_path / "01-bad.ipynb", parameters="epochs = 1\nrate: int = 0.1  # a rate")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.kernelspec.name = "ir"
    notebook.cells[
        0
    ].source = "Text\n\n```{note}\n```\n[gone](gone.ipynb), <b>bold</b>, `<folder>`, <https://a.b>"
    notebook.cells.append(v4.new_code_cell("x = 1\n" * 13, execution_count=1))
    nbformat.write(notebook, path)
    assert complaints(path) == [
        "its kernel isn't python3",
        "it doesn't begin with its title",
        "it hasn't got one title",
        *(f"the box doesn't say its {word}" for word in BOX),
        "it doesn't say its minutes",
        "it doesn't say what is next",
        "it has outputs",
        "a cell has 13 lines: ['x = 1']",
        "a link leads nowhere: gone.ipynb",
        "a directive has back-ticks, which JupyterLab shows in the open",
        "it has raw HTML: ['<b>', '</b>']",
        "a parameter has no type: epochs = 1",
        "the default of `rate` is no int",
        'it has no parameter `folder: str = "workspace"`',
    ]


@each
def test_an_unknown_parameter_is_an_error_before_it_runs(path, tmp_path):
    with pytest.raises(LessonError) as error:
        notebooks.run([path.stem], {"foldr": "x"}, folder=tmp_path / "run")
    assert error.value.what == f"There is no parameter `foldr` in {path.stem}."
    assert error.value.where == "-p foldr=x"
    assert error.value.fix == f"Did you mean folder ({path.stem})?"
    assert not (tmp_path / "run").exists()


@each
def test_a_value_of_the_wrong_type_is_an_error_before_it_runs(path, tmp_path):
    for name in papermill.inspect_notebook(path):
        with pytest.raises(LessonError) as error:
            notebooks.run([path.stem], {name: ("neither", "text", "nor", 1)}, folder=tmp_path / "run")
        assert error.value.what.startswith(f"The parameter `{name}` is ")
        assert error.value.where.startswith(f"-p {name}=")
        assert error.value.fix.startswith("Give it a value like its default: -p ")
        assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def first(request, tmp_path_factory):
    """Run it with its defaults, alone, in an empty workspace."""
    return execute(request.param, {}, tmp_path_factory.mktemp(request.param.stem))


def test_it_runs_alone_in_an_empty_workspace_and_then_again_with_other_parameters(first):
    passed(first)
    name, workspace = first.notebooks[0].name, first.folder / "workspace"
    given = OTHER.get(name)
    assert given, f"say in OTHER with which other parameters {name} is run"
    again = execute(paths.root() / f"notebooks/{name}.ipynb", given, first.folder / "again", workspace)
    passed(again)
    injected = tagged(read(again), "injected-parameters")[0].source
    for parameter, value in given.items():
        assert f"{parameter} = {repr(value).replace(chr(39), chr(34))}" in injected


def test_it_says_what_ran_and_why_where_something_stood_in(first):
    rungs = first.notebooks[0].rungs
    assert rungs == tuple(ladder.read(read(first)))
    assert rungs
    for rung in rungs:
        assert rung.part
        assert rung.ran
        assert bool(rung.instead_of) == bool(rung.reason)


def test_nothing_is_on_stderr_and_nothing_is_too_long_to_read(first):
    for cell in read(first).cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output.text
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            assert len(text.splitlines()) <= SHOWN, cell.source


def test_it_leaves_the_checkout_as_it_was(first):
    """What it makes lies in its workspace, or below .lesson; git sees the rest."""
    assert (first.folder / "workspace").is_dir()
    assert not (paths.root() / "notebooks" / "workspace").exists()
    assert {path.suffix for path in (paths.root() / "notebooks").iterdir()} <= {".ipynb", ""}


def execute(path, given, folder, workspace=None):
    given = given | ({"folder": str(workspace)} if workspace else {})
    return notebooks.run([path.stem], given, folder=folder)


def read(report):
    return nbformat.read(report.folder / f"{report.notebooks[0].name}.ipynb", as_version=4)


def passed(report):
    if report.result != "passed":
        pytest.fail(f"{report.notebooks[0]}\n{report.folder}", pytrace=False)
