"""Running the notebooks for real: in order, through papermill, each within a limit, with a report."""

import difflib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from lesson_helpers import ladder, parameters, paths, processes, report
from lesson_helpers.errors import LessonError
from lesson_helpers.report import Report, Result

LIMIT = 1200  # seconds for one notebook; on two cores with a cold cache the longest takes two minutes
START_LIMIT = 120  # seconds for a kernel to start; half a second on an idle machine
GRACE = 30  # seconds after a limit until the kernel is ended from outside, should papermill itself be stuck


def find(names: Sequence[str] = (), folder: Path | None = None) -> list[Path]:
    """Return notebooks by number, beginning, or full name; all of them, in order, where none is named.

    Parameters
    ----------
    names : sequence of str
        Such as ``"2"``, ``"02"``, ``"02-train"`` or ``"02-train-on-cpu.ipynb"``.
    folder : Path, optional
        Where the notebooks are; by default ``notebooks``.

    Raises
    ------
    LessonError
        Where a name fits none or several, or there are no notebooks.
    """
    folder = folder or paths.root() / "notebooks"
    known = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]-*.ipynb"))}
    if not known:
        raise LessonError(
            "There are no notebooks.", str(folder), "Restore the folder: git restore notebooks."
        )
    return list(dict.fromkeys(known[_one(name, list(known))] for name in names)) or list(known.values())


def run(
    names: Sequence[str] = (),
    given: Mapping[str, object] | None = None,
    *,
    notebooks: Path | None = None,
    folder: Path | None = None,
    limit: float = LIMIT,
    watch: Callable[["Execution"], object] = lambda execution: None,
) -> Report:
    """Run notebooks one after the other and return the report; one that fails doesn't keep the others.

    Parameters
    ----------
    names : sequence of str
        The notebooks, as for `find`.
    given : mapping
        Parameters: names and values; each goes to the notebooks that have it. Without ``folder`` they
        share a fresh workspace in the run's folder.
    notebooks : Path, optional
        Where the notebooks are; by default ``notebooks``.
    folder : Path, optional
        The run's folder; by default a new one in ``.lesson/runs``.
    limit : float
        Seconds for each notebook.
    watch : callable
        Called with the `Execution` ten times a second, and at its end.

    Returns
    -------
    Report
        After Ctrl-C (`KeyboardInterrupt`) too: its result is then ``"interrupted"``.

    Raises
    ------
    LessonError
        Where a notebook or a parameter is unknown or a value has the wrong type, before anything runs.
    """
    chosen = find(names, notebooks)
    values = parameters.check(chosen, given or {})
    now = report.begin(given or {}, folder)
    workspace = {"folder": str(now.folder / "workspace")}
    os.environ.update(paths.tool_environment())
    logging.getLogger("papermill").addHandler(logging.NullHandler())  # what it logs is in the report
    began, results, execution = time.monotonic(), [], None
    try:
        for path in chosen:
            wanted = (workspace if "folder" in parameters.of(path) else {}) | values[path]
            execution = Execution(path, now.folder / path.name, wanted, limit)
            results.append(execution.follow(watch))
            now = replace(now, notebooks=tuple(results), seconds=round(time.monotonic() - began, 1))
            now.write()
        outcome = "passed" if all(one.result == "passed" for one in results) else "failed"
    except KeyboardInterrupt:
        outcome = "interrupted"
        if execution and execution.path.stem not in {one.name for one in results}:
            execution.stop()
            results.append(execution.result("interrupted"))
        results += [Result(path.stem, "not run") for path in chosen[len(results) :]]
    seconds = round(time.monotonic() - began, 1)
    now = replace(now, result=outcome, notebooks=tuple(results), seconds=seconds)
    now.write()
    return now


class Execution:
    """One notebook while it runs. Papermill has a thread of its own, so that nothing it does can hang us.

    Parameters
    ----------
    path, target : Path
        The notebook, and where its executed copy goes.
    given : mapping
        The parameters' values.
    limit : float
        Seconds for the whole notebook.
    """

    def __init__(self, path: Path, target: Path, given: Mapping[str, object], limit: float) -> None:
        import nbformat

        self.path, self.target, self.given, self.limit = path, target, dict(given), limit
        sources = [
            cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"
        ]
        self.cells = sum(bool(source.strip()) for source in sources) + bool(self.given)
        self.cell, self.line, self.error = 0, "", ""
        self.began, self.done = time.monotonic(), False
        self.before = set(psutil.Process().children())
        self.thread = threading.Thread(target=self._work, name=path.stem, daemon=True)

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.began

    def follow(self, watch: Callable[["Execution"], object]) -> Result:
        """Run the notebook to its end or its limit and return what became of it."""
        self.thread.start()
        while self.thread.is_alive():
            watch(self)
            self.thread.join(0.1)
            if self.seconds > self.limit + GRACE:
                self.error = self._too_long()
                self.stop()
                break
        outcome = self.result("failed" if self.error else "passed")
        self.done = True
        watch(self)
        return outcome

    def stop(self) -> None:
        """End the kernel and all that it started as its children, and wait for papermill to see it."""
        processes.end(set(psutil.Process().children()) - self.before, seconds=2)
        self.thread.join(10)

    def result(self, outcome: str) -> Result:
        """Return what became of it, with what its executed copy says that ran."""
        import nbformat

        try:
            rungs = tuple(ladder.read(nbformat.read(self.target, as_version=4)))
        except (OSError, ValueError, nbformat.reader.NotJSONError):
            rungs = ()  # ended before the first cell was written, or in the middle of writing
        stopped = outcome != "passed"
        return Result(
            name=self.path.stem,
            result=outcome,
            seconds=round(self.seconds, 1),
            cells=self.cells,
            parameters=self.given,
            rungs=rungs,
            cell=self.cell if stopped else 0,
            line=self.line if stopped else "",
            error=(self.error if outcome == "failed" else "It was interrupted.") if stopped else "",
        )

    def _work(self) -> None:
        import papermill
        from jupyter_core.utils import ensure_event_loop
        from nbclient.exceptions import CellTimeoutError, DeadKernelError
        from traitlets.config import Config

        try:
            papermill.execute_notebook(
                self.path,
                self.target,
                self.given,
                kernel_name="python3",
                progress_bar=False,
                coalesce_streams=True,  # else each line a cell prints is an output of its own on the site
                start_timeout=START_LIMIT,
                timeout_func=lambda cell: max(1, self.limit - self.seconds),
                on_cell_execute=self._starts,
                resources={"metadata": {"path": str(self.path.parent)}},  # as in JupyterLab
                # other users of the machine can't connect, and ipykernel doesn't warn of it
                config=Config({"KernelManager": {"transport_encryption": "auto"}}),
            )
        except papermill.PapermillExecutionError as error:
            lesson_error = error.ename == LessonError.__name__
            self.error = error.evalue if lesson_error else f"{error.ename}: {error.evalue}".strip()
        except CellTimeoutError:
            self.error = self._too_long()
        except DeadKernelError:
            self.error = self.error or str(
                LessonError(
                    "The notebook's Python ended by itself, most often because memory ran out.",
                    f"cell {self.cell}: {self.line}",
                    "Close other programs, then call ./lesson run again.",
                )
            )
        except Exception as error:  # this is a thread: what isn't kept here is lost
            self.error = self.error or f"{type(error).__name__}: {error}"
        finally:
            ensure_event_loop().close()  # this thread's, which nbclient made and leaves open

    def _starts(self, cell, cell_index) -> None:
        self.cell, self.line = self.cell + 1, cell.source.strip().splitlines()[0]

    def _too_long(self) -> str:
        return str(
            LessonError(
                f"The notebook was not done within its limit of {self.limit:.0f} seconds.",
                f"cell {self.cell}: {self.line}" if self.cell else "the start of its kernel",
                f"Give it more time: ./lesson run {self.path.stem[:2]} --limit {2 * self.limit:.0f}.",
            )
        )


def _one(name: str, known: list[str]) -> str:
    """Return the one known name that was meant."""
    wanted = Path(name).name.removesuffix(".ipynb")
    wanted = wanted.zfill(2) if wanted.isdigit() else wanted
    fitting = [wanted] if wanted in known else [one for one in known if wanted and one.startswith(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise LessonError(
            f"{name!r} fits several notebooks.", ", ".join(fitting), "Type more of the name, or the number."
        )
    parts = {part: one for one in known for part in (one, one[3:], one[:2])}
    near = [] if wanted.isdigit() else difflib.get_close_matches(wanted, parts, n=1, cutoff=0.5)
    fix = f"Did you mean {parts[near[0]]}?" if near else f"Use one of: {', '.join(known)}."
    raise LessonError(f"There is no notebook {name!r}.", "notebooks", fix)
