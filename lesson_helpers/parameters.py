"""Parameters of notebooks: a contract that is checked before anything runs.

Papermill only warns of a parameter that a notebook doesn't have, and takes a value of any type.
"""

import ast
import contextlib
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from lesson_helpers.errors import LessonError

TYPES = {name.__name__: name for name in (bool, int, float, str, list, dict, tuple)}
IN_WORDS = {"bool": "True or False", "int": "a whole number", "float": "a number", "str": "text"}


def split(assignments: Sequence[str]) -> dict[str, str]:
    """Split what was typed after ``-p``, ``NAME=VALUE`` each; the last of two with one name counts.

    >>> split(["epochs=3", "folder=my work"])
    {'epochs': '3', 'folder': 'my work'}
    """
    for text in assignments:
        if not text.partition("=")[0].strip().isidentifier() or "=" not in text:
            raise LessonError(
                "A parameter is a name, an equals sign and a value.",
                f"-p {text}",
                "Type it like -p epochs=3.",
            )
    return {name.strip(): value for name, _, value in (text.partition("=") for text in assignments)}


def of(notebook: Path) -> dict[str, dict[str, str]]:
    """Return a notebook's parameters as papermill finds them: name to type, default and help."""
    import papermill  # two seconds, which only a run has to spend

    found = papermill.inspect_notebook(notebook)
    return {name: {**one, "type": _type(one)} for name, one in found.items()}


def check(notebooks: Sequence[Path], given: Mapping[str, object]) -> dict[Path, dict[str, object]]:
    """Check all parameters against all notebooks, and return which notebook gets which values.

    Parameters
    ----------
    notebooks : sequence of Path
        The notebooks that were chosen.
    given : mapping
        Names and values; text is read as the type that the notebook declares.

    Raises
    ------
    LessonError
        Where none of the notebooks has a parameter of that name, or one declares another type for it.
    """
    known = {notebook: of(notebook) for notebook in notebooks}
    for name in given:
        if not any(name in parameters for parameters in known.values()):
            raise _unknown(name, given[name], known)
    return {
        notebook: {
            name: _value(name, given[name], one, notebook)
            for name, one in parameters.items()
            if name in given
        }
        for notebook, parameters in known.items()
    }


def _type(parameter: Mapping[str, str]) -> str:
    """Return the annotated type, or else that of the default."""
    annotated = parameter["inferred_type_name"]
    if annotated.partition("[")[0] in TYPES:
        return annotated
    try:
        return type(ast.literal_eval(parameter["default"])).__name__
    except (ValueError, SyntaxError):
        return ""  # not known: any value will do


def _value(name: str, given: object, declared: Mapping[str, str], notebook: Path) -> object:
    kind = declared["type"]
    value = _read(given, kind) if isinstance(given, str) else given
    if kind == "float" and type(value) is int:
        with contextlib.suppress(OverflowError):  # more digits than a float has room for
            value = float(value)
    if not kind or _fits(value, ast.parse(kind, mode="eval").body):
        return value
    wanted = IN_WORDS.get(kind, f"of the type {kind}")
    about = f", {declared['help'].strip()}" if declared["help"].strip() else ""
    raise LessonError(
        f"The parameter `{name}` is {wanted} ({kind}{about}), and {given!r} is not.",
        f"-p {name}={given}, for {notebook.stem}",
        f"Give it a value like its default: -p {name}={declared['default'].strip(chr(34))}.",
    )


def _read(text: str, kind: str) -> object:
    """Read typed text as a literal; text that is none stays text, and so does all where text is wanted."""
    if kind == "bool" and text.strip().lower() in ("true", "false"):
        return text.strip().lower() == "true"
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if kind != "str" or isinstance(value, str) else text


def _fits(value: object, annotation: ast.expr) -> bool:
    """Tell whether a value is of an annotated type, like ``int`` or ``list[float]``."""
    if isinstance(annotation, ast.Name):
        return type(value) is TYPES.get(annotation.id, type(value))  # True is no int here
    if not isinstance(annotation, ast.Subscript) or not _fits(value, annotation.value):
        return False
    inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    if isinstance(value, dict):
        return all(_fits(key, inner[0]) and _fits(one, inner[-1]) for key, one in value.items())
    if isinstance(value, tuple) and len(inner) > 1:
        return len(value) == len(inner) and all(map(_fits, value, inner))
    return all(_fits(one, inner[0]) for one in value)


def _unknown(name: str, value: object, known: Mapping[Path, Mapping]) -> LessonError:
    where = {}
    for notebook, parameters in known.items():
        for parameter in parameters:
            where.setdefault(parameter, []).append(notebook.stem)
    near = difflib.get_close_matches(name, where, n=1) or sorted(where)
    names = [f"{one} ({', '.join(where[one])})" for one in near]
    chosen = ", ".join(notebook.stem for notebook in known)
    if not names:
        fix = "Leave it out: these notebooks have no parameters."
    elif len(names) == 1:
        fix = f"Did you mean {names[0]}?"
    else:
        fix = f"Use one of: {'; '.join(names)}."
    return LessonError(f"There is no parameter `{name}` in {chosen}.", f"-p {name}={value}", fix)
