"""Small notebooks, and a small checkout with the real package, so that a test leaves the real one alone."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbformat import v4

from lesson_helpers import paths

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
# A workspace with a CPU and a GPU environment, solved for out of the records of the kit's own lock.
MANIFEST = """
[workspace]
channels = ["conda-forge"]
platforms = ["linux-64", "osx-arm64", { name = "linux-64-cuda", platform = "linux-64", cuda = "12" }]

[feature.cpu]
platforms = ["linux-64", "osx-arm64"]

[feature.cpu.dependencies]
pytorch-cpu = ">=2.8,<3"

[feature.gpu]
platforms = ["linux-64-cuda"]

[feature.gpu.dependencies]
pytorch-gpu = ">=2.8,<3"

[environments]
cpu = ["cpu"]
gpu = ["gpu"]
"""
PARAMETERS = 'epochs: int = 1  # passes\nfolder: str = "workspace"  # your workspace'


def notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    """Write a notebook: a title, a parameters cell, and code cells."""
    first = v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    content = [v4.new_markdown_cell(f"# {path.stem}"), first, *map(v4.new_code_cell, cells)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=content, metadata=KERNEL), path)
    return path


def checkout(folder: Path) -> Path:
    """Make a checkout with the package and no notebooks."""
    shutil.copytree(
        paths.root() / "lesson_helpers",
        folder / "lesson_helpers",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "lesson_helpers", *arguments]


def environment(kit: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(kit), "COLUMNS": "200"}


def lesson(kit: Path, *arguments: str, seconds: float = 60, **more: str) -> subprocess.CompletedProcess:
    """Call the command in a small checkout and return what it said."""
    return subprocess.run(
        command(*arguments),
        env=environment(kit) | more,
        cwd=kit,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        stdin=subprocess.DEVNULL,
    )


class Started:
    """The command while it runs; what it says goes to a file, which a daemon may hold open longer."""

    def __init__(self, kit: Path, *arguments: str) -> None:
        self.file = kit / "said"
        with self.file.open("w") as output:
            self.process = subprocess.Popen(
                command(*arguments),
                env=environment(kit),
                cwd=kit,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a Ctrl-C to pytest is not one to this
            )

    def said(self) -> str:
        return self.file.read_text()

    def stop(self, *signals: int, seconds: float = 30) -> int:
        """Send signals and return the exit code."""
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.05)
        return self.process.wait(seconds)
