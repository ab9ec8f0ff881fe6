"""A personal HTCondor pool: the real daemons, for one person on one machine, ready in two seconds.

Root's pool runs in a user namespace (`condor.account`), and its commands join that through small wrappers, so
that a notebook cell is the same for root and for everybody else.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import psutil

from lesson_helpers import condor, pool_settings, processes
from lesson_helpers.errors import LessonError
from lesson_helpers.ladder import Rung

READY, ANSWERED, STOPPED = 30, 10, 5  # limits in seconds; on an idle machine 1.5, 0.1 and 0.1
LOCKED = 120  # fetching HTCondor included
MOST_GPUS = 8
FOLDERS = ("bin", "execute", "lock", "log", "passwords", "proof", "run", "spool", "tmp", "tokens")


@dataclass(frozen=True)
class Pool:
    """A running personal pool.

    Parameters
    ----------
    folder : Path
        Its folder: configuration, logs, queue, running jobs.
    condor : condor.Condor
        The programs it consists of.
    gpus : condor.Gpus
        Its GPUs.
    account : condor.Account
        Whom it runs as.
    python : Path
        The folder with the Python that jobs find on PATH.
    """

    folder: Path
    condor: condor.Condor
    gpus: condor.Gpus
    account: condor.Account
    python: Path

    @property
    def config(self) -> Path:
        """The configuration file, what ``CONDOR_CONFIG`` has to name."""
        return self.folder / "condor_config"

    @property
    def bin(self) -> Path:
        """The folder of the commands, what PATH has to begin with."""
        return self.folder / "bin"

    def __str__(self) -> str:
        return f"A personal pool with {self.gpus}: {self.condor}."

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>"

    def activate(self) -> None:
        """Make the commands and the Python bindings of this kernel talk to this pool.

        Sets PATH and ``CONDOR_CONFIG``. The bindings read the configuration when they are imported, so
        ``import htcondor2`` comes after this; where it came before, they read it again. Variables that would
        change single settings (``_CONDOR_…``, as some access points have them) are removed.
        """
        for name in [name for name in os.environ if name.upper().startswith("_CONDOR_")]:
            del os.environ[name]
        os.environ["PATH"] = os.pathsep.join([str(self.bin), *_path_without(self.bin)])
        os.environ["CONDOR_CONFIG"] = str(self.config)
        if "htcondor2" in sys.modules:
            sys.modules["htcondor2"].reload_config()

    def answers(self) -> bool:
        """Tell whether this pool runs: its master is there, and its schedd and a slot answer."""
        return bool(_members(self.folder, "condor_master")) and all(
            self._ask("condor_status", kind, "-af", "Name") for kind in ("-schedd", "-startd")
        )

    def queued(self) -> int:
        """Return how many jobs are in the queue."""
        return len(self._ask("condor_q", "-allusers", "-af", "ClusterId").split())

    def stop(self) -> None:
        """End the daemons and the jobs that run, and forget the queue; takes about a second."""
        _end(self.folder)
        os.environ["PATH"] = os.pathsep.join(_path_without(self.bin))
        if os.environ.get("CONDOR_CONFIG") == str(self.config):
            del os.environ["CONDOR_CONFIG"]

    def rungs(self) -> list[Rung]:
        """Return what runs for real in this pool, and what stands in for something else."""
        gpu = Rung("GPU", str(self.gpus))
        if self.gpus.simulated:
            ran = f"{self.gpus}: it is matched like a real one and computes nothing"
            gpu = Rung("GPU", ran, "a real GPU", "condor_gpu_discovery finds none on this machine")
        version = f"HTCondor {self.condor.version}"
        rungs = [
            Rung(
                "pool",
                f"a personal pool on this machine, {version}",
                "a pool of many machines",
                "it needs no account",
            ),
            gpu,
            Rung(
                "job's software",
                f"the Python in {self.python}",
                "the container image",
                "this pool starts no containers",
            ),
        ]
        if not self.condor.at_least(23, 9):  # seen: 23.9 knows it, 23.4 warns and goes on
            reason = f"{version} is older than that line"
            rungs.append(Rung("gpus_minimum_runtime", "ignored", "a condition that is checked", reason))
        return rungs

    def _ask(self, command: str, *arguments: str) -> str:
        """Return what a command says; nothing where it fails or doesn't answer in time."""
        call = [self.bin / command, *arguments]
        environment = self.condor.environment(self.config)
        try:
            return subprocess.run(
                call, env=environment, capture_output=True, text=True, timeout=ANSWERED, check=True
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return ""


def commands() -> Path:
    """Return the folder where this owner's pool has its commands, as soon as it is started."""
    return processes.session() / "pool" / "bin"


def start(
    *,
    simulated_gpus: int = 1,
    python: Path | None = None,
    settings: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Pool:
    """Start a personal pool, or find again the one that this owner has; ready in less than two seconds.

    Parameters
    ----------
    simulated_gpus : int
        How many GPUs are simulated where the machine has no real one; 0 to 8.
    python : Path, optional
        The folder with the Python that jobs find on PATH, with torch in it; this Python's by default.
    settings : mapping of str to str, optional
        More lines for the pool's configuration.
    folder : Path, optional
        The pool's folder; by default one that is removed when its owner ends.

    Returns
    -------
    Pool
        Call its `activate` before `condor_submit` or ``import htcondor2``.

    Raises
    ------
    LessonError
        Where HTCondor can't be had, a value is wrong, other settings are asked for while jobs are in the
        queue, or the pool doesn't start; then with the last lines of its log.
    """
    if type(simulated_gpus) is not int or not 0 <= simulated_gpus <= MOST_GPUS:
        raise LessonError(
            f"A pool can't simulate {simulated_gpus!r} GPUs.",
            "simulated_gpus",
            f"Use a whole number from 0 to {MOST_GPUS}.",
        )
    processes.end_leftovers()
    processes.claim()
    folder = folder or processes.session() / "pool"
    if any(sign in str(folder) for sign in ("$", '"', "\\", "\n")):
        raise LessonError(
            "HTCondor reads this folder's name as a setting.",
            str(folder),
            "Move the checkout to another folder, whose path has no $, quotation mark or backslash.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    fix = "Restart the other notebook's kernel, and run this cell again."
    with processes.one_at_a_time(Path(f"{folder}.lock"), LOCKED, "starting the pool", fix):
        programs = condor.find()
        found = condor.gpus(programs)
        if not found.names and simulated_gpus:
            found = condor.gpus(programs, simulated_gpus)
        pool = Pool(folder, programs, found, condor.account(), python or Path(sys.executable).parent)
        text = pool_settings.text(folder, programs, found, pool.account, pool.python, settings or {})
        if pool.config.exists() and pool.answers():
            if pool.config.read_text() == text:
                return pool
            if jobs := pool.queued():
                raise LessonError(
                    f"Your pool runs with other settings and has {jobs} jobs in its queue.",
                    str(pool.config),
                    "Wait for the jobs or remove them with `condor_rm -all`, then start the pool again.",
                )
        _end(folder)  # what a crash has left, or a pool with other settings
        _lay_out(pool, text)
        _launch(pool)
    return pool


def _lay_out(pool: Pool, text: str) -> None:
    """Make the pool's folder anew: configuration, and the commands that use it."""
    shutil.rmtree(pool.folder, ignore_errors=True)
    pool.folder.mkdir(parents=True, mode=0o700)
    for name in FOLDERS:
        (pool.folder / name).mkdir()
    pool.config.write_text(text)
    for program in sorted([*pool.condor.bin.glob("condor_*"), *pool.condor.bin.glob("htcondor")]):
        with program.open("rb") as file:
            first = file.readline(80)
        # HTCondor's commands in Python need its bindings, which this Python has
        python = [sys.executable] if first.startswith(b"#!") and b"python" in first else []
        wrapper = pool.bin / program.name
        config = shlex.quote(str(pool.config))
        command = shlex.join([*pool.account.join, *python, str(program)])
        wrapper.write_text(f'#!/bin/sh\nCONDOR_CONFIG={config} exec {command} "$@"\n')
        wrapper.chmod(0o755)


def _launch(pool: Pool) -> None:
    environment = pool.condor.environment(pool.config) | {pool_settings.MARK: str(pool.folder)}
    said = pool.folder / "log" / "master.out"
    with said.open("w") as output:  # condor_master goes to the background by itself
        subprocess.run(
            [*pool.account.join, pool.condor.sbin / "condor_master"],
            env=environment, cwd=pool.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, check=False, timeout=READY,
        )  # fmt: skip
    limit = time.monotonic() + READY
    while not pool.answers():
        ended = not _members(pool.folder, "condor_master")
        if ended or time.monotonic() > limit:
            log = pool.folder / "log" / "MasterLog"
            lines = [line for file in (log, said) if file.exists() for line in file.read_text().splitlines()]
            _end(pool.folder)
            raise LessonError(
                "The pool did not start: "
                + ("condor_master has ended." if ended else f"no answer in {READY} s."),
                f"{log}, which ends with:\n" + "\n".join(lines[-5:]),
                "Run the cell again; if it fails again, look into the logs in that folder.",
            )
        time.sleep(0.05)


def _members(folder: Path, name: str = "") -> list[psutil.Process]:
    """Return the pool's processes, jobs included, by what they carry in their environment.

    A pid file would not do: it stays behind after a crash, and pids are used again.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.environ().get(pool_settings.MARK) == str(folder)
                and process.pid != os.getpid()
                and (not name or process.name() == name)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def _end(folder: Path) -> None:
    """End a pool's daemons and jobs, in good order where the master still lives."""
    for master in _members(folder, "condor_master"):
        with contextlib.suppress(psutil.Error):
            master.send_signal(signal.SIGQUIT)  # fast: jobs are not asked to finish first
    limit = time.monotonic() + STOPPED
    while _members(folder, "condor_master") and time.monotonic() < limit:
        time.sleep(0.05)
    for _ in range(processes.ROUNDS):  # what is being ended may just have started something
        if not (left := _members(folder)):
            break
        processes.end(left, seconds=2)


def _path_without(folder: Path) -> list[str]:
    return [entry for entry in os.environ.get("PATH", os.defpath).split(os.pathsep) if entry != str(folder)]
