"""What a ``pixi.toml`` asks for: its platforms, and what each environment wants on each of them."""

import fnmatch
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from rattler import MatchSpec, Version

from lesson_helpers.errors import LessonError
from lesson_helpers.manifest_keys import PLATFORM_WORDS, SUBDIRS, nearest, unknown
from lesson_helpers.platforms import DEFAULTS, Platform, declare

LARGEST = 1_000_000  # bytes; a manifest is written by hand

# Before Pixi 0.71 they had a table of their own, with these words.
OLD_WORDS = {"linux": "__linux", "cuda": "__cuda", "macos": "__osx", "libc": "__glibc"}


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
    old : tuple of str
        Forms of an older Pixi, each with what to write instead; they count as what they mean.
    """

    path: Path
    channels: tuple[str, ...]
    platforms: tuple[Platform, ...]
    wanted: dict[str, dict[Platform, tuple[str, ...]]]
    old: tuple[str, ...] = ()

    def platform(self, environment: str, name: str = "") -> Platform:
        """Return one platform of an environment, by its name or its subdir; without a name, the first one.

        Raises
        ------
        LessonError
            Where there is no such environment, or it is not for that platform.
        """
        if environment not in self.wanted:
            fix = nearest(environment, self.wanted)
            raise LessonError(f"There is no environment {environment!r}.", str(self.path), fix)
        platforms = list(self.wanted[environment])
        for platform in platforms:
            if name in (platform.name, platform.subdir, ""):
                return platform
        what = f"The environment {environment!r} is not for the platform {name!r}."
        raise LessonError(what, str(self.path), nearest(name, [platform.name for platform in platforms]))


def read(path: str | Path) -> Manifest:
    """Read a ``pixi.toml``.

    Raises
    ------
    LessonError
        Where there is none, it is not TOML, a name in it leads nowhere, or it holds what this package
        can't judge (PyPI packages, Git and path dependencies, constraints).
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            raise LessonError("The file is too large for a manifest.", str(path), "Name the `pixi.toml`.")
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LessonError(
            "There is no manifest here.", str(path), "Make one with `pixi init`, or run the cells above."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise LessonError(
            f"The manifest can't be read: {error}.", str(path), "Mend that line of it and try again."
        ) from None
    return _Reader(path, data).manifest()


class _Reader:
    """One manifest being read, so that each message can say where in it something is wrong."""

    def __init__(self, path: Path, data: dict) -> None:
        self.path, self.data = path, data
        self.old: list[str] = []

    def manifest(self) -> Manifest:
        if "project" in self.data and "workspace" not in self.data:
            self.old.append("[project] is the older name of [workspace]: rename it.")
            self.data["workspace"] = self.data.pop("project")
        for kind, word, where, hint in unknown(self.data):
            raise self.wrong(f"There is no {kind} {word!r}.", where, hint)
        if "workspace" not in self.data:
            raise self.wrong("The manifest has no [workspace] table.", "", "Add one; `pixi init` writes it.")
        workspace = self.get(self.data, "workspace", dict, "")
        channels = tuple(map(self.channel, self.get(workspace, "channels", list, "[workspace]")))
        entries = self.get(workspace, "platforms", list, "[workspace]")
        platforms = tuple(self.platform(entry) for entry in entries)
        wanted = {}
        for name, features in self.environments().items():
            on = [p for p in platforms if all(self.runs_on(f, p, platforms) for f in features)]
            specs = {p: tuple(s for f in features for s in self.specs(f, p)) for p in on}
            wanted[name] = {self.required(p, features, platforms): specs[p] for p in on}
        made = dict.fromkeys(p for on in wanted.values() for p in on)
        if not made.keys() <= set(platforms):  # the platforms that old tables make, as Pixi does
            platforms = tuple(made)
        return Manifest(self.path, channels, platforms, wanted, tuple(dict.fromkeys(self.old)))

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
        if subdir not in SUBDIRS:
            raise self.unknown("platform", subdir, DEFAULTS, where)
        if subdir not in DEFAULTS:
            raise self.wrong(
                f"The platform {subdir} can't be judged here.", where, "Run `pixi lock --check`."
            )
        declared = {}
        for key, value in table.items():
            if key in ("name", "platform"):
                continue
            if key not in PLATFORM_WORDS and not key.startswith("__"):
                raise self.unknown("key of a platform", key, ["name", "platform", *PLATFORM_WORDS], where)
            if key == "cuda" and isinstance(value, dict):  # driver and compute capability
                for word in value:
                    if word not in ("driver", "arch"):
                        raise self.unknown("key of a platform's cuda", word, ["driver", "arch"], where)
                declared["__cuda"] = value.get("driver")
                declared |= {"__cuda_arch": value["arch"]} if "arch" in value else {}
            else:
                declared[PLATFORM_WORDS.get(key, key)] = value
        for key, value in declared.items():
            if not isinstance(value, str):
                raise self.wrong(
                    f"{key} = {value!r} is not a text.", where, f'Write it in quotes: "{value}".'
                )
            if key != "__archspec":
                self.version(key, value, where)
        return declare(table.get("name"), subdir, declared)

    def version(self, key: str, value: str, where: str) -> str:
        if not re.fullmatch(r"\d+(\.\d+)*", value):
            raise self.wrong(f"{key} = {value!r} is no version.", where, 'Write it like "12" or "12.4".')
        return value

    def required(self, platform: Platform, features: list[str], platforms: tuple[Platform, ...]) -> Platform:
        """Return a platform with what the features' old tables of system requirements say of it.

        Pixi takes each word of theirs for a virtual package, and the newer of two versions
        (its source, "migrate system requirements to platforms").
        """
        declared: dict[str, str] = {}
        for table, at in map(self.feature, features):
            asked = self.get(table, "system-requirements", dict, f"[{at}system-requirements]", default={})
            if asked and any(p.name != p.subdir for p in platforms):
                what = "The platforms declare virtual packages, and a table asks for more: Pixi refuses that."
                fix = "Take the table out, and say it of a platform."
                raise self.wrong(what, f"[{at}system-requirements]", fix)
            for word, value in asked.items():
                if word not in OLD_WORDS:  # archspec and unix count no more
                    continue
                name, version = OLD_WORDS[word], value
                if word == "libc" and isinstance(value, dict):
                    name, version = f"__{value.get('family', 'glibc')}", value.get("version", "")
                only = {"__linux": "linux", "__glibc": "linux", "__osx": "osx"}.get(name, "")
                if not platform.subdir.startswith(only):
                    continue
                new = f'{name.strip("_").replace("osx", "macos")} = "{version}"'
                self.old.append(
                    f"`{word}` in [{at}system-requirements] is the form before Pixi 0.71: take it out, write "
                    f'{{ name = "…", platform = "{platform.subdir}", {new} }} in [workspace] platforms, '
                    f"and name that in the platforms of {f'[{at[:-1]}]' if at else 'each feature'}."
                )
                version = self.version(word, str(version), f"[{at}system-requirements]")
                if name not in declared or Version(declared[name]) < Version(version):
                    declared[name] = version
        return declare(None, platform.subdir, declared) if declared else platform

    def environments(self) -> dict[str, list[str]]:
        """Return each environment's features; the one that the manifest need not name is ``default``."""
        features = self.get(self.data, "feature", dict, "", default={})
        found = {}
        for name, entry in {"default": [], **self.get(self.data, "environments", dict, "", {})}.items():
            table = entry if isinstance(entry, dict) else {"features": entry}
            names = self.get(table, "features", list, f"[environments] {name}", default=[])
            for key in table.keys() - {"features", "no-default-feature", "solve-group"}:
                raise self.unjudged(key, f"[environments] {name}")
            for feature in names:
                if not isinstance(feature, str) or feature not in features:
                    raise self.unknown("feature", str(feature), features, f"[environments] {name}")
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
            if not isinstance(wanted, str) or wanted not in known:
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
        for kind in (
            "constraints",
            "build-dependencies",
            "host-dependencies",
            "dev",
            *(["channels"] if at else []),
        ):
            if table.get(kind):
                raise self.unjudged(kind, f"[{at}{kind}]")
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

    def unjudged(self, key: str, where: str) -> LessonError:
        return self.wrong(
            f"`{key}` can't be judged here: only Pixi itself can.", where, "Run `pixi lock --check`."
        )

    def unknown(self, kind: str, name: str, known, where: str) -> LessonError:
        return self.wrong(f"There is no {kind} {name!r}.", where, nearest(str(name), known))
