"""Make a lock file with the solver that Pixi uses, out of the records of a lock file that is there."""

import asyncio
import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import rattler
from rattler import GenericVirtualPackage, LockFile, PackageName, RepoDataRecord
from rattler.exceptions import SolverError
from rattler.solver import solve

from lesson_helpers import lockfiles, manifests
from lesson_helpers.errors import LessonError

SOLVE_LIMIT = timedelta(seconds=60)  # it takes milliseconds

# what py-rattler 0.28 calls them; 0.25 takes a text, and says Platform
_Build = getattr(rattler, "BuildString", str)
_Subdir = rattler.Subdir if hasattr(rattler, "Subdir") else rattler.Platform


def make(manifest: str | Path, known: str | Path, target: str | Path) -> lockfiles.Lock:
    """Solve each environment of a manifest for each of its platforms, and write the lock file.

    The solver is Pixi's own. What it chooses from are the records of another lock, not a channel: it needs
    no network and milliseconds, and knows only the packages of that lock.

    Parameters
    ----------
    manifest : str or Path
        The ``pixi.toml``.
    known : str or Path
        The lock file whose records it chooses from.
    target : str or Path
        The lock file to write.

    Raises
    ------
    LessonError
        Where an environment has no solution, with the solver's reason.
    """
    asked = manifests.read(manifest)
    source = _Records(package.record for part in lockfiles.read(known).parts for package in part.packages)
    numbers = itertools.count(1)
    platforms = {}
    for p in asked.platforms:  # as Pixi does: one that is more than its subdir has a short name in the lock
        alias = p.name if p.name == p.subdir else f"p{next(numbers)}"
        platforms[p] = rattler.LockPlatform(alias, _Subdir(p.subdir), list(p.virtual_packages))
    file = LockFile(list(platforms.values()))
    for environment, wanted in asked.wanted.items():
        file.set_channels(environment, [rattler.LockChannel(f"{c}/") for c in asked.channels])
        for platform, specs in wanted.items():
            try:
                records = _solve(source, specs, platform)
            except SolverError as error:
                raise LessonError(
                    f"The environment {environment!r} has no solution for {platform}. {error}",
                    str(asked.path),
                    "Ask for less, or for what this kit's lock has; pixi itself knows all of conda-forge.",
                ) from None
            for record in records:
                file.add_conda_package(environment, platforms[platform], record)
    target = Path(target)
    beside = target.with_name(f"{target.name}.new")
    file.to_path(beside)
    beside.replace(target)
    return lockfiles.read(target)


class _Records:
    """The records of a lock as a source for the solver, in memory (py-rattler's RepoDataSource)."""

    def __init__(self, records: Iterable[RepoDataRecord]) -> None:
        self.found: dict[tuple[str, str], dict[str, RepoDataRecord]] = {}
        for record in records:
            self.found.setdefault((record.subdir, record.name.normalized), {})[record.url] = record

    async def fetch_package_records(self, platform, name: PackageName) -> list[RepoDataRecord]:
        return list(self.found.get((str(platform), name.normalized), {}).values())

    def package_names(self, platform) -> list[str]:
        return [name for subdir, name in self.found if subdir == str(platform)]


def _solve(source: _Records, specs: Iterable[str], platform: manifests.Platform) -> list[RepoDataRecord]:
    work = solve(
        sources=[source],
        specs=list(specs),
        platforms=[platform.subdir, "noarch"],
        virtual_packages=[_virtual(text) for text in platform.virtual_packages],
        timeout=SOLVE_LIMIT,
    )
    # py-rattler solves in an event loop, and a notebook's own runs already: so in a thread with one more
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _virtual(text: str) -> GenericVirtualPackage:
    name, version, build = (*text.split("="), "0")[:3]
    return GenericVirtualPackage(PackageName(name), rattler.Version(version), _Build(build))
