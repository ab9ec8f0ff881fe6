"""Background programs: whose they are, and how they end.

Every program that the kit starts carries the variable ``LESSON_OWNER`` in its environment: the checkout
and the process it works for (``./lesson run``, ``./lesson lab``, pytest, or a kernel started some other
way). Children inherit it, so one look at the process table finds all that belongs to an owner, and all
that a killed owner left behind. A pid file alone can't do that: pids are used again, and a SIGKILL
leaves no time to write one.
"""

import atexit
import contextlib
import ctypes
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import filelock
import psutil

from lesson_helpers import paths
from lesson_helpers.errors import LessonError

OWNER = "LESSON_OWNER"
ROUNDS = 5  # looks at the process table: what is being ended may just have started something


def claim(anew: bool = False) -> str:
    """Make this process the owner of what it starts, unless it works for a living owner already.

    Parameters
    ----------
    anew : bool
        Be an owner even inside of another: ``./lesson run`` in a terminal of JupyterLab ends what it
        started itself and leaves JupyterLab's pool alone.

    Returns
    -------
    str
        The owner's mark: ``pid:start:checkout``.
    """
    mark = os.environ.get(OWNER, "")
    mine = f"{os.getpid()}:{_start(os.getpid())}:{paths.root()}"
    if mark != mine and (anew or not alive(mark) or _checkout(mark) != str(paths.root())):
        mark = os.environ[OWNER] = mine
        atexit.register(_end_at_exit, os.getpid(), mark)
    return mark


def session() -> Path:
    """Return the folder for what lives as long as the owner does: pool, registry, image store.

    Two owners (a JupyterLab and a ``./lesson run`` beside it) have two folders and never meet.
    """
    folder = _session(claim())
    folder.mkdir(parents=True, exist_ok=True)
    host = folder / "host"  # a home that several machines share: each tidies up its own only
    if not host.exists():
        host.write_text(platform.node())
    return folder


def owners() -> list[str]:
    """Return the marks of the living owners of this checkout on this machine, except this process."""
    mine = str(paths.root())
    marks = {*_marked(lambda found: _checkout(found) == mine).values(), *(mark for mark, _ in _sessions())}
    return sorted(mark for mark in marks if alive(mark) and pid(mark) != os.getpid())


def pid(mark: str) -> int:
    """Return the process id of the owner with this mark."""
    return int(mark.split(":", 1)[0])


def alive(mark: str) -> bool:
    """Tell whether the owner with this mark lives: its pid and its start, since pids are used again."""
    number, _, rest = mark.partition(":")
    start = rest.partition(":")[0]
    return bool(start) and number.isdecimal() and _start(int(number)) == start


def end(processes: Iterable[psutil.Process], seconds: float = 5) -> None:
    """Ask processes to end, wait up to `seconds`, then kill what is left (children too)."""
    family = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            family |= {process, *process.children(recursive=True)}
    family.discard(psutil.Process())
    for act in (psutil.Process.terminate, psutil.Process.kill):
        for process in family:
            with contextlib.suppress(psutil.Error):
                act(process)
        limit = time.monotonic() + seconds
        while (family := set(filter(_runs, family))) and time.monotonic() < limit:
            time.sleep(0.02)


def end_owned(mark: str, seconds: float = 5) -> None:
    """End all that carries this owner's mark, and remove the owner's session folder."""
    _end_all(lambda found: found == mark, seconds)
    remove(_session(mark))


def end_leftovers() -> int:
    """End what owners that no longer live left behind in this checkout; return how many processes."""
    mine = str(paths.root())
    ended = _end_all(lambda found: _checkout(found) == mine and not alive(found), 5)
    for mark, folder in _sessions():
        if not alive(mark):
            remove(folder)
    return ended


def remove(folder: Path) -> bool:
    """Remove a folder, and return whether it is gone; what is mounted in it is let go, never emptied.

    Of a link only the link is removed: where it leads to is not the kit's.
    """
    if folder.is_symlink():
        folder.unlink()
        return True
    for mount in sorted(_mounts(folder), reverse=True):
        ctypes.CDLL(None).umount2(os.fsencode(mount), 2)  # 2: MNT_DETACH, even where a program is in it
    if not _mounts(folder):
        shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


@contextlib.contextmanager
def one_at_a_time(file: Path, seconds: float, doing: str, fix: str) -> Iterator[None]:
    """Hold a lock file, which the system frees when its holder dies; say so where another holds it.

    Parameters
    ----------
    file : Path
        The lock file.
    seconds : float
        How long to wait for another.
    doing : str
        What the other does, as in "Another process is `doing`".
    fix : str
        What to do where it takes longer.

    Raises
    ------
    LessonError
        Where it takes longer.
    """
    lock = filelock.FileLock(file)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        print(f"Another process is {doing}; waiting for it (up to {seconds:.0f} s) …", flush=True)
        try:
            lock.acquire(timeout=seconds)
        except filelock.Timeout:
            what = f"Another process has been {doing} for more than {seconds:.0f} s."
            raise LessonError(what, str(file), fix) from None
    try:
        yield
    finally:
        lock.release()


def _end_all(wanted, seconds: float) -> int:
    seen: set[psutil.Process] = set()
    for _ in range(ROUNDS):
        found = _marked(wanted)
        seen |= found.keys()
        if not found:
            break
        end(found, seconds)
    return len(seen)


def _marked(wanted) -> dict[psutil.Process, str]:
    """Return the processes, this one excepted, whose mark is wanted, with their marks."""
    found = {}
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(OWNER, "")
        except (psutil.Error, OSError):  # another user's, or gone since
            continue
        if mark and process.pid != os.getpid() and wanted(mark) and _runs(process):
            found[process] = mark
    return found


def _runs(process: psutil.Process) -> bool:
    """Tell whether a process runs; one that has ended and waits for its parent to notice does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _start(number: int) -> str:
    """Return when a process started, as text that no later process with its pid has; "" where none runs.

    On Linux in clock ticks since boot (proc(5), /proc/pid/stat, field 22): the time of day would be
    another one after the clock was set, and a living owner would be taken for a dead one.
    """
    try:
        if sys.platform == "linux":
            state, *fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            return "" if state in "ZX" else fields[18]
        process = psutil.Process(number)
        return f"{process.create_time():.2f}" if _runs(process) else ""
    except (OSError, psutil.Error):
        return ""


def _session(mark: str) -> Path:
    number, start, _ = mark.split(":", 2)
    return paths.state() / "sessions" / f"{number}-{start}"


def _sessions() -> list[tuple[str, Path]]:
    """Return the session folders of this machine's owners, living or not, with their marks."""
    found = []
    for folder in sorted((paths.state() / "sessions").glob("*-*")):
        number, _, start = folder.name.partition("-")
        with contextlib.suppress(OSError):  # just being made, or just gone
            if (folder / "host").read_text() == platform.node():
                found.append((f"{number}:{start}:{paths.root()}", folder))
    return found


def _mounts(folder: Path) -> list[str]:
    """Return what is mounted in a folder, as far as this process sees."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux: nothing of the kit's is mounted there
        return []
    points = [re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4]) for line in lines]
    return [point for point in points if Path(point).is_relative_to(folder.resolve())]


def _checkout(mark: str) -> str:
    return mark.split(":", 2)[-1]


def _end_at_exit(number: int, mark: str) -> None:
    if os.getpid() == number:  # not in a forked child
        end_owned(mark)
