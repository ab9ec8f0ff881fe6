"""The lesson site: the pages, and the notebooks with the outputs of a run, built by Jupyter Book.

Nothing is executed here. The pages, the files they show and the executed notebooks are put into a folder of
their own, laid out like the checkout, so that a link or an include means the same in both.
"""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import filelock
import nbformat

from lesson_helpers import ladder, paths, report
from lesson_helpers.errors import LessonError

# What the pages are made of, show or link to; the notebooks come on top.
STAGED = (
    *("_config.yml", "_toc.yml", "CITATION.cff", "Dockerfile", "apptainer.def", "pixi.toml"),
    *("pages", "jobs", ".github"),
)
LIMIT = 300  # seconds; a build takes a few
SHOW = "`./lesson run`, then `./lesson site`, show them."
LINES = 12  # the most of Sphinx's messages in one error
WIDTH = 300  # characters of each; it may quote a whole file


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
        minutes = _first(r"\*\*(?:Time|Minutes)\*\*\W+(\d+)", self._prose())
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
            run = run or newest()
            if run is None:
                print("There was no ./lesson run yet: the pages show the notebooks without outputs.")
            stage(work / "source", run)
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
    """Return the folder of the newest ``./lesson run`` that passed with every notebook, or None.

    Where there is none, that of the newest that has ended: a try with one notebook, or one that failed,
    doesn't empty the site, and `build` can be told another.
    """
    runs = []
    for path in (paths.state() / "runs").glob(f"*/{report.FILE}"):
        with contextlib.suppress(LessonError):  # written by another version of the kit
            runs.append(report.read(path.parent))
    ended = [run for run in runs if run.result != "running"]
    names = {path.stem for path in (paths.root() / "notebooks").glob("*.ipynb")}
    whole = [
        run for run in ended if run.result == "passed" and names <= {done.name for done in run.notebooks}
    ]
    return max(whole or ended, key=lambda run: run.started).folder if ended else None


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
    ran = report.read(run) if run else None
    shown = [_shown(path, ran) for path in sorted((paths.root() / "notebooks").glob("*.ipynb"))]
    (folder / "notebooks").mkdir()
    for one in shown:
        nbformat.write(one.notebook, folder / "notebooks" / f"{one.name}.ipynb")
    generated = folder / "pages" / "generated"
    generated.mkdir()
    (generated / "status.md").write_text(_status(shown, ran), encoding="utf-8")
    return shown


def _shown(path: Path, run: report.Report | None) -> Shown:
    """Return a notebook with its outputs of the run, or as committed with a note that says why."""
    committed = nbformat.read(path, as_version=4)
    committed.metadata.setdefault("language_info", {"name": "python"})["pygments_lexer"] = (
        "ipython3"  # for !…
    )
    result = next((one for one in run.notebooks if one.name == path.stem), None) if run else None
    if run is None:
        why_not = "No run has made outputs yet."
    elif result is None or result.result == "not run":
        why_not = "This notebook was not part of the last run."
    elif result.result != "passed":
        why_not = f"In the last run this notebook {'failed' if result.result == 'failed' else 'was stopped'}."
    else:
        executed = nbformat.read(run.folder / path.name, as_version=4)
        if _take_outputs(committed, executed):
            return Shown(path.stem, committed, result.seconds, result.rungs)
        why_not = "The code of this notebook was changed after the last run."
    # below the title, in its cell: another cell would shift the numbers that Sphinx's messages name
    committed.cells[0].source += f"\n\n:::{{admonition}} No outputs\n:class: warning\n{why_not} {SHOW}\n:::"
    return Shown(path.stem, committed)


def _take_outputs(committed, executed) -> bool:
    """Give the committed notebook the outputs of its executed copy; tell whether both have the same code."""
    given = [cell for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    ran = [cell for cell in executed.cells if cell.cell_type == "code" and cell not in given]
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    if [cell.source for cell in ran] != [cell.source for cell in code]:
        return False
    for cell, done in zip(code, ran, strict=True):
        cell.outputs, cell.execution_count = [_for_a_page(one) for one in done.outputs], done.execution_count
        if "parameters" in cell.metadata.get("tags", []):
            place = committed.cells.index(cell) + 1
            committed.cells[place:place] = [one for one in given if not _only_says_where(one.source)]
    return True


def _only_says_where(injected: str) -> bool:
    """Tell whether papermill's cell only sets the workspace: a folder of this machine, not of the lesson."""
    lines = [line for line in injected.splitlines() if line and not line.startswith("#")]
    return all(line.startswith("folder =") for line in lines)


def _for_a_page(output):
    """Return an output without the forms that no page shows, and without this machine's path to the checkout.

    The rungs are for programs; myst-nb warns of a MIME type that it doesn't know. LaTeX beside HTML, which
    coloured code has, would make the page load MathJax from another host.
    """
    data = output.get("data", {})
    data.pop(ladder.MIME, None)
    if "text/html" in data:
        data.pop("text/latex", None)
    return nbformat.from_dict(json.loads(_short(json.dumps(output))))


def _status(shown: list[Shown], run: report.Report | None) -> str:
    """Return the first page's table of notebooks, and what it says of the run, out of the run's report."""
    lines = ["| Notebook | Minutes for you | Ran in |", "|:---|---:|---:|", *(one.row() for one in shown), ""]
    if run is None:
        return "\n".join([*lines, f"No run has made outputs yet. {SHOW}", ""])
    lines += [f"The outputs are those of a run on {run.started[:10]} on {run.machine}.", ""]
    lower = {one.link(): [rung for rung in one.rungs if rung.instead_of] for one in shown}
    if any(lower.values()):
        lines += ["What stood in for something else in that run:", ""]
        for link, rungs in lower.items():
            lines += [f"- {link}", *(f"  - {_plain(_short(str(rung)))}" for rung in rungs)] if rungs else []
    elif all(one.seconds is not None for one in shown):
        lines += ["Nothing stood in for anything else in that run."]
    return "\n".join([*lines, ""])


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
    lines = [textwrap.shorten(line, WIDTH) for line in plain.splitlines() if line.strip()]
    told = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-LINES:]
    more = [f"and {len(told) - LINES} more"] if len(told) > LINES else []
    return LessonError(
        "The site was not built: Jupyter Book warns, and a warning counts as an error.",
        "\n  ".join([*told[:LINES], *more]),
        "Mend these lines (the number is the line in a page, or 10000 × the cell + the line in a notebook).",
    )


def _short(text: str) -> str:
    """Shorten the path to the checkout: the site is public, and the path says whose machine it was."""
    return text.replace(str(paths.root()), "…")


def _plain(text: str) -> str:
    """Return text with the characters that mean something in Markdown made to mean nothing."""
    return re.sub(r"([\\`*_\[\]<|])", r"\\\1", text)


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else ""
