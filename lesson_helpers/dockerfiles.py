"""Dockerfiles, read as an engine reads them: instructions, stages, variables, and the commands of each RUN.

No more of the language than a recipe for an environment needs: lines that go on, comments, options, both
forms of a command, here-documents, ``ARG`` and ``ENV`` (https://docs.docker.com/reference/dockerfile/).
"""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from lesson_helpers.errors import LessonError
from lesson_helpers.manifest_keys import nearest

KEYWORDS = (
    *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL"),
    *("MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
)
HEREDOC = re.compile(r"<<-?(['\"]?)(\w+)\1")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Parameters
    ----------
    keyword : str
        In capitals: ``"RUN"``.
    text : str
        What follows, on one line and without the options; the body of a here-document.
    options : tuple of str
        Such as ``"--from=build"``.
    line : int
        Where it begins, from 1.
    """

    keyword: str
    text: str
    options: tuple[str, ...]
    line: int

    @property
    def words(self) -> list[str]:
        """Its words, in either form: ``a b`` or ``["a", "b"]``."""
        return self.listed if self.listed is not None else _split(self.text)

    @property
    def listed(self) -> list[str] | None:
        """The words of the form ``["a", "b"]``, which no shell reads; `None` for the other form."""
        try:
            words = json.loads(self.text)
        except ValueError:
            return None
        return [str(word) for word in words] if isinstance(words, list) else None

    def option(self, name: str) -> str:
        """Return the value of an option, or nothing."""
        begin = f"--{name}="
        return next((o.removeprefix(begin) for o in self.options if o.startswith(begin)), "")


@dataclass
class Stage:
    """One stage, up to the instruction that is being looked at.

    Parameters
    ----------
    name : str
        As ``AS`` gives it; else its number.
    image : str
        What it begins with: an image, or another stage's name.
    line : int
        Of its FROM.
    parent : Stage or None
        The stage that it begins with.
    variables : dict
        Of ``ARG`` and ``ENV``, with their values.
    folder : str
        Of ``WORKDIR``.
    steps : list
        Its instructions, each with the variables that it sees, and the folder.
    """

    name: str
    image: str
    line: int
    parent: "Stage | None"
    variables: dict[str, str]
    folder: str = "/"
    steps: list[tuple[Instruction, dict[str, str], str]] = field(default_factory=list)


def read(text: str, where: str = "Dockerfile") -> tuple[Instruction, ...]:
    """Split a Dockerfile into its instructions.

    Parameters
    ----------
    text : str
        The file.
    where : str
        Its name, for an error.

    Raises
    ------
    LessonError
        Where a line begins with no instruction.
    """
    found, lines = [], iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        whole = line.strip()
        while whole.endswith("\\"):
            following = next(lines, (0, ""))[1].strip()
            if not following.startswith("#"):  # comments may stand between
                whole = f"{whole[:-1].rstrip()} {following}"
        keyword, _, rest = whole.partition(" ")
        if keyword.upper() not in KEYWORDS:
            raise LessonError(
                f"Line {number} begins with {keyword!r}, which is no instruction of a Dockerfile.",
                f"{where}, line {number}",
                nearest(keyword.upper(), KEYWORDS, f"Use one of: {', '.join(KEYWORDS)}."),
            )
        options = []
        while option := re.match(r"\s*(--\w[\w-]*(=\S+)?)(\s+|$)", rest):
            options.append(option[1])
            rest = rest[option.end() :]
        if keyword.upper() == "RUN" and (document := HEREDOC.search(rest)):
            body = []
            for _, inner in lines:
                if inner.strip() == document[2]:
                    break
                body.append(inner)
            rest = "\n".join(body)
        found.append(Instruction(keyword.upper(), rest.strip(), tuple(options), number))
    return tuple(found)


def stages(instructions: tuple[Instruction, ...]) -> list[Stage]:
    """Follow the instructions, and return the stages with what each instruction sees."""
    outside: dict[str, str] = {}
    found: list[Stage] = []
    for one in instructions:
        if one.keyword == "FROM":
            words = [expand(word, outside) for word in one.words]
            name = words[2] if len(words) > 2 and words[1].upper() == "AS" else str(len(found))
            parent = next((stage for stage in found if words and stage.name == words[0]), None)
            inherited = dict(parent.variables) if parent else {}
            image = words[0] if words else ""
            found.append(Stage(name, image, one.line, parent, inherited, parent.folder if parent else "/"))
        elif not found:
            if one.keyword == "ARG":
                _set(one, outside, {})
        else:
            stage = found[-1]
            before = dict(stage.variables)
            if one.keyword in ("ARG", "ENV"):
                _set(one, stage.variables, outside)
            elif one.keyword == "WORKDIR":
                stage.folder = str(PurePosixPath(stage.folder, expand(one.text, stage.variables)))
            stage.steps.append((one, before, stage.folder))
    return found


def expand(text: str, variables: dict[str, str]) -> str:
    """Fill in ``$NAME``, ``${NAME}`` and ``${NAME:-other}``; one that is not known becomes nothing."""
    return re.sub(
        r"\$(?:(\w+)|\{(\w+)(?::-([^}]*))?\})",
        lambda found: variables.get(found[1] or found[2]) or found[3] or "",
        text,
    )


def commands(run: Instruction, variables: dict[str, str]) -> Iterator[tuple[list[str], str]]:
    """Yield the commands of a RUN, each as words with their variables filled in, and what follows it.

    What follows is ``"&&"``, ``";"``, ``"||"``, ``"|"``, ``"&"``, or nothing after the last.
    """
    if run.listed is not None:
        yield run.listed, ""
        return
    reader = shlex.shlex(run.text.replace("\n", " ; "), posix=True, punctuation_chars="&|;")
    reader.whitespace_split = True
    reader.commenters = ""
    words: list[str] = []
    try:
        for word in reader:
            if set(word) <= set("&|;"):
                if words:
                    yield words, word
                words = []
            else:
                words.append(expand(word, variables))
    except ValueError:  # a quote is never closed
        words += _split(run.text)
    if words:
        yield words, ""


def _set(one: Instruction, variables: dict[str, str], outside: dict[str, str]) -> None:
    """Keep what ARG or ENV says. An ARG without a value takes the one from above the first FROM."""
    words = one.words
    if one.keyword == "ENV" and words and "=" not in words[0]:
        words = [f"{words[0]}={' '.join(words[1:])}"]  # the old form: ENV NAME value
    before = dict(variables)
    for word in words:
        name, given, value = word.partition("=")
        if given or name in outside:
            variables[name] = expand(value, before) if given else outside[name]


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
