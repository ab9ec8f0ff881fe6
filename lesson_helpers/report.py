"""The report of ``./lesson run``: what ran, on what, how long, and what stood in for what."""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path

import psutil

from lesson_helpers import paths, processes
from lesson_helpers.errors import LessonError
from lesson_helpers.ladder import Rung

FILE = "report.json"
KEPT = 5  # runs; each has its notebooks and a workspace
PACKAGES = (  # those on which a page's outputs depend
    *("papermill", "nbclient", "ipykernel", "jupyterlab", "jupyterlab-myst", "jupyter-book", "myst-nb"),
    *("htcondor", "py-rattler", "torch", "torchvision", "numpy", "matplotlib"),
)
COLOURS = {"passed": "green", "failed": "red", "interrupted": "yellow", "not run": "dim"}


@dataclass(frozen=True)
class Result:
    """What became of one notebook.

    Parameters
    ----------
    name : str
        The notebook's name, without the ending; the executed copy beside the report has the same.
    result : str
        ``"passed"``, ``"failed"``, ``"interrupted"`` or ``"not run"``.
    seconds : float
        From before the kernel's start to after its end.
    cells : int
        How many code cells it has.
    parameters : mapping
        The values that were given to it.
    rungs : tuple of Rung
        What it said that ran.
    cell : int
        The number of the code cell that failed or was running, as ``In [ ]`` shows it; else 0.
    line : str
        That cell's first line.
    error : str
        The error; in three parts where a person can mend it.
    """

    name: str
    result: str
    seconds: float = 0.0
    cells: int = 0
    parameters: Mapping[str, object] = field(default_factory=dict)
    rungs: tuple[Rung, ...] = ()
    cell: int = 0
    line: str = ""
    error: str = ""

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.result}, {self.seconds:.1f} s"]
        if self.error:
            lines += [f"  cell {self.cell}: {self.line}"] if self.cell else []
            lines += [f"  {line}" for line in self.error.splitlines()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """What became of a run; written as ``report.json`` into the run's folder, anew after each notebook.

    Parameters
    ----------
    folder : Path
        The run's folder: executed notebooks, workspace, ``report.json``.
    started : str
        When, as ISO 8601 with the time zone.
    owner : str
        The mark of the process that runs it (`processes.claim`).
    result : str
        ``"running"``, ``"passed"``, ``"failed"`` or ``"interrupted"``.
    seconds : float
        What all notebooks took.
    parameters : mapping
        The parameters that were given.
    machine : str
        The machine in words.
    versions : mapping
        Python's and the packages' versions.
    notebooks : tuple of Result
        One for each notebook that was chosen; while it runs, those that are done.
    """

    folder: Path
    started: str
    owner: str
    result: str = "running"
    seconds: float = 0.0
    parameters: Mapping[str, object] = field(default_factory=dict)
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    notebooks: tuple[Result, ...] = ()

    def write(self) -> None:
        """Write ``report.json``: beside first, then renamed, so that nobody reads half of it."""
        content = {name: value for name, value in asdict(self).items() if name != "folder"}
        beside = self.folder / f"{FILE}.new"
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        beside.replace(self.folder / FILE)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.notebooks), f"{self.result}: {self.folder / FILE}"])

    def __rich__(self):
        """Return the table that ``./lesson run`` ends with."""
        from rich.table import Table
        from rich.text import Text

        table = Table(
            "notebook", "result", "seconds", "what ran, ✓ in full, ▽ on a lower rung", show_lines=True
        )
        table.columns[2].justify = "right"
        table.columns[0].no_wrap = table.columns[1].no_wrap = True
        for one in self.notebooks:
            ran = Text("\n").join(
                Text(f"{'▽' if rung.instead_of else '✓'} {rung}", "yellow" if rung.instead_of else "")
                for rung in one.rungs
            )
            colour = COLOURS[one.result]
            table.add_row(Text(one.name, colour), Text(one.result, colour), f"{one.seconds:.1f}", ran)
        return table


def begin(parameters: Mapping[str, object], folder: Path | None = None) -> Report:
    """Make a run's folder, with a report in it that says "running".

    Parameters
    ----------
    parameters : mapping
        The parameters that were given, for the report.
    folder : Path, optional
        The folder; by default one named after the time in ``.lesson/runs``.
    """
    now = datetime.now().astimezone()
    if folder is None:
        folder = _new(paths.state() / "runs", now.strftime("%Y-%m-%dT%H-%M-%S"))
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(
        folder=folder,
        started=now.isoformat(timespec="seconds"),
        owner=processes.claim(),
        parameters=dict(parameters),
        machine=machine(),
        versions=versions(),
    )
    report.write()
    return report


def read(folder: Path) -> Report:
    """Read the report of a run.

    A run that was killed has no time to say so: its report says "running", and is read as "interrupted".

    Raises
    ------
    LessonError
        Where the folder has no report that can be read.
    """
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        results = tuple(
            Result(**{**one, "rungs": tuple(Rung(**rung) for rung in one["rungs"])})
            for one in content.pop("notebooks")
        )
        report = Report(folder=folder, notebooks=results, **content)
    except (OSError, ValueError, KeyError, TypeError):
        raise LessonError(
            "There is no report of a run that can be read.",
            str(folder / FILE),
            "Call ./lesson run; it makes a new one.",
        ) from None
    if report.result == "running" and not processes.alive(report.owner):
        return replace(report, result="interrupted")
    return report


def prune(folder: Path) -> int:
    """Remove all but the newest runs in a folder, those that still run excepted; return how many."""
    runs = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    removed = 0
    for run in runs[:-KEPT]:
        try:
            if read(run).result == "running":
                continue
        except LessonError:
            pass  # killed before it came to its report
        removed += processes.remove(run)
    return removed


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter here, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Return this machine in words; not its name, since the report goes on the public site."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    system = "macOS" if sys.platform == "darwin" else platform.system()
    return f"{system} {platform.machine()}, {cores} cores, {memory:.0f} GiB of memory"


def _new(parent: Path, name: str) -> Path:
    """Make a new folder; two runs of one second get two."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise LessonError("No folder for this run could be made.", str(parent), "Call ./lesson clean.")
