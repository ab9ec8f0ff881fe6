"""Pixi environments: which Python trains, what a lock file holds, and whether it fits its manifest."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

from lesson_helpers import paths
from lesson_helpers.errors import LessonError

PIXI_NEEDED = (0, 72)  # the first that reads this lock format and CUDA as part of a platform
INSTALL_LIMIT = 1800  # seconds; the cpu environment is a download of 340 MB on Linux


def find_pixi() -> Path | None:
    """Return the program ``pixi``, or None where there is none that is new enough.

    The program has to say its name: the package ``pixi`` of PyPI is an unrelated image downloader.
    """
    program = shutil.which("pixi")
    if program is None:
        return None
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.fullmatch(r"pixi (\d+)\.(\d+)\S*", said.strip())
    if version is None or tuple(map(int, version.groups())) < PIXI_NEEDED:
        return None
    return Path(program)


def training_python() -> list[str]:
    """Return the start of a command that runs Python with torch.

    In the pip-made environment that is this Python. Under Pixi it is the Python of the environment
    ``cpu``, which Pixi installs the first time (340 MB on Linux): this kernel's own has no torch.

    Raises
    ------
    LessonError
        Where neither has torch, or Pixi can't install the environment.
    """
    if importlib.util.find_spec("torch"):
        return [sys.executable]
    pixi = find_pixi()
    if pixi is None:
        raise LessonError(
            "No Python with torch was found: this one has none, and there is no pixi to install one.",
            sys.executable,
            "Start the lesson with ./lesson lab or ./lesson run, which make an environment with torch.",
        )
    where = [str(pixi), "run", "--locked", "--manifest-path", str(paths.root() / "pixi.toml"), "-e", "cpu"]
    command = [*where, "python", "-c", "import sys; print(sys.executable)"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT, check=True)
    except subprocess.TimeoutExpired:
        raise LessonError(
            f"Pixi has not installed the environment `cpu` within {INSTALL_LIMIT // 60} minutes.",
            " ".join(where),
            "Check the network, then run that command in a terminal with `python` at its end.",
        ) from None
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise LessonError(
            f"Pixi can't run the environment `cpu`: {said[-1].strip() if said else 'it did not say why'}",
            " ".join(where),
            "Run that command in a terminal with `python` at its end, and read all it says.",
        ) from None
    return [ran.stdout.strip().splitlines()[-1]]


def training_folder() -> Path:
    """Return the folder of the Python with torch: what a job's PATH starts with, to find it as ``python``."""
    return Path(training_python()[0]).parent
