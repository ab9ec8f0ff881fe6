"""Does a Dockerfile install one environment and nothing else? Its meaning is looked at, not its text."""

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lesson_helpers import dockerfiles
from lesson_helpers.dockerfiles import Stage
from lesson_helpers.errors import LessonError
from lesson_helpers.tables import Shown, Table

NEEDED = ("pixi.toml", "pixi.lock")


@dataclass(frozen=True)
class Hint:
    """One thing that is not right yet.

    Parameters
    ----------
    line : int
        Where.
    says : str
        What happens there.
    try_this : str
        Where to look.
    """

    line: int
    says: str
    try_this: str


@dataclass(frozen=True, repr=False)
class Answer(Shown):
    """What is said about a Dockerfile.

    Parameters
    ----------
    environment : str
        The environment that it is to install.
    hints : tuple of Hint
        Nothing, where it is right.
    """

    environment: str
    hints: tuple[Hint, ...]

    @property
    def right(self) -> bool:
        """Whether it does all that was asked."""
        return not self.hints

    def table(self) -> Table:
        """Return one row for each hint."""
        rows = tuple((str(hint.line), hint.says, hint.try_this) for hint in self.hints)
        right = f"Right: it installs {self.environment}, only that, as locked, and not again for your code."
        return Table(("line", "what happens", "think of"), rows, right if self.right else "Not yet.")


@dataclass(frozen=True)
class _Install:
    """One ``pixi install`` and what it sees."""

    stage: Stage
    number: int  # of its instruction in the stage
    line: int
    options: list[str]
    variables: dict[str, str]
    folder: str
    then: str


def check(dockerfile: str | Path, environment: str = "gpu") -> Answer:
    """Say whether a Dockerfile installs one environment, exactly as locked, and what is missing.

    Parameters
    ----------
    dockerfile : str or Path
        The file.
    environment : str
        The environment; one with CUDA has to build on a machine without a GPU.

    Raises
    ------
    LessonError
        Where there is no such file, or an engine could not read it.
    """
    path = Path(dockerfile)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LessonError("The Dockerfile can't be read.", str(path), "Save it there, as text.") from error
    found = dockerfiles.stages(dockerfiles.read(text, str(path)))
    if not found:
        hint = Hint(1, "No stage begins: there is no FROM.", "the image that has pixi in it")
        return Answer(environment, (hint,))
    installs = [install for stage in found for install in _installs(stage)]
    if not installs:
        return Answer(environment, (_nothing_installed(found),))
    hints = [hint for install in installs for hint in _judge(install, environment)]
    return Answer(environment, (*hints, *_shipped(found, installs, environment)))


def _installs(stage: Stage) -> Iterator[_Install]:
    for number, (one, variables, folder) in enumerate(stage.steps):
        if one.keyword != "RUN":
            continue
        seen, place, strict = dict(variables), folder, False
        for words, then in dockerfiles.commands(one, variables):
            while words and (words[0] == "export" or re.match(r"\w+=", words[0])):
                name, _, value = words.pop(0).partition("=")
                if name != "export":
                    seen[name] = value
            if words[:1] == ["set"] and any(re.match(r"-\w*e", word) for word in words):
                strict = True
            elif words[:1] == ["cd"] and len(words) > 1:
                place = str(PurePosixPath(place, words[1]))
            elif len(words) > 1 and PurePosixPath(words[0]).name == "pixi" and words[1] in ("install", "i"):
                after = "&&" if strict and then == ";" else then
                yield _Install(stage, number, one.line, words[2:], dict(seen), place, after)


def _nothing_installed(found: list[Stage]) -> Hint:
    for stage in found:
        for one, _, _ in stage.steps:
            if one.keyword in ("CMD", "ENTRYPOINT") and "pixi" in one.text:
                says = "Nothing is installed in the build: pixi installs in each container, when it starts."
                return Hint(one.line, says, "RUN, which runs once, in the build")
    return Hint(found[-1].line, "Nothing is installed.", "`pixi install`, in a RUN")


def _judge(install: _Install, environment: str) -> Iterator[Hint]:
    yield from _base(install)
    yield from _files(install)
    wanted = _values(install.options, "--environment", "-e")
    if "--all" in install.options or "-a" in install.options:
        yield Hint(install.line, "All environments are installed.", "`--environment`, in place of `--all`")
    elif not wanted:
        yield Hint(install.line, "It installs `default`: no environment is named.", "`--environment`")
    elif set(wanted) != {environment} and environment in wanted:
        others = ", ".join(name for name in wanted if name != environment)
        yield Hint(install.line, f"It installs {others} as well.", f"{environment} and nothing else")
    elif set(wanted) != {environment}:
        yield Hint(install.line, f"It installs {', '.join(wanted)}.", f"the environment {environment}")
    on = {name for name in ("LOCKED", "FROZEN") if install.variables.get(f"PIXI_{name}") in ("true", "1")}
    if "--frozen" in install.options or "FROZEN" in on:
        says = "With --frozen nobody looks whether the lock still fits the manifest."
        yield Hint(install.line, says, "the option that stops where it does not fit")
    elif "--locked" not in install.options and "LOCKED" not in on:
        yield Hint(install.line, "Where the lock does not fit, pixi quietly makes another.", "`--locked`")
    cuda = install.variables.get("CONDA_OVERRIDE_CUDA")
    if environment == "gpu" and not cuda:
        says = "The machine that builds has no GPU, and pixi won't install for one that it does not see."
        yield Hint(install.line, says, "the variable CONDA_OVERRIDE_CUDA, set before this line")
    elif environment == "gpu" and not re.fullmatch(r"1[2-9](\.\d+)*", cuda):
        says = f"CONDA_OVERRIDE_CUDA is {cuda!r}: that is no CUDA that the manifest allows."
        yield Hint(install.line, says, "the `cuda` in pixi.toml")
    if install.then in ("||", ";", "|", "&"):
        says = "If the installation fails, the build goes on: a broken image looks like a good one."
        yield Hint(install.line, says, f"`&&`, or a RUN of its own, in place of `{install.then}`")


def _base(install: _Install) -> Iterator[Hint]:
    stage = install.stage
    lines = list(_before(install))
    while stage.parent:
        stage = stage.parent
    brings = [one for one, _, _ in lines if one.keyword in ("RUN", "COPY", "ADD") and "pixi" in one.text]
    brings = [one for one in brings if one.keyword == "RUN" or one.option("from")]
    if "pixi" not in stage.image and not brings:
        yield Hint(stage.line, f"There is no pixi in {stage.image}.", "an image that has it")
    tag = stage.image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in stage.image and tag in ("", "latest"):
        says = f"`{stage.image}` is whatever is new on that day: next year's build is another one."
        yield Hint(stage.line, says, "a version, after the colon")


def _before(install: _Install) -> Iterator[tuple]:
    """Yield all that comes before an installation, in the stages below its own too."""
    stages, stage = [], install.stage
    while stage.parent:
        stage = stage.parent
        stages.insert(0, stage)
    for below in stages:
        yield from below.steps
    yield from install.stage.steps[: install.number]


def _files(install: _Install) -> Iterator[Hint]:
    """Look at what lies in the folder of an installation, and what would make it run again."""
    there = set()
    for option in install.stage.steps[install.number][0].options:
        mount = dict(part.partition("=")[::2] for part in option.partition("=")[2].split(","))
        if option.startswith("--mount=") and mount.get("type", "bind") == "bind" and "from" not in mount:
            target = mount.get("target") or mount.get("dst") or mount.get("destination") or ""
            there.add(str(PurePosixPath(install.folder, target)))
    for one, variables, folder in _before(install):
        if one.keyword not in ("COPY", "ADD") or one.option("from"):
            continue
        *sources, target = [dockerfiles.expand(word, variables) for word in one.words] or [""]
        place = PurePosixPath(folder, target)
        extra = []
        for source in sources:
            name = source.removeprefix("./").rstrip("/")
            matched = [needed for needed in NEEDED if fnmatch.fnmatch(needed, name)]
            everything = name in ("", ".", "*")
            renamed = len(sources) == 1 and not target.endswith("/") and place.name in NEEDED
            for needed in NEEDED if everything else matched:
                there.add(str(place if renamed else place / needed))
            if everything or not matched:
                extra.append(source)
        if extra:
            says = f"{' '.join(extra)} is copied before the installation: each edit installs all again."
            yield Hint(one.line, says, "which two files the installation needs")
    manifest = (_values(install.options, "--manifest-path", "-m") or ["."])[0]
    folder = PurePosixPath(install.folder, manifest)
    folder = folder.parent if folder.name in NEEDED else folder
    missing = [name for name in NEEDED if str(folder / name) not in there]
    elsewhere = {PurePosixPath(path).name for path in there}
    if missing and set(missing) <= elsewhere:
        says = f"pixi runs in {folder}, and {' and '.join(missing)} lie somewhere else."
        yield Hint(install.line, says, "WORKDIR, before the copy")
    elif missing == ["pixi.lock"]:
        says = "There is no pixi.lock to install from: pixi would solve anew."
        yield Hint(install.line, says, "the second file")
    elif missing:
        says = f"There is no {' and no '.join(missing)} where pixi runs."
        yield Hint(install.line, says, "COPY, before the installation")


def _shipped(found: list[Stage], installs: list[_Install], environment: str) -> Iterator[Hint]:
    """Look whether the last stage, which becomes the image, has the environment."""
    last, line, homes = found[-1], [], {install.stage.name: install.folder for install in installs}
    stage: Stage | None = last
    while stage:
        line.append(stage)
        stage = stage.parent
    if any(stage.name in homes for stage in line):
        return
    numbers = {str(number): stage.name for number, stage in enumerate(found)}
    for stage in line:
        for one, variables, folder in stage.steps:
            origin = one.option("from")
            origin = numbers.get(origin, origin)
            if one.keyword != "COPY" or origin not in homes:
                continue
            *sources, target = [dockerfiles.expand(word, variables).rstrip("/") for word in one.words]
            prefix = f"{homes[origin].rstrip('/')}/.pixi/envs/{environment}"
            if any(prefix == source or prefix.startswith(f"{source}/") for source in sources):
                if str(PurePosixPath(folder, target)) not in sources:
                    says = "The environment lies elsewhere than where it was installed: its paths break."
                    yield Hint(one.line, says, "the same path in both stages")
                return
    yield Hint(last.line, "The last stage becomes the image, and has no environment.", "COPY --from")


def _values(options: list[str], long: str, short: str) -> list[str]:
    """Return the values of an option in all its forms: ``--a b``, ``--a=b``, ``-a b``, ``-ab``."""
    values = []
    for number, word in enumerate(options):
        if word in (long, short):
            values += options[number + 1 : number + 2]
        elif word.startswith(f"{long}="):
            values.append(word.partition("=")[2])
        elif word.startswith(short) and not word.startswith("--"):
            values.append(word.removeprefix(short).removeprefix("="))
    return values
