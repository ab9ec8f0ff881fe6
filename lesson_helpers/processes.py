"""Background programs: whose they are, and how they end.

Every program that the kit starts carries the variable ``LESSON_OWNER`` in its environment: the checkout
and the process it works for (``./lesson run``, ``./lesson lab``, pytest, or a kernel started some other
way). Children inherit it, so one look at the process table finds all that belongs to an owner, and all
that a killed owner left behind. A pid file alone can't do that: pids are used again, and a SIGKILL
leaves no time to write one.
"""

import atexit
import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import psutil

from lesson_helpers import paths

OWNER = "LESSON_OWNER"


def claim() -> str:
    """Make this process the owner of what it starts, unless it works for a living owner already.

    Returns
    -------
    str
        The owner's mark: ``pid:start time:checkout``.
    """
    mark = os.environ.get(OWNER, "")
    if not _alive(mark) or _checkout(mark) != str(paths.root()):
        mark = f"{os.getpid()}:{psutil.Process().create_time():.2f}:{paths.root()}"
        os.environ[OWNER] = mark
        atexit.register(_end_at_exit, os.getpid(), mark)
    return mark


def session() -> Path:
    """Return the folder for what lives as long as the owner does: pool, registry, image store.

    Two owners (a JupyterLab and a ``./lesson run`` beside it) have two folders and never meet.
    """
    pid, start, _ = claim().split(":", 2)
    folder = paths.state() / "sessions" / f"{pid}-{start}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def end(processes: Iterable[psutil.Process], seconds: float = 5) -> None:
    """Ask processes to end, wait up to `seconds`, then kill what is left (children too)."""
    family = set()
    for process in processes:
        try:
            family |= {process, *process.children(recursive=True)}
        except psutil.NoSuchProcess:
            continue
    family.discard(psutil.Process())
    for act in (psutil.Process.terminate, psutil.Process.kill):
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                act(process)
        _, family = psutil.wait_procs(family, timeout=seconds)


def end_owned(mark: str) -> None:
    """End all that carries this owner's mark, and remove the owner's session folder."""
    end(_marked(lambda found: found == mark))
    pid, start, _ = mark.split(":", 2)
    shutil.rmtree(paths.state() / "sessions" / f"{pid}-{start}", ignore_errors=True)


def end_leftovers() -> int:
    """End what owners that no longer live left behind in this checkout; return how many processes."""
    mine = str(paths.root())
    left = _marked(lambda found: _checkout(found) == mine and not _alive(found))
    end(left)
    sessions = paths.state() / "sessions"
    for folder in sessions.iterdir() if sessions.is_dir() else ():
        pid, _, start = folder.name.partition("-")
        if not _alive(f"{pid}:{start}:{mine}"):
            shutil.rmtree(folder, ignore_errors=True)
    return len(left)


def _marked(wanted) -> list[psutil.Process]:
    """Return the processes, this one excepted, whose mark is wanted."""
    found = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(OWNER, "")
        except (psutil.Error, OSError):  # another user's, or gone since
            continue
        if mark and process.pid != os.getpid() and wanted(mark):
            found.append(process)
    return found


def _alive(mark: str) -> bool:
    """Tell whether the owner lives: the pid, and the time it started, since pids are used again."""
    try:
        pid, start, _ = mark.split(":", 2)
        # within two seconds: the time since boot is exact, but a clock set anew moves what it is added to
        return abs(psutil.Process(int(pid)).create_time() - float(start)) < 2
    except (ValueError, psutil.Error):
        return False


def _checkout(mark: str) -> str:
    return mark.split(":", 2)[-1]


def _end_at_exit(pid: int, mark: str) -> None:
    if os.getpid() == pid:  # not in a forked child
        end_owned(mark)
