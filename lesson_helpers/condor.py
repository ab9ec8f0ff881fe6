"""HTCondor's programs: those installed on this machine, or else Debian's packages in a folder of ours."""

import contextlib
import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape
from pathlib import Path

from lesson_helpers import debian
from lesson_helpers.errors import LessonError

OLDEST = (10, 0)  # the first series whose slots carry one ad for each GPU (HTCondor manual, version history)
SUITES = ("sid", "trixie", debian.HOST)  # sid's version is the one of the Python bindings on PyPI
SIMULATED_KIND = 4  # condor_gpu_discovery's number for an A100 with 40 GB
SIMULATED_DRIVER = "12.4"
OTHER_WAYS = (
    "HTCondor's daemons run on Linux. Three ways lead there: the container image htcondor/mini, in which "
    "this lesson runs as it is; an access point of a pool that you log in to; or HTCondor installed by "
    "your system's package manager, so that condor_master is on PATH."
)


@dataclass(frozen=True)
class Condor:
    """Where HTCondor's programs are.

    Parameters
    ----------
    bin, sbin : Path
        The folders of the commands (``condor_submit``) and of the daemons (``condor_master``).
    lib, libexec, share : Path
        The folders that the configuration calls LIB, LIBEXEC and SHARE.
    version : str
        Such as ``"25.14.1"``.
    source : str
        Where they are from, in words.
    """

    bin: Path
    sbin: Path
    lib: Path
    libexec: Path
    share: Path
    version: str
    source: str

    def __str__(self) -> str:
        return f"HTCondor {self.version}, {self.source}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>"

    def at_least(self, major: int, minor: int) -> bool:
        """Tell whether this is a version, or a newer one."""
        return tuple(map(int, self.version.split(".")))[:2] >= (major, minor)

    def environment(self, config: Path) -> dict[str, str]:
        """Return the environment in which daemons and commands work with one configuration file.

        Variables that would change single settings (``_CONDOR_…``) are left out.
        """
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("_CONDOR_")}
        path = f"{self.bin}{os.pathsep}{self.sbin}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return kept | {"CONDOR_CONFIG": str(config), "PATH": path}


def find() -> Condor:
    """Find HTCondor on PATH, or fetch it into ``.lesson`` (once; a few seconds and 22 MB).

    Raises
    ------
    LessonError
        Where neither is possible; the message names the other ways.
    """
    return installed() or _fetched()


def installed() -> Condor | None:
    """Return a complete HTCondor on PATH that is new enough; None where there is none."""
    master, submit = shutil.which("condor_master"), shutil.which("condor_submit")
    if not master or not submit:
        return None
    release = Path(master).resolve().parent.parent
    return _describe(release, Path(submit).parent, "installed on this machine")


def _fetched() -> Condor:
    try:
        tree = debian.unpack("htcondor", ["condor"], SUITES, relocate=True, check=["usr/bin/condor_version"])
    except LessonError as error:
        raise LessonError(error.what, error.where, f"{error.fix} {OTHER_WAYS}") from error
    condor = _describe(tree / "usr", tree / "usr/bin", "unpacked from Debian's packages, not installed")
    if condor is None:
        raise LessonError(
            "HTCondor's programs were fetched and are not complete.",
            str(tree),
            "Remove that folder and run this again.",
        )
    return condor


def _describe(release: Path, commands: Path, source: str) -> Condor | None:
    """Return what lies below a release folder; packages and HTCondor's own tarballs differ a little."""

    def folder(*names: str) -> Path:
        return next((release / name for name in names if (release / name).is_dir()), release / names[-1])

    libexec = folder("libexec/condor", "lib/condor/libexec", "libexec")
    version = _version(commands / "condor_version")
    needed = (
        release / "sbin/condor_master",
        release / "sbin/condor_startd",
        libexec / "condor_gpu_discovery",
    )
    if version is None or not all(os.access(program, os.X_OK) for program in needed):
        return None
    return Condor(
        bin=commands,
        sbin=release / "sbin",
        lib=folder("lib/condor", "lib64/condor", "lib"),
        libexec=libexec,
        share=folder("share/condor", "share"),
        version=version,
        source=source,
    )


def _version(program: Path) -> str | None:
    try:
        said = subprocess.run(
            [program],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env={"CONDOR_CONFIG": "/dev/null"},
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"CondorVersion: (\d+)\.(\d+)\.(\d+)", said)
    if version is None or tuple(map(int, version.groups()))[:2] < OLDEST:
        return None
    return ".".join(version.groups())


@dataclass(frozen=True)
class Gpus:
    """What `condor_gpu_discovery` finds on a machine.

    Parameters
    ----------
    names : tuple of str
        The model of each GPU; empty where there is none.
    driver : str
        The newest CUDA that the driver supports, such as ``"12.4"``.
    capability : str
        The lowest CUDA capability among them, such as ``"8.0"``.
    simulated : bool
        Whether they are HTCondor's simulation.
    """

    names: tuple[str, ...]
    driver: str
    capability: str
    simulated: bool

    def __str__(self) -> str:
        if not self.names:
            return "no GPU"
        kind = " (simulated)" if self.simulated else ""
        models = (f"{self.names.count(name)} × {name}" for name in dict.fromkeys(self.names))
        return f"{', '.join(models)}{kind}"


def discovery(programs: Condor, simulate: int = 0) -> list[str]:
    """Return the command that tells a startd its GPUs, as nested ClassAds.

    Parameters
    ----------
    programs : Condor
        HTCondor's programs.
    simulate : int
        So many simulated GPUs; 0: the real ones.
    """
    program = str(programs.libexec / "condor_gpu_discovery")
    if not simulate:
        return [program, "-properties", "-extra"]
    script = Path(__file__).with_name("gpu_discovery.sh")
    return ["/bin/sh", str(script), program, f"{SIMULATED_KIND},{simulate}", SIMULATED_DRIVER]


def gpus(programs: Condor, simulate: int = 0) -> Gpus:
    """Look for GPUs as a startd does; none are found where the discovery fails or takes too long."""
    try:
        command = discovery(programs, simulate)
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        said = ""
    detected = re.search(r'DetectedGPUs="([^"]+)"', said)
    count = len(detected[1].split(",")) if detected else 0
    names = re.findall(r'DeviceName="([^"]+)"', said)  # one for all where they are alike
    drivers = re.findall(r"\bDriverVersion=([\d.]+)", said)
    capabilities = re.findall(r"\bCapability=([\d.]+)", said)
    return Gpus(
        names=tuple(names if len(names) == count else (names[:1] or ["GPU"]) * count),
        driver=drivers[0] if drivers else "0.0",
        capability=min(capabilities, key=float, default="0.0"),
        simulated=bool(simulate and count),
    )


@dataclass(frozen=True)
class Account:
    """The account that a personal pool runs under.

    Parameters
    ----------
    name : str
        Its name.
    ids : str
        Its user and group number, as HTCondor's setting CONDOR_IDS wants them.
    join : tuple of str
        What a command of the pool begins with, to run under this account; empty for an ordinary user.
    """

    name: str
    ids: str
    join: tuple[str, ...] = ()


def account() -> Account:
    """Return the account for a pool: one's own, or for root an ordinary one in a user namespace.

    As root, the daemons would ask for an account of their own and then run no job. In the namespace root
    is an ordinary account without any privilege (user_namespaces(7)), and its files are still root's.

    Raises
    ------
    LessonError
        Where this is root, or an account without a name, and user namespaces are forbidden.
    """
    with contextlib.suppress(KeyError):
        if os.getuid() != 0:
            return Account(pwd.getpwuid(os.getuid()).pw_name, f"{os.getuid()}.{os.getgid()}")
    other = min((user for user in pwd.getpwall() if user.pw_uid > 0), key=lambda user: user.pw_uid)
    join = ("unshare", "--user", f"--map-user={other.pw_uid}", f"--map-group={other.pw_gid}", "--")
    try:
        done = subprocess.run([*join, "true"], capture_output=True, text=True, timeout=10, check=False)
        reason = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        reason = str(error)
    if reason:
        raise LessonError(
            "HTCondor runs no jobs for root, and user namespaces, in which root is an ordinary account, "
            "are forbidden here.",
            reason,
            "Run the lesson as an ordinary user (su, or docker run --user 1000:1000 …), or allow user "
            "namespaces (docker run --security-opt seccomp=unconfined …).",
        )
    return Account(other.pw_name, f"{other.pw_uid}.{other.pw_gid}", join)
