"""A registry of one's own on loopback, and what any registry can be asked.

The program is Debian's ``docker-registry``, the reference implementation of the distribution API
(https://distribution.github.io/distribution/spec/api/). It takes a free port itself, and which one is read
from the process table: so whoever answers there is the process started here. It wants a password that is
made for the session, so nobody else on this machine can push.
"""

import base64
import contextlib
import ctypes
import json
import os
import re
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import requests

from lesson_helpers import debian, processes
from lesson_helpers.errors import LessonError
from lesson_helpers.ladder import Rung

# The distribution specification's grammar for a name and a tag, without a registry's address before it.
NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")

# What crypt(3) is in: on Debian and Ubuntu, and on Fedora, Arch and newer systems.
LIBRARIES = ("libcrypt.so.1", "libcrypt.so.2")

# Without a host, a name means Docker Hub, whose registry has another name than its web site.
DOCKER_HUB = "registry-1.docker.io"
MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        *("oci.image.index.v1", "docker.distribution.manifest.list.v2"),
        *("oci.image.manifest.v1", "docker.distribution.manifest.v2"),
    )
)


@dataclass(frozen=True)
class Registry:
    """A registry that runs on this machine, for this session.

    Parameters
    ----------
    address : str
        Host and port, as an image's name begins with them.
    process : Popen
        The program that runs.
    folder : Path
        Its configuration and images.
    password : str
        What a push or a pull needs; never shown.
    crane : Path or None
        The program that asks registries, where there is one.
    """

    address: str
    process: subprocess.Popen = field(repr=False)
    folder: Path
    password: str = field(repr=False)
    crane: Path | None = None

    def __str__(self) -> str:
        return f"registry at {self.address}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that give Docker's family of programs the password, without the user's own file."""
        return {
            "DOCKER_CONFIG": str(self.folder / "login"),
            "REGISTRY_AUTH_FILE": str(self.folder / "login/config.json"),
        }

    def ask(self, command: str, name: str) -> str:
        """Run ``crane COMMAND ADDRESS/NAME``, show the command as one would type it, and return its answer.

        Parameters
        ----------
        command : str
            ``"ls"``, ``"digest"`` or ``"config"``.
        name : str
            The image without the registry's address: ``lesson/tiny`` or ``lesson/tiny:1``.
        """
        words = ["crane", command, f"{self.address}/{name}"]
        if not self.crane:
            raise LessonError(
                "The program crane is not here.", " ".join(words), "Ask with tags() and digest() instead."
            )
        print(f"$ {' '.join(words)}")
        answer = subprocess.run(
            [self.crane, *words[1:]],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if answer.returncode:
            self.check()  # where it was stopped, that is what to say
            raise _unknown(words[2], answer.stderr)
        return answer.stdout.strip()

    def check(self) -> None:
        """Raise where the registry does not answer."""
        self._get("")

    def tags(self, name: str) -> list[str]:
        """Return an image's tags, sorted, without those that hold an attached artifact (``sha256-…``)."""
        found = self._get(f"{name}/tags/list").json().get("tags") or []
        return sorted(tag for tag in found if not tag.startswith("sha256-"))

    def digest(self, name: str, tag: str) -> str:
        """Return the digest that a tag stands for now: ``sha256:`` and 64 hexadecimal digits."""
        return self._get(f"{name}/manifests/{tag}").headers["Docker-Content-Digest"]

    def _get(self, path: str) -> requests.Response:
        try:
            answer = requests.get(
                f"http://{self.address}/v2/{path}",
                auth=("lesson", self.password),
                headers={"Accept": MANIFESTS},
                timeout=10,
            )
        except requests.RequestException as error:
            raise LessonError(
                "The registry does not answer.",
                self.address,
                "Start it again, with registry.start() or the cell with registry.offer(), and push anew.",
            ) from error
        if answer.status_code == 401:
            raise LessonError(
                "The registry does not accept your name and password.",
                self.address,
                "Log in again; a registry of this lesson makes a new password each time it is started.",
            )
        if not answer.ok:
            raise _unknown(
                f"{self.address}/{path.split('/tags/')[0].replace('/manifests/', ':')}", answer.text
            )
        return answer

    def stop(self) -> None:
        """End the registry and remove its images; harmless where it has ended already."""
        if self.process.poll() is None:
            processes.end([psutil.Process(self.process.pid)])
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)


def start(seconds: float = 15) -> Registry:
    """Start a registry on a free port of 127.0.0.1, in half a second.

    Parameters
    ----------
    seconds : float
        How long to wait for it.

    Returns
    -------
    Registry
        Ready to be pushed to.

    Raises
    ------
    LessonError
        Where the program can't be had, or did not start in time.
    """
    server = program("docker-registry")
    try:
        crane = program("crane")
    except LessonError:  # tags() asks the registry itself
        crane = None
    folder = processes.session() / f"registry-{secrets.token_hex(4)}"
    (folder / "login").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    password = secrets.token_urlsafe(18)
    (folder / "htpasswd").write_text(f"lesson:{_bcrypt(password)}\n")
    settings = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "images")}, "delete": {"enabled": True}},
        "auth": {"htpasswd": {"realm": "lesson", "path": str(folder / "htpasswd")}},
        "http": {"addr": "127.0.0.1:0", "secret": secrets.token_hex(16)},
    }
    (folder / "registry.yml").write_text(json.dumps(settings))  # JSON is YAML
    with (folder / "log").open("w") as log:
        child = subprocess.Popen(
            [server, "serve", folder / "registry.yml"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    port = _port(child, seconds, folder / "log")
    address = f"127.0.0.1:{port}"
    login = base64.b64encode(f"lesson:{password}".encode()).decode()
    (folder / "login/config.json").write_text(json.dumps({"auths": {address: {"auth": login}}}))
    return Registry(address, child, folder, password, crane)


def offer() -> tuple[Registry | None, Rung]:
    """Start a registry where one can be had, and say in one line whether it could."""
    try:
        started = start()
    except LessonError as error:
        return None, Rung("registry", "nothing", "a registry on this machine", error.what.rstrip("."))
    return started, Rung("registry", f"your own, at {started.address}")


def program(name: str) -> Path:
    """Find ``docker-registry`` or ``crane`` on PATH, else fetch it out of Debian's packages.

    Raises
    ------
    LessonError
        Where it is on neither.
    """
    if found := shutil.which(name):
        return Path(found)
    # newer releases have crane; it then needs the C library that it was built for
    suites, relocate = (
        ((debian.HOST, "bookworm"), False) if name == "docker-registry" else (("sid", debian.HOST), True)
    )
    tree = debian.unpack(name, (name,), suites, relocate=relocate)
    return tree / "usr/bin" / name


def reachable(image: str, seconds: float = 3) -> bool:
    """Tell whether the registry that an image comes from answers from here, whatever it answers.

    Parameters
    ----------
    image : str
        A full name, such as ``ghcr.io/prefix-dev/pixi:0.78.0``.
    seconds : float
        The longest to wait; a network that drops packets never says no.
    """
    host = image.split("/")[0]
    host = DOCKER_HUB if host == "docker.io" or not re.search(r"[.:]|^localhost$", host) else host
    scheme = "http" if re.match(r"(127\.|localhost)", host) else "https"
    try:
        # 401 is the usual answer to a visitor who has not logged in: a registry is there
        return requests.get(f"{scheme}://{host}/v2/", timeout=seconds).status_code in (200, 401)
    except requests.RequestException:
        return False


def check_name(name: str) -> None:
    """Raise where a registry would not take a name such as ``lesson/gpu:1``."""
    path, colon, tag = name.partition(":")
    path = path.removeprefix("localhost/")
    if not NAME.fullmatch(path) or not TAG.fullmatch(tag if colon else "latest"):
        raise LessonError(
            f"No registry takes the image name {name!r}.",
            "the parameter `image` or `tag`" if name else "an empty name",
            "Use lower-case letters, digits and . _ - in a name, with / between its parts; a tag, after the "
            f"colon, has no spaces either. For example: {_tamed(name)}",
        )


def _tamed(name: str) -> str:
    path, _, tag = name.partition(":")
    path = re.sub(r"[^a-z0-9/]+", "-", path.lower()).strip("-/") or "lesson/gpu"
    return f"{path}:{re.sub(r'[^A-Za-z0-9._-]+', '-', tag).strip('-.') or '1'}"


def _port(child: subprocess.Popen, seconds: float, log: Path) -> int:
    """Wait until a process listens, and return the port."""
    until = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < until:
        for connection in psutil.Process(child.pid).net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                return connection.laddr.port
        time.sleep(0.05)
    state = f"did not listen within {seconds:.0f} s" if child.poll() is None else "ended at once"
    processes.end([psutil.Process(child.pid)] if child.poll() is None else [])
    child.wait(timeout=10)
    said = log.read_text().strip().splitlines()[-1:] or ["nothing"]
    raise LessonError(f"The registry {state}; it said: {said[0][:300]}", str(log), "Run the cell again.")


def _bcrypt(password: str) -> str:
    """Hash a password in the one way that the registry reads, with the C library's own crypt(3)."""
    salt = f"$2b$04${secrets.token_hex(11)}"  # few rounds: it guards one session, against guessing over HTTP
    for name in LIBRARIES:
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(name)
            library.crypt.restype, library.crypt.argtypes = ctypes.c_char_p, [ctypes.c_char_p] * 2
            if hashed := library.crypt(password.encode(), salt.encode()):
                return hashed.decode()
    raise LessonError(
        "This machine's C library makes no bcrypt hashes, which the registry's password needs.",
        " and ".join(LIBRARIES),
        "Install libxcrypt (Debian, Ubuntu: libcrypt1), or go on without a registry.",
    )


def _unknown(name: str, said: str) -> LessonError:
    last = (said.strip().splitlines() or ["nothing"])[-1][:200]
    return LessonError(
        f"The registry does not have this image. It said: {last}",
        name,
        "Push it first, and check the name letter by letter.",
    )
