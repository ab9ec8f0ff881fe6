import nbformat
from IPython.core.formatters import format_display_data

from lesson_helpers import ladder
from lesson_helpers.ladder import Rung

REAL = Rung("image engine", "Docker 28 with BuildKit")
LOWER = Rung("GPU", "a simulated A100", "a real GPU", "this machine has none <yet>")


def executed(*rungs):
    """Give a notebook that displayed these rungs."""
    outputs = [nbformat.v4.new_output("display_data", data=format_display_data(rung)[0]) for rung in rungs]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)])


def test_a_lower_rung_says_what_it_stands_in_for_and_why():
    assert str(LOWER) == "GPU: a simulated A100, instead of a real GPU, because this machine has none <yet>."
    assert str(REAL) == "image engine: Docker 28 with BuildKit."


def test_the_two_look_different_and_html_is_escaped():
    assert LOWER._repr_mimebundle_()["text/plain"].startswith("▽")
    assert REAL._repr_mimebundle_()["text/plain"].startswith("✓")
    assert "none &lt;yet&gt;" in LOWER._repr_mimebundle_()["text/html"]


def test_the_report_reads_what_the_notebook_showed():
    assert ladder.read(executed(REAL, LOWER, REAL)) == [REAL, LOWER]
    assert ladder.read(executed()) == []
