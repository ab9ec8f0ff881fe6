"""Make ``.lesson/venv``, the pip-made environment, where there is no Pixi.

``./lesson`` runs this with whatever Python it found, so it uses the standard library alone. The packages
come from where the machine's own pip would take them; uv, which pip installs, only does it faster (the
whole environment in half a minute instead of three on two cores). A virtual environment can't be renamed
into place, so the last thing written is ``ready``; what has none is made anew, out of what was downloaded.
"""

import ast
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from lesson_helpers import paths
from lesson_helpers.errors import LessonError

DISK_NEEDED = 8e9  # bytes; torch's CUDA build alone unpacks to 5.6 GB on Linux
LOCK_LIMIT = 1800  # seconds to wait for another set-up of this checkout
INSTALL_LIMIT = 3600  # seconds; torch's CUDA build is a download of 3 GB
PROBE_LIMIT = 60  # seconds for one small download


def make(wanted: str) -> None:
    """Make the environment, or wait for whoever is making it.

    Parameters
    ----------
    wanted : str
        What ``ready`` says when the environment is made: the checkout, and a checksum of what is pinned.

    Raises
    ------
    LessonError
        No disk, no network, no ``venv`` module, packages that don't install, or a lock held too long.
    """
    venv = paths.state() / "venv"
    with (paths.state() / "setup.lock").open("w") as lock:
        _wait_for(lock)
        if _ready(venv) == wanted and os.access(venv / "bin/python", os.X_OK):  # a Python may be removed
            return
        os.set_inheritable(lock.fileno(), True)  # where this is killed, its uv still holds the lock
        check_disk(paths.state())
        _say("Setting this checkout up: once, a minute or so, longer where torch has to be downloaded.")
        uv, settings = install_uv(), pip_settings()
        environment = {**os.environ, **uv_environment(settings)}
        shutil.rmtree(venv, ignore_errors=True)
        _run([uv, "venv", "--quiet", "--python", sys.executable, venv], environment)
        project = paths.root() / "pyproject.toml"
        packages = ["--requirement", project, "--group", f"{project}:test"]
        quiet = [] if sys.stderr.isatty() else ["--quiet"]  # a log needs no list of 200 packages
        pins = ["--constraint", paths.root() / "constraints.txt"]
        install = [uv, "pip", "install", *quiet, "--python", venv / "bin/python", *packages, *pins]
        _run([*install, *uv_options(settings)], environment)
        site_packages = next(venv.glob("lib/python*/site-packages"))
        # relative: Python reads it in the locale's encoding, which may not have the path's letters
        (site_packages / "lesson.pth").write_text(f"{os.path.relpath(paths.root(), site_packages)}\n")
        beside = venv / "ready.new"
        beside.write_text(f"{wanted}\n")
        beside.rename(venv / "ready")


def check_disk(folder: Path) -> None:
    """Raise a `LessonError` where less than 8 GB are free."""
    free = shutil.disk_usage(folder).free
    if free < DISK_NEEDED:
        raise LessonError(
            f"The lesson needs {DISK_NEEDED / 1e9:.0f} GB of disk and {free / 1e9:.1f} GB are free.",
            str(folder),
            "Free some space, or clone the lesson to a larger disk.",
        )


def install_uv() -> Path:
    """Install uv with pip into ``.lesson/uv``, unless it is there, and return its program."""
    home = paths.state() / "uv"
    uv = home / "bin" / "uv"
    if not any(_try([home / "bin" / name, "--version"]).returncode for name in ("uv", "python")):
        return uv
    made = _try([sys.executable, "-m", "venv", "--clear", home])
    if made.returncode:
        raise LessonError(
            "This Python can't make virtual environments.",
            sys.executable,
            "Install its venv module (Debian, Ubuntu: apt install python3-venv), or Pixi (https://pixi.sh).",
        )
    pins = paths.root() / "constraints.txt"
    pip = [home / "bin/python", "-m", "pip", "install", "--quiet", *_PATIENCE]
    got = _try([*pip, "--constraint", pins, "uv"])
    if got.returncode:
        raise _install_error(got.stderr)
    return uv


def pip_settings() -> dict[str, list[str]]:
    """Return pip's settings on this machine that say where packages come from: name to values.

    ``pip config list`` prints ``SECTION.NAME='VALUE'`` lines, the variables of the environment among them
    as section ``:env:``; a later section wins, as in pip itself.
    """
    listed = _try([paths.state() / "uv/bin/python", "-m", "pip", "config", "list"]).stdout
    settings: dict[str, list[str]] = {}
    for section in ("global.", "install.", ":env:."):
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(section):
                settings[name.removeprefix(section)] = ast.literal_eval(value).split()
    return settings


def uv_options(settings: dict[str, list[str]]) -> list[str]:
    """Return the options that make uv take packages from where pip takes them, but for its indexes."""
    # pip looks at all its indexes and takes the best version; uv by itself stops at the first that has one
    options = ["--index-strategy", "unsafe-best-match"]
    names = {"find-links": "--find-links", "trusted-host": "--allow-insecure-host"}
    for name, option in names.items():
        for value in settings.get(name, []):
            options += [option, value]
    if settings.get("no-index", ["false"])[0].lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    return options


def uv_environment(settings: dict[str, list[str]]) -> dict[str, str]:
    """Return the variables uv needs: a cache inside of the checkout; pip's indexes, certificate and proxy.

    An index's address may hold a password, and the arguments of a program are for all users to see.
    """
    variables = {"UV_CACHE_DIR": str(paths.state() / "cache/uv"), "UV_PYTHON_DOWNLOADS": "never"}
    variables |= {"UV_HTTP_TIMEOUT": "60"}
    for name, variable in {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX"}.items():
        if name in settings:
            variables[variable] = " ".join(settings[name])
    if "cert" in settings:
        variables["SSL_CERT_FILE"] = settings["cert"][0]
    if "proxy" in settings:
        variables["ALL_PROXY"] = settings["proxy"][0]
    return variables


# pip's cache would lie in the home
_PATIENCE = ["--disable-pip-version-check", "--no-cache-dir", "--retries", "1", "--timeout", "15"]
# Where else pip might have been told to install to; all of it is for this checkout.
_ELSEWHERE = ("PIP_PREFIX", "PIP_ROOT", "PIP_TARGET")


def _wait_for(lock) -> None:
    """Take the set-up's lock; the system frees it when its holder dies, however it dies."""
    end, said = time.monotonic() + LOCK_LIMIT, False
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not said:
                _say(f"Waiting for another ./lesson to set this up, {LOCK_LIMIT // 60} minutes at most.")
                said = True
            if time.monotonic() > end:
                raise LessonError(
                    f"Another set-up of this checkout has not ended in {LOCK_LIMIT // 60} minutes.",
                    lock.name,
                    "Look for it with `ps`, end it, and call ./lesson again.",
                ) from None
            time.sleep(0.2)


def _ready(venv: Path) -> str:
    try:
        return (venv / "ready").read_text().strip()
    except OSError:
        return ""


def _run(command: list, environment: dict[str, str]) -> None:
    """Run a command that shows its progress on the terminal; its failure is a `LessonError`."""
    try:
        subprocess.run(
            [str(part) for part in command],
            check=True,
            close_fds=False,  # the lock's, see `make`
            env=environment,
            timeout=INSTALL_LIMIT,
        )
    except subprocess.TimeoutExpired:
        raise LessonError(
            f"The packages were not installed in {INSTALL_LIMIT // 60} minutes.",
            "the network",
            "Call ./lesson again on a faster network: what was downloaded is kept.",
        ) from None
    except subprocess.CalledProcessError:
        # uv wrote why to the terminal; whether it is the network is asked with one small download
        probe = paths.state() / "cache/probe"
        pip = [paths.state() / "uv/bin/python", "-m", "pip", "download", "--quiet"]
        got = _try([*pip, *_PATIENCE, "--no-deps", "--dest", probe, "iniconfig"])
        shutil.rmtree(probe, ignore_errors=True)
        raise (_install_error(got.stderr) if got.returncode else _not_installable()) from None


def _try(command: list) -> subprocess.CompletedProcess:
    """Run a short command and return how it went."""
    words = [str(part) for part in command]
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    environment["PIP_USER"] = "0"
    options = {"capture_output": True, "text": True, "env": environment, "close_fds": False}
    try:
        return subprocess.run(words, timeout=PROBE_LIMIT, check=False, **options)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", f"no answer in {PROBE_LIMIT} seconds")
    except OSError as error:
        return subprocess.CompletedProcess(words, 1, "", str(error))


def _install_error(said: str) -> LessonError:
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "nothing")
    return LessonError(
        "The package index can't be reached, and not everything is on this machine yet.",
        f"pip, which said: {last.strip()}",
        "Check the network, the proxy and `pip config list`, then call ./lesson again: it goes on from here.",
    )


def _not_installable() -> LessonError:
    return LessonError(
        "The packages of this lesson don't install on this machine.",
        f"constraints.txt, with {sys.executable}; uv says why above",
        "Try another Python between 3.11 and 3.14 (LESSON_PYTHON=…), or Pixi (https://pixi.sh).",
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _stop(number: int, frame) -> None:
    _say("Stopped. Call ./lesson again to go on: what was downloaded is kept.")
    sys.exit(128 + number)  # on its way out of `subprocess.run` it ends the program that runs


def main() -> None:
    """Make the environment named on the command line, then call ``./lesson`` again with the other words."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _stop)
    try:
        make(sys.argv[1])
    except LessonError as error:
        sys.exit(str(error))
    except OSError as error:  # a full disk, a folder of somebody else's
        what = f"This checkout can't be set up: {error.strerror or error}."
        fix = "Clone the lesson into a folder of your own, on a disk with room, and call ./lesson there."
        sys.exit(str(LessonError(what, str(error.filename or paths.root()), fix)))
    del os.environ["PYTHONPATH"]  # it was for this program alone
    os.execv(paths.root() / "lesson", ["lesson", *sys.argv[2:]])


if __name__ == "__main__":
    main()
