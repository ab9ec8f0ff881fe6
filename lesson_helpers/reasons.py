"""Why the solver found nothing, in two sentences and what to change."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rattler import MatchSpec, Version

from lesson_helpers.errors import LessonError
from lesson_helpers.manifest_keys import nearest
from lesson_helpers.platforms import Platform

# What the manifest's platforms call the virtual packages, and what each is.
VIRTUAL = {
    "__cuda": ("cuda", "an NVIDIA driver"),
    "__glibc": ("glibc", "the C library"),
    "__linux": ("linux", "the kernel"),
    "__osx": ("macos", "macOS"),
    "__win": ("windows", "Windows"),
}
# The solver's tree has lines of these forms, each set further right than the one it belongs to.
_ASKED = re.compile(r"(.+?) cannot be installed because")
_NEEDS = re.compile(r"(\S+) (.+?) would (?:require|constrain)")
_NONE = re.compile(r"(?:No candidates were found for (.+?)|(.+?), for which no candidates were found)\.?$")
_CONFLICT = re.compile(r"(.+?), which conflicts with any installable versions")


@dataclass(frozen=True)
class Reason:
    """Why nothing fits.

    Parameters
    ----------
    asked : str
        The requirement that can't be met: ``"pytorch-gpu >=2.8,<3"``.
    chain : tuple of str
        The packages from there on: ``("pytorch-gpu 2.9.1", "pytorch 2.9.1")``.
    missing : str
        The requirement at the end of the chain that nothing meets, or that clashes: ``"__cuda *"``.
    clash : bool
        Whether it clashes with something else that is asked for.
    says, fix : str
        Two sentences, and what to change.
    """

    asked: str
    chain: tuple[str, ...]
    missing: str
    clash: bool
    says: str
    fix: str

    def error(self, where: str) -> LessonError:
        """Return it as an error."""
        return LessonError(self.says, where, self.fix)


def read(
    text: str, specs: Iterable[str], platform: Platform, known: dict[str, dict[str, set[str]]]
) -> Reason:
    """Read what the solver says.

    Parameters
    ----------
    text : str
        The solver's message: a tree, one requirement a line.
    specs : iterable of str
        What was asked for.
    platform : Platform
        For which machine.
    known : dict
        Package to subdir to the versions that the solver could choose from.
    """
    specs = list(specs)
    branches = list(_branches(text)) or [(specs[0], (), specs[0], False)]
    own = {MatchSpec(spec).name.normalized: spec for spec in specs}
    declared = {v.split("=")[0] for v in platform.virtual_packages}

    def worth(branch: tuple[str, tuple[str, ...], str, bool]) -> int:
        """Prefer what the learner wrote over what the machine has, and that over what it has not."""
        name = MatchSpec(branch[2]).name.normalized
        return [name in own and bool(branch[1]), name in declared, name not in VIRTUAL, True].index(True)

    asked, chain, missing, clash = min(branches, key=worth)
    says, fix = _in_words(asked.removesuffix(" *"), chain, missing, clash, platform, known, own)
    return Reason(asked, chain, missing, clash, says, fix)


def _branches(text: str) -> Iterator[tuple[str, tuple[str, ...], str, bool]]:
    """Yield each way down the solver's tree: what was asked for, the packages, what is missing, a clash."""
    asked, chain = "", {}
    for line in text.removeprefix("Cannot solve the request because of: ").splitlines():
        branch, _, words = line.rpartition("─ ")
        depth = len(branch)
        if found := _NEEDS.match(words):
            chain = {d: name for d, name in chain.items() if d < depth}
            chain[depth] = f"{found[1]} {found[2].replace(' | ', ' or ')}"
            continue
        above = tuple(name for d, name in chain.items() if d < depth)
        if (found := _ASKED.match(words)) and not above:
            asked, chain = found[1], {}
        elif found := _NONE.match(words):
            missing = found[1] or found[2]
            yield asked or missing, above, missing, False
        elif found := _CONFLICT.match(words):
            yield asked or found[1], above, found[1], True


def _in_words(
    asked: str,
    chain: tuple[str, ...],
    missing: str,
    clash: bool,
    platform: Platform,
    known: dict[str, dict[str, set[str]]],
    own: dict[str, str],
) -> tuple[str, str]:
    name = MatchSpec(missing).name.normalized
    bare = missing.removesuffix(" *")
    first = f"`{asked}` can't be had on {platform}."
    path = ", which needs ".join([*chain, f"`{bare}`"]).replace(", which needs ", " needs ", 1)
    if name in VIRTUAL:
        return _machine(first, path, name, bare, platform)
    if clash:
        says = (
            f"{first} {chain[-1] if chain else 'It'} rules out what you ask for too, `{own.get(name, name)}`."
        )
        return says, "Ask for one of the two, or give each a feature and an environment of its own."
    if chain and name in own:
        says = f"{first} {path}, and you ask for `{own[name]}`."
        return says, f"Ask for `{bare}`, or for another {asked.split()[0]}."
    there = known.get(name, {})
    here = there.get(platform.subdir, set()) | there.get("noarch", set())
    needs = f"{path}, and " if chain else ""
    if not there:
        says = f"{first} {needs or 'Among the packages known here '}there is no package {name}."
        look = "Look for its name on conda-forge (https://prefix.dev/channels/conda-forge)."
        return says, nearest(name, known, look)
    if not here:
        says = f"{first} {needs or 'The package '}{name} is known for {_and(there)} only."
        return says, "Name that platform in the feature's `platforms`, or ask for the build of this one."
    says = f"{first} {needs}{name} is known in {_and(here)} only."
    newest = str(max(map(Version, here)))
    if chain:
        return says, f"Ask for another {asked.split()[0]}; pixi itself knows all of conda-forge."
    return says, f"Ask for one that is there, `{name}={newest}`; pixi itself knows all of conda-forge."


def _machine(first: str, path: str, name: str, bare: str, platform: Platform) -> tuple[str, str]:
    """Say what a machine lacks."""
    word, what = VIRTUAL[name]
    have = {v.split("=")[0]: v.split("=")[1] for v in platform.virtual_packages}.get(name)
    says = f"{first} {path}: {what}, {f'here {have}' if have else 'which this platform does not have'}."
    wanted = (re.findall(r"\d+(?:\.\d+)*", bare) or ["12"])[0]
    example = f'{{ name = "{platform.subdir}-{word}", platform = "{platform.subdir}", {word} = "{wanted}" }}'
    fix = f"Put it into a feature for a platform that has it, {example}"
    if name == "__cuda":
        fix += f"; to prepare it on a machine without a GPU, set CONDA_OVERRIDE_CUDA={wanted}"
    return says, f"{fix}."


def _and(words: Iterable[str]) -> str:
    *most, last = sorted(words)
    return f"{', '.join(most)} and {last}" if most else last
