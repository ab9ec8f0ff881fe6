"""Apptainer, which makes an image one file (SIF) and runs it as an ordinary user: the program of many sites.

The one on PATH is used; else Debian's is fetched. Neither needs root. What it keeps lies below the session.
"""

import contextlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lesson_helpers import debian, processes
from lesson_helpers.errors import LessonError
from lesson_helpers.registry import Registry

# Read in Debian's package: it looks for etc and var beside its prefix, which is usr or usr/lib here.
LINKS = {"usr/etc": "../etc", "usr/var": "../var", "usr/lib/etc": "../../etc", "usr/lib/var": "../../var"}


@dataclass(frozen=True)
class Apptainer:
    """A program that builds and runs SIF files.

    Parameters
    ----------
    program : Path
        The program.
    version : str
        What it says of itself.
    source : str
        Where it is from, in words.
    """

    program: Path
    version: str
    source: str

    def __str__(self) -> str:
        return f"apptainer {self.version} ({self.source})"

    def build(
        self,
        definition: Path,
        sif: Path,
        *,
        arguments: dict[str, str] | None = None,
        registry: Registry | None = None,
        seconds: float = 3600,
    ) -> Path:
        """Build a SIF file from a definition file, and return it.

        Parameters
        ----------
        definition : Path
            Such as ``apptainer.def``; files that it copies lie beside it.
        sif : Path
            The file to make. One that is there is replaced once the new one is complete.
        arguments : dict, optional
            Values for its ``%arguments``.
        registry : Registry, optional
            The session's own, where the base images are from there.
        seconds : float
            The longest that it may take.

        Raises
        ------
        LessonError
            Where there is no such file, or the build fails: with what it said.
        """
        if not definition.is_file():
            raise LessonError(
                "There is no definition file to build from.", str(definition), "Name the file: apptainer.def."
            )
        options = ["--no-https"] if registry else []
        for name, value in (arguments or {}).items():
            options += ["--build-arg", f"{name}={value}"]
        login = {}
        if registry:
            login = {"APPTAINER_DOCKER_USERNAME": "lesson", "APPTAINER_DOCKER_PASSWORD": registry.password}
        beside = sif.with_name(f"{sif.name}.part")
        try:
            self._run(
                ["build", "--force", *options, str(beside.resolve()), definition.name],
                seconds,
                definition.parent,
                login,
            )
            return beside.replace(sif)
        finally:
            beside.unlink(missing_ok=True)

    def run(self, sif: Path, command: list[str], *, runscript: bool = True, seconds: float = 300) -> str:
        """Run a command in a container without a home, and return what it says.

        Parameters
        ----------
        sif : Path
            The image.
        command : list of str
            The command and its arguments.
        runscript : bool
            Through the image's runscript (`apptainer run`), or without it (`apptainer exec`), as HTCondor.
        seconds : float
            The longest that it may take.
        """
        # the fetched one has no squashfuse, with which to look into the file: it unpacks it
        options = ["--no-home", *(["--unsquash"] if "fetched" in self.source else [])]
        words = ["run" if runscript else "exec", *options, str(sif.resolve()), *command]
        return self._run(words, seconds, sif.parent, {})

    def _run(self, words: list[str], seconds: float, folder: Path, more: dict[str, str]) -> str:
        own = processes.session() / "apptainer"
        for name in ("cache", "tmp", "config"):
            (own / name).mkdir(parents=True, exist_ok=True)
        environment = {f"APPTAINER_{name.upper()}DIR": str(own / name) for name in ("cache", "tmp", "config")}
        where = f"apptainer {words[0]}"
        try:
            done = subprocess.run(
                [*_as_root_of_a_namespace(), self.program, "--nocolor", *words],
                cwd=folder,
                env=os.environ | environment | more,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LessonError(
                f"Apptainer did not finish within {seconds:.0f} s.", where, "Allow it more seconds."
            ) from error
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip() and "INFO:" not in line]
            last = "\n  ".join(line[:300] for line in said[-4:]) or "nothing"
            raise LessonError(
                f"It failed. The last it said:\n  {last}", where, "Mend what it names, and run this again."
            )
        return done.stdout


def find() -> Apptainer:
    """Return the Apptainer on PATH, else fetch Debian's.

    Raises
    ------
    LessonError
        Where neither can be had.
    """
    if found := shutil.which("apptainer"):
        return Apptainer(Path(found), _version(Path(found)), "on PATH")
    packages = ("apptainer", "squashfs-tools")
    tree = debian.unpack("apptainer", packages, ("sid", debian.HOST), relocate=True)
    for name, target in LINKS.items():
        with contextlib.suppress(FileExistsError):
            (tree / name).symlink_to(target)
    settings = tree / "etc/apptainer/apptainer.conf"
    own = f"binary path = {tree}/usr/bin:{tree}/usr/sbin:/usr/bin:/bin"  # for mksquashfs
    text = re.sub(r"^(# )?binary path =.*", lambda _: own, settings.read_text(), flags=re.MULTILINE)
    beside = settings.with_name(f"{settings.name}.part")
    beside.write_text(text)
    beside.replace(settings)
    program = tree / "usr/bin/apptainer"
    return Apptainer(program, _version(program), "fetched from Debian's packages")


def _as_root_of_a_namespace() -> list[str]:
    """Return what gives root, where it may not do all, all rights over a namespace of its own."""
    if os.geteuid() or not shutil.which("unshare"):
        return []  # for an ordinary user Apptainer does that by itself
    words = ["unshare", "--user", "--map-root-user"]
    works = subprocess.run([*words, "true"], capture_output=True, timeout=20, check=False)
    return words if not works.returncode else []


def _version(program: Path) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False)
    if said.returncode:
        raise LessonError(
            f"Apptainer does not run here: {said.stderr.strip()[:200]}", str(program), "Install it anew."
        )
    return said.stdout.split()[-1]
