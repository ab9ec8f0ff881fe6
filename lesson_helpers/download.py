"""One file from a web server: gone on with where it stopped, and never waited for long."""

import http.client
import queue
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from IPython import get_ipython
from IPython.display import display

PATIENCE = 4  # seconds a server may stay silent: name look-up, connection and first byte together
SLOWEST = 20_000  # bytes a second below which a server counts as not answering


class FailedError(Exception):
    """A server can't give a file; the message says in a few words why."""


class CutOffError(FailedError):
    """A server stopped in the middle, so the rest is worth asking for."""


def download(url: str, part: Path, largest: int, show: Callable[[int, int], None]) -> None:
    """Add what a server sends to a file, from where the file ends, until it is complete.

    Parameters
    ----------
    url : str
        What to fetch.
    part : Path
        Where to; what an earlier try left there is kept if the server can go on from there (an HTTP
        range), and else written anew.
    largest : int
        Bytes that the file can't have more of.
    show : callable
        Called with the bytes that are there and those expected (0 where the server didn't say).

    Raises
    ------
    CutOffError
        Where the server stopped in the middle.
    FailedError
        Where it can't be reached, refuses, stays silent for `PATIENCE` seconds, sends less than `SLOWEST`
        bytes a second or more than `largest`.
    OSError
        Where the file can't be written.
    """
    start = part.stat().st_size if part.exists() else 0
    with closing(_pieces(url, start)) as pieces:
        start, length = next(pieces)
        received, checked, deadline = start, start, time.monotonic() + PATIENCE
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            for piece in pieces:
                file.write(piece)
                received += len(piece)
                show(received, length)
                if received > largest:
                    raise FailedError("sent more than the file can hold")
                if time.monotonic() > deadline:
                    if received - checked < SLOWEST * PATIENCE:
                        raise FailedError(f"sent less than {SLOWEST // 1000} kB a second")
                    checked, deadline = received, time.monotonic() + PATIENCE
    if received < length:
        raise CutOffError(f"stopped after {received} of {length} bytes")


def _pieces(url: str, start: int) -> Iterator:
    """Yield where the bytes begin and the file's length (0 where not said), then the bytes as they come.

    The network is read in a thread of its own, since a name look-up, or a header that comes byte by
    byte, keeps to no time limit. Where one takes too long the thread is left to end by itself.
    """
    arrived: queue.SimpleQueue = queue.SimpleQueue()
    given_up = threading.Event()

    def read() -> None:
        failed = FailedError
        headers = {"User-Agent": "lesson-helpers"}  # some refuse Python's own
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            asked = urllib.request.Request(url, headers=headers)
            with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
                first = start if answer.status == http.client.PARTIAL_CONTENT else 0
                arrived.put((first, first + int(answer.headers.get("Content-Length", -first))))
                failed = CutOffError
                while not given_up.is_set() and (piece := answer.read1(65536)):
                    arrived.put(piece)
        except urllib.error.HTTPError as error:
            error.close()
            if start and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                arrived.put((start, start))  # all of it is here
            else:
                arrived.put(failed(f"answered {error.code} {error.reason}"))
        except TimeoutError:
            arrived.put(FailedError(f"sent nothing for {PATIENCE} seconds"))
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            arrived.put(failed(f"can't be reached: {getattr(reason, 'strerror', None) or reason}"))
        arrived.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        while True:
            try:
                piece = arrived.get(timeout=PATIENCE)
            except queue.Empty:
                raise FailedError(f"sent nothing for {PATIENCE} seconds") from None
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                return
            yield piece
    finally:
        given_up.set()


class Bar:
    """One line that is drawn over: in a notebook cell, or in a terminal; elsewhere only the last word.

    Parameters
    ----------
    wanted : bool
        Whether to say anything at all.
    """

    def __init__(self, wanted: bool) -> None:
        shell = get_ipython()
        self.wanted, self.drawn, self.cell = wanted, 0.0, None
        self.notebook = hasattr(shell, "kernel")
        self.terminal = not self.notebook and sys.stdout.isatty()

    def show(self, name: str, done: int = 0, of: int = 0) -> None:
        """Draw what is being done and, at most five times a second, how many bytes have arrived."""
        if not of:
            self._draw(name)
        elif time.monotonic() - self.drawn > 0.2:
            self.drawn = time.monotonic()
            filled = 24 * done // of
            bar = "█" * filled + "░" * (24 - filled)
            self._draw(f"{bar} {done / 1e6:.1f} of {of / 1e6:.1f} MB  {name}")

    def end(self, sentence: str) -> None:
        """Put a sentence in the bar's place."""
        self._draw(sentence, last=True)

    def _draw(self, text: str, last: bool = False) -> None:
        if not self.wanted:
            return
        if self.notebook:
            picture = {"text/plain": text}
            if self.cell is None:
                self.cell = display(picture, raw=True, display_id=True)
            else:
                self.cell.update(picture, raw=True)
        elif self.terminal:
            print(f"\r\x1b[K{text}", end="\n" if last else "", flush=True)
        elif last:
            print(text)
