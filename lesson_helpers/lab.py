"""JupyterLab on the lesson: this machine only, with a token, and nothing of it in the user's home."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lesson_helpers import first_aid, notebooks, paths, pool, processes
from lesson_helpers.errors import LessonError

START_LIMIT = 90  # seconds; four on an idle machine
STOP_LIMIT = 20  # seconds for JupyterLab to end its kernels
# Asks on the first start whether to fetch news, and then fetches them.
DISABLED = "@jupyterlab/apputils-extension:announcements"


@dataclass(frozen=True)
class Server:
    """A JupyterLab that answers.

    Parameters
    ----------
    process : subprocess.Popen
        The server.
    url : str
        Its address, with the token.
    log : Path
        What it says.
    """

    process: subprocess.Popen
    url: str
    log: Path

    def stop(self) -> None:
        """Ask it to end, with its kernels, and wait; who owns this process ends what is left."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()


def start(browser: bool) -> Server:
    """Start JupyterLab and wait until it answers.

    Parameters
    ----------
    browser : bool
        Whether it opens one.

    Raises
    ------
    LessonError
        Where it ends at once, or doesn't answer within its limit.
    """
    environment = {**os.environ, **paths.tool_environment(), "JUPYTER_TOKEN": secrets.token_urlsafe(24)}
    # In its terminals: the commands of the pool, as soon as a notebook has started it, and this Python.
    programs = [str(pool.commands()), str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
    environment["PATH"] = os.pathsep.join(programs)
    first_aid.prepare()
    config = Path(environment["JUPYTER_CONFIG_DIR"]) / "labconfig"
    config.mkdir(parents=True, exist_ok=True)
    (config / "page_config.json").write_text(json.dumps({"disabledExtensions": {DISABLED: True}}))
    first = f"/lab/tree/notebooks/{notebooks.find()[0].name}"
    log = processes.session() / "jupyterlab.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command(first, browser),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for us: JupyterLab would ask whether it is meant
        )
    said = Path(environment["JUPYTER_RUNTIME_DIR"]) / f"jpserver-{process.pid}.json"
    limit = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < limit:
        try:
            answer = json.loads(said.read_text())
        except (OSError, ValueError):  # not yet, or only half of it
            time.sleep(0.1)
            continue
        if not answer["token"]:
            break  # this machine's own Jupyter settings have turned it off
        return Server(process, f"{answer['url'].rstrip('/')}{first}?token={answer['token']}", log)
    ended = process.poll() is not None
    process.kill()
    process.wait()
    lines = log.read_text(errors="replace").strip().splitlines()
    raise LessonError(
        "JupyterLab ended at once." if ended else f"JupyterLab gave no address within {START_LIMIT} seconds.",
        f"{' '.join(command(first, browser)[:4])}: {lines[-1] if lines else 'it said nothing'}",
        "Call ./lesson doctor; if it finds nothing wrong, ./lesson clean and ./lesson lab make all anew.",
    )


def command(first: str, browser: bool) -> list[str]:
    """Return the command that starts JupyterLab; the token is in its environment, where nobody else looks."""
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.root_dir": paths.root(),  # the workspace is beside the notebooks
        "ServerApp.default_url": first,
        "ServerApp.open_browser": browser,
        "KernelManager.transport_encryption": "auto",
        # A login shell, which it would start otherwise, sets PATH anew.
        "ServerApp.terminado_settings": f"shell_command={[shell()]!r}",
    }
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    settings = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-P", "-m", "jupyterlab", *settings, *root]


def shell() -> str:
    """Return the shell of JupyterLab's terminals: the one that the user has chosen."""
    return os.environ.get("SHELL") or shutil.which("bash") or "/bin/sh"


def has_screen() -> bool:
    """Tell whether a browser that is opened here would be seen by who typed the command."""
    if not sys.stdout.isatty() or "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform in ("darwin", "win32") or any(
        name in os.environ for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
