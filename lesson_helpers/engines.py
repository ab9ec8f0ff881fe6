"""One program that builds, runs and pushes images: Docker, Podman or Buildah, used in the same way."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lesson_helpers import buildcontext, contents, processes, standin
from lesson_helpers.buildlog import explain, follow
from lesson_helpers.contents import Contents, Image
from lesson_helpers.errors import LessonError
from lesson_helpers.registry import Registry, check_name


@dataclass(frozen=True)
class Engine:
    """A program that builds, runs and pushes images.

    Parameters
    ----------
    kind : str
        ``"docker"``, ``"podman"`` or ``"buildah"``.
    program : Path
        The program.
    version : str
        What it says of itself.
    source : str
        Where it is from, in words.
    environment : dict
        Variables that it runs with: a store and settings of its own, so that the user's are not touched.
    options : tuple of str
        Options of each command that reads or writes an image; with Docker, of a build.
    store : Path or None
        The folder of that store; `None` for Docker, whose daemon has one.
    """

    kind: str
    program: Path
    version: str
    source: str
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    options: tuple[str, ...] = field(default=(), repr=False)
    store: Path | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.version} ({self.source})"

    def build(
        self,
        context: Path,
        tag: str,
        *,
        arguments: dict[str, str] | None = None,
        target: str = "",
        platform: str = "",
        seconds: float = 3600,
        quiet: bool = False,
    ) -> Image:
        """Build the image that a folder's ``Dockerfile`` describes, and show each step as it begins.

        Parameters
        ----------
        context : Path
            The folder.
        tag : str
            Name and tag of the image.
        arguments : dict, optional
            Values for the Dockerfile's ``ARG`` lines.
        target : str
            The stage to stop at; by default the last.
        platform : str
            The machines to build for, such as ``"linux/amd64"``; by default this one.
        seconds : float
            The longest that the build may take.
        quiet : bool
            Show nothing.

        Raises
        ------
        LessonError
            Where the name is not allowed, there is no Dockerfile, much would be sent to the builder since no
            list keeps it out, or the build fails: with what it said.
        """
        check_name(tag)
        if not (context / "Dockerfile").is_file():
            raise LessonError(
                "There is no Dockerfile to build from.", str(context), "Name the folder that has it."
            )
        buildcontext.check(context)
        command = {
            "docker": ["buildx", "build", "--progress=plain", "--load", *self.options],
            "podman": ["build", "--layers", *self.options, *_limits()],
            "buildah": ["build", "--layers", *self.options, *_limits()],
        }[self.kind]
        for name, value in (arguments or {}).items():
            command += ["--build-arg", f"{name}={value}"]
        command += ["--target", target] if target else []
        command += ["--platform", platform] if platform else []
        said, code = follow(
            [str(self.program), *command, "-f", str(context / "Dockerfile"), "-t", tag, str(context)],
            os.environ | self.environment,
            seconds,
            quiet,
        )
        if code:
            raise explain(said, f"{self.kind} build, {context / 'Dockerfile'}")
        return self.inspect(tag)

    def inspect(self, tag: str) -> Image:
        """Return what the engine knows of an image."""
        if self.kind == "buildah":
            found = json.loads(self._run("inspect", "--type", "image", tag))["OCIv1"]
            config, diffs, machine = found["config"], found["rootfs"]["diff_ids"], found["architecture"]
            # `images` names its size in words, such as "51.1 MB"
            number, unit = json.loads(self._run("images", "--json", tag))[0]["size"].split()
            size = float(number) * {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[unit.upper()]
        else:
            found = json.loads(self._run("image", "inspect", tag))[0]
            config, diffs, size = found["Config"], found["RootFS"]["Layers"], found["Size"]
            machine = found["Architecture"]
        return Image(
            tag,
            int(size),
            len(diffs),
            config.get("User") or "",
            tuple(config.get("Entrypoint") or ()),
            tuple(config.get("Cmd") or ()),
            config.get("Labels") or {},
            machine,
        )

    def look(self, tag: str) -> Contents:
        """Open an image: its layers, what made each, and its largest files. Takes its size on the disk."""
        image = self.inspect(tag)
        with tempfile.TemporaryDirectory(dir=processes.session()) as folder:
            archive = Path(folder) / "image.tar"
            command = {
                "docker": ["image", "save", "--output", str(archive), tag],
                "podman": ["save", "--format", "docker-archive", "--output", str(archive), tag],
                "buildah": ["push", *self.options, tag, f"docker-archive:{archive}"],
            }[self.kind]
            self._run(*command, seconds=900)
            return contents.read(archive, image)

    def run(self, tag: str, command: list[str], *, entrypoint: bool = True, seconds: float = 300) -> str:
        """Run a command in a fresh container and return what it says; Docker and Podman give it no network.

        Parameters
        ----------
        tag : str
            The image.
        command : list of str
            The command and its arguments.
        entrypoint : bool
            Run it through the image's entrypoint, as `docker run` does; `False` leaves that out, as
            `apptainer exec` does.
        seconds : float
            The longest that it may take.

        Raises
        ------
        LessonError
            Where the command fails: with what it said.
        """
        if self.kind == "buildah":
            # Buildah's `run` is made for building: it never uses the entrypoint by itself
            through = self.inspect(tag).entrypoint if entrypoint else ()
            container = self._run("from", *self.options, *_limits(), "--pull-never", tag).strip()
            try:
                return self._run_in(container, [*through, *command], seconds)
            finally:
                self._run("rm", container)
        alone = ["run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp"]
        alone += _limits() if self.kind == "podman" else []
        if not entrypoint:
            return self._run(*alone, f"--entrypoint={command[0]}", tag, *command[1:], seconds=seconds)
        return self._run(*alone, tag, *command, seconds=seconds)

    def push(self, tag: str, registry: Registry, name: str, *, architecture: str = "") -> str:
        """Push an image to a registry of this session and return its digest.

        Parameters
        ----------
        tag : str
            The image here.
        registry : Registry
            Where to.
        name : str
            Name and tag that it gets there, without the registry's address.
        architecture : str
            The machines that are to run it, such as ``"amd64"``: an image for others is not pushed. Empty:
            whatever it is.
        """
        check_name(name)
        if architecture:
            self.inspect(tag).check(architecture)
        registry.check()
        target = f"{registry.address}/{name}"
        if self.kind == "docker":
            # The daemon's address stands in the user's settings, which are left out here: so it is given
            host = self._run("context", "inspect", "--format", "{{.Endpoints.docker.Host}}").strip()
            login = registry.environment["DOCKER_CONFIG"]
            self._run("tag", tag, target)
            self._run("--host", host, "--config", login, "push", target, seconds=900)
            self.remove(target)
            repository, _, version = name.partition(":")
            return registry.digest(repository, version or "latest")
        with tempfile.TemporaryDirectory() as folder:
            note = Path(folder) / "digest"
            plain = ["--tls-verify=false", "--digestfile", str(note), *self.options]
            self._run(
                "push", *plain, tag, f"docker://{target}", seconds=900, environment=registry.environment
            )
            return note.read_text().strip()

    def remove(self, *tags: str) -> None:
        """Remove images; harmless for one that is not there."""
        for tag in tags:
            self._try("rmi" if self.store else "image", *([] if self.store else ["rm"]), "--force", tag)

    def close(self, *tags: str) -> None:
        """Remove the engine's own store; of Docker's, which is the user's, only these tags.

        Parameters
        ----------
        *tags : str
            What was built.
        """
        if not self.store:
            self.remove(*tags, standin.BUILD, standin.RUNTIME)
            return
        # first by the engine itself: in an ordinary user's store there are files of other user ids
        self._try("rm", "--all")
        self._try("rmi", "--all", "--force")
        shutil.rmtree(self.store, ignore_errors=True)

    def _try(self, *words: str) -> None:
        subprocess.run(
            [self.program, *words],
            env=os.environ | self.environment,
            capture_output=True,
            timeout=300,
            check=False,
        )

    def _run_in(self, container: str, command: list[str], seconds: float) -> str:
        """Run a command in one of Buildah's containers and return its standard output.

        What it prints goes into files: on a busy machine Buildah 1.28 was twice seen to pass on nothing of
        what a command had printed, and to end with 0.
        """
        with tempfile.TemporaryDirectory(dir=processes.session()) as folder:
            folder = Path(folder)
            folder.chmod(0o755)  # for the image's user; the session's own folder is closed to others
            files = [folder / "out", folder / "err"]
            for file in files:
                file.touch()
                file.chmod(0o666)
            words = ["run", f"--volume={folder}:/said:z", container, "--"]
            words += ["/bin/sh", "-c", 'exec "$@" >/said/out 2>/said/err', "sh", *command]
            done = self._call(words, seconds, {})
            out, err = (file.read_text(errors="replace") for file in files)
        if done.returncode:
            raise explain(err + out or done.stderr, f"{self.kind} run")
        return out

    def _run(self, *words: str, seconds: float = 120, environment: dict[str, str] | None = None) -> str:
        """Run the engine and return its standard output; what it says on failure becomes the error."""
        done = self._call(words, seconds, environment or {})
        if done.returncode:
            raise explain(done.stderr + done.stdout, f"{self.kind} {words[0]}")
        return done.stdout

    def _call(self, words: Sequence[str], seconds: float, environment: dict[str, str]):
        try:
            return subprocess.run(
                [self.program, *words],
                env=os.environ | self.environment | environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LessonError(
                f"{self.kind} did not finish within {seconds:.0f} s.", " ".join(words)[:300], "Run it again."
            ) from error


def _limits() -> list[str]:
    """Return the options that allow a container what this process may allow: Podman's default is more."""
    import resource  # not on Windows, where Podman has a machine of its own

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    number = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    highest = int(Path("/proc/sys/kernel/pid_max").read_text())
    number = highest if number < 0 else min(number, highest)
    return [f"--ulimit=nofile={files}:{files}", f"--ulimit=nproc={number}:{number}"]
