"""The commands of the lesson without the program pixi: the same words, the same effect on the manifest."""

import argparse
import re
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

import tomlkit
from IPython.display import display
from rattler import MatchSpec

from lesson_helpers import environments, lockcheck, lockfiles, manifests, paths, solver
from lesson_helpers.errors import LessonError
from lesson_helpers.ladder import Rung

RUN_LIMIT = 1800  # seconds; the first `pixi run` downloads an environment


def follow(command: list[str], shown: str, folder: Path, variables: dict[str, str] | None = None) -> None:
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


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are this package's own errors."""

    def error(self, message: str):
        raise LessonError(
            f"Without the program pixi this kit does not know that command: {message}.",
            self.prog,
            "Use the command as the page has it, or install Pixi (https://pixi.sh).",
        )


class Commands:
    """One command in a workspace, done at once.

    Parameters
    ----------
    workspace : Path
        The folder of the ``pixi.toml``.
    line : str
        What follows ``pixi``.

    Raises
    ------
    LessonError
        Where it is none of the lesson's commands, or can't be done.
    """

    def __init__(self, workspace: Path, line: str) -> None:
        self.workspace = workspace
        self.manifest, self.lock_file = workspace / "pixi.toml", workspace / "pixi.lock"
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
        """Write a new manifest."""
        if self.manifest.exists():
            raise LessonError(
                "There is a manifest already.",
                str(self.manifest),
                "Go on with it, or move it elsewhere.",
            )
        document = tomlkit.document()
        workspace = tomlkit.table()
        workspace["channels"] = ["conda-forge"]
        workspace["name"] = self.workspace.name
        workspace["platforms"] = asked.platform or [lockfiles.this_subdir()]
        workspace["version"] = "0.1.0"
        document["workspace"] = workspace
        document["tasks"] = tomlkit.table()
        document["dependencies"] = tomlkit.table()
        self._write(document)

    def add_platforms(self, asked: argparse.Namespace) -> None:
        """Add platforms to the workspace."""
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
        """Add dependencies, to a feature or to each environment."""
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
        """Add an environment, made of features."""
        document = self._read()
        if asked.name in document.get("environments", {}):
            raise LessonError(
                f"There is an environment {asked.name!r} already.",
                str(self.manifest),
                "Go on with it, or take it out of [environments] first.",
            )
        _table(document, ("environments",))[asked.name] = asked.feature or []
        self._write(document)

    def lock(self, asked: argparse.Namespace) -> None:
        """Solve and write the lock file, or check whether it fits."""
        if not asked.check:
            made = solver.make(self.manifest, paths.root() / "pixi.lock", self.lock_file)
            print(f"Solved for {len(made.parts)} pairs of environment and platform; pixi.lock is written.")
            return
        verdict = lockcheck.check(self.manifest, self.lock_file)
        if not verdict.fits:
            first = verdict.problems[0]
            raise LessonError(
                f"The lock file does not satisfy the manifest: {first}", str(self.lock_file), f"{first.fix}."
            )
        print("The lock file satisfies the manifest.")

    def run(self, asked: argparse.Namespace) -> None:
        """Run a program with the Python that has torch, and say that this stands in."""
        wanted = manifests.read(self.manifest).wanted
        name = asked.environment or "default"
        if name not in wanted:
            raise LessonError(
                f"There is no environment {name!r}.",
                str(self.manifest),
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
        follow([*python, *arguments], "python", self.workspace)

    def _read(self) -> tomlkit.TOMLDocument:
        manifests.read(self.manifest)  # says in plain words what is wrong with it
        return tomlkit.parse(self.manifest.read_text())

    def _write(self, document: tomlkit.TOMLDocument) -> None:
        platforms = document["workspace"]["platforms"]
        if "\n" not in platforms.as_string():  # else its lines stay as they are
            platforms.multiline(any(isinstance(entry, dict) for entry in platforms.unwrap()))
        beside = self.manifest.with_name("pixi.toml.new")
        # tomlkit sets a new table right below the one before; an empty line between them reads better
        text = re.sub(r"(?m)^([^#\n].*)\n(?=\[)", r"\1\n\n", tomlkit.dumps(document))
        beside.write_text(text)
        beside.replace(self.manifest)


def _table(document: tomlkit.TOMLDocument, names: Iterable[str]):
    """Return a table of the document; what is missing on the way is made."""
    *above, last = names
    table = document
    for name in (*above, last):
        if name not in table:
            table[name] = tomlkit.table(is_super_table=name != last)
        table = table[name]
    return table
