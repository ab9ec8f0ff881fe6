"""Pixi's own solver, on the records of a lock file that is there: no network, and milliseconds.

It knows only the packages of that lock; what it finds among them is what Pixi would find.
"""

import asyncio
import itertools
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import rattler
from rattler import GenericVirtualPackage, LockFile, PackageName, RepoDataRecord
from rattler.exceptions import SolverError
from rattler.solver import solve as rattler_solve

from lesson_helpers import lockfiles, manifests, paths, reasons
from lesson_helpers.errors import LessonError
from lesson_helpers.platforms import Platform
from lesson_helpers.tables import Shown, Table, megabytes

SOLVE_LIMIT = timedelta(seconds=60)  # it takes milliseconds

# what py-rattler 0.28 calls them; 0.25 takes a text, and says Platform
_Build = getattr(rattler, "BuildString", str)
_Subdir = rattler.Subdir if hasattr(rattler, "Subdir") else rattler.Platform


@dataclass(frozen=True, repr=False)
class Solution(Shown):
    """What the solver found.

    Parameters
    ----------
    specs : tuple of str
        What was asked for.
    platform : Platform
        The machine it was asked for.
    packages : tuple of Package
        All that is needed, by name.
    milliseconds : float
        How long it took.
    """

    specs: tuple[str, ...]
    platform: Platform
    packages: tuple[lockfiles.Package, ...]
    milliseconds: float

    def package(self, name: str) -> lockfiles.Package:
        """Return one package; where there is none of that name, a `LessonError` says so."""
        return lockfiles.Locked("solved", self.platform, self.packages).package(name)

    def table(self) -> Table:
        """Return what was asked for, and what was found for it."""
        asked = {lockfiles.match(spec, "solver").name.normalized for spec in self.specs}
        rows = ((p.name, p.version, p.build, megabytes(p.size)) for p in self.packages if p.name in asked)
        total = megabytes(sum(package.size for package in self.packages))
        title = f"{', '.join(self.specs)} on {lockfiles.label(self.platform)}"
        note = (
            f"{len(self.packages)} packages with all they need, {total}, found in {self.milliseconds:.0f} ms."
        )
        return Table(("package", "version", "build", "download"), tuple(rows), title, note)


def solve(
    specs: Iterable[str], platform: Platform | None = None, known: str | Path | None = None
) -> Solution:
    """Find packages that fit together, among those of a lock file.

    Parameters
    ----------
    specs : iterable of str
        What to ask for: ``["pytorch", "python 3.13.*"]``.
    platform : Platform, optional
        The machine it is for, with its virtual packages; by default this machine's subdir without more.
    known : str or Path, optional
        The lock file whose packages the solver knows; by default the kit's.

    Raises
    ------
    LessonError
        Where nothing fits: what is in the way, in two sentences, and what to change.
    """
    platform = platform or manifests.declare(None, lockfiles.this_subdir(), {})
    return _Known(known or paths.root() / "pixi.lock").solve(tuple(specs), platform, "the solver")


def explain(
    manifest: str | Path,
    environment: str,
    platform: str = "",
    *,
    known: str | Path | None = None,
    **virtual: str | None,
) -> Solution:
    """Solve one environment of a manifest, and say what it gets.

    Parameters
    ----------
    manifest : str or Path
        The ``pixi.toml``.
    environment, platform : str
        Which; without a platform the environment's first.
    known : str or Path, optional
        The lock file whose packages the solver knows; by default the kit's.
    **virtual : str or None
        Virtual packages other than the platform declares: ``cuda="12"``, or ``cuda=None`` for none.

    Raises
    ------
    LessonError
        Where nothing fits: what is in the way, in two sentences, and what to change.
    """
    asked = manifests.read(manifest)
    found = asked.platform(environment, platform)
    declared = dict(text.split("=", 1) for text in found.virtual_packages)
    for name, version in virtual.items():
        declared.pop(f"__{name}", None)
        declared |= {f"__{name}": version} if version else {}
    machine = Platform(found.name, found.subdir, tuple(f"{k}={v}" for k, v in declared.items()))
    if virtual:  # no longer what the manifest calls so
        machine = replace(machine, name=lockfiles.label(machine))
    where = f"{asked.path}, environment {environment}"
    return _Known(known or paths.root() / "pixi.lock").solve(asked.wanted[environment][found], machine, where)


def make(manifest: str | Path, known: str | Path, target: str | Path) -> lockfiles.Lock:
    """Solve each environment of a manifest for each of its platforms, and write the lock file.

    Parameters
    ----------
    manifest : str or Path
        The ``pixi.toml``.
    known : str or Path
        The lock file whose packages the solver chooses from.
    target : str or Path
        The lock file to write.

    Raises
    ------
    LessonError
        Where an environment has no solution: what is in the way, and what to change.
    """
    asked, source = manifests.read(manifest), _Known(known)
    solved = {
        (environment, platform): source.solve(specs, platform, f"{asked.path}, environment {environment}")
        for environment, wanted in asked.wanted.items()
        for platform, specs in wanted.items()
    }
    records = {where: [package.record for package in found.packages] for where, found in solved.items()}
    return write(asked, records, target)


def write(
    asked: manifests.Manifest,
    records: dict[tuple[str, Platform], list[RepoDataRecord]],
    target: str | Path,
) -> lockfiles.Lock:
    """Write what was solved as a lock file, beside and renamed.

    Parameters
    ----------
    asked : Manifest
        The manifest it is for.
    records : dict
        Environment and platform to the packages.
    target : str or Path
        The lock file.
    """
    numbers = itertools.count(1)
    platforms = {}
    for p in asked.platforms:  # as Pixi does: one that is more than its subdir has a short name in the lock
        alias = p.name if p.name == p.subdir else f"p{next(numbers)}"
        platforms[p] = rattler.LockPlatform(alias, _Subdir(p.subdir), list(p.virtual_packages))
    file = LockFile(list(platforms.values()))
    for environment in asked.wanted:
        file.set_channels(environment, [rattler.LockChannel(f"{channel}/") for channel in asked.channels])
    for (environment, platform), found in records.items():
        for record in found:
            file.add_conda_package(environment, platforms[platform], record)
    target = Path(target)
    beside = target.with_name(f"{target.name}.new")
    file.to_path(beside)
    beside.replace(target)
    return lockfiles.read(target)


def wait_for(work):
    """Run py-rattler's asynchronous work to its end: in a thread, since a notebook has a loop that runs."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def virtual_packages(platform: Platform) -> list[GenericVirtualPackage]:
    """Return a platform's virtual packages as the solver takes them."""
    found = []
    for text in platform.virtual_packages:
        name, version, build = (*text.split("="), "0")[:3]
        found.append(GenericVirtualPackage(PackageName(name), rattler.Version(version), _Build(build)))
    return found


class _Known:
    """The records of a lock file as a source for the solver, in memory (py-rattler's RepoDataSource)."""

    def __init__(self, lock: str | Path) -> None:
        self.found: dict[tuple[str, str], dict[str, RepoDataRecord]] = {}
        for part in lockfiles.read(lock).parts:
            for package in part.packages:
                record = package.record
                self.found.setdefault((record.subdir, package.name), {})[record.url] = record

    async def fetch_package_records(self, platform, name: PackageName) -> list[RepoDataRecord]:
        return list(self.found.get((str(platform), name.normalized), {}).values())

    def package_names(self, platform) -> list[str]:
        return [name for subdir, name in self.found if subdir == str(platform)]

    def versions(self) -> dict[str, dict[str, set[str]]]:
        """Return package to subdir to the versions known."""
        known: dict[str, dict[str, set[str]]] = {}
        for (subdir, name), records in self.found.items():
            known.setdefault(name, {})[subdir] = {str(record.version) for record in records.values()}
        return known

    def solve(self, specs: tuple[str, ...], platform: Platform, where: str) -> Solution:
        for spec in specs:
            _check(spec, where)
        begin = time.perf_counter()
        work = rattler_solve(
            sources=[self],
            specs=list(specs),
            platforms=[platform.subdir, "noarch"],
            virtual_packages=virtual_packages(platform),
            timeout=SOLVE_LIMIT,
        )
        try:
            records = wait_for(work)
        except SolverError as error:
            raise reasons.read(str(error), specs, platform, self.versions()).error(where) from None
        took = (time.perf_counter() - begin) * 1000
        found = sorted((lockfiles.package(record) for record in records), key=lambda package: package.name)
        return Solution(specs, platform, tuple(found), took)


def _check(spec: str, where: str) -> None:
    try:
        rattler.MatchSpec(spec)
    except Exception as error:  # py-rattler's errors share no class
        fix = 'Write a name, or a name and a version: "pytorch" or "pytorch >=2.8,<3".'
        raise LessonError(f"`{spec}` is no requirement: {error}.", where, fix) from None
