"""The curves of trainings: what they say, and that everybody can read them."""

import re
from xml.etree import ElementTree

import pytest

from lesson_helpers.curves import COLOURS, DASHES, Curves, progress


def line(step, which="train", steps=20, loss=0.5, accuracy=0.9, seconds=None):
    seconds = step / 10 if seconds is None else seconds
    return {"step": step, "steps": steps, "set": which, "pictures": 128 * step, "loss": loss,
            "accuracy": accuracy, "seconds": seconds}  # fmt: skip


LINES = (line(5, loss=1.2, accuracy=0.7), line(10), line(10, "test", loss=0.1, accuracy=0.9891))
DONE = (*LINES, line(20, loss=0.05, accuracy=0.99), line(20, "test", loss=0.04, accuracy=0.9902))


def test_while_it_runs_it_says_how_far_how_fast_and_how_long():
    said = progress(LINES, running=True)
    assert said == (
        "step 10 of 20 (50 %), 1,280 pictures a second, 1 seconds left, 98.91 % of the test digits right."
    )
    assert progress((), running=True) == "starting; PyTorch takes a few seconds to load."
    assert "<progress max='100' value='50'" in Curves((("", LINES),), running=True)._repr_html_()


def test_at_the_end_it_says_what_came_out():
    assert (
        progress(DONE, running=False)
        == "99.02 % of the test digits right, 2.0 seconds, 1,280 pictures a second."
    )
    assert "ended at step 10 of 20" in progress(LINES, running=False)
    assert "<progress" not in Curves((("", DONE),))._repr_html_()


def test_the_picture_is_well_formed_and_says_in_words_what_it_shows():
    root = ElementTree.fromstring(Curves((("a < b & 'c'", DONE), ('"d"', LINES)))._repr_html_())
    (picture,) = (svg for svg in root.iter("{http://www.w3.org/2000/svg}svg") if svg.get("role") == "img")
    assert "a < b & 'c': 99.02 % of the test digits right" in picture.get("aria-label")
    hidden = [svg for svg in root.iter() if svg.tag == "svg"]
    assert all(svg.get("aria-hidden") == "true" for svg in hidden)


def test_every_point_lies_inside_of_its_panel():
    wild = (line(1, loss=80.0, accuracy=0.05), line(2, loss=0.0, accuracy=1.0), line(2, "test"))
    html = Curves((("", wild), ("other", DONE)))._repr_html_()
    points = [
        tuple(map(float, p.split(",")))
        for path in re.findall(r"points='([^']+)'", html)
        for p in path.split()
    ]
    assert points
    for x, y in points:
        assert 0 <= x <= 300
        assert 0 <= y <= 150


def test_several_trainings_differ_by_more_than_colour():
    html = Curves(tuple((name, DONE) for name in "abcd"))._repr_html_()
    assert len(set(DASHES)) == len(set(COLOURS)) == 4
    for colour, dashes in zip(COLOURS, DASHES, strict=True):
        assert f"stroke='{colour}' stroke-width='2' stroke-dasharray='{dashes}'" in html
    assert len(set(re.findall(r"d='(M-?[\d.]+ -?[\d.]+[a-z][^']*z)'", html))) == 4  # the marks' shapes


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("page", ["#ffffff", "#121212"])
def test_the_colours_stand_out_on_a_light_and_on_a_dark_page(colour, page):
    """At least 3 to 1, WCAG 2.2, 1.4.11."""

    def luminance(text):
        parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(colour), luminance(page)))
    assert (light + 0.05) / (dark + 0.05) >= 3
