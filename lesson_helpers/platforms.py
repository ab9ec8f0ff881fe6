"""Kinds of machines: a conda subdir and the virtual packages that such a machine is taken to have."""

from dataclasses import dataclass

from lesson_helpers.errors import LessonError
from lesson_helpers.manifest_keys import nearest

# What Pixi takes a platform to have where the manifest says no more (Pixi's manual, "System requirements";
# written out like this in each lock file of format 7).
DEFAULTS = {
    "linux-64": ("__unix=0=0", "__linux=4.18", "__glibc=2.28", "__archspec=0=x86_64"),
    "linux-aarch64": ("__unix=0=0", "__linux=4.18", "__glibc=2.28", "__archspec=0=aarch64"),
    "osx-64": ("__unix=0=0", "__osx=13.0", "__archspec=0=x86_64"),
    "osx-arm64": ("__unix=0=0", "__osx=13.0", "__archspec=0=m1"),
    "win-64": ("__win=10.0", "__archspec=0=x86_64"),
}


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

    def same(self, other: "Platform") -> bool:
        """Tell whether both are the same for a lock file: what they are called does not matter.

        Lock files before format 7 say nothing of virtual packages: there the subdir alone counts.
        """
        if self.subdir != other.subdir:
            return False
        said = self.virtual_packages and other.virtual_packages
        return not said or self.declared == other.declared

    def __str__(self) -> str:
        return self.name


def declare(name: str | None, subdir: str, declared: dict[str, str]) -> Platform:
    """Return a platform with what it declares, and then the subdir's defaults.

    Parameters
    ----------
    name : str or None
        Its name; without one it gets the name that Pixi makes.
    subdir : str
        One of `DEFAULTS`.
    declared : dict
        Virtual package to version: ``{"__cuda": "12"}``.
    """
    virtual = [f"{k}=0={v}" if k == "__archspec" else f"{k}={v}" for k, v in declared.items()]
    rest = [v for v in DEFAULTS[subdir] if v.split("=")[0] not in declared]
    made = "-".join([subdir, *(v.lstrip("_").replace("=", "-").replace(".", "-") for v in virtual)])
    return Platform(name or made, subdir, (*virtual, *rest))


def known(subdir: str) -> str:
    """Return a subdir that a person named; one that is not known here is a `LessonError`."""
    if subdir in DEFAULTS:
        return subdir
    raise LessonError(f"There is no platform {subdir!r} known here.", "--platform", nearest(subdir, DEFAULTS))
