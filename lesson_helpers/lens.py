"""See into a lock file: what is in an environment, how large, under which licences, what differs, and why.

Sizes are those of the downloads. A lock file does not say how much a package takes on disk; that is known
once it is installed, and read from the environment then (`installed`).
"""

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lesson_helpers import lockfiles, manifests
from lesson_helpers.errors import LessonError
from lesson_helpers.lockfiles import Locked, Package
from lesson_helpers.manifest_keys import nearest
from lesson_helpers.tables import Shown, Table, megabytes

NO_DISK = "A lock file has the sizes of the downloads; on disk it is more, and known once it is installed."


@dataclass(frozen=True, repr=False)
class Listing(Shown):
    """Packages of an environment on a platform: ``pixi list``.

    Parameters
    ----------
    part : Locked
        The environment on its platform.
    packages : tuple of Package
        The ones listed, in their order.
    disk : dict
        Package to the bytes it takes on disk, as far as known.
    """

    part: Locked
    packages: tuple[Package, ...]
    disk: dict[str, int]

    def table(self) -> Table:
        """Return one row for each package."""
        head = ("package", "version", "build", "download", *(["on disk"] if self.disk else []))
        rows = []
        for package in self.packages:
            row = (package.name, package.version, package.build, megabytes(package.size))
            disk = self.disk.get(package.name)
            rows.append((*row, *([megabytes(disk) if disk is not None else "?"] if self.disk else [])))
        listed, whole = sum(package.size for package in self.packages), self.part.size
        some = f"{len(self.packages)} of {len(self.part.packages)} packages, {megabytes(listed)} of"
        count = some if len(self.packages) < len(self.part.packages) else f"{len(self.packages)} packages,"
        disk = f"; on disk {megabytes(sum(self.disk.values()))}." if self.disk else f" to download. {NO_DISK}"
        note = f"{count} {megabytes(whole)}{disk}"
        return Table(head, tuple(rows), f"{self.part.environment} on {self.part.label}", note)


def packages(part: Locked, prefix: str | Path | None = None) -> Listing:
    """List an environment's packages by name, as ``pixi list`` does.

    Parameters
    ----------
    part : Locked
        The environment on a platform.
    prefix : str or Path, optional
        Where it is installed, for the sizes on disk.
    """
    found = sorted(part.packages, key=lambda package: package.name)
    return Listing(part, tuple(found), installed(prefix) if prefix else {})


def largest(part: Locked, number: int = 10, prefix: str | Path | None = None) -> Listing:
    """List the packages that are the most to download, which ``pixi list --sort-by size`` puts last.

    Parameters
    ----------
    part : Locked
        The environment on a platform.
    number : int
        How many.
    prefix : str or Path, optional
        Where it is installed, for the sizes on disk.
    """
    found = sorted(part.packages, key=lambda package: (-package.size, package.name))[:number]
    return Listing(part, tuple(found), installed(prefix) if prefix else {})


def installed(prefix: str | Path) -> dict[str, int]:
    """Return package to bytes on disk, from what the installer wrote to ``conda-meta`` of an environment.

    Raises
    ------
    LessonError
        Where no environment is installed there.
    """
    folder = Path(prefix) / "conda-meta"
    sizes: dict[str, int] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            files = record.get("paths_data", {}).get("paths", [])
            sizes[record["name"]] = sum(file.get("size_in_bytes") or 0 for file in files)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # `history`, or a file of another tool
    if not sizes:
        raise LessonError(
            "No environment is installed here.", str(prefix), "Install it with `pixi install` first."
        )
    return sizes


@dataclass(frozen=True, repr=False)
class Licences(Shown):
    """The licences of an environment: ``pixi list --fields name,license``.

    Parameters
    ----------
    part : Locked
        The environment on its platform.
    packages : dict
        Licence, as an SPDX expression, to the names of its packages.
    """

    part: Locked
    packages: dict[str, tuple[str, ...]]

    @property
    def own(self) -> dict[str, tuple[str, ...]]:
        """The licences that are a text of their own, which somebody has to read."""
        return {k: v for k, v in self.packages.items() if "LicenseRef" in k or not k}

    def table(self) -> Table:
        """Return one row for each licence, the most frequent first."""
        rows = [
            (licence or "not said", str(len(names)), _short(names))
            for licence, names in sorted(self.packages.items(), key=lambda item: (-len(item[1]), item[0]))
        ]
        note = (
            "LicenseRef- is a text of its own, no licence that all know: "
            "read it before you hand on an image with these packages."
        )
        title = f"Licences of {self.part.environment} on {self.part.label}"
        return Table(("licence", "packages", "which"), tuple(rows), title, note if self.own else "")


def licences(part: Locked) -> Licences:
    """Group an environment's packages by their licences."""
    found: dict[str, list[str]] = {}
    for package in part.packages:
        found.setdefault(package.licence, []).append(package.name)
    return Licences(part, {licence: tuple(sorted(names)) for licence, names in found.items()})


@dataclass(frozen=True)
class Step:
    """One step from the manifest to a package.

    Parameters
    ----------
    who : str
        The package that needs the next one, or "the manifest".
    spec : str
        What it asks for.
    """

    who: str
    spec: str


@dataclass(frozen=True, repr=False)
class Why(Shown):
    """Who needs a package: ``pixi tree --invert``.

    Parameters
    ----------
    part : Locked
        The environment on its platform.
    package : str
        The package, or a virtual one: ``"__cuda"``.
    steps : tuple of Step
        The shortest way from the manifest.
    needed_by : tuple of str
        All packages that need it themselves.
    """

    part: Locked
    package: str
    steps: tuple[Step, ...]
    needed_by: tuple[str, ...]

    def table(self) -> Table:
        """Return one row for each step."""
        rows = tuple((step.who, step.spec) for step in self.steps)
        direct = (
            f"Packages that ask for it: {_short(self.needed_by)}."
            if self.needed_by
            else "No package asks for it."
        )
        title = f"Why {self.package} is in {self.part.environment} on {self.part.label}"
        return Table(("who", "asks for"), rows, title, direct)


def why(manifest: str | Path, part: Locked, package: str) -> Why:
    """Find the shortest way from the manifest to a package of an environment.

    Parameters
    ----------
    manifest : str or Path
        The ``pixi.toml``.
    part : Locked
        The environment on a platform.
    package : str
        The package, or a virtual one.

    Raises
    ------
    LessonError
        Where the package is not in the environment, or the manifest does not lead to it.
    """
    asked = manifests.read(manifest)
    asked.platform(part.environment)  # says so where there is no such environment
    wanted = asked.wanted[part.environment]
    platform = next((p for p in wanted if p.same(part.platform)), None)
    names = {found.name: found for found in part.packages}
    needs = {name: [_name(spec, part) for spec in found.depends] for name, found in names.items()}
    if package not in names and not any(package in one for one in needs.values()):
        raise LessonError(
            f"There is no package {package!r} in the environment {part.environment!r}.",
            f"{part.environment} on {part.label}",
            nearest(package, names, lockfiles.LOOK),
        )
    way: dict[str, tuple[Step, ...]] = {}
    waiting = deque((_name(spec, part), (Step("the manifest", spec),)) for spec in wanted.get(platform, ()))
    while waiting:
        name, steps = waiting.popleft()
        if name in way:
            continue
        way[name] = steps
        for spec, needed in zip(names[name].depends, needs[name], strict=True) if name in names else ():
            waiting.append((needed, (*steps, Step(f"{name} {names[name].version}", spec))))
    if package not in way:
        raise LessonError(
            f"{package} is locked, and the manifest does not lead to it.",
            f"{asked.path}, environment {part.environment}",
            "The lock file is of another manifest: run `pixi lock`.",
        )
    direct = tuple(sorted(name for name, needed in needs.items() if package in needed))
    return Why(part, package, way[package], direct)


def _name(spec: str, part: Locked) -> str:
    return lockfiles.match(spec, f"{part.environment} on {part.label}").name.normalized


def _short(names: Iterable[str], number: int = 6) -> str:
    names = list(names)
    more = f" and {len(names) - number} more" if len(names) > number else ""
    return ", ".join(names[:number]) + more
