"""Lock files, read with py-rattler, the library that Pixi stands on, and held against their manifest."""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import rattler
from rattler import LockFile, MatchSpec, PackageRecord, RepoDataRecord

from lesson_helpers import manifests
from lesson_helpers.errors import LessonError

_Build = getattr(rattler, "BuildString", str)  # py-rattler 0.25 takes a text


@dataclass(frozen=True)
class Package:
    """One locked conda package.

    Parameters
    ----------
    name, version, build : str
        As in its file name: ``pytorch``, ``2.9.1``, ``cuda129_mkl_py313_ha91d441_301``.
    size : int
        Bytes to download.
    url, sha256 : str
        Where its file is, and the file's hash.
    depends : tuple of str
        What it needs, as specs.
    record : RepoDataRecord
        py-rattler's own record of it.
    """

    name: str
    version: str
    build: str
    size: int
    url: str
    sha256: str
    depends: tuple[str, ...] = field(repr=False)
    record: RepoDataRecord = field(repr=False)

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.build} ({self.size / 1e6:,.1f} MB)"


@dataclass(frozen=True)
class Locked:
    """One environment on one platform, as a lock file has it.

    Parameters
    ----------
    environment : str
        The environment's name.
    platform : Platform
        The platform; its name is the one in the lock, where a declared one is called ``p1``.
    packages : tuple of Package
        The conda packages.
    others : tuple of str
        The names of packages that are not from a conda channel.
    """

    environment: str
    platform: manifests.Platform
    packages: tuple[Package, ...]
    others: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(package.size for package in self.packages)

    @property
    def label(self) -> str:
        """The platform in words that need no manifest: ``"linux-64 with cuda 12"``."""
        extra = ", ".join(v.lstrip("_").replace("=", " ") for v in self.platform.declared)
        return f"{self.platform.subdir} with {extra}" if extra else self.platform.subdir

    def package(self, name: str) -> Package:
        """Return one package; where there is none of that name, a `LessonError` says so."""
        for package in self.packages:
            if package.name == name:
                return package
        near = difflib.get_close_matches(name, [package.name for package in self.packages], n=1)
        raise LessonError(
            f"There is no package {name!r} in the environment {self.environment!r}.",
            f"{self.environment} on {self.label}",
            f"Did you mean {near[0]}?" if near else "Print `[package.name for package in ….packages]`.",
        )

    def largest(self, number: int = 5) -> list[Package]:
        """Return the packages that are the most to download."""
        return sorted(self.packages, key=lambda package: -package.size)[:number]


@dataclass(frozen=True)
class Lock:
    """A lock file.

    Parameters
    ----------
    path : Path
        The file.
    channels : dict
        Environment to its channels' addresses, the first one first.
    platforms : tuple of Platform
        All platforms that the lock names.
    parts : tuple of Locked
        Each environment on each of its platforms, in the order of their names.
    """

    path: Path
    channels: dict[str, tuple[str, ...]]
    platforms: tuple[manifests.Platform, ...]
    parts: tuple[Locked, ...]

    def part(self, environment: str, platform: str) -> Locked:
        """Return an environment on a platform, named by its subdir or by what `Locked.label` says."""
        for part in self.parts:
            if part.environment == environment and platform in (part.platform.subdir, part.label):
                return part
        there = ", ".join(f"{part.environment} on {part.label}" for part in self.parts)
        raise LessonError(
            f"The lock has no environment {environment!r} for {platform!r}.",
            str(self.path),
            f"Ask for one that is there: {there}.",
        )


@dataclass(frozen=True)
class Problem:
    """One reason why a lock does not satisfy its manifest.

    Parameters
    ----------
    environment, platform, package : str
        Where; empty where it is about more than one.
    says : str
        The reason, as a sentence.
    """

    environment: str
    platform: str
    package: str
    says: str

    def __str__(self) -> str:
        where = " on ".join(part for part in (self.environment, self.platform) if part)
        return f"{where}: {self.says}" if where else self.says


def read(path: str | Path) -> Lock:
    """Read a lock file of any format that py-rattler knows.

    Raises
    ------
    LessonError
        Where there is none, or it is broken.
    """
    path = Path(path)
    if not path.is_file():
        raise LessonError("There is no lock file here.", str(path), "Make it with `pixi lock`.")
    try:
        file = LockFile.from_path(path)
        platforms = {p.name: _platform(p) for p in file.platforms()}
        channels, parts = {}, []
        for name, environment in sorted(file.environments()):
            channels[name] = tuple(_address(channel) for channel in environment.channels())
            for platform in sorted(environment.platforms(), key=lambda p: p.name):
                records = environment.conda_repodata_records_for_platform(platform) or []
                packages = tuple(_package(record) for record in records)
                others = (p.name for p in environment.pypi_packages_for_platform(platform) or [])
                parts.append(Locked(name, platforms[platform.name], packages, tuple(others)))
    except Exception as error:  # py-rattler's errors share no class
        raise LessonError(
            f"The lock file can't be read: {error}.",
            str(path),
            "Take it from version control again, or delete it and run `pixi lock`.",
        ) from None
    return Lock(path, channels, tuple(platforms.values()), tuple(parts))


def this_subdir() -> str:
    """Return this machine's conda subdir: ``"linux-64"``."""
    return str((rattler.Subdir if hasattr(rattler, "Subdir") else rattler.Platform).current())


def satisfies(manifest: str | Path, lock: str | Path) -> list[Problem]:
    """Tell why a lock does not satisfy a manifest: what ``pixi install --locked`` would look at.

    Each environment of the manifest has to be there with its channels in their order, for no platform more
    and with the same virtual packages; each spec and each dependency is met by exactly one locked package or
    by a virtual package; and no package is there that nothing needs.

    Parameters
    ----------
    manifest, lock : str or Path
        The ``pixi.toml`` and the ``pixi.lock``.

    Returns
    -------
    list of Problem
        Empty where the lock satisfies the manifest.
    """
    asked, locked = manifests.read(manifest), read(lock)
    problems = []
    for environment, wanted in asked.wanted.items():
        if environment not in locked.channels:
            problems.append(Problem(environment, "", "", "this environment is not in the lock."))
            continue
        have = locked.channels[environment]
        if have != asked.channels:
            says = f"the lock is for the channels {_list(have)}, the manifest names {_list(asked.channels)}."
            problems.append(Problem(environment, "", "", says))
        parts = [part for part in locked.parts if part.environment == environment]
        for part in parts:
            if not any(_same(part.platform, platform) for platform in wanted):
                says = "the lock has this platform, the manifest does not ask for it."
                problems.append(Problem(environment, part.label, "", says))
        for platform, specs in wanted.items():
            there = [part for part in parts if _same(part.platform, platform)]
            if there:
                problems += _unmet(there[0], platform, specs)
            elif not any(_same(known, platform) for known in locked.platforms):
                extra = f" with {_list(platform.declared)}" if platform.declared else ""
                says = f"the lock has no platform {platform.subdir}{extra}."
                problems.append(Problem(environment, platform.name, "", says))
            elif specs:
                says = "the lock has no packages of this environment for this platform."
                problems.append(Problem(environment, platform.name, "", says))
    return problems


def _unmet(part: Locked, platform: manifests.Platform, specs: Iterable[str]) -> Iterator[Problem]:
    """Walk from the manifest's specs along the dependencies, and yield what is not as it has to be."""
    virtual = {v.split("=")[0]: _record(v) for v in platform.virtual_packages}
    locked: dict[str, Package] = {}
    for package in part.packages:
        if package.name in locked:
            says = f"{package.name} is locked twice."
            yield Problem(part.environment, platform.name, package.name, says)
        locked[package.name] = package
    reached = set()
    waiting = [(spec, "the manifest asks for") for spec in specs]
    while waiting:
        spec, who = waiting.pop()
        match = MatchSpec(spec)
        name = match.name.normalized
        record = locked[name].record if name in locked else virtual.get(name)
        says = ""
        if record is None:
            says = f"no {name} is {'declared' if name[:2] == '__' else 'locked'}"
        elif not match.matches(record):
            says = f"{name} {record.version} {record.build} is {'locked' if name in locked else 'declared'}"
        if says:
            yield Problem(part.environment, platform.name, name, f"{who} `{spec}`, and {says}.")
        if name in locked and name not in reached:
            reached.add(name)
            needs = f"{name} {locked[name].version} needs"
            waiting += [(dependency, needs) for dependency in locked[name].depends]
    for name in [*(n for n in locked if n not in reached), *part.others]:
        yield Problem(part.environment, platform.name, name, f"{name} is locked, and nothing asks for it.")


def _package(record: RepoDataRecord) -> Package:
    return Package(
        record.name.normalized,
        str(record.version),
        str(record.build),
        record.size or 0,
        record.url,
        record.sha256.hex() if record.sha256 else "",
        tuple(record.depends),
        record,
    )


def _platform(platform: rattler.LockPlatform) -> manifests.Platform:
    return manifests.Platform(platform.name, str(platform.subdir), tuple(platform.virtual_packages))


def _same(one: manifests.Platform, other: manifests.Platform) -> bool:
    """Tell whether two platforms are the same for a lock: what they are called does not matter."""
    return one.subdir == other.subdir and one.declared == other.declared


def _address(channel: rattler.LockChannel) -> str:
    return str(channel).removeprefix('LockChannel(url="').removesuffix('")').rstrip("/")


def _record(text: str) -> PackageRecord:
    name, version, build = (*text.split("="), "0")[:3]
    return PackageRecord(name, version, _Build(build), 0, "noarch")


def _list(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"
