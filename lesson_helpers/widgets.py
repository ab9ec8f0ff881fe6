"""Live views in a notebook: the training while it runs, with a button that stops it.

What is shown is HTML under a display id, brought up to date in place: the same in JupyterLab, in papermill
and, as it was at the end, on the site. (``ipywidgets.Output`` is not used: papermill sometimes never ended
with it.)

The cell waits until the training has ended. A click reaches the kernel all the same, in a thread of its own:
JupyterLab sends what widgets say through a subshell (JEP 91; JupyterLab from 4.4, ipykernel from 7).
Elsewhere the notebook's own button for interrupting the kernel does the same.
"""

import contextlib
import threading
from pathlib import Path

from IPython import get_ipython
from IPython.display import display

from lesson_helpers.curves import Curves
from lesson_helpers.errors import LessonError


class Live:
    """The view of a training that is about to start; to be used in a ``with``.

    Parameters
    ----------
    file : Path
        The ``metrics.jsonl`` that it will write.
    read : callable
        Reads it.

    Attributes
    ----------
    stop : threading.Event
        Set when the button was pressed.
    """

    def __init__(self, file: Path, read) -> None:
        self.file, self.read = file, read
        self.stop = threading.Event()
        self.seen = self._state()  # an earlier training's file is not this one's
        self.lines: tuple[dict, ...] = ()
        self.view = self.place = self.button = None

    def __enter__(self) -> "Live":
        if get_ipython() is None:  # in a terminal there is nothing to draw on
            return self
        from ipywidgets import Button

        self.button = Button(description="Stop the training", icon="stop")
        self.button.on_click(lambda _: self.stop.set())
        self.view = display(Curves((("", ()),), running=True), display_id=True)
        self.place = display(self.button, display_id=True)
        answer_in_a_subshell(self.button)
        return self

    def __exit__(self, *error) -> None:
        if self.view is None:
            return
        self.update(running=False)
        self.button.close()
        self.place.update({"text/plain": "", "text/html": ""}, raw=True)

    def update(self, running: bool = True) -> None:
        """Show what the file holds by now."""
        if self.view is None:
            return
        state = self._state()
        if state != self.seen:
            self.seen = state
            try:
                self.lines = self.read(self.file)
            except LessonError:  # just being begun anew
                return
        elif running:
            return
        self.view.update(Curves((("", self.lines),), running))

    def _state(self) -> tuple[int, int] | None:
        try:
            status = self.file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size


def answer_in_a_subshell(widget) -> None:
    """Let the kernel hear what a widget says while a cell waits.

    ipykernel 7.4 hands a widget's messages to the shell that the widget last spoke to, the one in which the
    cell runs, in place of the subshell that JupyterLab names (`ipykernel.comm.comm.BaseComm`); without that
    memory it goes by what JupyterLab says. A change of the widget by a cell brings the memory back.
    """
    with contextlib.suppress(AttributeError):
        del widget.comm._reply_subshell_id
