"""The lesson site: the pages, and the notebooks with the outputs of a run, built by Jupyter Book.

Nothing is executed here. The pages, the files they show and the executed notebooks are put into a folder of
their own, laid out like the checkout, so that a link or an include means the same in both.
"""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import filelock
import nbformat

from lesson_helpers import ladder, paths
from lesson_helpers.errors import LessonError

# What the pages are made of, show or link to; the notebooks come on top.
STAGED = ("_config.yml", "_toc.yml", "CITATION.cff", "Dockerfile", "pixi.toml", "pages", "jobs", ".github")
LIMIT = 300  # seconds; a build takes a few
LINES = 12  # the most of Sphinx's messages in one error


@dataclass(frozen=True)
class Shown:
    """A notebook as the site shows it.

    Parameters
    ----------
    name : str
        Its file's name, without the ending.
    notebook : nbformat.NotebookNode
        The page.
    seconds : float or None
        What it took in the run whose outputs are shown; None where it has none.
    rungs : tuple of ladder.Rung
        What ran in that run, as the notebook says it.
    """

    name: str
    notebook: nbformat.NotebookNode
    seconds: float | None = None
    rungs: tuple[ladder.Rung, ...] = ()

    def link(self) -> str:
        """Return its title as a link from a page."""
        title = _first(r"^# +(.+)$", self._prose()) or self.name
        return f"[{title}](../notebooks/{self.name}.ipynb)"

    def row(self) -> str:
        """Return its row of the first page's table."""
        minutes = _first(r"[Mm]inutes\W+(\d+)", self._prose()) or _first(r"(\d+)\W+minutes", self._prose())
        ran = "not run" if self.seconds is None else f"{self.seconds:.0f} s"
        return f"| {self.link()} | {minutes} | {ran} |"

    def _prose(self) -> str:
        return "\n".join(cell.source for cell in self.notebook.cells if cell.cell_type == "markdown")


def build(run: Path | None = None) -> Path:
    """Build the site and return the folder that has its ``index.html``.

    Parameters
    ----------
    run : Path, optional
        The folder of a ``./lesson run``; by default the newest. A notebook without outputs there is shown
        without them, and says so.

    Raises
    ------
    LessonError
        Where that folder has no report, or Jupyter Book warns or fails (in Sphinx's own words).
    """
    target, work = paths.root() / "_build" / "html", paths.state() / "site"
    work.mkdir(exist_ok=True)
    try:
        with filelock.FileLock(work / "lock", timeout=LIMIT):
            stage(work / "source", run or newest())
            made = _jupyter_book(work / "source", work / "made")
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            return made.rename(target)
    except filelock.Timeout:
        raise LessonError(
            f"Another build of the site has not ended in {LIMIT} seconds.",
            str(work / "lock"),
            "Look for another ./lesson site with `ps`, end it, and call ./lesson site again.",
        ) from None


def newest() -> Path | None:
    """Return the folder of the newest ``./lesson run`` that came to its report, or None."""
    reports = sorted((paths.state() / "runs").glob("*/report.json"))
    return reports[-1].parent if reports else None


def stage(folder: Path, run: Path | None) -> list[Shown]:
    """Lay out in an empty folder what the site is built from, and return its notebooks.

    Parameters
    ----------
    folder : Path
        The folder; what is in it is removed.
    run : Path or None
        The folder of the run whose outputs are shown; None shows the notebooks as they are committed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in STAGED:
        source = paths.root() / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif source.exists():
            shutil.copy2(source, folder / name)
    report = _report(run) if run else {}
    shown = [_shown(path, run, report) for path in sorted((paths.root() / "notebooks").glob("*.ipynb"))]
    (folder / "notebooks").mkdir()
    for one in shown:
        nbformat.write(one.notebook, folder / "notebooks" / f"{one.name}.ipynb")
    generated = folder / "pages" / "generated"
    generated.mkdir()
    (generated / "status.md").write_text(_status(shown, report), encoding="utf-8")
    return shown


def _shown(path: Path, run: Path | None, report: dict) -> Shown:
    """Return a notebook with its outputs of the run, or as committed with a note that says why."""
    committed = nbformat.read(path, as_version=4)
    row = next((row for row in report.get("notebooks", []) if row["name"] == path.stem), None)
    if row is None:
        why_not = "No run has made its outputs yet." if run is None else "It was not part of the last run."
    elif row["result"] != "passed":
        why_not = "It failed in the last run."
    else:
        executed = nbformat.read(run / path.name, as_version=4)
        executed.cells = [cell for cell in executed.cells if not _only_says_where(cell)]
        if _sources(executed) == _sources(committed):
            rungs = tuple(ladder.read(executed))
            _drop(executed)
            return Shown(path.stem, executed, row["seconds"], rungs)
        why_not = "It was changed after the last run."
    note = f":::{{admonition}} No outputs\n:class: warning\n{why_not} `./lesson run`, then `./lesson site` show them.\n:::"
    committed.cells.insert(1, nbformat.v4.new_markdown_cell(note))
    return Shown(path.stem, committed)


def _only_says_where(cell) -> bool:
    """Tell whether papermill put this cell in only to set the workspace: it isn't part of the lesson."""
    if "injected-parameters" not in cell.metadata.get("tags", []):
        return False
    lines = [line for line in cell.source.splitlines() if line and not line.startswith("#")]
    return all(line.startswith("folder =") for line in lines)


def _drop(notebook) -> None:
    """Take out the forms of an output that no page shows.

    The rungs are for programs; myst-nb warns of a MIME type that it doesn't know. LaTeX beside HTML, which
    coloured code has, would make the page load MathJax from another host.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop(ladder.MIME, None)
            if "text/html" in data:
                data.pop("text/latex", None)


def _sources(notebook) -> list[str]:
    injected = "injected-parameters"
    return [cell.source for cell in notebook.cells if injected not in cell.metadata.get("tags", [])]


def _status(shown: list[Shown], report: dict) -> str:
    """Return the first page's table of notebooks, and what it says of the run, out of the run's report."""
    lines = ["| Notebook | Minutes for you | Ran in |", "|:---|---:|---:|", *(one.row() for one in shown), ""]
    if not report:
        return "\n".join(
            [*lines, "Nothing has run yet: `./lesson run`, then `./lesson site` show the outputs.", ""]
        )
    lines += [f"The outputs are those of a run on {report['started'][:10]} on {report['machine']}.", ""]
    lower = [(one, rung) for one in shown for rung in one.rungs if rung.instead_of]
    lines += ["In it, these stood in:" if lower else "Nothing stood in for anything in it.", ""]
    lines += [f"- {one.link()}: {rung}" for one, rung in lower]
    return "\n".join([*lines, ""])


def _report(run: Path) -> dict:
    try:
        return json.loads((run / "report.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise LessonError(
            "This is not the folder of a finished ./lesson run: it has no report.json that can be read.",
            f"{run} ({type(error).__name__})",
            "Name a folder of .lesson/runs, or none to take the newest; ./lesson run makes one.",
        ) from None


def _jupyter_book(source: Path, folder: Path) -> Path:
    """Run Jupyter Book, in a process of its own: it changes docutils for good."""
    shutil.rmtree(folder, ignore_errors=True)
    program = [sys.executable, "-P", "-c", "from jupyter_book.cli.main import main; main()", "build", source]
    options = ["--path-output", folder, "-n", "-W", "--keep-going", "--quiet"]
    command = [str(part) for part in (*program, *options)]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", timeout=LIMIT, check=False, cwd=source
        )
    except subprocess.TimeoutExpired:
        raise LessonError(
            f"Jupyter Book has not built the site in {LIMIT} seconds.",
            str(source),
            "Call ./lesson site again on a machine that is less busy.",
        ) from None
    if done.returncode:
        raise _error(done.stdout + done.stderr, source)
    return folder / "_build" / "html"


def _error(said: str, source: Path) -> LessonError:
    """Return Sphinx's warnings as an error, with the paths as they are in the checkout."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", said).replace(f"{source}/", "")
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    told = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-LINES:]
    more = [f"and {len(told) - LINES} more"] if len(told) > LINES else []
    return LessonError(
        "The site was not built: Jupyter Book warns, and a warning counts as an error.",
        "\n  ".join(["", *told[:LINES], *more]).lstrip("\n"),
        "Mend these lines (the number is the line in a page, or 10000 × the cell + the line in a notebook).",
    )


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else ""
