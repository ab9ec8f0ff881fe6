"""What differs between two environments, or between two lock files: what `git diff` shows, for people."""

from collections.abc import Iterator
from dataclasses import dataclass

from lesson_helpers.lockfiles import Lock, Locked, Package
from lesson_helpers.tables import Shown, Table, megabytes


@dataclass(frozen=True)
class Change:
    """One package that differs.

    Parameters
    ----------
    where : str
        The environment and its platform; empty where two environments are compared.
    name : str
        The package.
    before, after : Package or None
        As it is in the first and in the second; None where it is not there.
    """

    where: str
    name: str
    before: Package | None
    after: Package | None

    @property
    def kind(self) -> str:
        """How it differs: "added", "removed", "version" or "build"."""
        if not self.before or not self.after:
            return "added" if self.after else "removed"
        return "build" if self.before.version == self.after.version else "version"

    @property
    def grows(self) -> int:
        """By how many bytes the download grows."""
        return (self.after.size if self.after else 0) - (self.before.size if self.before else 0)


@dataclass(frozen=True, repr=False)
class Difference(Shown):
    """What differs.

    Parameters
    ----------
    first, second : str
        The names of the two.
    changes : tuple of Change
        By place and name; the table has those first that weigh the most.
    sizes : tuple of int
        Bytes to download, of the first and of the second.
    """

    first: str
    second: str
    changes: tuple[Change, ...]
    sizes: tuple[int, int]

    def of(self, kind: str) -> tuple[Change, ...]:
        """Return the changes of one kind: "added", "removed", "version", "build"."""
        return tuple(change for change in self.changes if change.kind == kind)

    def table(self, most: int = 20) -> Table:
        """Return one row for each package that differs, those `most` that change the download the most."""
        places = any(change.where for change in self.changes)
        head = (*(["where"] if places else []), "package", self.first, self.second, "download")
        rows = []
        shown = sorted(self.changes, key=lambda change: -abs(change.grows))
        for change in shown[:most]:
            cells = [_shown(change.before, change), _shown(change.after, change)]
            size = f"{'+' if change.grows >= 0 else '-'}{megabytes(abs(change.grows))}"
            rows.append((*([change.where] if places else []), change.name, *cells, size))
        counts = [
            f"{len(self.of(kind))} {word}"
            for kind, word in {
                "version": "in another version",
                "build": "in another build",
                "added": f"only in {self.second}",
                "removed": f"only in {self.first}",
            }.items()
            if self.of(kind)
        ]
        more = f" The {most} that matter most for the download are shown." if len(self.changes) > most else ""
        sizes = f"{megabytes(self.sizes[0])} and {megabytes(self.sizes[1])} to download."
        note = f"{', '.join(counts) or 'No package differs'}; {sizes}{more}"
        return Table(head, tuple(rows), f"{self.first} and {self.second}", note)


def between(first: Locked | Lock, second: Locked | Lock) -> Difference:
    """Compare two environments, or two lock files environment by environment.

    Parameters
    ----------
    first, second : Locked or Lock
        Two of the same kind.
    """
    if isinstance(first, Locked):
        names = _names(first, second)
        changes = tuple(_changes("", _of(first), _of(second)))
        return Difference(*names, changes, (first.size, second.size))
    changes, sizes = [], (sum(p.size for p in first.parts), sum(p.size for p in second.parts))
    parts = [{(p.environment, p.label): p for p in lock.parts} for lock in (first, second)]
    for key in sorted(parts[0].keys() | parts[1].keys()):
        before, after = (_of(found[key]) if key in found else {} for found in parts)
        changes += _changes(" on ".join(key), before, after)
    names = (first.path.name, second.path.name)
    if names[0] == names[1]:
        names = (str(first.path), str(second.path))
    return Difference(*names, tuple(changes), sizes)


def _names(first: Locked, second: Locked) -> tuple[str, str]:
    if first.environment != second.environment:
        return first.environment, second.environment
    if first.label != second.label:
        return first.label, second.label
    return "before", "after"


def _of(part: Locked) -> dict[str, Package]:
    return {package.name: package for package in part.packages}


def _changes(where: str, before: dict[str, Package], after: dict[str, Package]) -> Iterator[Change]:
    for name in sorted(before.keys() | after.keys()):
        change = Change(where, name, before.get(name), after.get(name))
        if not (change.before and change.after and change.before.url == change.after.url):
            yield change


def _shown(package: Package | None, change: Change) -> str:
    if package is None:
        return ""
    return f"{package.version} {package.build}" if change.kind == "build" else package.version
