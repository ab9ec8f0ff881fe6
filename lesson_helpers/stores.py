"""A place of its own for what Podman or Buildah keeps: the user's images and settings stay as they are."""

import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lesson_helpers import processes
from lesson_helpers.errors import LessonError


@dataclass(frozen=True)
class Store:
    """A store, and how a program is told to use it.

    Parameters
    ----------
    program : Path
        What to run: the program, or a wrapper around it.
    environment : dict
        Variables to run it with.
    options : tuple of str
        Options of each command that reads or writes an image.
    folder : Path
        Where everything lies.
    """

    program: Path
    environment: dict[str, str]
    options: tuple[str, ...]
    folder: Path

    @property
    def settings(self) -> tuple[dict[str, str], tuple[str, ...], Path]:
        """Environment, options and folder, as an engine takes them."""
        return self.environment, self.options, self.folder


def make(program: Path, tree: Path | None = None) -> Store:
    """Give Podman or Buildah a store in this session's folder.

    Overlay is the fast way to keep layers; copies (`vfs`) work where the disk or the kernel refuses it.

    Parameters
    ----------
    program : Path
        The program.
    tree : Path, optional
        The tree of unpacked packages that it is from. One that is installed keeps its own settings for the
        programs beside it and for networks.

    Raises
    ------
    LessonError
        Where the program does not work, or uses another store all the same; its first part is the reason.
    """
    folder = processes.session() / f"images-{secrets.token_hex(4)}"
    (folder / "tmp").mkdir(parents=True)
    root = not hasattr(os, "geteuid") or os.geteuid() == 0
    files = {
        # only full names: a short one would be looked for in registries that the lesson never named
        "CONTAINERS_REGISTRIES_CONF": "unqualified-search-registries = []\n",
        # an ordinary user's graphroot has another name in older releases
        "CONTAINERS_STORAGE_CONF": "[storage]\ndriver = {driver}\ngraphroot = {store}\nrunroot = {run}\n"
        + ("" if root else "rootless_storage_path = {store}\n"),
    }
    if tree:
        files["CONTAINERS_CONF"] = (
            "[engine]\nhelper_binaries_dir = [{helpers}]\n[network]\nnetwork_config_dir = {networks}\n"
        )
    environment = {name: str(folder / name.lower()) for name in files} | {
        # no daemon, network or cgroup of its own: works in a container and on a shared machine too
        "BUILDAH_ISOLATION": "chroot",
        "TMPDIR": str(folder / "tmp"),  # cache mounts are kept there
        # where an ordinary user's notes on layers and names would go
        "XDG_DATA_HOME": str(folder / "data"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    if tree and root:
        program = _apart(program, folder)
    values = {"run": folder / "run", "networks": folder / "networks"}
    values["helpers"] = (tree or Path()) / "usr/lib/podman"
    for driver in ("overlay", "vfs"):
        quoted = {key: json.dumps(str(value)) for key, value in values.items()}
        quoted |= {"driver": json.dumps(driver), "store": json.dumps(str(folder / driver))}
        for name, text in files.items():
            Path(environment[name]).write_text(text.format(**quoted))
        try:
            answer = ask(program, "info", environment=environment)
        except LessonError as error:
            refusal = error
            continue
        if str(folder) not in answer:  # such as Podman's own machine on a Mac: not to be emptied by us
            refusal = LessonError("it only uses a store of its own", str(program), "Use Docker.")
            break
        return Store(program, environment, _policy(folder), folder)
    shutil.rmtree(folder, ignore_errors=True)
    raise refusal


def _apart(program: Path, folder: Path) -> Path:
    """Write a wrapper in which the program sees a /var/lib of ours, and return it.

    As root it keeps its notes on which layer is where in /var/lib/containers, whatever its settings say.
    The mount is seen by this program alone, and ends with it.
    """
    (folder / "var-lib").mkdir()
    mount = f"mount --bind {shlex.quote(str(folder / 'var-lib'))} /var/lib"
    wrapper = folder / program.name
    inner = shlex.quote(f'{mount} && exec {shlex.quote(str(program))} "$@"')
    wrapper.write_text(f'#!/bin/sh\nexec unshare --mount sh -c {inner} {program.name} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


def _policy(folder: Path) -> tuple[str, ...]:
    """Return the option that says which signatures an image needs: none, where the machine does not say."""
    if os.access("/etc/containers/policy.json", os.R_OK):
        return ()
    (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')
    return "--signature-policy", str(folder / "policy.json")


def ask(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    """Run a question that an engine answers at once; its refusal, in one line, is the error."""
    where = " ".join(map(str, command))
    try:
        answer = subprocess.run(
            command,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=False,
        )
    except OSError as error:
        raise LessonError("it is not installed", where, "Install it.") from error
    except subprocess.TimeoutExpired as error:
        raise LessonError("it did not answer within 20 s", where, "Start it again.") from error
    if answer.returncode:
        said = [line.strip() for line in (answer.stdout + answer.stderr).splitlines() if line.strip()]
        # Docker says the reason before its advice, the others after their log
        reasons = [line for line in said if re.search(r"cannot|error|denied|failed|unknown", line, re.I)]
        raise LessonError(
            (reasons or said or ["it failed"])[-1][:200], where, "Start it, or install it anew."
        )
    return answer.stdout
