"""What a build would send to the engine is looked at first."""

import os

import pytest

from lesson_helpers import buildcontext
from lesson_helpers.errors import LessonError


@pytest.fixture
def much(tmp_path):
    """Give a folder with five gigabytes of data in it, which take no place on the disk."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /app/\n")
    (tmp_path / "data/raw").mkdir(parents=True)
    with (tmp_path / "data/raw/images.bin").open("wb") as file:
        os.truncate(file.fileno(), 5_000_000_000)
    return tmp_path


def test_gigabytes_without_a_list_of_what_stays_out_are_a_clear_message_before_anything_is_sent(much, engine):
    with pytest.raises(LessonError) as refused:
        engine.build(much, "lesson/much:1")
    assert refused.value.what == (
        "There is no .dockerignore, and 5,000 MB would be sent to the builder, 5,000 MB of it 'data'."
    )
    assert refused.value.where == str(much)
    assert "Copy the lesson's .dockerignore" in refused.value.fix


@pytest.mark.parametrize("name", buildcontext.LISTS)
def test_with_a_list_it_is_the_learners_own_business(much, name):
    (much / name).write_text("data\n")
    buildcontext.check(much)


def test_a_little_without_a_list_is_sent(much):
    (much / "data/raw/images.bin").write_bytes(b"small")
    buildcontext.check(much)


def test_what_a_link_leads_to_is_not_counted(much, tmp_path_factory):
    (much / "data").rename(tmp_path_factory.mktemp("elsewhere") / "data")
    (much / "data").symlink_to(tmp_path_factory.getbasetemp())
    buildcontext.check(much)
