"""The learner's own folder, and the point where each notebook starts in it."""

import shutil
from pathlib import Path

from IPython.display import Code

from lesson_helpers import paths
from lesson_helpers.errors import LessonError

# What a notebook finds in the workspace even if none before it was run.
STARTING_POINTS = {
    "01-environment": (),
    "02-train-on-cpu": ("jobs/src",),
    "03-container-image": ("pixi.toml", "pixi.lock", "Dockerfile", ".dockerignore", "jobs"),
    "04-htcondor-gpu": ("jobs",),
}


def start(notebook: str, folder: str | Path) -> Path:
    """Bring the workspace to a notebook's starting point and say what was put there.

    A file that is there already is the learner's and stays as it is.

    Parameters
    ----------
    notebook : str
        The notebook's name, one of `STARTING_POINTS`.
    folder : str or Path
        The workspace; a relative path counts from the checkout.

    Returns
    -------
    Path
        The workspace, absolute.

    Raises
    ------
    LessonError
        Where the notebook is not known, the path is a file or the checkout, or it can't be written.
    """
    if notebook not in STARTING_POINTS:
        names = ", ".join(STARTING_POINTS)
        raise LessonError(f"There is no notebook {notebook!r}.", "workspace.start()", f"Use one of: {names}.")
    workspace, kit = paths.inside(folder), paths.root()
    if workspace == kit:
        raise LessonError(
            "The checkout itself can't be the workspace: the lesson's own files are in it.",
            f"the parameter `folder`, {str(folder)!r}",
            "Name a folder in it, such as workspace.",
        )
    put = []
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        for name in STARTING_POINTS[notebook]:
            sources = (
                [kit / name]
                if (kit / name).is_file()
                else sorted(p for p in (kit / name).rglob("*") if p.is_file())
            )
            for source in sources:
                target = workspace / source.relative_to(kit)
                if "__pycache__" in source.parts or target.exists():
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
                put.append(str(target.relative_to(workspace)))
    except OSError as error:
        raise LessonError(
            f"The workspace can't be written: {error.strerror}.",
            str(error.filename or workspace),
            "Give the notebook's parameter `folder` a folder that you may write to.",
        ) from error
    print(f"Workspace: {workspace}")
    print(f"Put there now: {', '.join(put)}." if put else "Everything this notebook starts from is there.")
    return workspace


def show(path: str | Path, first: int | str = 1, last: int | str | None = None) -> Code:
    """Show a file, or some of its lines, in colour: the file itself, not a copy in the page.

    Parameters
    ----------
    path : str or Path
        The file.
    first, last : int or str
        The lines to show: counted from 1, or a text that the line holds, so that a page still shows the right
        ones after an edit; `last` is looked for from `first` on. By default all.

    Raises
    ------
    LessonError
        Where there is no such file, or no such line in it.
    """
    path = Path(path)
    if not path.is_file():
        raise LessonError("There is no such file to show.", str(path), "Run the cells above, which make it.")
    language = {
        ".sub": "properties",
        ".toml": "toml",
        ".lock": "yaml",
        ".jsonl": "json",
        "": "docker" if path.name == "Dockerfile" else "text",
    }
    lines = path.read_text().splitlines()
    begin = _line(path, lines, first, 1)
    end = len(lines) if last is None else _line(path, lines, last, begin)
    shown = "\n".join(lines[begin - 1 : end])
    return Code(shown, language=language.get(path.suffix, path.suffix.lstrip(".") or "text"))


def _line(path: Path, lines: list[str], wanted: int | str, begin: int) -> int:
    """Return the number of a line that is given by its number or by a text in it."""
    if isinstance(wanted, int):
        return wanted
    for number, line in enumerate(lines[begin - 1 :], begin):
        if wanted in line:
            return number
    raise LessonError(
        f"No line of the file holds {wanted!r}.", str(path), "Show the whole file, and name a line of it."
    )
