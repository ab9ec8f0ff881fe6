"""What this machine has, and what will run with it: nothing is fetched, started or changed.

Each look has a limit, all run at once, and one that doesn't end in time is a finding of its own.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from lesson_helpers import paths
from lesson_helpers.errors import LessonError

LIMIT = 4.0  # seconds for all
MARKS = {"full": "✓", "lower": "▽", "stops": "✗"}
COLOURS = {"full": "", "lower": "yellow", "stops": "red"}
NEEDED = ("ipykernel", "nbclient", "nbformat", "papermill", "py-rattler")  # without these, no notebook runs
DISK = 1.0  # GB that a run needs
DISK_FRESH = 8.0  # GB that a fresh checkout needs
MEMORY = 2.0  # GiB; the training takes about one


@dataclass(frozen=True)
class Finding:
    """One part of the lesson on this machine.

    Parameters
    ----------
    part : str
        The part.
    here : str
        What this machine has for it.
    runs : str
        What will therefore run.
    state : str
        ``"full"``; ``"lower"``: something stands in, or a part is left out; ``"stops"``: no lesson here.
    """

    part: str
    here: str
    runs: str
    state: Literal["full", "lower", "stops"] = "full"

    def __str__(self) -> str:
        return f"{MARKS[self.state]} {self.part}: {self.here}; {self.runs}"


@dataclass(frozen=True)
class Findings:
    """All findings, in the order of the lesson."""

    findings: tuple[Finding, ...]

    @property
    def runs(self) -> bool:
        """Whether the lesson can run here at all."""
        return all(one.state != "stops" for one in self.findings)

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))

    def __rich__(self):
        """Return the table that ``./lesson doctor`` prints."""
        from rich.table import Table
        from rich.text import Text

        table = Table("", "part", "this machine has", "so this will run", show_lines=False)
        for one in self.findings:
            cells = (MARKS[one.state], one.part, one.here, one.runs)
            table.add_row(*(Text(cell, COLOURS[one.state]) for cell in cells))
        return table


def examine(looks: dict[str, Callable[[], Finding]] | None = None, seconds: float = LIMIT) -> Findings:
    """Look at everything at once, for at most `seconds`.

    Parameters
    ----------
    looks : dict, optional
        The part's name and the function that looks; by default all.
    seconds : float
        After this, what has not answered counts as not there.
    """
    looks = looks or {
        "Python": python,
        "environment": environment,
        "training": training,
        "disk": disk,
        "memory": memory,
        "packages": packages,
        "Pixi": pixi,
        "image engine": engine,
        "HTCondor": htcondor,
        "GPU": gpu,
    }
    found: dict[str, Finding] = {}

    def look(part: str) -> None:
        try:
            found[part] = looks[part]()
        except LessonError as error:
            found[part] = Finding(part, error.what, error.fix, "lower")
        except (OSError, subprocess.SubprocessError) as error:
            found[part] = Finding(part, f"it can't be asked: {error}", "whatever the notebook finds", "lower")

    threads = [threading.Thread(target=look, args=[part], daemon=True) for part in looks]
    limit = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, limit - time.monotonic()))
    late = f"no answer within {seconds:.0f} s"
    return Findings(
        tuple(found.get(part, Finding(part, late, "whatever the notebook finds", "lower")) for part in looks)
    )


def python() -> Finding:
    """Look at the Python that runs this."""
    here = f"Python {platform.python_version()}, {sys.executable}"
    if (3, 11) <= sys.version_info < (3, 15):
        return Finding("Python", here, "the notebooks and the command")
    return Finding("Python", here, "nothing: the lesson needs Python 3.11 to 3.14", "stops")


def environment() -> Finding:
    """Look at the environment: whose it is, and whether it is complete."""
    prefix, kit = Path(sys.prefix), paths.root()
    made_here = prefix.is_relative_to(kit / ".pixi") or prefix == kit / ".lesson/venv"
    kind = "Pixi's" if (prefix / "conda-meta").is_dir() else "a pip-made one"
    here = f"{kind}, {prefix if not made_here else prefix.relative_to(kit)}"
    missing = [name for name in NEEDED if _version(name) is None]
    if missing:
        runs = f"nothing: {', '.join(missing)} not installed; ./lesson run makes a complete one"
        return Finding("environment", here, runs, "stops")
    if made_here:
        return Finding("environment", here, "the notebooks, with the versions that were tested")
    return Finding("environment", here, "the notebooks, with versions of your own", "lower")


def training() -> Finding:
    """Look for torch, without the five seconds that its import takes."""
    if version := _version("torch"):
        return Finding("training", f"torch {version}", "two epochs on the CPU, about a minute")
    if (paths.root() / ".pixi/envs/cpu").is_dir():
        return Finding("training", "Pixi's environment `cpu`", "two epochs on the CPU, about a minute")
    if shutil.which("pixi"):
        return Finding("training", "no torch yet", "Pixi installs it the first time: 340 MB", "lower")
    return Finding(
        "training", "no torch, no pixi", "no training: call ./lesson run, which sets it up", "lower"
    )


def disk() -> Finding:
    """Look at the space where the checkout lies."""
    free = shutil.disk_usage(paths.root()).free / 1e9
    here = f"{free:.1f} GB free"
    if free < DISK:
        return Finding("disk", here, f"nothing: {DISK:.0f} GB is needed; make room", "stops")
    if free < DISK_FRESH:
        runs = f"what is set up already; a fresh checkout needs {DISK_FRESH:.0f} GB"
        return Finding("disk", here, runs, "lower")
    return Finding("disk", here, "everything")


def memory() -> Finding:
    """Look at memory and cores, as far as a container lets this process have them."""
    limits = [psutil.virtual_memory().available]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup v2 and v1
        try:
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    free = min(limits) / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    here = f"{free:.1f} GiB for use, {cores} cores"
    if free < MEMORY:
        return Finding("memory", here, f"the training may be ended: it wants {MEMORY:.0f} GiB", "lower")
    return Finding("memory", here, "everything")


def packages() -> Finding:
    """Ask, with this machine's own settings for pip, whether a package can be had."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--retries", "0"]
    command += ["--timeout", "3", "index", "versions", "pip"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT - 0.5, check=False)
    if done.returncode == 0:
        return Finding("packages", "pip finds packages", "all that has to be fetched can be")
    said = [line for line in done.stderr.splitlines() if line.strip()]
    here = f"pip finds none: {said[-1].removeprefix('ERROR: ')[:120] if said else 'it does not say why'}"
    return Finding("packages", here, "what is here already; the rest says what it lacks", "lower")


def pixi() -> Finding:
    """Look for Pixi, by its version: another program has the same name."""
    from lesson_helpers import environments

    if program := environments.find_pixi():
        return Finding("Pixi", str(program), "the real `pixi`, as the pages show it")
    needed = ".".join(map(str, environments.PIXI_NEEDED))
    return Finding("Pixi", f"none of version {needed} or newer", "py-rattler, on the same lock file", "lower")


def engine() -> Finding:
    """Ask the image engines themselves, not only whether there is a program of that name."""
    from lesson_helpers import images

    choice = images.choose(fetch=False)
    if choice.engine:
        rung = choice.rung()
        return Finding(
            "image engine", str(choice.engine), "the image is built", "lower" if rung.instead_of else "full"
        )
    here = "; ".join(f"{answer.name}: {answer.said}" for answer in choice.answers[:-1])
    if _has_apt():
        return Finding("image engine", here, "Buildah, which is fetched when notebook 03 asks", "lower")
    return Finding("image engine", here, "notebook 03 without the build", "lower")


def htcondor() -> Finding:
    """Look for HTCondor's programs, and for the right to run them, without fetching any."""
    from lesson_helpers import condor, debian

    if sys.platform != "linux":
        runs = "notebook 04 up to the submit description; its pool needs Linux"
        return Finding("HTCondor", platform.system(), runs, "lower")
    condor.account()  # raises where root may not make a user namespace
    root = ", as an ordinary user in a user namespace" if os.geteuid() == 0 else ""
    if found := condor.installed():
        return Finding("HTCondor", str(found), f"a personal pool{root}")
    stamp = paths.programs() / "htcondor" / debian.STAMP
    if stamp.is_file():
        return Finding("HTCondor", str(condor.find()), f"a personal pool{root}")
    if _has_apt():
        return Finding("HTCondor", "not here yet", f"a personal pool{root}, once it is fetched (22 MB)")
    return Finding("HTCondor", "none, and no apt to fetch it", condor.OTHER_WAYS, "lower")


def gpu() -> Finding:
    """Ask the driver which GPUs there are."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return Finding("GPU", "Apple's", "training with device mps; no GPU job, which needs CUDA", "lower")
    simulated = "a simulated GPU: matched like a real one, computes nothing"
    if not shutil.which("nvidia-smi"):
        return Finding("GPU", "none (there is no nvidia-smi)", simulated, "lower")
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT - 0.5, check=False)
    names = done.stdout.strip().splitlines()
    if done.returncode or not names:
        said = (done.stderr or done.stdout).strip().splitlines()
        return Finding("GPU", f"nvidia-smi: {said[-1] if said else 'no GPU'}", simulated, "lower")
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return Finding("GPU", f"{names[0]}{more}", "the GPU job on a real GPU")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has_apt() -> bool:
    return all(shutil.which(name) for name in ("apt-get", "apt-cache", "apt-config", "dpkg-deb"))
