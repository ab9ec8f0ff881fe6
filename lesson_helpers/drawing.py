"""Draw a digit, and let the trained network read it.

The network answers in a process of its own, as everywhere in the lesson: this Python may have no torch. The
process is started once, and each picture is a line to it, so an answer takes milliseconds.
"""

import base64
import binascii
import contextlib
import json
import queue
import subprocess
import threading
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from lesson_helpers import environments, processes
from lesson_helpers.errors import LessonError

LIMIT = 60  # seconds for an answer; the first one waits for torch
ASK = "Draw a digit above."


class Reader:
    """The process that reads digits, started with the first picture.

    Parameters
    ----------
    weights : Path
        A file that the training script has saved.
    sources : Path
        The folder with ``torch_mnist.py``.
    """

    def __init__(self, weights: Path, sources: Path) -> None:
        self.weights, self.sources = weights, sources
        self.process: subprocess.Popen | None = None
        self.lines: queue.SimpleQueue = queue.SimpleQueue()
        self.lock = threading.Lock()  # pictures come from JupyterLab in threads of their own

    def read(self, picture: bytes) -> list[float]:
        """Return the ten digits' probabilities for 784 grey levels, 0 (paper) to 255 (ink).

        Raises
        ------
        LessonError
            Where the weights can't be used, or no answer comes within a minute.
        """
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self._start()
            try:
                self.process.stdin.write(base64.b64encode(picture).decode() + "\n")
                self.process.stdin.flush()
                line = self.lines.get(timeout=LIMIT)
            except (OSError, queue.Empty):
                line = None
            if line:
                return json.loads(line)
            self.process.kill()
            self.process.wait()
            said = self.process.stderr.read().strip().splitlines()
            raise LessonError(
                f"The network can't read it: {said[-1] if said else f'no answer within {LIMIT} seconds.'}",
                str(self.weights),
                "Train with save_model, then run this cell again.",
            )

    def close(self) -> None:
        """End the process."""
        if self.process:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                with contextlib.suppress(OSError):  # what was not sent any more
                    pipe.close()

    def _start(self) -> None:
        self.close()
        processes.claim()
        program = Path(__file__).with_name("digit_reader.py")
        command = [*environments.training_python(), str(program), str(self.weights), str(self.sources)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.lines = queue.SimpleQueue()
        threading.Thread(target=_collect, args=(self.process.stdout, self.lines), daemon=True).start()


class Pad(anywidget.AnyWidget):
    """A pad in JupyterLab to draw a digit on; on the site, an example and what the network said to it.

    Parameters
    ----------
    workspace : Path
        The folder with ``jobs/src``.
    weights : str
        The file with the weights, in the workspace.
    example : numpy.ndarray
        A picture, 28 × 28 grey levels, 0 (paper) to 255 (ink); it is read at once.

    Raises
    ------
    LessonError
        Where the weights can't be used.
    """

    _esm = Path(__file__).with_name("drawing.js")
    picture = traitlets.Unicode("").tag(sync=True)  # 784 grey levels in base64
    answer = traitlets.Unicode(ASK).tag(sync=True)

    def __init__(self, workspace: Path, weights: str, example: np.ndarray) -> None:
        super().__init__()
        self._reader = Reader(workspace / weights, workspace / "jobs/src")
        self._example = np.asarray(example, np.uint8)
        self._said = words(self._reader.read(self._example.tobytes()))

    @traitlets.observe("picture")
    def _answer(self, change) -> None:
        if not change["new"]:
            self.answer = ASK
            return
        try:
            levels = base64.b64decode(change["new"], validate=True)
            self.answer = words(self._reader.read(levels)) if len(levels) == 784 else ASK
        except binascii.Error:
            self.answer = ASK
        except LessonError as error:
            self.answer = f"{error.what} {error.fix}"

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is not None:
            data["text/plain"] = f"A test picture; the network says: {self._said}"
            data["text/html"] = self._fallback()
        return bundle

    def _fallback(self) -> str:
        """Return the example as a picture, for a page on which nobody can draw."""
        dots = "".join(
            f"<rect x='{x}' y='{y}' width='1' height='1' fill-opacity='{self._example[y, x] / 255:.2f}'/>"
            for y, x in np.argwhere(self._example)
        )
        label = f"A handwritten digit; the network says: {self._said}"
        return (
            f"<figure><svg role='img' aria-label='{label}' viewBox='0 0 28 28' width='112' height='112' "
            f"fill='currentColor'>{dots}</svg><figcaption>The network says: {self._said} "
            "In JupyterLab you draw your own here.</figcaption></figure>"
        )


def words(probabilities: list[float]) -> str:
    """Say what the network sees.

    >>> words([0, 0, 0.02, 0, 0, 0, 0, 0.98, 0, 0])
    'a 7, 98 % sure.'
    >>> words([0, 0.3, 0, 0, 0, 0, 0, 0.7, 0, 0])
    'a 7, 70 % sure, or a 1, 30 %.'
    """
    second, first = np.argsort(probabilities)[-2:]
    other = f", or a {second}, {100 * probabilities[second]:.0f} %" if probabilities[second] > 0.05 else ""
    return f"a {first}, {100 * probabilities[first]:.0f} % sure{other}."


def _collect(stream, lines: queue.SimpleQueue) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")
