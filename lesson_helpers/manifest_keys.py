"""The words that a ``pixi.toml`` may hold, so that a wrong one is pointed out with the right one next to it.

Pixi's own JSON schema (0.77) is the source. It does not look into a platform's table; this does.
"""

import difflib
from collections.abc import Iterable, Iterator

# The manifest's words for virtual packages (Pixi's manual, "Declaring virtual packages per platform").
PLATFORM_WORDS = {"cuda": "__cuda", "glibc": "__glibc", "linux": "__linux", "macos": "__osx", "osx": "__osx"}
PLATFORM_WORDS |= {"windows": "__win", "archspec": "__archspec"}
# Every conda subdir (conda's "known subdirs").
_SUBDIRS = (
    "linux-32 linux-64 linux-aarch64 linux-armv6l linux-armv7l linux-loongarch64 linux-ppc64 linux-ppc64le "
    "linux-riscv32 linux-riscv64 linux-s390x osx-64 osx-arm64 win-32 win-64 win-arm64 emscripten-wasm32 "
    "wasi-wasm32 freebsd-64 zos-z"
)
SUBDIRS = frozenset(_SUBDIRS.split())
FAMILIES = frozenset({"linux", "osx", "macos", "win", "unix"})

_DEPENDS = "dependencies build-dependencies host-dependencies constraints dev pypi-dependencies"
_WORDS = {
    "": f"workspace project package environments feature target tasks activation tool $schema {_DEPENDS} "
    "exclude-newer pypi-exclude-newer pypi-options system-requirements",
    "workspace": "authors build-variants build-variants-files channel-priority channels conda-pypi-map "
    "dependencies description documentation exclude-newer homepage license license-file name platforms "
    "preview pypi-options readme repository requires-pixi s3-options solve-strategy target version",
    "feature": f"activation channel-priority channels {_DEPENDS} platforms pypi-options solve-strategy "
    "system-requirements target tasks",
    "environment": "activation channel-priority channels constraints dependencies dev features "
    "no-default-feature platforms pypi-dependencies pypi-options solve-group solve-strategy target tasks",
    "target": f"activation {_DEPENDS} tasks",
    "activation": "env scripts",
    "task": "args clean-env cmd cwd default-environment depends-on depends_on description env inputs outputs",
    "system-requirements": "archspec cuda libc linux macos unix",
    "channel": "channel exclude-newer priority",
    "spec": "branch build build-number channel extras file-name flags git lfs license license-family md5 "
    "package path rev sha256 subdir subdirectory tag track-features url version when workspace",
}
WORDS = {table: frozenset(words.split()) for table, words in _WORDS.items()}


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return a sentence with the known name that is nearest, or with all of them.

    >>> nearest("platformz", ["channels", "platforms"])
    'Did you mean platforms?'
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"Did you mean {near[0]}?"
    return otherwise or f"Known here: {', '.join(known) or 'none'}."


def unknown(data: dict) -> Iterator[tuple[str, str, str, str]]:
    """Yield each word of a manifest that Pixi does not know.

    Parameters
    ----------
    data : dict
        The manifest.

    Yields
    ------
    tuple of str
        What it is ("key", "target"), the word, the table it stands in, and a sentence with the nearest one.
    """
    entries = _table(data, "workspace").get("platforms", [])
    named = {e.get("name") for e in entries if isinstance(e, dict)} if isinstance(entries, list) else set()
    targets = {*FAMILIES, *SUBDIRS, *(name for name in named if isinstance(name, str))}
    for kind, where, table in _tables(data):
        known = targets if kind == "targets" else WORDS[kind]
        for word in table:
            if word in known or (kind == "targets" and "*" in word):
                continue
            yield "target" if kind == "targets" else "key", word, where, nearest(word, known)


def _tables(data: dict) -> Iterator[tuple[str, str, dict]]:
    """Yield each table with its kind and its name; what is no table where one belongs is left to others."""
    yield "", "", data
    for name in ("workspace", "project"):
        workspace = _table(data, name)
        yield "workspace", f"[{name}]", workspace
        for channel in workspace.get("channels", []) if isinstance(workspace.get("channels"), list) else []:
            if isinstance(channel, dict):
                yield "channel", f"[{name}] channels", channel
    yield from _inside(data, "")
    for name, feature in _each(data, "feature"):
        yield "feature", f"[feature.{name}]", feature
        yield from _inside(feature, f"feature.{name}.")
    for name, environment in _each(data, "environments"):
        yield "environment", f"[environments] {name}", environment


def _inside(table: dict, at: str) -> Iterator[tuple[str, str, dict]]:
    """Yield what a feature, a target and the manifest itself have in common."""
    yield "activation", f"[{at}activation]", _table(table, "activation")
    yield "system-requirements", f"[{at}system-requirements]", _table(table, "system-requirements")
    for name, task in _each(table, "tasks"):
        yield "task", f"[{at}tasks] {name}", task
    for kind in ("dependencies", "build-dependencies", "host-dependencies", "constraints"):
        for name, spec in _each(table, kind):
            yield "spec", f"[{at}{kind}] {name}", spec
    yield "targets", f"[{at}target]", _table(table, "target")
    for name, target in _each(table, "target"):
        yield "target", f"[{at}target.{name}]", target
        yield from _inside({k: v for k, v in target.items() if k != "target"}, f"{at}target.{name}.")


def _table(table: dict, name: str) -> dict:
    value = table.get(name)
    return value if isinstance(value, dict) else {}


def _each(table: dict, name: str) -> list[tuple[str, dict]]:
    return [(key, value) for key, value in _table(table, name).items() if isinstance(value, dict)]
