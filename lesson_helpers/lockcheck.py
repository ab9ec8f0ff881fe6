"""``pixi lock --check`` that says why: does a lock file satisfy its manifest, and if not, what to type."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import rattler
from rattler import PackageRecord

from lesson_helpers import lockfiles, manifests
from lesson_helpers.lockfiles import Locked, Package
from lesson_helpers.tables import Shown, Table

LOCK = "`pixi lock`, then commit both files"
UNDO = "`pixi lock`; or, if you did not mean to change it, `git checkout pixi.toml`"
MERGED = "`git checkout pixi.lock`, then `pixi lock`: no line of a lock file is edited or merged by hand"

_Build = getattr(rattler, "BuildString", str)  # py-rattler 0.25 takes a text


@dataclass(frozen=True)
class Problem:
    """One reason why a lock does not satisfy its manifest.

    Parameters
    ----------
    environment, platform, package : str
        Where; empty where it is about more than one.
    says : str
        The reason, as a sentence.
    fix : str
        What to type.
    """

    environment: str
    platform: str
    package: str
    says: str
    fix: str = LOCK

    def __str__(self) -> str:
        where = " on ".join(part for part in (self.environment, self.platform) if part)
        return f"{where}: {self.says}" if where else self.says


@dataclass(frozen=True, repr=False)
class Verdict(Shown):
    """Whether a lock satisfies its manifest.

    Parameters
    ----------
    problems : tuple of Problem
        Why it does not; empty where it does.
    old : tuple of str
        Forms of an older Pixi in the two files: they count as what they mean, and this is what to change.
    """

    problems: tuple[Problem, ...]
    old: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether ``pixi install --locked`` would install."""
        return not self.problems

    def table(self) -> Table:
        """Return one row for each reason."""
        rows = tuple((p.environment, p.platform, p.package, p.says, p.fix) for p in self.problems)
        title = (
            "The lock file does not satisfy the manifest."
            if rows
            else "The lock file satisfies the manifest."
        )
        head = ("environment", "platform", "package", "because", "type")
        return Table(head, rows, title, " ".join(self.old))


def check(manifest: str | Path, lock: str | Path) -> Verdict:
    """Tell whether a lock satisfies a manifest, and why not: what ``pixi install --locked`` would look at.

    Each environment of the manifest has to be there with its channels in their order, for no platform more
    and with the same virtual packages; each spec and each dependency is met by exactly one locked package or
    by a virtual package; and no package is there that nothing needs. (Read in Pixi's source, "lock file
    satisfiability".)

    Lock files before format 7 say nothing of virtual packages: there a platform counts by its subdir alone.

    Parameters
    ----------
    manifest, lock : str or Path
        The ``pixi.toml`` and the ``pixi.lock``.

    Raises
    ------
    LessonError
        Where one of the two can't be read, or asks for what can't be judged without Pixi.
    """
    asked, locked = manifests.read(manifest), lockfiles.read(lock)
    problems = []
    for environment, wanted in asked.wanted.items():
        if environment not in locked.channels:
            problems.append(Problem(environment, "", "", "this environment is not in the lock."))
            continue
        have = locked.channels[environment]
        if have != asked.channels:
            says = f"the lock is for the channels {_list(have)}, the manifest names {_list(asked.channels)}."
            problems.append(Problem(environment, "", "", says, UNDO))
        problems += _platforms(environment, wanted, locked)
    old = asked.old
    if locked.version < 7:
        old = (
            *old,
            f"The lock file has format {locked.version}, of a Pixi before 0.68: `pixi lock` writes it anew.",
        )
    return Verdict(tuple(problems), old)


def _platforms(
    environment: str, wanted: dict[manifests.Platform, tuple[str, ...]], locked: lockfiles.Lock
) -> Iterator[Problem]:
    parts = [part for part in locked.parts if part.environment == environment]
    for part in parts:
        if not any(part.platform.same(platform) for platform in wanted):
            says = "the lock has this platform, the manifest does not ask for it."
            yield Problem(environment, part.label, "", says)
    for platform, specs in wanted.items():
        there = [part for part in parts if part.platform.same(platform)]
        if there:
            yield from _unmet(there[0], platform, specs, str(locked.path))
        elif not any(known.same(platform) for known in locked.platforms):
            extra = f" with {_list(platform.declared)}" if platform.declared else ""
            says = f"the lock has no platform {platform.subdir}{extra}."
            yield Problem(environment, platform.name, "", says)
        elif specs:
            says = "the lock has no packages of this environment for this platform."
            yield Problem(environment, platform.name, "", says)


def _unmet(part: Locked, platform: manifests.Platform, specs: Iterable[str], path: str) -> Iterator[Problem]:
    """Walk from the manifest's specs along the dependencies, and yield what is not as it has to be."""
    virtual = {v.split("=")[0]: _record(v) for v in platform.virtual_packages}
    locked: dict[str, Package] = {}
    for package in part.packages:
        if package.name in locked:
            says = f"{package.name} is locked twice."
            yield Problem(part.environment, platform.name, package.name, says, MERGED)
        locked[package.name] = package
    reached = set()
    waiting = [(spec, "") for spec in specs]
    while waiting:
        spec, needed_by = waiting.pop()
        wanted = lockfiles.match(spec, path)
        name = wanted.name.normalized
        record = locked[name].record if name in locked else virtual.get(name)
        says = ""
        if record is None:
            says = f"no {name} is {'declared' if name[:2] == '__' else 'locked'}"
        elif not wanted.matches(record):
            says = f"{name} {record.version} {record.build} is {'locked' if name in locked else 'declared'}"
        if says:
            who = f"{needed_by} needs" if needed_by else "the manifest asks for"
            says = f"{who} `{spec}`, and {says}."
            yield Problem(part.environment, platform.name, name, says, MERGED if needed_by else UNDO)
        if name in locked and name not in reached:
            reached.add(name)
            waiting += [(needs, f"{name} {locked[name].version}") for needs in locked[name].depends]
    for name in [*(n for n in locked if n not in reached), *part.others]:
        yield Problem(part.environment, platform.name, name, f"{name} is locked, and nothing asks for it.")


def _record(text: str) -> PackageRecord:
    name, version, build = (*text.split("="), "0")[:3]
    return PackageRecord(name, version, _Build(build), 0, "noarch")


def _list(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"
