"""What a ``pixi.toml`` asks for: its platforms, and what each environment wants on each of them."""

import difflib
import fnmatch
import tomllib
from dataclasses import dataclass
from pathlib import Path

from rattler import MatchSpec

from lesson_helpers.errors import LessonError

# What Pixi takes a platform to have where the manifest says no more (Pixi's manual, "System requirements";
# written out like this in each lock file of format 7).
DEFAULTS = {
    "linux-64": ("__unix=0=0", "__linux=4.18", "__glibc=2.28", "__archspec=0=x86_64"),
    "linux-aarch64": ("__unix=0=0", "__linux=4.18", "__glibc=2.28", "__archspec=0=aarch64"),
    "osx-64": ("__unix=0=0", "__osx=13.0", "__archspec=0=x86_64"),
    "osx-arm64": ("__unix=0=0", "__osx=13.0", "__archspec=0=m1"),
    "win-64": ("__win=10.0", "__archspec=0=x86_64"),
}
# The manifest's words for virtual packages (Pixi's manual, "Declaring virtual packages per platform").
WORDS = {"cuda": "__cuda", "glibc": "__glibc", "linux": "__linux", "macos": "__osx", "osx": "__osx"}
WORDS |= {"windows": "__win", "archspec": "__archspec"}


@dataclass(frozen=True)
class Platform:
    """A kind of machine: a conda subdir and the virtual packages that it is taken to have.

    Parameters
    ----------
    name : str
        The name in the manifest: ``"linux-64"``, ``"linux-64-cuda"``.
    subdir : str
        The conda subdir: ``"linux-64"``.
    virtual_packages : tuple of str
        ``NAME=VERSION`` or ``NAME=VERSION=BUILD``, the declared ones first, as Pixi writes them.
    """

    name: str
    subdir: str
    virtual_packages: tuple[str, ...]

    @property
    def declared(self) -> tuple[str, ...]:
        """The virtual packages that differ from the subdir's defaults, sorted: ``("__cuda=12",)``."""
        return tuple(sorted(v for v in self.virtual_packages if v not in DEFAULTS.get(self.subdir, ())))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Manifest:
    """What a ``pixi.toml`` asks for.

    Parameters
    ----------
    path : Path
        The file.
    channels : tuple of str
        The channels' addresses, the first one first.
    platforms : tuple of Platform
        All platforms of the workspace.
    wanted : dict
        Environment to platform to the specs it wants there, ``"python 3.13.*"``.
    """

    path: Path
    channels: tuple[str, ...]
    platforms: tuple[Platform, ...]
    wanted: dict[str, dict[Platform, tuple[str, ...]]]


def read(path: str | Path) -> Manifest:
    """Read a ``pixi.toml``.

    Raises
    ------
    LessonError
        Where there is none, it is not TOML, a name in it leads nowhere, or it holds what this package
        can't judge (PyPI packages, Git and path dependencies, forms older than Pixi 0.72).
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LessonError(
            "There is no manifest here.", str(path), "Make one with `pixi init`, or run the cells above."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LessonError(
            f"The manifest can't be read: {error}.", str(path), "Mend that line of it and try again."
        ) from None
    return _Reader(path, data).manifest()


class _Reader:
    """One manifest being read, so that each message can say where in it something is wrong."""

    def __init__(self, path: Path, data: dict) -> None:
        self.path, self.data = path, data

    def manifest(self) -> Manifest:
        if "workspace" not in self.data:
            old = "Rename its [project] to [workspace]." if "project" in self.data else "Add one."
            raise self.wrong("The manifest has no [workspace] table.", "", f"{old} `pixi init` writes it.")
        workspace = self.get(self.data, "workspace", dict, "")
        channels = tuple(map(self.channel, self.get(workspace, "channels", list, "[workspace]")))
        entries = self.get(workspace, "platforms", list, "[workspace]")
        platforms = tuple(self.platform(entry) for entry in entries)
        wanted = {}
        for name, features in self.environments().items():
            on = [p for p in platforms if all(self.runs_on(f, p, platforms) for f in features)]
            wanted[name] = {p: tuple(s for f in features for s in self.specs(f, p)) for p in on}
        return Manifest(self.path, channels, platforms, wanted)

    def wrong(self, what: str, table: str, fix: str) -> LessonError:
        return LessonError(what, f"{self.path} {table}".strip(), fix)

    def get(self, table: dict, key: str, kind: type, where: str, default=None):
        """Return ``table[key]`` where it is of the right kind."""
        value = table.get(key, default)
        if value is None:
            raise self.wrong(f"`{key}` is missing.", where, f"Add `{key} = …` there.")
        if not isinstance(value, kind):
            words = {list: 'a list, ["…"]', dict: "a table", str: 'a text, "…"'}
            raise self.wrong(f"`{key}` is not {words[kind]}.", where, f"Write it as {words[kind]}.")
        return value

    def channel(self, entry) -> str:
        name = entry.get("channel") if isinstance(entry, dict) else entry
        if not isinstance(name, str):
            raise self.wrong("A channel is not a text.", "[workspace] channels", 'Write "conda-forge".')
        return (name if "://" in name else f"https://conda.anaconda.org/{name}").rstrip("/")

    def platform(self, entry) -> Platform:
        table = {"platform": entry} if isinstance(entry, str) else entry
        where = "[workspace] platforms"
        if not isinstance(table, dict):
            raise self.wrong(f"{entry!r} is not a platform.", where, 'Write "linux-64", or a table { … }.')
        subdir = self.get(table, "platform", str, where, default=table.get("name"))
        if subdir not in DEFAULTS:
            raise self.unknown("platform", subdir, DEFAULTS, where)
        declared = {}
        for key, value in table.items():
            if key in ("name", "platform"):
                continue
            if key not in WORDS and not key.startswith("__"):
                raise self.unknown("key of a platform", key, ["name", "platform", *WORDS], where)
            if key == "cuda" and isinstance(value, dict):  # driver and compute capability
                declared |= {"__cuda": value.get("driver")} | (
                    {"__cuda_arch": value["arch"]} if "arch" in value else {}
                )
            else:
                declared[WORDS.get(key, key)] = value
        for key, value in declared.items():
            if not isinstance(value, str):
                raise self.wrong(
                    f"{key} = {value!r} is not a text.", where, f'Write it in quotes: "{value}".'
                )
        virtual = [f"{k}=0={v}" if k == "__archspec" else f"{k}={v}" for k, v in declared.items()]
        rest = [v for v in DEFAULTS[subdir] if v.split("=")[0] not in declared]
        name = "-".join([subdir, *(v.lstrip("_").replace("=", "-").replace(".", "-") for v in virtual)])
        return Platform(table.get("name", name), subdir, (*virtual, *rest))

    def environments(self) -> dict[str, list[str]]:
        """Return each environment's features; the one that the manifest need not name is ``default``."""
        features = self.get(self.data, "feature", dict, "", default={})
        found = {}
        for name, entry in {"default": [], **self.get(self.data, "environments", dict, "", {})}.items():
            table = entry if isinstance(entry, dict) else {"features": entry}
            names = self.get(table, "features", list, f"[environments] {name}", default=[])
            for feature in names:
                if feature not in features:
                    raise self.unknown("feature", feature, features, f"[environments] {name}")
            found[name] = [*names, *(() if table.get("no-default-feature") else ("",))]
        return found

    def feature(self, name: str) -> tuple[dict, str]:
        """Return a feature's table and its place; the manifest itself is the default feature, ``""``."""
        if not name:
            return self.data, ""
        return self.get(self.data["feature"], name, dict, "[feature]"), f"feature.{name}."

    def runs_on(self, name: str, platform: Platform, all_of_them: tuple[Platform, ...]) -> bool:
        table, at = self.feature(name)
        if not name or "platforms" not in table:
            return True
        names = self.get(table, "platforms", list, f"[{at[:-1]}]")
        known = {p.name for p in all_of_them} | {p.subdir for p in all_of_them}
        for wanted in names:
            if wanted not in known:
                raise self.unknown("platform of the workspace", str(wanted), known, f"[{at[:-1]}] platforms")
        by_name = platform.name in names
        return by_name or (platform.subdir in names and platform.subdir not in {p.name for p in all_of_them})

    def specs(self, name: str, platform: Platform) -> list[str]:
        """Return what a feature wants on a platform; a target's spec replaces the general one."""
        table, at = self.feature(name)
        family = {"osx": "osx", "linux": "linux", "win": "win"}[platform.subdir.split("-")[0]]
        names = {platform.name, platform.subdir, family, "win" if family == "win" else "unix"}
        wanted = self.dependencies(table, at)
        for selector, target in self.get(table, "target", dict, at, default={}).items():
            if selector in names or ("*" in selector and fnmatch.fnmatchcase(platform.name, selector)):
                wanted |= self.dependencies(target, f"{at}target.{selector}.")
        return [f"{package} {spec}" for package, spec in wanted.items()]

    def dependencies(self, table: dict, at: str) -> dict[str, str]:
        if "system-requirements" in table:
            raise self.wrong(
                "System requirements in a table of their own are the form before Pixi 0.71.",
                f"[{at}system-requirements]",
                'Say it of a platform: { name = "linux-64-cuda", platform = "linux-64", cuda = "12" }.',
            )
        if table.get("pypi-dependencies"):
            raise self.wrong(
                "Packages from PyPI can't be judged here: only Pixi itself can.",
                f"[{at}pypi-dependencies]",
                "Take the conda-forge package of that name, or run `pixi lock --check`.",
            )
        specs = {}
        where = f"[{at}dependencies]"
        for package, spec in self.get(table, "dependencies", dict, where, default={}).items():
            parts = spec if isinstance(spec, dict) else {"version": spec}
            if not set(parts) <= {"version", "build"} or not all(isinstance(v, str) for v in parts.values()):
                raise self.wrong(
                    f"`{package} = {spec}` can't be judged here: not a version, nor version and build.",
                    where,
                    f'Write a version, {package} = ">=1,<2" or "*", or run `pixi lock --check`.',
                )
            specs[package] = f"{parts.get('version', '*')} {parts.get('build', '')}".strip()
            try:
                MatchSpec(f"{package} {specs[package]}")
            except Exception as error:  # py-rattler's errors share no class
                fix = f'Write a version, {package} = "1.2.*" or ">=1,<2".'
                raise self.wrong(f"`{package} = {spec!r}` is no version: {error}.", where, fix) from None
        return specs

    def unknown(self, kind: str, name: str, known, where: str) -> LessonError:
        near = difflib.get_close_matches(name, list(known), n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(sorted(known)) or 'none'}."
        return self.wrong(f"There is no {kind} {name!r}.", where, hint)
