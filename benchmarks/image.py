"""The kit's Dockerfile beside the plain recipe, in the same run: what an edit of the code costs.

The plain recipe copies the whole folder and installs then, in one stage. Limits: after an edit of the code
the kit's builds in less than a second (Buildah looks longer for what it has), installs nothing again, and is
faster than the plain one. Where the real base images can't be had, stand-ins are built on, with some
megabytes put into the environment: the real one has 4,000, so the plain recipe's seconds are too few then.
``python benchmarks/image.py [--environment tiny] [--edits 3] [--megabytes 300]``.
"""

import argparse
import contextlib
import io
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lesson_helpers import images, paths, processes, standin
from lesson_helpers.engines import Engine
from lesson_helpers.tables import Table, megabytes

HEAVY = "localhost/stand-in-pixi-heavy:1"
LIMIT = 1.0  # seconds for a build after an edit
FILES = ("Dockerfile", ".dockerignore", "pixi.toml", "pixi.lock")
PLAIN = """\
ARG BUILD_IMAGE={image}
FROM ${{BUILD_IMAGE}}
ARG ENVIRONMENT=gpu
ENV CONDA_OVERRIDE_CUDA=12
WORKDIR /app
COPY . .
RUN pixi install --locked --environment "${{ENVIRONMENT}}"
CMD ["pixi", "run", "python", "jobs/src/torch_mnist.py"]
"""


@dataclass(frozen=True)
class Trial:
    """One recipe: seconds of the first build and after each edit, whether it installed again, its size."""

    first: float
    edits: tuple[float, ...]
    installed_again: bool
    size: int

    @property
    def edit(self) -> float:
        """The median of the builds after an edit."""
        return statistics.median(self.edits)


def heavier(engine: Engine, folder: Path, megabytes: int) -> str:
    """Make the stand-in for pixi put so much more into the environment; return the new one's name."""
    folder.mkdir()
    with (folder / "weight").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))
    (folder / "Dockerfile").write_text(f"FROM {standin.BUILD}\nCOPY weight /opt/stand-in/environment/\n")
    (folder / ".dockerignore").write_text("Dockerfile\n")
    engine.build(folder, HEAVY, quiet=True, seconds=600)
    shutil.rmtree(folder)
    return HEAVY


def measure(engine: Engine, folder: Path, name: str, arguments: dict[str, str], edits: int) -> Trial:
    """Build a recipe, then edit the code and build it again, some times."""
    seconds, again = [], False
    for number in range(edits + 1):
        if number:
            code = folder / "jobs/src/torch_mnist.py"
            code.write_text(f"{code.read_text()}# edit {number}\n")
        begun = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()) as screen:
            image = engine.build(folder, name, arguments=arguments)
        seconds.append(time.perf_counter() - begun)
        if number:
            again |= not re.search(r"pixi install.*\(cached\)", screen.getvalue())
    return Trial(seconds[0], tuple(seconds[1:]), again, image.size)


def compare(kit: Trial, plain: Trial) -> Table:
    """Put the two beside each other."""
    rows = (
        ("first build", f"{kit.first:.1f} s", f"{plain.first:.1f} s", ""),
        ("build after an edit of the code", f"{kit.edit:.2f} s", f"{plain.edit:.2f} s", f"{LIMIT:.0f} s"),
        ("plain / kit, after an edit", f"{plain.edit / kit.edit:.1f} times", "", ""),
        ("installed again after an edit", _yes(kit.installed_again), _yes(plain.installed_again), "no"),
        ("size of the image", megabytes(kit.size), megabytes(plain.size), ""),
    )
    return Table(("", "kit", "plain", "limit"), rows)


def kept(kit: Trial, plain: Trial) -> bool:
    """Tell whether an edit installs nothing again, and costs less than with the plain recipe."""
    return kit.edit < plain.edit and not kit.installed_again


def _yes(it_is: bool) -> str:
    return "yes" if it_is else "no"


def main() -> int:
    """Measure, print, and return 0 where the kit's recipe is the better one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", default="tiny", help="which to install; gpu is gigabytes")
    parser.add_argument("--edits", type=int, default=3, help="how many edits of the code")
    parser.add_argument("--engine", default="auto", help=", ".join(images.SETTINGS))
    parser.add_argument("--megabytes", type=int, default=300, help="more in a stand-in's environment")
    asked = parser.parse_args()
    processes.claim()
    choice = images.choose(asked.engine)
    print(choice.rung())
    if not choice.engine:
        return 1
    names = ("lesson/bench-kit:1", "lesson/bench-plain:1")
    trials, heavy = [], ""
    with tempfile.TemporaryDirectory(dir=paths.state()) as place:
        try:
            for name in names:
                folder = Path(place) / name.partition(":")[0].rpartition("-")[2]
                shutil.copytree(paths.root() / "jobs", folder / "jobs")
                for file in FILES:
                    shutil.copy(paths.root() / file, folder)
                arguments, rung = images.base_arguments(choice.engine, folder, asked.environment)
                if "BUILD_IMAGE" in arguments:
                    heavy = heavy or heavier(choice.engine, Path(place) / "heavy", asked.megabytes)
                    arguments["BUILD_IMAGE"] = heavy
                if name == names[1]:
                    real = re.search(
                        r"^FROM (\S+) AS pixi$", (folder / "Dockerfile").read_text(), re.MULTILINE
                    )
                    (folder / "Dockerfile").write_text(PLAIN.format(image=real[1]))
                    (folder / ".dockerignore").unlink()
                    arguments.pop("RUNTIME_IMAGE", None)
                trials.append(measure(choice.engine, folder, name, arguments, asked.edits))
            print(rung)
        finally:
            choice.engine.close(*names, HEAVY)
    print(compare(*trials))
    return 0 if kept(*trials) else 1


if __name__ == "__main__":
    sys.exit(main())
