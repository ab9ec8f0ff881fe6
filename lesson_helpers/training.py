"""The training script in a process of its own, as on a worker: run, followed, and its results read."""

import json
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from lesson_helpers import environments, processes
from lesson_helpers.curves import Curves
from lesson_helpers.errors import LessonError
from lesson_helpers.ladder import Rung
from lesson_helpers.widgets import Live

SCRIPT = Path("jobs/src/torch_mnist.py")
LIMIT = 1800  # seconds; the slow recipe takes about a minute an epoch on two cores
PERIOD = 0.25  # seconds between two looks at the metrics
GRACE = 10  # seconds for a training that is asked to stop to write its checkpoint


@dataclass(frozen=True, repr=False)
class Training:
    """What a run of the training script left.

    Parameters
    ----------
    command : str
        The command, as one would type it in the workspace.
    seconds : float
        How long the process took, from its start to its end.
    metrics : tuple of dict
        The lines of ``metrics.jsonl``, in order: ``step``, ``epoch``, ``set`` (``"train"`` or ``"test"``),
        ``loss``, ``accuracy`` (0 to 1), ``seconds`` since the training's start, ``device``.
    """

    command: str
    seconds: float
    metrics: tuple[dict, ...]

    def of(self, which: str) -> tuple[dict, ...]:
        """Return the lines about one set, ``"train"`` or ``"test"``."""
        return tuple(line for line in self.metrics if line["set"] == which)

    @property
    def accuracy(self) -> float:
        """The share of the test digits that were right after the last epoch, 0 to 1."""
        return self.of("test")[-1]["accuracy"]

    def __str__(self) -> str:
        last = self.of("test")[-1]
        epochs = f"{last['epoch']} epoch{'s' if last['epoch'] > 1 else ''}"
        return (
            f"{100 * self.accuracy:.2f} % of the test digits right after {epochs} on {last['device']}; "
            f"the process took {self.seconds:.1f} seconds."
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>"


def rung() -> Rung:
    """Return which Python trains on this machine."""
    if not find_spec("torch"):
        return Rung("training", "Python of the environment cpu, through Pixi")
    return Rung(
        "training",
        f"this notebook's own Python, with PyTorch {version('torch')} installed by pip",
        "the environment cpu",
        "the lesson was set up without Pixi here",
    )


def run(workspace: Path, **options) -> Training:
    """Run ``jobs/src/torch_mnist.py`` in the workspace; print what it says; a notebook shows curves.

    Parameters
    ----------
    workspace : Path
        The folder with ``jobs/src``; ``metrics.jsonl`` and the other results are written there.
    **options
        The script's options, with ``_`` for ``-``: ``epochs=2, batch_size=128`` for
        ``--epochs 2 --batch-size 128``, and ``save_model=True`` for ``--save-model``.

    Returns
    -------
    Training
        Its metrics and how long it took.

    Raises
    ------
    LessonError
        Where the script refuses (its sentence is passed on), fails, is stopped, or takes more than half an
        hour.
    """
    arguments = [str(SCRIPT)]
    for name, value in options.items():
        value = os.path.relpath(value, workspace) if isinstance(value, Path) else value
        arguments += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    command = shlex.join(["python", *arguments])
    print(f"$ {command}")
    processes.claim()
    started = time.monotonic()
    file = workspace / "metrics.jsonl"
    with Live(file, read_metrics) as live:
        code, said = _follow([*environments.training_python(), *arguments], workspace, live)
    if live.stop.is_set() and code:
        raise LessonError(
            "You stopped the training.",
            f"{command}, in {workspace}",
            "Run the cell again; what is below needs a training that has come to its end.",
        )
    if code:
        raise _mistake(code, said, command, workspace)
    return Training(command, time.monotonic() - started, read_metrics(file))


def overlay(**trainings: Training) -> Curves:
    """Lay the curves of several trainings over each other; a keyword names each, ``_`` is a space."""
    return Curves(tuple((name.replace("_", " ").strip(), t.metrics) for name, t in trainings.items()))


def read_metrics(path: Path) -> tuple[dict, ...]:
    """Return the lines of a ``metrics.jsonl``, also while it is written: half a line at its end is left out.

    Raises
    ------
    LessonError
        Where there is no such file, or another line can't be read.
    """
    try:
        lines = path.read_text().splitlines(keepends=True)
        return tuple(json.loads(line) for line in lines if line.endswith("\n"))
    except (OSError, ValueError) as error:
        raise LessonError(
            f"The metrics of the training can't be read: {getattr(error, 'strerror', None) or error}.",
            str(path),
            "Run the training again; it writes the file anew.",
        ) from error


def _follow(command: list[str], folder: Path, live: Live) -> tuple[int, str]:
    """Run a program and print its lines as they come; return its exit code and its last line.

    None of it is left running, whether it takes too long, is stopped or the cell is interrupted.
    """
    said, lines = "", queue.SimpleQueue()
    limit = time.monotonic() + LIMIT
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        try:
            while (line := _next(lines)) is not None and time.monotonic() < limit:
                if line:
                    said = line.strip() or said
                    print(line, end="")
                    sys.stdout.flush()
                live.update()
                if live.stop.is_set() and limit > (end := time.monotonic() + GRACE):
                    process.terminate()
                    limit = end
            in_time = line is None
            if in_time:
                process.wait()
        finally:
            process.kill()
    return process.returncode, said if in_time else f"it was not done after {LIMIT // 60} minutes"


def _read(stream, lines: queue.SimpleQueue) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _next(lines: queue.SimpleQueue) -> str | None:
    """Return the next line, None after the last one, "" where there is none yet."""
    try:
        return lines.get(timeout=PERIOD)
    except queue.Empty:
        return ""


def _mistake(code: int, said: str, command: str, folder: Path) -> LessonError:
    sentence, separator, advice = said.removeprefix("torch_mnist.py: ").rpartition("; ")
    if code == 2 and separator:  # the script's own words: what is wrong; what to do
        return LessonError(f"{sentence}.", f"{command}, in {folder}", advice[0].upper() + advice[1:])
    return LessonError(
        f"The training ended with code {code}; the last it said is: {said or 'nothing'}",
        f"{command}, in {folder}",
        "Read what it printed above, mend that, and run the cell again.",
    )
