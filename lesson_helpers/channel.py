"""A small conda channel, made on the spot: two packages of our own, to solve for and to install offline."""

import hashlib
import io
import json
import shlex
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rattler.index import index_fs

from lesson_helpers import solver

MADE = 1_790_000_000_000  # milliseconds; a fixed date, so that the same packages come out each time


@dataclass(frozen=True)
class Recipe:
    """What goes into a package.

    Parameters
    ----------
    name, version, build : str
        Its name is made of these; what follows the last ``_`` of the build is the build's number.
    depends : tuple of str
        What it needs.
    files : dict
        Path within the environment to content.
    subdir : str
        For which machines: ``"noarch"`` for all.
    """

    name: str
    version: str
    build: str
    depends: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    subdir: str = "noarch"

    def write(self, channel: Path) -> Path:
        """Write the package into a channel's folder, in conda's first format, ``.tar.bz2``."""
        index = {
            "name": self.name,
            "version": self.version,
            "build": self.build,
            "build_number": int(self.build.rpartition("_")[2]),
            "depends": list(self.depends),
            "subdir": self.subdir,
            "license": "BSD-3-Clause",
            "timestamp": MADE,
        }
        if self.subdir == "noarch":
            index["noarch"] = "generic"
        entries = [
            {
                "_path": path,
                "path_type": "hardlink",
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
                "size_in_bytes": len(text.encode()),
            }
            for path, text in self.files.items()
        ]
        info = {
            "info/index.json": json.dumps(index),
            "info/paths.json": json.dumps({"paths": entries, "paths_version": 1}),
            "info/files": "".join(f"{path}\n" for path in self.files),
        }
        target = channel / self.subdir / f"{self.name}-{self.version}-{self.build}.tar.bz2"
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(target, "w:bz2") as archive:
            for path, text in {**info, **self.files}.items():
                member = tarfile.TarInfo(path)
                member.size, member.mode = len(text.encode()), 0o755 if path.startswith("bin/") else 0o644
                archive.addfile(member, io.BytesIO(text.encode()))
        return target


def recipes(subdir: str) -> tuple[Recipe, ...]:
    """Return the channel's packages.

    ``python`` starts the Python that runs this; ``device`` has a build for machines with an NVIDIA driver and
    one for all others, as PyTorch does.

    Parameters
    ----------
    subdir : str
        The machine's conda subdir.
    """
    start = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n'
    version = ".".join(map(str, sys.version_info[:3]))
    both = [Recipe("python", version, "standin_0", files={"bin/python": start}, subdir=subdir)]
    for build, kind, needs in (("cpu_0", "cpu", ()), ("cuda_1", "cuda", ("__cuda >=12",))):
        files = {
            "bin/device": f'#!/bin/sh\necho "the {kind} build of device, on device $DEVICE"\n',
            "etc/conda/activate.d/device.sh": f"export DEVICE={kind}\n",
        }
        both.append(Recipe("device", "1.0", build, ("python >=3.11", *needs), files, subdir))
    return tuple(both)


def make(folder: Path, packages: Iterable[Recipe]) -> str:
    """Write packages into a folder, index them, and return the channel's address."""
    folder.mkdir(parents=True, exist_ok=True)
    for recipe in packages:
        recipe.write(folder)
    solver.wait_for(index_fs(folder))
    return folder.resolve().as_uri()
