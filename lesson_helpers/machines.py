"""Will an environment run on that machine: yes, or which package forbids it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

import rattler
from rattler import PackageRecord, Version

from lesson_helpers import environments, lockfiles
from lesson_helpers.errors import LessonError
from lesson_helpers.lockfiles import Locked
from lesson_helpers.tables import Shown, Table

ASK_LIMIT = 20  # seconds; nvidia-smi takes several where the driver sleeps

# The oldest driver that runs programs made with any CUDA of a major version (NVIDIA, "CUDA Compatibility",
# table of minor version compatibility).
DRIVERS = {"11": "450.80", "12": "525.60", "13": "580.65"}
# The newest CUDA that a driver branch offers, which is what `__cuda` says (NVIDIA, "CUDA Toolkit release
# notes", table of toolkits and their drivers).
OFFERS = {450: "11.0", 455: "11.1", 460: "11.2", 465: "11.3", 470: "11.4", 495: "11.5", 510: "11.6"}
OFFERS |= {515: "11.7", 520: "11.8", 525: "12.0", 530: "12.1", 535: "12.2", 545: "12.3", 550: "12.4"}
OFFERS |= {555: "12.5", 560: "12.6", 565: "12.7", 570: "12.8", 575: "12.9", 580: "13.0"}
# The oldest compute capability that conda-forge builds PyTorch for with each CUDA (the recipe's list of
# architectures). A GPU newer than the list runs too: the code is compiled for it at its first use.
COMPUTE = {"11": "3.5", "12": "5.0", "13": "7.5"}

_Build = getattr(rattler, "BuildString", str)  # py-rattler 0.25 takes a text


@dataclass(frozen=True)
class Machine:
    """A machine that an environment is to run on.

    Parameters
    ----------
    driver : str
        The version of the NVIDIA driver, ``"535.104.05"``; empty where there is none.
    compute : str
        The GPU's compute capability, ``"7.5"``; empty where it is not known.
    glibc : str
        The version of the C library, ``"2.28"``; empty where it is not known.
    subdir : str
        The kind of machine, as conda says it.
    others : dict
        More virtual packages, name to version: ``{"__linux": "5.14"}``.
    name : str
        What it is called.

    Raises
    ------
    LessonError
        Where a version is none.
    """

    driver: str = ""
    compute: str = ""
    glibc: str = ""
    subdir: str = "linux-64"
    others: dict[str, str] = field(default_factory=dict)
    name: str = "that machine"

    def __post_init__(self) -> None:
        given = {"driver": self.driver, "compute": self.compute, "glibc": self.glibc, **self.others}
        for name, version in given.items():
            if version and not re.fullmatch(r"\d+(\.\d+)*", version):
                fix = "Write numbers and dots, as `nvidia-smi` and `ldd --version` say them."
                raise LessonError(f"{name} = {version!r} is no version.", self.name, fix)

    @property
    def cuda(self) -> str:
        """The newest CUDA that its driver offers, which ``__cuda`` says there; empty without a driver."""
        if not self.driver:
            return ""
        branch = int(self.driver.split(".")[0])
        return next((cuda for first, cuda in reversed(OFFERS.items()) if branch >= first), "10.2")

    @property
    def virtual(self) -> dict[str, str]:
        """Its virtual packages, name to version, as far as they are known."""
        family = {"linux": "__linux", "osx": "__osx", "win": "__win"}[self.subdir.split("-")[0]]
        given = {"__cuda": self.cuda, "__glibc": self.glibc} | ({} if family == "__win" else {"__unix": "0"})
        return {family: "", **given, **self.others}

    def __str__(self) -> str:
        parts = [self.subdir, f"driver {self.driver}" if self.driver else "no NVIDIA driver"]
        parts += [f"compute capability {self.compute}"] if self.compute else []
        parts += [f"glibc {self.glibc}"] if self.glibc else []
        return f"{self.name} ({', '.join(parts)})"


@dataclass(frozen=True)
class Check:
    """One thing that an environment needs of a machine.

    Parameters
    ----------
    what, needs : str
        What, and the requirement: ``"glibc"``, ``">=2.28,<3.0.a0"``.
    package : str
        The package that asks for it, the strictest one where several do.
    has : str
        What the machine has; empty where it has none, or it is not known.
    state : str
        "yes", "no", or "not known".
    """

    what: str
    needs: str
    package: str
    has: str
    state: str


@dataclass(frozen=True, repr=False)
class Fit(Shown):
    """Whether an environment runs on a machine.

    Parameters
    ----------
    part : Locked
        The environment on its platform.
    machine : Machine
        The machine.
    checks : tuple of Check
        All that was looked at.
    """

    part: Locked
    machine: Machine
    checks: tuple[Check, ...]

    @property
    def runs(self) -> bool:
        """Whether nothing forbids it."""
        return not self.forbidding

    @property
    def forbidding(self) -> tuple[Check, ...]:
        """What forbids it."""
        return tuple(check for check in self.checks if check.state == "no")

    def table(self) -> Table:
        """Return one row for each thing that was looked at."""
        verb = "runs" if self.runs else "does not run"
        title = f"{self.part.environment} on {self.part.label} {verb} on {self.machine}."
        rows = tuple((c.what, c.needs, c.package, c.has or "none", c.state) for c in self.checks)
        unknown = [check.what for check in self.checks if check.state == "not known"]
        note = f"Not known of the machine, so not judged: {', '.join(unknown)}." if unknown else ""
        return Table(("needs", "version", "because of", "the machine has", "fits"), rows, title, note)


def here() -> Machine:
    """Return this machine: what Pixi finds, and what ``nvidia-smi`` says of the first GPU."""
    found = environments.machine()
    others = {k: v for k, v in found.items() if k in ("__linux", "__osx", "__win")}
    driver = compute = ""
    if program := shutil.which("nvidia-smi"):
        command = [program, "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"]
        try:
            said = subprocess.run(
                command, capture_output=True, text=True, timeout=ASK_LIMIT, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            said = ""  # a program without a driver
        if one := re.match(r"(\d[\d.]*), *(\d[\d.]*)", said):
            driver, compute = one.groups()
    return Machine(driver, compute, found.get("__glibc", ""), lockfiles.this_subdir(), others, "this machine")


def fits(part: Locked, machine: Machine) -> Fit:
    """Tell whether an environment runs on a machine.

    Each requirement that a package has of a virtual package is held against the machine, and of CUDA also the
    driver and the GPU's compute capability, which no package states: CUDA 12 needs driver 525.60 or newer,
    CUDA 13 needs 580.65 (NVIDIA, "CUDA Compatibility").

    Parameters
    ----------
    part : Locked
        The environment on a platform.
    machine : Machine
        The machine.
    """
    if part.platform.subdir != machine.subdir:
        kind = Check("kind of machine", part.platform.subdir, "the platform", machine.subdir, "no")
        return Fit(part, machine, (kind,))
    return Fit(part, machine, (*_declared(part, machine), *_virtual(part, machine), *_cuda(part, machine)))


def _declared(part: Locked, machine: Machine) -> Iterator[Check]:
    """Pixi installs only where the machine has what the platform declares, whatever the packages need."""
    for text in part.platform.declared:
        name, version = text.split("=")[:2]
        if name in ("__archspec", "__cuda_arch"):
            continue
        has = machine.virtual.get(name, "")
        state = ("yes" if Version(has) >= Version(version) else "no") if has else "no"
        yield Check(name, f">={version}", "the platform", has, state)


def _virtual(part: Locked, machine: Machine) -> Iterator[Check]:
    """Yield, for each virtual package, the requirement that is not met, or else the strictest."""
    asked: dict[str, list[tuple[bool, list[int], str, str]]] = {}
    for package in part.packages:
        for spec in (*package.depends, *package.constrains):
            if not spec.startswith("__"):
                continue
            wanted = lockfiles.match(spec, f"{part.environment} on {part.label}")
            name = wanted.name.normalized
            has = machine.virtual.get(name)
            met = bool(has == "" and name != "__cuda") or bool(has and wanted.matches(_record(name, has)))
            if spec in package.constrains and not has:
                continue  # it minds the version, not that there is one
            least = [int(n) for n in re.findall(r"\d+", spec)[:2]]
            asked.setdefault(name, []).append(
                (not met, least, spec.partition(" ")[2] or "any", f"{package.name} {package.version}")
            )
    for name, found in sorted(asked.items()):
        unmet, _, needs, who = max(found, key=lambda one: one[:2])
        has = machine.virtual.get(name, "")
        unknown = not has and name in machine.virtual and name != "__cuda"
        state = "no" if unmet else "not known" if unknown else "yes"
        if name != "__unix":
            yield Check(name, needs, who, has, state)


def _cuda(part: Locked, machine: Machine) -> Iterator[Check]:
    """Yield what CUDA needs: a driver, and a GPU that the code was built for."""
    version = next((package for package in part.packages if package.name == "cuda-version"), None)
    if version is None or not any("cuda" in package.build for package in part.packages):
        return
    major = version.version.split(".")[0]
    for what, table, has in (
        ("NVIDIA driver", DRIVERS, machine.driver),
        ("compute capability", COMPUTE, machine.compute),
    ):
        if major not in table:
            continue
        ok = bool(has) and Version(has) >= Version(table[major])
        state = "not known" if what != "NVIDIA driver" and not has else "yes" if ok else "no"
        yield Check(what, f">={table[major]}", f"cuda-version {version.version}", has, state)


def _record(name: str, version: str) -> PackageRecord:
    return PackageRecord(name, version, _Build("0"), 0, "noarch")
