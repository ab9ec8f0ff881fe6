"""What is in an image: its description, its layers, and its largest files, also those that nobody can see.

A layer is never changed again. A file that a later layer removes or replaces is hidden and still shipped, and
whoever has the image can take it out of its layer.
"""

import json
import re
import tarfile
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath

from lesson_helpers.errors import LessonError
from lesson_helpers.tables import Table, megabytes

# What `uname -m` calls the machines that images name in Go's way.
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True)
class Image:
    """What an engine says of an image that it has.

    Parameters
    ----------
    name : str
        Name and tag.
    size : int
        Bytes, as the engine counts them: most count the layers unpacked, some packed.
    layers : int
        How many layers it has.
    user : str
        Who its programs run as; empty for root.
    entrypoint, command : tuple of str
        What `run` starts, and the arguments it gets by default.
    labels : dict
        The labels, such as ``org.opencontainers.image.source``.
    architecture : str
        The machines that it runs on: ``"amd64"``, ``"arm64"``.
    """

    name: str
    size: int
    layers: int
    user: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    labels: dict[str, str]
    architecture: str = ""

    def __str__(self) -> str:
        labels = [f"  {key} = {value}" for key, value in sorted(self.labels.items()) if value]
        return "\n".join(
            [
                f"{self.name}: {self.size / 1e6:.0f} MB in {self.layers} layers, for {self.architecture}",
                f"  user       {self.user or 'root'}",
                f"  entrypoint {' '.join(self.entrypoint) or 'none'}",
                f"  command    {' '.join(self.command) or 'none'}",
                *labels,
            ]
        )

    def check(self, architecture: str) -> None:
        """Raise where the image is for other machines than those that are to run it.

        Parameters
        ----------
        architecture : str
            What is needed: ``"amd64"``, or as `uname -m` says it: ``"x86_64"``.
        """
        needed = ARCHITECTURES.get(architecture)
        if not needed:
            raise LessonError(
                f"There is no architecture {architecture!r}.",
                "the parameter `architecture`",
                "Use amd64, which nearly all clusters are, or arm64.",
            )
        if self.architecture != needed:
            raise LessonError(
                f"This image is for {self.architecture} machines, and those that are to run it are {needed}: "
                "there each of its programs would end with 'exec format error'.",
                self.name,
                f'Build it for them, with platform="linux/{needed}" (docker build --platform '
                f"linux/{needed}), or in the workflow, which does.",
            )


@dataclass(frozen=True)
class File:
    """One file of a layer.

    Parameters
    ----------
    path : str
        Where it lies, from the root.
    size : int
        Bytes.
    layer : int
        The number of its layer, from 1.
    hidden : bool
        Whether a later layer removes or replaces it: not to be seen in a container, but in the image.
    """

    path: str
    size: int
    layer: int
    hidden: bool = False


@dataclass(frozen=True)
class Layer:
    """One layer.

    Parameters
    ----------
    step : str
        The line of the Dockerfile that made it, as far as the engine has kept it.
    size : int
        Bytes of its files, unpacked.
    files : int
        How many files.
    """

    step: str
    size: int
    files: int


@dataclass(frozen=True)
class Contents:
    """An image, opened.

    Parameters
    ----------
    image : Image
        Its description.
    layers : tuple of Layer
        From the lowest.
    files : tuple of File
        All files of all layers, the largest first.
    """

    image: Image
    layers: tuple[Layer, ...]
    files: tuple[File, ...]

    @property
    def hidden(self) -> tuple[File, ...]:
        """The files that no container shows, and that are shipped all the same."""
        return tuple(file for file in self.files if file.hidden)

    def table(self) -> Table:
        """Return one row for each layer."""
        rows = tuple(
            (str(number), megabytes(layer.size), str(layer.files), layer.step[:70])
            for number, layer in enumerate(self.layers, 1)
        )
        size = megabytes(sum(file.size for file in self.hidden))
        note = f"{len(self.hidden)} files, {size}, are hidden by a later layer and shipped all the same."
        return Table(("layer", "size", "files", "made by"), rows, "Layers", note if self.hidden else "")

    def largest(self, number: int = 8) -> Table:
        """Return one row for each of the largest files, hidden ones too."""
        rows = tuple(
            (file.path, megabytes(file.size), str(file.layer), "no" if file.hidden else "yes")
            for file in self.files[:number]
        )
        return Table(("file", "size", "layer", "to be seen"), rows, "Largest files")

    def __str__(self) -> str:
        return f"{self.image}\n\n{self.table()}\n\n{self.largest()}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        tables = self.table()._repr_html_() + self.largest()._repr_html_()
        return f"<pre>{escape(str(self.image))}</pre>{tables}"


def read(archive: Path, image: Image) -> Contents:
    """Read an archive such as ``docker save`` writes. Nothing is unpacked.

    Parameters
    ----------
    archive : Path
        The file.
    image : Image
        What the engine says of the image.

    Raises
    ------
    LessonError
        Where it is no such archive, or cut off.
    """
    found: dict[str, File] = {}
    hidden: list[File] = []
    layers = []
    try:
        with tarfile.open(archive) as whole:
            manifest = json.load(whole.extractfile("manifest.json"))[0]
            steps = _steps(json.load(whole.extractfile(manifest["Config"])))
            steps += [""] * (len(manifest["Layers"]) - len(steps))
            for number, (name, step) in enumerate(zip(manifest["Layers"], steps, strict=False), 1):
                with tarfile.open(fileobj=whole.extractfile(name)) as layer:
                    files = _add(layer, number, found, hidden)
                layers.append(Layer(step, sum(file.size for file in files), len(files)))
    except (OSError, tarfile.TarError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise LessonError(
            f"This is no image archive, or only a part of one: {error}.",
            str(archive),
            "Save the image again, and look whether the disk is full.",
        ) from error
    files = sorted([*found.values(), *hidden], key=lambda file: (-file.size, file.path))
    return Contents(image, tuple(layers), tuple(files))


def _add(layer: tarfile.TarFile, number: int, found: dict[str, File], hidden: list[File]) -> list[File]:
    """Add a layer's files to those below it, and move to `hidden` what it removes or replaces."""
    files, gone = [], []
    for member in layer:
        path = PurePosixPath("/", member.name)
        if path.name == ".wh..wh..opq":  # the whole folder is new
            gone.append(f"{path.parent}/")
        elif path.name.startswith(".wh."):
            gone.append(str(path.with_name(path.name.removeprefix(".wh."))))
        elif not member.isdir():
            files.append(File(str(path), member.size, number))
    removed = {file.path for file in files} | set(gone)
    folders = tuple(f"{path.rstrip('/')}/" for path in gone)
    for path in [path for path in found if path in removed or path.startswith(folders)]:
        below = found.pop(path)
        hidden.append(File(below.path, below.size, below.layer, hidden=True))
    found.update({file.path: file for file in files})
    return files


def _steps(config: dict) -> list[str]:
    """Return the line that made each layer, without what the engines put around it."""
    made = [entry for entry in config.get("history", []) if not entry.get("empty_layer")]
    return [_step(entry.get("created_by", "")) for entry in made]


def _step(made_by: str) -> str:
    step = " ".join(made_by.removesuffix("# buildkit").split())
    before, shell, command = step.partition("/bin/sh -c ")
    if not shell or not re.fullmatch(r"(RUN )?(\|\d+ .*)?", before):
        return step
    # Buildah writes all that is no RUN as a command that does nothing
    if not command.startswith("#(nop)"):
        return f"RUN {command}"
    return re.sub(r"\b(dir|file|multi):[0-9a-f]{20,}", r"\1", command.removeprefix("#(nop)").strip())
