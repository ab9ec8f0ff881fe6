"""What the network said about the test pictures, and files that don't say it."""

import pickle
from xml.etree import ElementTree

import numpy as np
import pytest

from lesson_helpers import results
from lesson_helpers.errors import LessonError


@pytest.fixture
def file(tmp_path):
    labels = np.array([0, 1, 1, 7, 7, 7, 9])
    said = np.array([0, 1, 7, 7, 1, 1, 9])
    probabilities = np.full((7, 10), 0.01)
    probabilities[np.arange(7), said] = [0.9, 0.9, 0.6, 0.9, 0.7, 0.8, 0.9]
    np.savez_compressed(
        tmp_path / "predictions.npz", labels=labels, predictions=said, probabilities=probabilities
    )
    return tmp_path / "predictions.npz"


def test_the_wrong_ones_come_with_the_surest_first(file):
    read = results.read(file)
    assert read.wrong.tolist() == [5, 4, 2]
    assert str(read) == "3 of 7 test digits are wrong."
    assert read.sure[5] == 0.8


def test_it_says_for_each_digit_how_many_are_right_and_what_it_was_taken_for(file):
    rows = results.read(file).by_digit().rows
    assert rows[1] == ("1", "2", "50.00 %", "7 (once)")
    assert rows[7] == ("7", "3", "33.33 %", "1 (2 times)")
    assert rows[9] == ("9", "1", "100.00 %", "nothing else")
    assert rows[3] == ("3", "0", "0.00 %", "nothing else")


def test_the_confusion_matrix_has_a_row_for_what_a_digit_is(file):
    confusion = results.read(file).confusion()
    assert confusion.counts[7].tolist() == [0, 2, 0, 0, 0, 0, 0, 1, 0, 0]
    assert confusion.counts.sum() == 7
    assert "said 1" in str(confusion).splitlines()[0]
    root = ElementTree.fromstring(confusion._repr_html_())
    assert len(root.findall(".//th[@scope='row']")) == len(root.findall(".//th[@scope='col']")) == 10
    assert [cell.text for cell in root.findall("tbody/tr")[7].findall("td")][1] == "2"


@pytest.mark.parametrize("name", ["none", "text", "cut", "pickle", "other", "letters", "unequal"])
def test_another_or_a_damaged_file_is_a_clear_mistake(file, name, tmp_path):
    path = tmp_path / f"{name}.npz"
    ten = np.zeros((2, 10))
    if name == "text":
        path.write_text("no predictions")
    elif name == "cut":
        path.write_bytes(file.read_bytes()[:-40])
    elif name == "pickle":
        path.write_bytes(pickle.dumps({"labels": [1]}))
    elif name == "other":
        np.savez(path, pictures=ten)
    elif name == "letters":
        np.savez(path, labels=[1, 26], predictions=[1, 1], probabilities=ten)
    elif name == "unequal":
        np.savez(path, labels=[1, 2, 3], predictions=[1, 1], probabilities=ten)
    with pytest.raises(LessonError) as caught:
        results.read(path)
    assert caught.value.what.startswith("The predictions can't be read: ")
    assert caught.value.where == str(path)
    assert "Run the training again" in caught.value.fix
