"""The site, built from small notebooks that were really run, and from the lesson's own."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import filelock
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lesson_helpers import paths, site
from lesson_helpers.errors import LessonError

NAMES = ("01-environment", "02-train-on-cpu", "03-container-image", "04-htcondor-gpu")
RUNG = """from lesson_helpers.ladder import Rung
display(Rung("GPU", "a simulated GPU", "a *real* GPU", "there is none"))"""
PROSE = """Go to [the second](02-train-on-cpu.ipynb), its [end](02-train-on-cpu.ipynb#end), \
[the job](../jobs/mnist_gpu.sub). Paths like $HOME and $PATH are no formula.

::::{tab-set}
:::{tab-item} Linux
Here.
:::
::::

:::{dropdown} Solution
Forty-two.
:::"""


def small_notebook(name):
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [
        new_markdown_cell(f"# Notebook {name}"),
        new_markdown_cell(":::{admonition} In this notebook\n**Time**: 25 minutes, 15 of them for you.\n:::"),
        new_code_cell(
            'folder: str = "workspace"  # where\nepochs: int = 2  # how often',
            metadata={"tags": ["parameters"]},
        ),
        new_code_cell(f'print("epochs:", epochs, "in {name}")'),
        new_code_cell("for n in (1, 2):\n    print('line', n, flush=True)"),
        new_code_cell(RUNG),
        new_markdown_cell(PROSE),
        new_code_cell("from IPython.display import Code\nCode('queue', language='ini')"),
        new_code_cell("!echo Shell commands are coloured too"),
        new_code_cell("1 + 1", metadata={"tags": ["solution", "hide-cell"]}),
        new_markdown_cell("## End\n\nThat was it."),
    ]
    return new_notebook(cells=cells, metadata=kernel)


def really_run(folder, run, names, given):
    """Run notebooks as `./lesson run` does; in a process of its own, since papermill leaves sockets open."""
    program = """if True:
        import json, pathlib, sys
        from lesson_helpers import notebooks
        folder, run = map(pathlib.Path, sys.argv[3:])
        notebooks.run(json.loads(sys.argv[1]), json.loads(sys.argv[2]), notebooks=folder, folder=run)
    """
    arguments = [json.dumps(names), json.dumps(given), folder, run]
    subprocess.run([sys.executable, "-P", "-c", program, *arguments], check=True, timeout=240)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Give a folder with small notebooks, and the folder of a run of three of them."""
    folder = tmp_path_factory.mktemp("small")
    for name in NAMES:
        nbformat.write(small_notebook(name), folder / f"{name}.ipynb")
    broken = small_notebook(NAMES[2])
    broken.cells[3].source = "1 / 0"
    nbformat.write(broken, folder / f"{NAMES[2]}.ipynb")
    run = folder / "run"
    really_run(folder, run, ["01", "02", "03"], {"epochs": 3})
    really_run(folder, folder / "defaults", ["02"], {})
    return SimpleNamespace(notebooks=folder, run=run, defaults=folder / "defaults")


@pytest.fixture
def checkout(ran, tmp_path, monkeypatch):
    """Give a checkout with the lesson's pages and the small notebooks."""
    for name in site.STAGED:
        source = paths.root() / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, tmp_path / name)
    (tmp_path / "notebooks").mkdir()
    for path in ran.notebooks.glob("*.ipynb"):
        shutil.copy2(path, tmp_path / "notebooks")
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    return tmp_path


class Addresses(HTMLParser):
    """What a page loads, and where it leads to."""

    def __init__(self, page):
        super().__init__()
        self.loads, self.leads = [], []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "a":
            self.leads.append(found.get("href") or "")
        elif tag == "link":
            self.loads.append(found["href"])
        elif found.get("src"):
            self.loads.append(found["src"])


def check_site(html):
    """Check that no page asks another host for anything, and that no link within the site leads nowhere."""
    pages = [page for page in html.rglob("*.html") if "_static" not in page.parts]
    assert len(pages) > len(NAMES)
    for page in pages:
        found = Addresses(page)
        for address in (*found.loads, *found.leads):
            parts = urlsplit(address)
            if address in found.loads:
                assert not parts.netloc, f"{page.name} loads {address}"
            if parts.path and not parts.scheme and not parts.netloc:
                assert (page.parent / unquote(parts.path)).exists(), f"{page.name}: {address}"
    for sheet in html.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), (
            sheet
        )


def prose(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_the_site_shows_what_the_run_printed_asks_no_other_host_and_keeps_nothing_old(checkout, ran):
    old = checkout / "_build/html/old.html"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    html = site.build(ran.run)
    assert html == checkout / "_build/html"
    assert not old.exists()
    first, third = ((html / f"notebooks/{NAMES[n]}.html").read_text(encoding="utf-8") for n in (0, 2))
    assert "epochs: 3 in 01-environment" in first
    assert "line 1\nline 2\n" in first
    assert "a *real* GPU" in first
    assert "In the last run this notebook failed." in third
    index = (html / "pages/index.html").read_text(encoding="utf-8")
    assert "a simulated GPU, instead of a *real* GPU, because there is none." in index
    assert index.count("instead of a *real* GPU") == 2
    assert (html / "index.html").is_file()
    check_site(html)


def test_without_a_run_the_site_is_there_and_says_that_nothing_ran(checkout, capsys):
    html = site.build()
    assert capsys.readouterr().out == (
        "There was no ./lesson run yet: the pages show the notebooks without outputs.\n"
    )
    assert "No run has made outputs yet." in (html / f"notebooks/{NAMES[1]}.html").read_text(encoding="utf-8")
    assert "not run" in (html / "pages/index.html").read_text(encoding="utf-8")


def test_the_first_page_has_the_minutes_stated_and_the_seconds_measured(checkout, ran, tmp_path):
    site.stage(tmp_path / "source", ran.run)
    report = json.loads((ran.run / "report.json").read_text())
    status = (tmp_path / "source/pages/generated/status.md").read_text()
    seconds = f"{report['notebooks'][0]['seconds']:.0f} s"
    assert f"| [Notebook {NAMES[0]}](../notebooks/{NAMES[0]}.ipynb) | 25 | {seconds} |" in status
    assert f"[Notebook {NAMES[3]}](../notebooks/{NAMES[3]}.ipynb) | 25 | not run |" in status
    assert f"run on {report['started'][:10]} on {report['machine']}." in status


def test_a_notebook_that_was_not_part_of_the_run_says_so(checkout, ran, tmp_path):
    shown = site.stage(tmp_path / "source", ran.run)
    assert "not part of the last run. `./lesson run`, then `./lesson site`, show" in prose(shown[3].notebook)


def test_values_that_were_given_are_shown_but_not_this_machines_workspace(checkout, ran, tmp_path):
    given = site.stage(tmp_path / "given", ran.run)[1].notebook
    default = site.stage(tmp_path / "default", ran.defaults)[1].notebook
    assert any("epochs = 3" in cell.source for cell in given.cells)
    assert len(default.cells) == len(small_notebook(NAMES[1]).cells)
    assert str(ran.defaults) not in "\n".join(cell.source for cell in default.cells)


def test_the_path_to_the_checkout_is_not_published(checkout, ran, tmp_path):
    run = shutil.copytree(ran.run, tmp_path / "run")
    for file, said in (
        (run / "report.json", '"a simulated'),
        (run / f"{NAMES[0]}.ipynb", "GPU: a simulated"),
    ):
        text = file.read_text(encoding="utf-8").replace(said, f"{said} {checkout}/gpus")
        file.write_text(text, encoding="utf-8")
    site.stage(tmp_path / "source", run)
    for file in (f"notebooks/{NAMES[0]}.ipynb", "pages/generated/status.md"):
        text = (tmp_path / "source" / file).read_text(encoding="utf-8")
        assert "a simulated …/gpus" in text
        assert str(checkout) not in text


def test_corrected_prose_keeps_the_outputs_and_changed_code_does_not(checkout, ran, tmp_path):
    path = checkout / f"notebooks/{NAMES[0]}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].source = "## End\n\nThat was all."
    nbformat.write(notebook, path)
    shown = site.stage(tmp_path / "source", ran.run)[0]
    assert shown.seconds is not None
    assert "That was all." in prose(shown.notebook)
    notebook.cells[3].source = "print(epochs + 1)"
    nbformat.write(notebook, path)
    shown = site.stage(tmp_path / "source", ran.run)[0]
    assert shown.seconds is None
    assert "The code of this notebook was changed after the last run." in prose(shown.notebook)
    assert not any(cell.get("outputs") for cell in shown.notebook.cells)


def test_by_default_the_newest_run_that_has_ended_is_shown(checkout, ran):
    assert site.newest() is None
    for name, source, started, result in (
        ("b", ran.run, "2026-01-02T00:00:00+00:00", "failed"),
        ("a", ran.run, "2026-01-03T00:00:00+00:00", "passed"),
        ("c", ran.run, "2026-01-04T00:00:00+00:00", "running"),
    ):
        folder = checkout / ".lesson/runs" / name
        folder.mkdir(parents=True)
        report = json.loads((source / "report.json").read_text())
        (folder / "report.json").write_text(json.dumps(report | {"started": started, "result": result}))
    (checkout / ".lesson/runs/d").mkdir()
    (checkout / ".lesson/runs/d/report.json").write_text('{"from": "another version of the kit"}')
    assert site.newest().name == "a"


def test_a_later_run_of_some_notebooks_or_one_that_failed_does_not_empty_the_site(checkout, ran):
    whole = json.loads((ran.run / "report.json").read_text())
    rows = [whole["notebooks"][0] | {"name": name, "result": "passed"} for name in NAMES]
    for name, day, result, done in (
        ("a", 2, "passed", rows),
        ("b", 3, "passed", rows[:1]),
        ("c", 4, "failed", rows),
    ):
        told = whole | {"started": f"2026-01-0{day}T00:00:00+00:00", "result": result, "notebooks": done}
        (checkout / ".lesson/runs" / name).mkdir(parents=True)
        (checkout / ".lesson/runs" / name / "report.json").write_text(json.dumps(told))
    assert site.newest().name == "a"


def test_a_link_that_leads_nowhere_is_an_error_in_sphinx_own_words(checkout):
    page = checkout / "pages/setup.md"
    page.write_text(page.read_text(encoding="utf-8") + "\nSee [this](nowhere.md).\n", encoding="utf-8")
    with pytest.raises(LessonError) as error:
        site.build()
    assert error.value.what == "The site was not built: Jupyter Book warns, and a warning counts as an error."
    assert error.value.where.startswith("pages/setup.md:")
    assert "nowhere.md" in error.value.where
    assert error.value.fix.startswith("Mend these lines")
    assert not (checkout / "_build/html").exists()


def test_a_folder_that_is_no_run_is_an_error(checkout, tmp_path):
    with pytest.raises(LessonError) as error:
        site.build(tmp_path / "nothing")
    assert error.value.what == "There is no report of a run that can be read."
    assert error.value.where == str(tmp_path / "nothing/report.json")
    assert error.value.fix == "Call ./lesson run; it makes a new one."


def test_a_second_build_waits_for_the_first_and_not_for_ever(checkout, monkeypatch):
    monkeypatch.setattr(site, "LIMIT", 0.2)
    work = checkout / ".lesson/site"
    work.mkdir(parents=True)
    with filelock.FileLock(work / "lock"), pytest.raises(LessonError) as error:
        site.build()
    assert error.value.what == "Another build of the site has not ended in 0.2 seconds."
    assert error.value.where == str(work / "lock")
    assert error.value.fix.endswith("end it, and call ./lesson site again.")


def test_a_build_that_takes_too_long_is_ended(checkout, monkeypatch):
    monkeypatch.setattr(site, "LIMIT", 0.2)
    with pytest.raises(LessonError) as error:
        site.build()
    assert error.value.what == "Jupyter Book has not built the site in 0.2 seconds."
    assert error.value.where == str(checkout / ".lesson/site/source")
    assert error.value.fix == "Call ./lesson site again on a machine that is less busy."


def test_the_lessons_own_notebooks_each_state_their_minutes_and_build_without_a_warning(
    tmp_path, monkeypatch
):
    real = paths.root()
    for name in (*site.STAGED, "notebooks"):
        (tmp_path / name).symlink_to(real / name)
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    shown = site.stage(tmp_path / "source", None)
    listed = re.findall(r"file: notebooks/(\S+)", (real / "_toc.yml").read_text())
    assert [one.name for one in shown] == listed
    assert all(re.search(r"\| \d+ \| not run \|$", one.row()) for one in shown), [one.row() for one in shown]
    check_site(site.build())


def test_the_site_has_no_place_for_a_file_that_the_kit_does_not_have():
    assert all((paths.root() / name).exists() for name in site.STAGED)
    assert Path(site.__file__).is_relative_to(paths.root())
