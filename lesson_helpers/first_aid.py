"""What a cell says when it was run too early, or was stopped: three parts in place of a traceback."""

import linecache
from pathlib import Path
from types import TracebackType

from lesson_helpers import paths
from lesson_helpers.errors import LessonError

STARTUP = "from lesson_helpers import first_aid\n\nfirst_aid.install(get_ipython())\n"


def prepare() -> Path:
    """Let each kernel of this checkout begin with `install`; returns the file that does it.

    The notebooks can't: after a restart of the kernel, a learner goes on in the middle of one.
    """
    folder = Path(paths.tool_environment()["IPYTHONDIR"]) / "profile_default" / "startup"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "lesson.py"
    file.write_text(STARTUP)
    return file


def install(shell) -> None:
    """Let an IPython shell explain a name that it doesn't know, and a cell that was stopped."""
    shell.set_custom_exc((NameError, KeyboardInterrupt), _show)


def explain(error: BaseException, trace: TracebackType, namespace: dict) -> LessonError | None:
    """Return what to tell about an error that a cell ended with; None where the traceback tells more.

    Parameters
    ----------
    error : BaseException
        The error.
    trace : traceback
        Its traceback.
    namespace : dict
        The names of the notebook: code that sees them is in a cell.
    """
    steps = []
    while trace:
        steps.append(trace)
        trace = trace.tb_next
    if not (in_cell := [step for step in steps if step.tb_frame.f_globals is namespace]):
        return None
    last = in_cell[-1]
    line = linecache.getline(last.tb_frame.f_code.co_filename, last.tb_lineno).strip()
    where = f"line {last.tb_lineno} of this cell: {line}"
    if isinstance(error, KeyboardInterrupt):
        return LessonError(
            "You stopped this cell.", where, "Run it again when you like; cells below may need what it makes."
        )
    if type(error) is not NameError or last is not steps[-1]:  # a mistake in some package
        return None
    return LessonError(
        f"This notebook has no {error.name!r} yet.",
        where,
        "Run the cells above: in the menu Run, Run All Above Selected Cell. After a restart of the kernel "
        "all have to run again. If you typed the name yourself, look for a misspelling.",
    )


def _show(
    shell, kind: type, error: BaseException, trace: TracebackType, tb_offset: int | None = None
) -> None:
    if told := explain(error, trace, shell.user_ns):
        shell._showtraceback(kind, error, str(told).splitlines())
    else:
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
