"""Stand-ins for the two base images, for a machine that can't reach the registries they come from.

They are made of this machine's own programs: a shell and its tools as the base of both stages, and on top
of it, for the build stage, a small script named ``pixi`` and a copy of this machine's Python. So the real
`Dockerfile` is built, line by line, by a real engine; only what pixi itself would install is not real, and
the names of the images, and everything that shows them, say so.
"""

import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from lesson_helpers.errors import LessonError

BUILD, RUNTIME = "localhost/stand-in-pixi:1", "localhost/stand-in-ubuntu:1"

# What the Dockerfile's RUN lines, the stand-in for pixi and a look around inside the image need.
TOOLS = (
    *("bash", "env", "cat", "ls", "mkdir", "cp", "rm", "chmod", "ln", "id", "uname", "sed", "tr", "sleep"),
    *("true", "false", "du", "dirname", "printenv"),
)

# Parts of the standard library that are big, need a desktop or more libraries, or serve Python's development.
LEFT_OUT = (
    *("__pycache__", "site-packages", "dist-packages", "config-*", "*.a", "test", "tests", "_test*"),
    *("idlelib", "tkinter", "_tkinter*", "turtledemo", "lib2to3", "distutils", "ensurepip", "pydoc_data"),
    *("_ssl*", "_hashlib*", "_sqlite3*", "_curses*", "readline*", "nis*", "_gdbm*", "_dbm*", "_codecs_*"),
)

# Both bases out of one folder; `docker build --target` makes one or the other.
DOCKERFILE = """\
FROM scratch AS runtime
COPY ubuntu/ /
FROM runtime AS build
COPY pixi/ /
"""


def context(folder: Path) -> Path:
    """Fill a folder from which an engine builds the two stand-in images, and return it.

    Its stages are named ``build`` and ``runtime``. Takes about a second and 40 MB.

    Parameters
    ----------
    folder : Path
        Made anew where it exists.

    Raises
    ------
    LessonError
        Where this machine is no Linux, or a program it needs is not there.
    """
    if platform.system() != "Linux" or not shutil.which("ldd"):
        raise LessonError(
            "Stand-in base images can only be made on Linux, out of its own programs.",
            f"{platform.system()} on {platform.machine()}",
            "Connect to the internet, so that the real base images can be fetched.",
        )
    shutil.rmtree(folder, ignore_errors=True)
    _base(folder / "ubuntu")
    program = folder / "pixi/usr/local/bin/pixi"
    program.parent.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("standin_pixi.sh"), program)
    program.chmod(0o755)
    _python(folder / "pixi/opt/stand-in/environment", folder / "ubuntu")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    for path in folder.rglob("*"):  # for the image's user, whatever the umask is here
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
    return folder


def _base(root: Path) -> None:
    """Make a root file system with a shell, its tools, and the C library."""
    for name in ("usr/bin", "usr/lib", "usr/lib64", "usr/local/bin", "etc", "root", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True)
    (root / "tmp").mkdir(mode=0o1777)
    (root / "tmp").chmod(0o1777)  # mkdir's mode is cut by the umask
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "usr/bin/sh").symlink_to("bash")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc/group").write_text("root:x:0:\n")
    programs = []
    for name in TOOLS:
        found = shutil.which(name)
        if not found:
            raise LessonError(
                f"The stand-in base image needs the program {name!r}.", "PATH", f"Install {name!r}."
            )
        programs.append(Path(shutil.copy(found, root / "usr/bin" / name)))
    _add_libraries(programs, root)


def _python(prefix: Path, root: Path) -> None:
    """Copy the Python that runs this, with its standard library, below `prefix`."""
    program = prefix / "bin/python3"
    program.parent.mkdir(parents=True)
    shutil.copy(Path(sys._base_executable).resolve(), program)
    program.with_name("python").symlink_to("python3")
    library = prefix / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    # Debian and a few others keep the compiled modules apart, in the same tree
    shutil.copytree(
        _standard_library(),
        library,
        symlinks=False,
        ignore_dangling_symlinks=True,
        ignore=shutil.ignore_patterns(*LEFT_OUT),
    )
    _add_libraries([program, *library.rglob("*.so")], root)


def _standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))


def _add_libraries(programs: list[Path], root: Path) -> None:
    """Copy the shared libraries that programs need, as `ldd` names them, into a root file system."""
    listed = subprocess.run(
        ["ldd", *map(str, programs)], capture_output=True, text=True, timeout=60, check=False
    ).stdout
    for library in sorted(set(re.findall(r"(?:=> |^\t)(/\S+)", listed, flags=re.MULTILINE))):
        place = Path(library)
        if not place.is_relative_to("/usr"):
            # /lib is /usr/lib; from an unusual place it goes where the loader looks anyway
            top = place.parts[1]
            place = Path("/usr", *place.parts[1:]) if top.startswith("lib") else Path("/usr/lib", place.name)
        target = root / place.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
