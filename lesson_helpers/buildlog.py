"""What a build says while it runs: its steps, shown as they begin, and the reason where it fails."""

import queue
import re
import subprocess
import threading
import time

import psutil

from lesson_helpers import processes
from lesson_helpers.errors import LessonError

OPEN = 0o022  # umask: what root writes into an image, the image's user can read, whatever it is here
WIDTH = 58  # of a step on the screen: a line fits the page

# How the engines announce a step, and that they had its result already.
STEP = re.compile(r"^(?:\[\d+/\d+\] )?(STEP \d+/\d+: .*)|^#\d+ (\[.*?\d+/\d+\] .*)")
CACHED = re.compile(r"^--> Using cache|^#\d+ CACHED")

# What a build says when it fails, and what that means. The first that fits is taken.
REASONS = (
    (
        r"unknown environment|could not find environment|environment '.*' not found",
        "The environment is not in pixi.lock.",
        "Use an environment of pixi.toml, and run `pixi lock` after adding one.",
    ),
    (
        r"lock-?file not up-to-date|lock file is not up to date",
        "pixi.lock does not fit pixi.toml.",
        "Run `pixi lock`, look at what changed, and build again.",
    ),
    (
        r"no space left on device",
        "The disk is full.",
        "Free some space: the gpu environment alone is 4 GB packed, and more unpacked.",
    ),
    (
        r"no such host|i/o timeout|connection refused|network is unreachable|failed to resolve source|"
        r"pinging container registry|TLS handshake",
        "A registry could not be reached.",
        "Check the network, then build again: what is built already is kept.",
    ),
    (
        r"pull access denied|manifest unknown|name unknown|repository name not known",
        "The registry does not have this image, or shows it to its owner only.",
        "Check the name letter by letter; a new package of GHCR is private until you make it public.",
    ),
    (
        r"unauthorized|authentication required|incorrect username or password|no basic auth credentials",
        "The registry does not accept your name and password.",
        "Log in again. For GHCR the password is a token that may write packages, and not yet expired.",
    ),
    (
        r"denied: |access to the resource is denied|403 \(?forbidden|405 \(?method not allowed|"
        r"the operation is unsupported",
        "The registry refuses it: you may not write there.",
        "Check the owner in the image's name, and whether your token may write packages.",
    ),
    (
        r"permission denied.*docker\.sock|dial unix.*permission denied",
        "You may not use the Docker daemon's socket.",
        "Ask to be added to the group `docker`, or set the engine to podman or buildah.",
    ),
)


def explain(said: str, where: str) -> LessonError:
    """Turn an engine's last words into an error that says what to do."""
    # BuildKit repeats what the failed step said, between two rules, before it quotes the Dockerfile
    step = re.search(r"^------\n > .*?:\n(.*?)^------$", said, flags=re.DOTALL | re.MULTILINE)
    lines = [line.strip() for line in (step[1] if step else said).splitlines() if line.strip()]
    last = "\n  ".join(line[:300] for line in lines[-4:]) or "nothing"
    for pattern, what, fix in REASONS:
        if re.search(pattern, said, flags=re.IGNORECASE):
            return LessonError(f"{what} The last it said:\n  {last}", where, fix)
    return LessonError(
        f"It failed. The last it said:\n  {last}", where, "Mend the line that it names, and run this again."
    )


def follow(command: list[str], environment: dict[str, str], seconds: float, quiet: bool) -> tuple[str, int]:
    """Run a build, show its steps and that a long one is still at work; return all it said and its exit code.

    Parameters
    ----------
    command : list of str
        The engine's command.
    environment : dict
        All its variables.
    seconds : float
        The longest that it may take.
    quiet : bool
        Show nothing.

    Raises
    ------
    LessonError
        Where it can't be started, or takes too long; it is ended then.
    """
    try:
        child = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            umask=OPEN,
        )
    except OSError as error:
        raise LessonError(
            f"The image engine can't be started: {error.strerror or error}.",
            command[0],
            "It was closed, or removed: choose an engine again with images.choose(), then build again.",
        ) from error
    lines, said, screen = queue.SimpleQueue(), [], _Screen(quiet)
    reader = threading.Thread(target=lambda: [*map(lines.put, child.stdout), lines.put(None)], daemon=True)
    reader.start()
    try:
        while (left := seconds - screen.passed()) > 0:
            try:
                line = lines.get(timeout=min(30, left))
            except queue.Empty:
                screen.wait()
                continue
            if line is None:
                return "".join(said), child.wait(timeout=30)
            said.append(line)
            screen.read(line)
        raise LessonError(
            f"The build did not finish within {seconds:.0f} s; it was at: {screen.step or 'its first step'}",
            " ".join(command[:3]),
            "Build again, since finished steps are kept, or allow it more seconds.",
        )
    finally:
        screen.end()
        if child.poll() is None:
            processes.end([psutil.Process(child.pid)])
        reader.join(timeout=10)
        child.stdout.close()
        child.wait(timeout=10)


class _Screen:
    """Shows a build's steps, one short line each."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.begin, self.step, self.open = quiet, time.monotonic(), "", False

    def passed(self) -> float:
        return time.monotonic() - self.begin

    def read(self, line: str) -> None:
        if found := STEP.match(line):
            self.end()
            self.step = " ".join((found[1] or found[2]).split())
            # ARG, ENV, LABEL and the like only write a line into the image's description
            if re.search(r"\b(FROM|RUN|COPY|ADD) ", self.step):
                step = re.sub(r"--mount=\S+ ", "", self.step)
                self.show(f"{self.passed():6.1f} s  {step[:WIDTH]}{'…' if len(step) > WIDTH else ''}")
                self.open = not self.quiet
        elif CACHED.match(line) and self.open:
            self.show("  (cached)")

    def wait(self) -> None:
        self.end()
        self.show(f"{self.passed():6.1f} s  … still at it\n")

    def end(self) -> None:
        if self.open:
            self.show("\n")
        self.open = False

    def show(self, text: str) -> None:
        if not self.quiet:
            print(text, end="", flush=True)
