"""Pixi's command line in a workspace: the program itself, or the lesson's few commands without it."""

import difflib
import os
import shlex
import subprocess
from importlib.metadata import version
from pathlib import Path

from lesson_helpers import environments
from lesson_helpers.ladder import Rung
from lesson_helpers.pixi_commands import Commands, follow

# What a shell that Pixi activated hands on; Pixi would take the kit's workspace for the learner's.
INHERITED = ("PIXI_PROJECT_", "PIXI_ENVIRONMENT_", "PIXI_IN_SHELL", "PIXI_PROMPT")


class Pixi:
    """Pixi in one workspace: ``pixi("add --feature cpu pytorch-cpu")``.

    With the program ``pixi`` on PATH that is what runs. Without it, the few commands that this lesson needs
    are done here: the manifest is edited with tomlkit, and solved by py-rattler, Pixi's own engine, with the
    records of the kit's lock file. `rung` says which of the two it is.

    Parameters
    ----------
    workspace : str or Path
        The folder of the ``pixi.toml``, or where it is to be.
    """

    def __init__(self, workspace: str | Path) -> None:
        self.workspace = Path(workspace)
        self.manifest, self.lock = self.workspace / "pixi.toml", self.workspace / "pixi.lock"
        self.program = environments.find_pixi()

    @property
    def rung(self) -> Rung:
        """What does the work on this machine."""
        if self.program:
            said = subprocess.run([self.program, "--version"], capture_output=True, text=True, timeout=20)
            return Rung("Pixi", said.stdout.strip())
        return Rung(
            "Pixi",
            f"its engine, py-rattler {version('py-rattler')}, with the packages of this kit's lock file",
            "pixi",
            f"there is no pixi {'.'.join(map(str, environments.PIXI_NEEDED))} or newer on PATH",
        )

    def __call__(self, line: str) -> None:
        """Run one command, given as what follows ``pixi``, and print what it changes in the manifest.

        Raises
        ------
        LessonError
            Where it fails, or needs the program and there is none.
        """
        print(f"$ pixi {line}")
        before = self._text()
        if self.program:
            self._run(line)
        else:
            Commands(self.workspace, line)
        changes = difflib.unified_diff(before.splitlines(), self._text().splitlines(), n=0, lineterm="")
        lines = [c for c in list(changes)[2:] if not c.startswith("@@") and c[1:].strip()]
        if lines:
            print("pixi.toml:", *lines, sep="\n    ")

    def _text(self) -> str:
        return self.manifest.read_text() if self.manifest.is_file() else ""

    def _run(self, line: str) -> None:
        variables = {k: v for k, v in os.environ.items() if not k.startswith(INHERITED)}
        variables |= {"NO_COLOR": "1", "PIXI_NO_PROGRESS": "true"}
        follow([str(self.program), *shlex.split(line)], f"pixi {line}", self.workspace, variables)


def set_aside(workspace: Path) -> None:
    """Move the manifest of an earlier run, and its lock, out of the way into ``earlier/N``, and say so.

    What is the same as the newest one there is not kept twice.
    """
    there = [workspace / name for name in ("pixi.toml", "pixi.lock") if (workspace / name).is_file()]
    if not there:
        print("There is no pixi.toml here yet.")
        return
    earlier = workspace / "earlier"
    newest = max((int(p.name) for p in earlier.glob("*") if p.name.isdecimal()), default=0)
    kept = [earlier / str(newest) / path.name for path in there]
    same = all(k.is_file() and k.read_bytes() == p.read_bytes() for k, p in zip(kept, there, strict=True))
    target = earlier / str(newest if same else newest + 1)
    target.mkdir(parents=True, exist_ok=True)
    for path in there:
        path.replace(target / path.name)
    names = " and ".join(path.name for path in there)
    print(f"You have been here before: {names} of that time lie in earlier/{target.name} now.")
