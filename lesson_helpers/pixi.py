"""Pixi's command line in a workspace: the program itself, or the lesson's few commands without it."""

import argparse
import difflib
import os
import re
import shlex
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import tomlkit
from IPython.display import display
from rattler import MatchSpec

from lesson_helpers import environments, lockfiles, manifests, paths, solver
from lesson_helpers.errors import LessonError
from lesson_helpers.ladder import Rung

RUN_LIMIT = 1800  # seconds; the first `pixi run` downloads an environment

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
            _Commands(self, line)
        changes = difflib.unified_diff(before.splitlines(), self._text().splitlines(), n=0, lineterm="")
        lines = [c for c in list(changes)[2:] if not c.startswith("@@") and c[1:].strip()]
        if lines:
            print("pixi.toml:", *lines, sep="\n    ")

    def _text(self) -> str:
        return self.manifest.read_text() if self.manifest.is_file() else ""

    def _run(self, line: str) -> None:
        variables = {k: v for k, v in os.environ.items() if not k.startswith(INHERITED)}
        variables |= {"NO_COLOR": "1", "PIXI_NO_PROGRESS": "true"}
        run([str(self.program), *shlex.split(line)], f"pixi {line}", self.workspace, variables)


def run(command: list[str], shown: str, folder: Path, variables: dict[str, str] | None = None) -> None:
    """Run a program in a folder and print what it says.

    Raises
    ------
    LessonError
        Where it fails or takes longer than half an hour.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_LIMIT,
        )
    except subprocess.TimeoutExpired:
        raise LessonError(
            f"The command has not ended within {RUN_LIMIT // 60} minutes.",
            shown,
            "Run it in a terminal, where you see how far it is.",
        ) from None
    print(done.stdout, end="")
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["nothing"])[-1].strip()
        raise LessonError(
            f"The command failed; the last it said is: {last}",
            f"{shown}, in {folder}",
            "Read what it printed above, mend that, and run the cell again.",
        )


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


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are this package's own errors."""

    def error(self, message: str):
        raise LessonError(
            f"Without the program pixi this kit does not know that command: {message}.",
            self.prog,
            "Use the command as the page has it, or install Pixi (https://pixi.sh).",
        )


class _Commands:
    """The commands of this lesson without the program: the same words, the same effect on the manifest."""

    def __init__(self, pixi: Pixi, line: str) -> None:
        self.pixi = pixi
        known = {
            "init": (self.init, {"--platform": {"action": "append"}}),
            "workspace platform add": (self.add_platforms, {"names": {"nargs": "+"}, "--cuda": {}}),
            "workspace environment add": (
                self.add_environment,
                {"name": {}, "--feature": {"action": "append"}},
            ),
            "add": (self.add, {"specs": {"nargs": "+"}, "--feature": {}}),
            "lock": (self.lock, {"--check": {"action": "store_true"}}),
            "run": (self.run, {"--environment": {}, "command": {"nargs": argparse.REMAINDER}}),
        }
        for words, (act, arguments) in known.items():
            if f"{line} ".startswith(f"{words} "):
                parser = _Parser(prog=f"pixi {words}", add_help=False, allow_abbrev=False)
                parser.add_argument("--no-install", action="store_true")  # nothing is installed here anyway
                for argument, settings in arguments.items():
                    parser.add_argument(argument, **settings)
                act(parser.parse_args(shlex.split(line.removeprefix(words))))
                return
        _Parser(prog=f"pixi {line}").error(f"it knows {', '.join(known)}")

    def init(self, asked: argparse.Namespace) -> None:
        if self.pixi.manifest.exists():
            raise LessonError(
                "There is a manifest already.",
                str(self.pixi.manifest),
                "Go on with it, or move it elsewhere.",
            )
        document = tomlkit.document()
        workspace = tomlkit.table()
        workspace["channels"] = ["conda-forge"]
        workspace["name"] = self.pixi.workspace.name
        workspace["platforms"] = asked.platform or [lockfiles.this_subdir()]
        workspace["version"] = "0.1.0"
        document["workspace"] = workspace
        document["tasks"] = tomlkit.table()
        document["dependencies"] = tomlkit.table()
        self._write(document)

    def add_platforms(self, asked: argparse.Namespace) -> None:
        document = self._read()
        platforms = document["workspace"]["platforms"]
        there = {p["name"] if isinstance(p, dict) else p for p in platforms.unwrap()}
        for name, _, subdir in (text.partition("=") for text in asked.names):
            if name in there:
                print(f"{name} is there already.")
            elif asked.cuda or subdir:
                entry = tomlkit.inline_table()
                entry |= {"name": name, "platform": subdir or name}
                entry |= {"cuda": asked.cuda} if asked.cuda else {}
                platforms.append(entry)
            else:
                platforms.append(name)
        self._write(document)

    def add(self, asked: argparse.Namespace) -> None:
        document = self._read()
        names = ("feature", asked.feature, "dependencies") if asked.feature else ("dependencies",)
        dependencies = _table(document, names)
        for text in asked.specs:
            try:
                spec = MatchSpec(text)
            except Exception as error:  # py-rattler's errors share no class
                raise LessonError(
                    f"This is no package with a version: {error}.", text, 'Write it like "python=3.13.*".'
                ) from None
            dependencies[spec.name.normalized] = str(spec.version or "*")
        self._write(document)

    def add_environment(self, asked: argparse.Namespace) -> None:
        document = self._read()
        if asked.name in document.get("environments", {}):
            raise LessonError(
                f"There is an environment {asked.name!r} already.",
                str(self.pixi.manifest),
                "Go on with it, or take it out of [environments] first.",
            )
        _table(document, ("environments",))[asked.name] = asked.feature or []
        self._write(document)

    def lock(self, asked: argparse.Namespace) -> None:
        if not asked.check:
            made = solver.make(self.pixi.manifest, paths.root() / "pixi.lock", self.pixi.lock)
            print(f"Solved for {len(made.parts)} pairs of environment and platform; pixi.lock is written.")
            return
        problems = lockfiles.satisfies(self.pixi.manifest, self.pixi.lock)
        if problems:
            raise LessonError(
                f"The lock file does not satisfy the manifest: {problems[0]}",
                str(self.pixi.lock),
                "Run `pixi lock`, and commit pixi.toml and pixi.lock together.",
            )
        print("The lock file satisfies the manifest.")

    def run(self, asked: argparse.Namespace) -> None:
        wanted = manifests.read(self.pixi.manifest).wanted
        name = asked.environment or "default"
        if name not in wanted:
            raise LessonError(
                f"There is no environment {name!r}.",
                str(self.pixi.manifest),
                f"Use one of: {', '.join(wanted)}.",
            )
        program, *arguments = asked.command or [""]
        if name != "cpu" or program != "python":
            raise LessonError(
                "This needs the program pixi, and there is none.",
                f"pixi run --environment {name} {program}",
                "Install Pixi (https://pixi.sh), or go on: nothing below depends on it.",
            )
        python = environments.training_python()
        ran, reason = (
            "the environment with torch that pip made for this kit",
            "there is no pixi to install it",
        )
        display(Rung("The environment cpu", ran, "the locked one", reason))
        run([*python, *arguments], "python", self.pixi.workspace)

    def _read(self) -> tomlkit.TOMLDocument:
        manifests.read(self.pixi.manifest)  # says in plain words what is wrong with it
        return tomlkit.parse(self.pixi.manifest.read_text())

    def _write(self, document: tomlkit.TOMLDocument) -> None:
        platforms = document["workspace"]["platforms"]
        platforms.multiline(any(isinstance(entry, dict) for entry in platforms.unwrap()))
        beside = self.pixi.manifest.with_name("pixi.toml.new")
        # tomlkit sets a new table right below the one before; an empty line between them reads better
        text = re.sub(r"(?m)^([^#\n].*)\n(?=\[)", r"\1\n\n", tomlkit.dumps(document))
        beside.write_text(text)
        beside.replace(self.pixi.manifest)


def _table(document: tomlkit.TOMLDocument, names: Iterable[str]):
    """Return a table of the document; what is missing on the way is made."""
    *above, last = names
    table = document
    for name in (*above, last):
        if name not in table:
            table[name] = tomlkit.table(is_super_table=name != last)
        table = table[name]
    return table
