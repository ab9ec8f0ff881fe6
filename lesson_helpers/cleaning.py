"""Undoing all of it: stop what the kit started in this checkout, then remove what it made."""

import contextlib
import os
import shutil
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from lesson_helpers import paths, processes
from lesson_helpers.errors import LessonError

MADE = (".lesson", ".pixi", "_build", ".pytest_cache", ".ruff_cache")
CACHES = ("lesson_helpers", "tests", "jobs", "benchmarks")  # where Python puts __pycache__
PATIENCE = 30  # seconds for a living owner to tidy up by itself
# What says that an environment is complete; gone first, so that half an environment is not taken for one.
STAMPS = (".lesson/venv/ready", ".pixi/envs/*/conda-meta")


@dataclass(frozen=True)
class Plan:
    """What would be stopped and removed.

    Parameters
    ----------
    owners : tuple of str
        The marks of those that still run.
    folders : tuple of Path
        The folders.
    size : int
        What they take on the disk, in bytes.
    """

    owners: tuple[str, ...]
    folders: tuple[Path, ...]
    size: int

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not self.owners and not self.folders

    def __str__(self) -> str:
        if self.nothing:
            return "There is nothing to clean."
        lines = [f"To be stopped: {_describe(mark)}" for mark in self.owners]
        names = [str(folder.relative_to(paths.root())) for folder in self.folders]
        lines += [f"To be removed: {', '.join(names)}, {self.size / 1e6:,.0f} MB"] if names else []
        return "\n".join(lines)


def plan(workspace: bool = False) -> Plan:
    """Return what `carry_out` would do.

    Parameters
    ----------
    workspace : bool
        Whether the learner's workspace goes too.

    Raises
    ------
    LessonError
        Where this is called from inside of what would be stopped.
    """
    owners = tuple(processes.owners())
    above = {parent.pid for parent in psutil.Process().parents()}
    for mark in owners:
        if processes.pid(mark) in above:
            raise LessonError(
                "This would stop the program that it was called from.",
                _describe(mark),
                "End that first, or call ./lesson clean in a terminal outside of it.",
            )
    kit = paths.root()
    folders = [kit / name for name in (*MADE, *(["workspace"] if workspace else []))]
    folders += [cache for name in CACHES for cache in sorted((kit / name).rglob("__pycache__"))]
    # the environment that this runs in comes last
    folders = sorted(filter(Path.exists, folders), key=lambda folder: Path(sys.prefix).is_relative_to(folder))
    return Plan(owners, tuple(folders), sum(map(_size, folders)))


def carry_out(plan: Plan) -> str:
    """Stop and remove, and say what was freed. Imports nothing, since the environment may go.

    Raises
    ------
    LessonError
        Where something could not be removed.
    """
    ended = processes.end_leftovers()
    for mark in plan.owners:
        with contextlib.suppress(psutil.Error):
            owner, limit = psutil.Process(processes.pid(mark)), time.monotonic() + PATIENCE
            owner.terminate()
            while processes.alive(mark) and time.monotonic() < limit:
                time.sleep(0.05)
            processes.end([owner] if processes.alive(mark) else [])
        processes.end_owned(mark)
    for pattern in STAMPS:
        for path in paths.root().glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    left = [folder for folder in plan.folders if not _remove(folder)]
    freed = plan.size - sum(map(_size, left))
    stopped = (
        f"Stopped {len(plan.owners)} and ended {ended} leftover processes. " if plan.owners or ended else ""
    )
    said = f"{stopped}Freed {freed / 1e6:,.0f} MB."
    if left:
        raise LessonError(
            f"Not all could be removed. {said}",
            ", ".join(map(str, left)),
            "It belongs to another user or is in use: close what uses it, or remove it as root.",
        )
    return said


def _remove(folder: Path) -> bool:
    """Remove a folder, read-only parts of it too: image layers and package caches have some."""
    if processes.remove(folder):
        return True
    for parent, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            Path(parent).chmod(stat.S_IRWXU)
    return processes.remove(folder)


def _size(folder: Path) -> int:
    """Return what a folder takes on the disk, in bytes; a file with several names counts once."""
    seen, size = set(), 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                status = os.lstat(f"{parent}/{name}")
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    size += getattr(status, "st_blocks", status.st_size // 512) * 512
    return size


def _describe(mark: str) -> str:
    """Return an owner in words."""
    try:
        words = psutil.Process(processes.pid(mark)).cmdline()
    except psutil.Error:
        words = []
    line = " ".join(" ".join(Path(word).name if "/" in word else word for word in words).split())
    return f"{line[:80]} (pid {processes.pid(mark)})"
