"""What a cell says when it was run too early, or was stopped."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from lesson_helpers import first_aid


@pytest.fixture
def shell():
    """An IPython shell as in a kernel, with the explanations."""
    shell = InteractiveShell()
    first_aid.install(shell)
    return shell


def said(shell, capsys, code):
    """Run a cell that fails; return the error and the lines that the learner sees."""
    done = shell.run_cell(code)
    return done.error_in_exec, capsys.readouterr().out.strip().splitlines()


def test_a_cell_that_is_run_too_early_says_which_cells_to_run(shell, capsys):
    error, lines = said(shell, capsys, "import math\nmath.sqrt(wanted)")
    assert isinstance(error, NameError)
    assert lines[:2] == [
        "What: This notebook has no 'wanted' yet.",
        "Where: line 2 of this cell: math.sqrt(wanted)",
    ]
    assert lines[2].startswith("Do: Run the cells above: in the menu Run, Run All Above Selected Cell.")
    assert len(lines) == 3


def test_a_name_that_a_function_of_the_cell_lacks_is_told_too(shell, capsys):
    _, lines = said(shell, capsys, "def double():\n    return 2 * wanted\n\ndouble()")
    assert lines[1] == "Where: line 2 of this cell: return 2 * wanted"


def test_a_cell_that_was_stopped_says_so_in_three_lines(shell, capsys):
    error, lines = said(shell, capsys, "def wait():\n    raise KeyboardInterrupt\n\nwait()")
    assert isinstance(error, KeyboardInterrupt)
    assert lines[0] == "What: You stopped this cell."
    assert lines[2].startswith("Do: Run it again when you like")
    assert len(lines) == 3


@pytest.mark.parametrize(
    "code",
    [
        "def double():\n    y = wanted\n    wanted = 1\n\ndouble()",  # UnboundLocalError
        "eval('wanted', {})",
        "1 / 0",
    ],
)
def test_other_errors_keep_their_traceback(shell, capsys, code):
    _, lines = said(shell, capsys, code)
    assert any("Traceback (most recent call last)" in line for line in lines)


def test_each_kernel_of_the_checkout_begins_with_it(monkeypatch, tmp_path):
    monkeypatch.setattr(first_aid.paths, "tool_environment", lambda: {"IPYTHONDIR": str(tmp_path)})
    assert first_aid.prepare() == tmp_path / "profile_default/startup/lesson.py"
    told = []
    monkeypatch.setattr(first_aid, "install", told.append)
    exec(first_aid.prepare().read_text(), {"get_ipython": lambda: "shell"})
    assert told == ["shell"]
