"""apt without installing: lists, cache and settings of our own, and the machine's own mirror.

Signatures are always checked, with the keyring that the distribution itself has put on the machine.
"""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lesson_helpers import paths

HOST = "host"  # as a suite: the machine's own release
DEBIAN = ("sid", "unstable", "forky", "testing", "trixie", "stable", "bookworm", "oldstable", "bullseye")
PROGRAMS = ("apt-get", "apt-cache", "apt-config", "dpkg-deb", "tar")
HELPER = Path("/usr/lib/apt/apt-helper")
KEYRINGS = Path("/usr/share/keyrings")
TARGET = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(LABEL)"


class Failed(Exception):
    """A suite could not give its packages, or a program did not run; the text is the reason.

    Parameters
    ----------
    reason : str
        In apt's own words.
    reached : bool
        False where the mirror did not answer, so that asking it for another suite is no use.
    """

    def __init__(self, reason: str, reached: bool = True) -> None:
        super().__init__(reason)
        self.reached = reached


@dataclass(frozen=True)
class Source:
    """Where a suite's packages come from.

    Parameters
    ----------
    suite : str
        Such as ``"sid"``.
    mirror : str
        The address.
    lines : tuple of str
        What stands in apt's ``sources.list``.
    """

    suite: str
    mirror: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.suite} at {re.sub('//[^/@]*@', '//', self.mirror)}"  # without a password


def run(*command: str | Path, seconds: float = 300, **options) -> str:
    """Run a program to its end and return what it says.

    Raises
    ------
    Failed
        Where it doesn't start, fails, or takes longer than `seconds`.
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, **options
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{name} took longer than {seconds:.0f} s", reached=False) from None
    except OSError as error:
        raise Failed(f"{name} does not run: {error.strerror}") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).splitlines()
        reasons = [line for line in lines if line.strip() and "index files failed" not in line]
        reached = not re.search(r"resolv|connect|timed? ?out|unreachable", done.stderr, re.IGNORECASE)
        raise Failed(re.sub("//[^/@ ]*@", "//", " ".join(reasons[-2:])) or f"{name} failed", reached)
    return done.stdout


def source(suite: str) -> Source:
    """Find a suite on the mirrors that the machine's own apt settings name.

    Parameters
    ----------
    suite : str
        A suite of Debian's, or `HOST` for the machine's own release with its updates.

    Raises
    ------
    Failed
        Where they name no such mirror, or the keyring that goes with it is not installed.
    """
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    # Mint, Pop!_OS and others take Ubuntu's packages, and name Ubuntu's release in a line of their own
    codename = system.get("UBUNTU_CODENAME") or system.get("VERSION_CODENAME") or "unknown"
    ubuntu = "UBUNTU_CODENAME" in system or system.get("ID") == "ubuntu"
    family = "Ubuntu" if ubuntu and suite == HOST else "Debian"
    keyring = KEYRINGS / f"{family.lower()}-archive-keyring.gpg"
    if not keyring.exists():
        raise Failed(f"{keyring}, which proves that {family}'s packages are genuine, is not installed")
    found = _targets(family)
    if suite == HOST:
        own = re.compile(rf"{re.escape(codename)}(-updates|-security)?")
        wanted = [entry for entry in found if own.fullmatch(entry[1])]
    else:
        wanted = [(address, suite, "main") for address, release, _ in found if release in DEBIAN][:1]
    if not wanted:
        raise Failed(f"the machine's apt settings name no mirror of {family}'s")
    lines = dict.fromkeys(f"deb [signed-by={keyring}] {' '.join(entry)}" for entry in wanted)
    return Source(codename if suite == HOST else suite, wanted[0][0], tuple(lines))


def _targets(family: str) -> list[tuple[str, str, str]]:
    """Return address, release and component of each package list that this machine has from a family."""
    command = ("apt-get", "indextargets", "--format", TARGET, "Created-By: Packages")
    lines = [line.split(" ", 3) for line in run(*command).splitlines()]
    found = [tuple(line[:3]) for line in lines if line[3].startswith(family)]
    if not found:  # nothing was ever fetched, as in a new container: no labels yet, and the address has to do
        lines = [line.split(" ", 3) for line in run(*command, "--no-release-info").splitlines()]
        usual = [line for line in lines if line[2] in ("main", "universe")]
        found = [tuple(line[:3]) for line in usual if family.lower() in line[0].lower()]
    return [entry for entry in found if not entry[0].startswith("cdrom:")]


class Apt:
    """apt for one source, with its lists fetched."""

    def __init__(self, source: Source) -> None:
        self.folder = paths.programs() / ".apt" / source.suite
        self.folder.parent.mkdir(mode=0o700, exist_ok=True)  # a proxy's address may hold a password
        for name in ("lists/partial", "cache/archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "sources.list").write_text("\n".join(source.lines) + "\n")
        (self.folder / "apt.conf").write_text(self._settings())
        if source.mirror.startswith("http") and HELPER.exists():
            # one small file first: `update` asks a mirror that says nothing for each of its lists, a minute
            release = f"{source.mirror.rstrip('/')}/dists/{source.suite}/InRelease"
            self._call(HELPER, "-oAcquire::Retries=0", "download-file", release, str(self.folder / "asked"))
        self._call("apt-get", "update")

    def download(self, packages: Sequence[str]) -> list[Path]:
        """Download packages, checked against the signed index, and return the files."""
        target = self.folder / "packages"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        self._call("apt-get", "download", *packages, cwd=target)
        return sorted(target.glob("*.deb"))

    def libraries(self, packages: Sequence[str]) -> list[str]:
        """Return the library packages that packages need, and that those need in turn.

        Programs among the dependencies (perl, python3, adduser) are neither taken nor followed.
        """
        only = ("--recurse", "--important", "--no-conflicts", "--no-breaks", "--no-replaces")
        needs: dict[str, list[str]] = {}
        package = ""
        for line in self._call("apt-cache", "depends", *only, *packages).splitlines():
            if not line.startswith((" ", "|")):
                package = line.strip()
            elif "Depends: " in line and "<" not in line:  # <name>: a virtual package
                needs.setdefault(package, []).append(line.split("Depends: ")[1].strip())
        found, waiting = set(), [*packages]
        while waiting:
            for name in needs.get(waiting.pop(), []):
                library = re.match(r"z?lib(?!js-|c-gconv)(?!.*-perl$)", name)
                if library and name not in found and name not in packages:
                    found.add(name)
                    waiting.append(name)
        return sorted(found)

    def clear(self) -> None:
        """Remove what was downloaded; the lists stay for the next program from this source."""
        shutil.rmtree(self.folder / "packages", ignore_errors=True)

    def _call(self, program: str | Path, *arguments: str, cwd: Path | None = None) -> str:
        environment = os.environ | {"APT_CONFIG": str(self.folder / "apt.conf"), "LC_ALL": "C"}
        return run(program, "-qq", *arguments, cwd=cwd, env=environment)

    def _settings(self) -> str:
        """Return settings that keep apt off the machine.

        Of the machine's own settings those on how to reach a mirror (proxy, certificates) are kept; those
        that run commands after an update, or let packages without a signature in, are not.
        """
        reach = re.compile(r"Acquire::(https?|socks|ForceIPv\d)\b", re.IGNORECASE)
        kept = [line for line in run("apt-config", "dump").splitlines() if reach.match(line)]
        own = {
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::sourcelist": self.folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State::lists": self.folder / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": self.folder / "cache",
            "APT::Sandbox::User": "",
            "APT::Update::Error-Mode": "any",  # else a mirror that doesn't answer is only a warning
            "APT::Get::AllowUnauthenticated": "false",
            "Acquire::AllowInsecureRepositories": "false",
            # signatures are checked; the date isn't, since a mirror that is frozen on a day is past it
            "Acquire::Check-Valid-Until": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "1",
            "Acquire::http::Timeout": "10",
            "Acquire::https::Timeout": "10",
        }
        return "\n".join([*kept, *(f'{key} "{value}";' for key, value in own.items())]) + "\n"
