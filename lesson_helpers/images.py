"""Which engine builds images on this machine, and what the lesson's image is built on.

An engine is chosen by asking it, since a program's being there proves nothing: a Docker client without a
daemon is common. Where none answers, Buildah is fetched out of Debian's packages: it needs no daemon.
"""

import os
import re
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

from lesson_helpers import debian, lockcheck, paths, processes, registry, standin, stores
from lesson_helpers.contents import Image
from lesson_helpers.engines import Engine
from lesson_helpers.errors import LessonError
from lesson_helpers.ladder import Rung
from lesson_helpers.stores import ask

__all__ = ["Answer", "Choice", "Engine", "Image", "base_arguments", "choose"]

SETTINGS = ("auto", "docker", "podman", "buildah", "fetched", "none")


@dataclass(frozen=True)
class Answer:
    """What one engine said when it was asked."""

    name: str
    works: bool
    said: str

    def __str__(self) -> str:
        return f"{'✓' if self.works else '–'} {self.name}: {self.said}"


@dataclass(frozen=True)
class Choice:
    """The engine that was chosen, and what each one answered on the way there.

    Parameters
    ----------
    engine : Engine or None
        `None` where no engine can be had.
    answers : tuple of Answer
        In the order in which they were asked.
    """

    engine: Engine | None
    answers: tuple[Answer, ...]

    def __str__(self) -> str:
        chosen = f"Images are built by {self.engine}." if self.engine else "No image can be built here."
        return "\n".join([*map(str, self.answers), chosen])

    def __repr__(self) -> str:
        return str(self)

    def rung(self) -> Rung:
        """Return the choice as one line for the run's report."""
        silent = [answer for answer in self.answers if not answer.works]
        if not self.engine:
            reasons = "; ".join(f"{answer.name}: {answer.said}" for answer in silent)
            return Rung("image engine", "nothing", "a real image build", reasons.rstrip("."))
        if "fetched" not in self.engine.source:
            return Rung("image engine", str(self.engine))
        reason = f"no answer came from {', '.join(answer.name for answer in silent)}"
        return Rung(
            "image engine", str(self.engine), "an installed one", reason if silent else "you chose it"
        )


def choose(setting: str = "auto", *, fetch: bool = True) -> Choice:
    """Choose an engine by asking: Docker with BuildKit, Podman, Buildah, then one that is fetched.

    Parameters
    ----------
    setting : str
        ``"auto"``, or the one engine to use; ``"fetched"`` is Debian's Buildah under ``.lesson``, and
        ``"none"`` goes on without any.
    fetch : bool
        Whether an engine may be fetched where none answers. Without it, one that is there already is used.

    Returns
    -------
    Choice
        Its `engine` is `None` where no engine can be had and none was asked for by name.

    Raises
    ------
    LessonError
        Where the setting is not known, or names an engine that does not work here.
    """
    if setting not in SETTINGS:
        raise LessonError(
            f"There is no engine {setting!r}.",
            "the parameter `engine`",
            f"Use one of: {', '.join(SETTINGS)}.",
        )
    if setting == "none":
        return Choice(None, (Answer("none", False, "no engine was asked for"),))
    offers = {"docker": _docker, "podman": _podman, "buildah": _buildah, "fetched": _fetched}
    answers = []
    for name, offer in offers.items():
        if setting not in ("auto", name):
            continue
        if name == "fetched" and not fetch and not (paths.programs() / "buildah").is_dir():
            answers.append(Answer(name, False, "it is not here yet"))
            continue
        try:
            engine = offer()
        except LessonError as error:
            answers.append(Answer(name, False, error.what))
        else:
            return Choice(engine, (*answers, Answer(name, True, f"version {engine.version}")))
    if setting != "auto":
        raise LessonError(
            f"The engine {setting!r} does not work here: {answers[0].said}",
            "the parameter `engine`",
            'Start or install it, or use engine = "auto", which takes one that works.',
        )
    return Choice(None, tuple(answers))


def base_arguments(engine: Engine, workspace: Path, environment: str) -> tuple[dict[str, str], Rung]:
    """Return the values for the Dockerfile's ARG lines with which it can be built here.

    The real base images where their registries answer; else stand-ins for both, which are made now.

    Parameters
    ----------
    engine : Engine
        The engine that will build.
    workspace : Path
        The folder with ``Dockerfile`` and ``pixi.toml``.
    environment : str
        The environment to install.

    Returns
    -------
    arguments : dict
        For `Engine.build`.
    rung : Rung
        Which bases they are, for the page and the report.

    Raises
    ------
    LessonError
        Where the workspace has no such environment, or its lock does not satisfy its manifest: with a reason.
    """
    known = _environments(workspace / "pixi.toml")
    if environment not in known:
        raise LessonError(
            f"There is no environment {environment!r} in this workspace.",
            str(workspace / "pixi.toml"),
            f"Use one of: {', '.join(known)}.",
        )
    _check_lock(workspace)
    bases = re.findall(r"^FROM (\S+[:@]\S+)", (workspace / "Dockerfile").read_text(), flags=re.MULTILINE)
    silent = [image for image in bases if not registry.reachable(image)]
    if not silent:
        return {"ENVIRONMENT": environment}, Rung("base images", " and ".join(bases))
    folder = standin.context(processes.session() / "stand-in")
    for target, name in (("runtime", standin.RUNTIME), ("build", standin.BUILD)):
        engine.build(folder, name, target=target, quiet=True)
    shutil.rmtree(folder)
    return (
        {"ENVIRONMENT": environment, "BUILD_IMAGE": standin.BUILD, "RUNTIME_IMAGE": standin.RUNTIME},
        Rung(
            "base images",
            "stand-ins made of this machine's own shell and Python, with a script in the place of pixi",
            "the published ones",
            f"{' and '.join(image.split('/')[0] for image in silent)} can't be reached from here",
        ),
    )


def _check_lock(workspace: Path) -> None:
    """Raise where ``pixi install --locked`` would stop, minutes later and without the reason."""
    if not (workspace / "pixi.lock").exists():
        raise LessonError(
            "There is no pixi.lock, and the Dockerfile installs what it says.",
            str(workspace),
            "Run `pixi lock`.",
        )
    try:
        problems = lockcheck.check(workspace / "pixi.toml", workspace / "pixi.lock").problems
    except LessonError:
        return  # what can't be judged without Pixi is Pixi's to judge, in the build
    if problems:
        more = f" ({len(problems) - 1} more: ./lesson env check)" if problems[1:] else ""
        raise LessonError(
            f"The lock does not satisfy the manifest, so --locked will stop. {problems[0]}{more}",
            str(workspace / "pixi.lock"),
            f"Type {problems[0].fix}.",
        )


def _environments(manifest: Path) -> list[str]:
    """Return the names of a workspace's environments, from its ``pixi.toml``."""
    try:
        found = tomllib.loads(manifest.read_text()).get("environments", {})
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise LessonError(
            f"The manifest can't be read: {error}.", str(manifest), "Mend it, or copy the lesson's again."
        ) from error
    return sorted({"default", *found})


def _docker() -> Engine:
    version = ask("docker", "info", "--format", "{{.ServerVersion}}").strip()
    ask("docker", "buildx", "version")
    networks = ask("docker", "network", "ls", "--format", "{{.Name}}").split()
    # a daemon without a bridge, as in a container, can only build on the machine's own network
    options = () if "bridge" in networks else ("--network=host",)
    program = Path(shutil.which("docker"))
    return Engine("docker", program, version, "the machine's own daemon", options=options)


def _podman() -> Engine:
    store = stores.make(Path(shutil.which("podman") or "podman"))
    return Engine("podman", store.program, _version(store.program), "on PATH", *store.settings)


def _buildah(tree: Path | None = None) -> Engine:
    """Ask the Buildah on PATH, or the one in a tree of unpacked packages."""
    program = tree / "usr/bin/buildah" if tree else Path(shutil.which("buildah") or "buildah")
    _check_ids(program)
    store = stores.make(program, tree)
    source = "fetched from Debian's packages" if tree else "on PATH"
    return Engine("buildah", store.program, _version(program), source, *store.settings)


def _check_ids(program: Path) -> None:
    """Raise where this user can't have the user ids that an image's files need."""
    if os.geteuid() and not shutil.which("newuidmap"):
        raise LessonError(
            "an ordinary user needs newuidmap, of the package uidmap, and a line in /etc/subuid",
            str(program),
            "Ask an administrator for both.",
        )


def _version(program: Path) -> str:
    return ask(program, "--version").split()[2]


def _fetched() -> Engine:
    _check_ids(Path("buildah"))  # first: who could not use it need not wait for it
    folder = debian.unpack(
        "buildah",
        ("buildah", "netavark"),  # newer releases want to see the second, even where no network is made
        (debian.HOST, "bookworm"),
        relocate=True,
        check=("usr/bin/buildah", "--version"),
    )
    return _buildah(folder)
