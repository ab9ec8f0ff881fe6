"""Lock files, read with py-rattler, the library that Pixi stands on."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import rattler
from rattler import LockFile, MatchSpec, RepoDataRecord

from lesson_helpers import manifests
from lesson_helpers.errors import LessonError
from lesson_helpers.manifest_keys import nearest
from lesson_helpers.tables import megabytes

LOOK = "Look for its name with `pixi list` or `./lesson env show`."
# Bytes; this kit's has 0.4 million. py-rattler takes up to a fifth of a second for each million.
LARGEST = 3_000_000
LONGEST = 200_000  # lines; this kit's has 9,000
DEEPEST = 40  # columns of indentation; Pixi's own has 8

# How YAML begins an anchor, an alias (small files that grow to gigabytes), a tag, a bracket (nested, minutes
# for each hundred kilobytes) and the like. No lock file that Pixi wrote has any of them.
_SPECIAL = frozenset("&*!?|>%@`[]{},")
_KEY = re.compile(r"""(?:"(?:[^"\\]|\\.)*"\s*|'(?:[^']|'')*'\s*|[^"'].*?):(?=\s|$)""")


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
    licence : str
        As an SPDX expression, where the package says it; ``LicenseRef-…`` is a text of its own.
    depends, constrains : tuple of str
        What it needs, and what it needs only of packages that something else brings along, as specs.
    record : RepoDataRecord
        py-rattler's own record of it.
    """

    name: str
    version: str
    build: str
    size: int
    url: str
    sha256: str
    licence: str
    depends: tuple[str, ...] = field(repr=False)
    constrains: tuple[str, ...] = field(repr=False)
    record: RepoDataRecord = field(repr=False)

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.build} ({megabytes(self.size)})"


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
        return label(self.platform)

    def package(self, name: str) -> Package:
        """Return one package; where there is none of that name, a `LessonError` says so."""
        for package in self.packages:
            if package.name == name:
                return package
        raise LessonError(
            f"There is no package {name!r} in the environment {self.environment!r}.",
            f"{self.environment} on {self.label}",
            nearest(name, [package.name for package in self.packages], LOOK),
        )


@dataclass(frozen=True)
class Lock:
    """A lock file.

    Parameters
    ----------
    path : Path
        The file.
    version : int
        The format: 7 since Pixi 0.68. Older ones do not say what virtual packages a platform has.
    channels : dict
        Environment to its channels' addresses, the first one first.
    platforms : tuple of Platform
        All platforms that the lock names.
    parts : tuple of Locked
        Each environment on each of its platforms, in the order of their names.
    """

    path: Path
    version: int
    channels: dict[str, tuple[str, ...]]
    platforms: tuple[manifests.Platform, ...]
    parts: tuple[Locked, ...]

    def part(self, environment: str, platform: str = "") -> Locked:
        """Return an environment on a platform, named by its subdir or by what `Locked.label` says.

        Without a platform it is the one for this machine's subdir, or else the first.
        """
        here = [part for part in self.parts if part.environment == environment]
        if here and not platform:
            return next((part for part in here if part.platform.subdir == this_subdir()), here[0])
        for part in here:
            if platform in (part.platform.subdir, part.label):
                return part
        names = {part.environment for part in self.parts}
        if environment not in names:
            what = f"The lock has no environment {environment!r}."
            raise LessonError(what, str(self.path), nearest(environment, names))
        there = ", ".join(f"{part.environment} on {part.label}" for part in here)
        what = f"The lock has no environment {environment!r} for {platform!r}."
        raise LessonError(what, str(self.path), f"Ask for one that is there: {there}.")


def read(path: str | Path) -> Lock:
    """Read a lock file of any format that py-rattler knows.

    A file that is too large, or has a form that Pixi never writes, is refused before it is parsed: a learner
    may have got it from anywhere, and YAML lets a small file take all memory, or minutes.

    Raises
    ------
    LessonError
        Where there is none, or it is broken.
    """
    path = Path(path)
    if not path.is_file():
        raise LessonError("There is no lock file here.", str(path), "Make it with `pixi lock`.")
    version = _plausible(path)
    try:
        file = LockFile.from_path(path)
        platforms = {p.name: _platform(p) for p in file.platforms()}
        channels, parts = {}, []
        for name, environment in sorted(file.environments()):
            channels[name] = tuple(_address(channel) for channel in environment.channels())
            for platform in sorted(environment.platforms(), key=lambda p: p.name):
                records = environment.conda_repodata_records_for_platform(platform) or []
                packages = tuple(package(record) for record in records)
                others = (p.name for p in environment.pypi_packages_for_platform(platform) or [])
                parts.append(Locked(name, platforms[platform.name], packages, tuple(others)))
    except Exception as error:  # py-rattler's errors share no class
        raise _unreadable(str(error), str(path)) from None
    return Lock(path, version, channels, tuple(platforms.values()), tuple(parts))


def this_subdir() -> str:
    """Return this machine's conda subdir: ``"linux-64"``."""
    return str((rattler.Subdir if hasattr(rattler, "Subdir") else rattler.Platform).current())


def label(platform: manifests.Platform) -> str:
    """Return a platform in words that need no manifest: ``"linux-64 with cuda 12"``."""
    extra = ", ".join(v.lstrip("_").replace("=", " ") for v in platform.declared)
    return f"{platform.subdir} with {extra}" if extra else platform.subdir


def match(spec: str, where: str) -> MatchSpec:
    """Return a spec as py-rattler's; one that is none, in a lock file that was edited, is a `LessonError`."""
    try:
        return MatchSpec(spec)
    except Exception as error:  # py-rattler's errors share no class
        raise _unreadable(f"`{spec}` is no requirement ({error})", where) from None


def _plausible(path: Path) -> int:
    """Refuse a file that is too large or not in the form that Pixi writes; return the version it claims."""
    size = path.stat().st_size
    if size > LARGEST:
        raise _unreadable(
            f"it has {megabytes(size)}, and more than {megabytes(LARGEST)} is not read here", str(path)
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(str(error), str(path)) from None
    lines = text.splitlines()
    if len(lines) > LONGEST:
        raise _unreadable(
            f"it has {len(lines):,} lines, and more than {LONGEST:,} are not read here", str(path)
        )
    for number, line in enumerate(lines, 1):
        if not _is_simple(line):
            reason = f"line {number} has a form that Pixi does not write: {line.strip()[:40]!r}"
            raise _unreadable(reason, str(path))
    version = re.match(r"version: (\d{1,3})\s", text)
    if not version:
        raise _unreadable("it does not begin with `version:`", str(path))
    return int(version[1])


def _is_simple(line: str) -> bool:
    """Tell whether a line may be Pixi's: up to three dashes, a key, and a plain value."""
    node = line.lstrip()
    if len(line) - len(node) > DEEPEST:
        return False
    for _ in range(3):
        node = node[1:].lstrip() if node.startswith("- ") or node == "-" else node
    key = _KEY.match(node)
    value = node[key.end() :].strip() if key else node.strip()
    if value in ("", "[]", "{}"):
        return node[:1] not in _SPECIAL or not key
    return node[0] not in _SPECIAL and value[0] not in _SPECIAL and not value.startswith("- ")


def _unreadable(reason: str, where: str) -> LessonError:
    fix = "Take it from version control again, or delete it and run `pixi lock`."
    return LessonError(f"The lock file can't be read: {reason}.", where, fix)


def package(record: RepoDataRecord) -> Package:
    """Return py-rattler's record of a package as this module's own."""
    return Package(
        record.name.normalized,
        str(record.version),
        str(record.build),
        record.size or 0,
        record.url,
        record.sha256.hex() if record.sha256 else "",
        record.license or "",
        tuple(record.depends),
        tuple(record.constrains),
        record,
    )


def _platform(platform: rattler.LockPlatform) -> manifests.Platform:
    return manifests.Platform(platform.name, str(platform.subdir), tuple(platform.virtual_packages))


def _address(channel: rattler.LockChannel) -> str:
    return str(channel).removeprefix('LockChannel(url="').removesuffix('")').rstrip("/")
