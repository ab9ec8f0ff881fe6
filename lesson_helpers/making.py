"""A real environment: by Pixi, or by py-rattler from conda-forge or a channel that is made on the spot."""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import rattler
import requests
from rattler import RepoDataRecord
from rattler.shell import ActivationVariables, Shell, activate

from lesson_helpers import channel, environments, lens, lockfiles, manifests, paths, pixi, solver
from lesson_helpers.errors import LessonError
from lesson_helpers.ladder import Rung
from lesson_helpers.tables import Shown, Table, megabytes

ANSWER_LIMIT = 3  # seconds for conda-forge to answer
INSTALL_LIMIT = 600  # seconds to download and unpack
RUN_LIMIT = 60  # seconds for a program that is run in it
MANIFEST = """\
[workspace]
channels = ["{channel}"]
platforms = [{platform}]

[dependencies]
device = "*"
"""


@dataclass(frozen=True, repr=False)
class Environment(Shown):
    """An environment that is installed.

    Parameters
    ----------
    prefix : Path
        The folder it is in, ``.pixi/envs/NAME`` of its workspace.
    packages : tuple of Package
        What was installed.
    seconds : float
        How long it took, with the download.
    rung : Rung
        What made it, and out of what.
    start : tuple of str
        What a command begins with, to run in it: ``pixi run …``; empty where it is activated here.
    """

    prefix: Path
    packages: tuple[lockfiles.Package, ...]
    seconds: float
    rung: Rung
    start: tuple[str, ...] = ()

    def run(self, *command: str) -> str:
        """Activate the environment, run a command in it, and return what it prints.

        What ``pixi run`` does. The shell that is activated is one of its own; this Python's stays as it is.

        Raises
        ------
        LessonError
            Where it fails, or takes longer than a minute.
        """
        shown, call = " ".join(command), [*self.start, *command]
        if not self.start:
            inherited = ActivationVariables(current_path=os.environ.get("PATH", "").split(os.pathsep))
            script = activate(self.prefix, inherited, Shell.bash).script
            # what is run is given as arguments: no word of it is read by the shell
            call = ["bash", "-c", f'{script}\nexec "$@"', "activated", *command]
        try:
            done = subprocess.run(call, capture_output=True, text=True, timeout=RUN_LIMIT, check=False)
        except FileNotFoundError:
            raise LessonError(
                "There is no bash to activate the environment in.", shown, "Use `pixi run`."
            ) from None
        except subprocess.TimeoutExpired:
            raise LessonError(f"No end within {RUN_LIMIT} s.", shown, "Run it in a terminal.") from None
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it does not say why"])[-1]
            raise LessonError(f"The command failed: {said}", shown, "Read what it says, and mend that.")
        return done.stdout.strip()

    def table(self) -> Table:
        """Return one row for each package, with its size on disk."""
        sizes = lens.installed(self.prefix)
        rows = tuple(
            (p.name, p.version, p.build, megabytes(p.size), megabytes(sizes.get(p.name, 0)))
            for p in sorted(self.packages, key=lambda package: -package.size)[:10]
        )
        size = megabytes(sum(sizes.values()))
        note = f"{len(self.packages)} packages, {size} on disk, in {self.seconds:.1f} s."
        return Table(("package", "version", "build", "download", "on disk"), rows, "", note)


def make(
    workspace: str | Path, environment: str = "default", *, seconds: float = ANSWER_LIMIT
) -> Environment:
    """Install an environment of a workspace for real, with the best there is on this machine.

    Pixi, where it is on PATH. Else py-rattler, its engine: the locked packages from conda-forge where that
    answers, or a workspace of its own, below ``made``, with a channel that is made on the spot.

    Parameters
    ----------
    workspace : str or Path
        The folder with ``pixi.toml`` and ``pixi.lock``.
    environment : str
        Which of its environments.
    seconds : float
        How long conda-forge has to answer.

    Raises
    ------
    LessonError
        Where the workspace has no such environment, or it can't be installed.
    """
    workspace = Path(workspace)
    part = lockfiles.read(workspace / "pixi.lock").part(environment)
    prefix = workspace / ".pixi" / "envs" / environment
    begin = time.perf_counter()
    if program := environments.find_pixi():
        pixi.Pixi(workspace)(f"install --locked --environment {environment}")
        took, rung = time.perf_counter() - begin, Rung("A real environment", "pixi")
        start = (str(program), "run", "--manifest-path", str(workspace / "pixi.toml"), "-e", environment)
        return Environment(prefix, part.packages, took, rung, start)
    engine = f"py-rattler {version('py-rattler')}"
    host = urlsplit(part.packages[0].url).hostname if part.packages else ""
    why = _unreachable(part, seconds)
    if not why:
        try:
            _install(part.packages, prefix, paths.state() / "cache" / "conda")
        except LessonError as error:
            why = error.what
        else:
            ran = f"{engine}, with the locked packages, downloaded from {host}"
            rung = Rung("A real environment", ran, "pixi", "there is no pixi on PATH")
            return Environment(prefix, part.packages, time.perf_counter() - begin, rung)
    made = from_scratch(workspace / "made")
    ran = f"{engine}, with two packages of a channel made on the spot"
    return replace(made, rung=Rung("A real environment", ran, "pixi and conda-forge", why))


def from_scratch(folder: Path) -> Environment:
    """Make a channel, a manifest, a lock file and the environment in a folder, without any network.

    Its platform is this machine: with CUDA where there is a driver, or ``CONDA_OVERRIDE_CUDA`` says so.

    Raises
    ------
    LessonError
        On Windows, which can't start the channel's programs.
    """
    begin, subdir = time.perf_counter(), lockfiles.this_subdir()
    if subdir.startswith("win"):
        fix = "Install Pixi (https://pixi.sh), or go on: nothing below depends on it."
        raise LessonError("The small channel has programs for Linux and macOS only.", subdir, fix)
    folder.mkdir(parents=True, exist_ok=True)
    address = channel.make(folder / "channel", channel.recipes(subdir))
    cuda = environments.machine().get("__cuda")
    platform = f'{{ name = "here", platform = "{subdir}", cuda = "{cuda}" }}' if cuda else f'"{subdir}"'
    (folder / "pixi.toml").write_text(MANIFEST.format(channel=address, platform=platform))
    asked = manifests.read(folder / "pixi.toml")
    (platform,) = asked.wanted["default"]
    records = solver.wait_for(find(address, asked.wanted["default"][platform], platform))
    solver.write(asked, {("default", platform): records}, folder / "pixi.lock")
    packages = tuple(lockfiles.package(record) for record in records)
    prefix = folder / ".pixi" / "envs" / "default"
    _install(packages, prefix, folder / "cache")
    rung = Rung(
        "A real environment", "py-rattler, with a channel made on the spot", "pixi", "it is not asked for"
    )
    return Environment(prefix, packages, time.perf_counter() - begin, rung)


async def find(address: str, specs: Iterable[str], platform: manifests.Platform) -> list[RepoDataRecord]:
    """Solve for packages of a channel: its own index, which has more than a lock file."""
    return await rattler.solve(
        [rattler.Channel(f"{address}/")],
        list(specs),
        gateway=rattler.Gateway(cache_dir=paths.state() / "cache" / "rattler"),  # else in the user's home
        platforms=[platform.subdir, "noarch"],
        virtual_packages=solver.virtual_packages(platform),
        timeout=solver.SOLVE_LIMIT,
    )


def _unreachable(part: lockfiles.Locked, seconds: float) -> str:
    """Return why a package of the environment can't be had from where the lock says, or nothing."""
    if part.platform.subdir != lockfiles.this_subdir():
        return f"there is no pixi on PATH, and the lock has nothing for {lockfiles.this_subdir()}"
    url = min(part.packages, key=lambda package: package.size).url
    try:
        requests.head(url, timeout=seconds, allow_redirects=True).raise_for_status()
    except requests.RequestException as error:
        host = urlsplit(url).hostname
        return f"there is no pixi on PATH, and {host} can't be reached ({type(error).__name__})"
    return ""


def _install(packages: Iterable[lockfiles.Package], prefix: Path, cache: Path) -> None:
    """Download, check and unpack packages into a folder; what is there already stays."""
    records = [package.record for package in packages]
    cache.mkdir(parents=True, exist_ok=True)

    async def install() -> None:
        work = rattler.install(records, prefix.absolute(), cache_dir=cache.absolute(), show_progress=False)
        await asyncio.wait_for(work, INSTALL_LIMIT)

    try:
        solver.wait_for(install())
    except TimeoutError:
        fix = "Check the network and the disk, and try again: what is there is used."
        raise LessonError(f"No end of the installation within {INSTALL_LIMIT} s.", str(prefix), fix) from None
    except Exception as error:  # py-rattler's errors share no class
        what = f"The environment can't be installed: {error}."
        raise LessonError(what, str(prefix), "Check the network and the disk, and try again.") from None
