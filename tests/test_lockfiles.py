import pytest

from lesson_helpers import lockfiles, paths
from lesson_helpers.errors import LessonError

KIT_LOCK = paths.root() / "pixi.lock"
TEXT = KIT_LOCK.read_text()
LAUGHS = "a: &a [ha, ha]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.fixture
def read(tmp_path):
    """Give a function that reads a lock file with this text."""

    def read(text):
        path = tmp_path / "pixi.lock"
        path.write_bytes(text) if isinstance(text, bytes) else path.write_text(text)
        return lockfiles.read(path)

    return read


@pytest.fixture
def no_parser(monkeypatch):
    """Let a test fail where the YAML parser is started."""

    def from_path(path):
        pytest.fail("the file reached the parser")

    monkeypatch.setattr(lockfiles, "LockFile", type("LockFile", (), {"from_path": staticmethod(from_path)}))


def test_a_package_has_what_the_lock_says_of_it():
    package = lockfiles.read(KIT_LOCK).part("cpu", "linux-64").package("pytorch")
    assert (package.version, package.licence) == ("2.8.0", "BSD-3-Clause")
    assert package.build.startswith("cpu_")
    assert "pytorch-gpu <0.0a0" in package.constrains
    assert str(package).endswith("(25 MB)")


def test_without_a_platform_it_is_this_machines_or_else_the_first(monkeypatch):
    lock = lockfiles.read(KIT_LOCK)
    monkeypatch.setattr(lockfiles, "this_subdir", lambda: "win-64")
    assert lock.part("cpu").label == "win-64"
    assert lock.part("gpu").label == "linux-64 with cuda 12"


def test_a_wrong_name_of_a_package_has_a_clear_message():
    with pytest.raises(LessonError) as caught:
        lockfiles.read(KIT_LOCK).part("cpu", "linux-64").package("torch")
    assert "'torch'" in caught.value.what
    assert caught.value.where == "cpu on linux-64"
    assert caught.value.fix == "Did you mean pytorch?"


@pytest.mark.parametrize(
    ("environment", "platform", "what", "fix"),
    [
        ("gpu", "win-64", "no environment 'gpu' for 'win-64'", "gpu on linux-64 with cuda 12"),
        ("gqu", "", "no environment 'gqu'", "Did you mean gpu?"),
    ],
)
def test_an_environment_that_is_not_locked_has_a_clear_message(environment, platform, what, fix):
    with pytest.raises(LessonError) as caught:
        lockfiles.read(KIT_LOCK).part(environment, platform)
    assert what in caught.value.what
    assert "pixi.lock" in caught.value.where
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT[: len(TEXT) // 2],
        TEXT.replace("version: 7", "version: 99"),
        TEXT.replace("sha256: ", "sha256: zz"),
        "[1, 2",
        "version: 7\n",
        TEXT.replace("size: 28948", "size: large"),
        TEXT.replace("size: 28948", "size: -1"),
        TEXT.replace("platforms:\n- name: linux-64", "platforms:\n- linux-64"),
        TEXT.replace("subdir: linux-64", "subdir: linux-46"),
        b"\x00\xff" * 1000,
        "--- one\nversion: 7\n--- two\n",
    ],
    ids=[
        "empty",
        "cut in half",
        "of a later format",
        "with wrong hashes",
        "not YAML",
        "with nothing in it",
        "with a word for a number",
        "with a negative size",
        "with a text for a table",
        "for an unknown kind of machine",
        "not text",
        "two documents",
    ],
)
def test_a_broken_lock_has_a_clear_message(read, tmp_path, text):
    with pytest.raises(LessonError) as caught:
        read(text)
    assert "can't be read" in caught.value.what
    assert str(tmp_path) in caught.value.where
    assert "pixi lock" in caught.value.fix


def test_a_lock_that_is_too_large_is_not_even_read(read, no_parser):
    with pytest.raises(LessonError) as caught:
        read(TEXT + "\n" * (50_000_000 - len(TEXT)))
    assert "50 MB" in caught.value.what
    assert "pixi.lock" in caught.value.where
    assert "version control" in caught.value.fix


def test_a_lock_with_too_many_lines_never_reaches_the_parser(read, no_parser):
    with pytest.raises(LessonError) as caught:
        read(TEXT + "\n" * 2_000_000)
    assert "lines, and more than 200,000 are not read here" in caught.value.what
    assert "pixi.lock" in caught.value.where
    assert "version control" in caught.value.fix


@pytest.mark.parametrize(
    "lines",
    [
        LAUGHS,
        "x: " + "[" * 100_000,
        "x: " + "{a: " * 100_000,
        "- [",
        '"a": [',
        "'it''s': {",
        "x: y\nz: *x",
        "*x : y",
        "x: !!python/object a",
        "x:\n  - - - - - - a",
        " " * 100 + "x: y",
        "? x",
        "x: |\n  text",
    ],
    ids=lambda lines: lines[:12],
)
def test_what_can_take_all_memory_or_minutes_never_reaches_the_parser(read, no_parser, lines):
    with pytest.raises(LessonError) as caught:
        read(f"version: 7\n{lines}\n")
    assert "has a form that Pixi does not write" in caught.value.what
    assert "line 2" in caught.value.what or "line 3" in caught.value.what
    assert len(caught.value.what) < 150
    assert "pixi.lock" in caught.value.where
    assert "version control" in caught.value.fix


def test_one_long_line_is_looked_at_in_one_go():
    """Each part of the line is passed once: a pattern that goes back and forth would take hours here."""
    assert lockfiles._is_simple("a" + " " * 3_000_000)
    assert lockfiles._is_simple("'" * 2_999_999 + ": x") in (True, False)
    assert not lockfiles._is_simple("a" * 3_000_000 + ": [")


def test_what_pixi_writes_is_taken():
    for line in (
        "  - conda: https://conda.anaconda.org/conda-forge/linux-64/aom-3.9.1-hac33072_0.conda",
        "  - python_abi 3.13.* *_cp313",
        "  depends: []",
        "  license: 'MIT AND (Apache-2.0 OR BSD-2-Clause)'",
        "  - numpy[version='>=1.23']",
        "# a comment [ *",
        "---",
        "",
    ):
        assert lockfiles._is_simple(line)


def test_a_requirement_that_is_none_has_a_clear_message():
    with pytest.raises(LessonError) as caught:
        lockfiles.match("numpy >>2", "cpu on linux-64")
    assert "`numpy >>2` is no requirement" in caught.value.what
    assert caught.value.where == "cpu on linux-64"
    assert "pixi lock" in caught.value.fix


def test_a_missing_lock_has_a_clear_message(tmp_path):
    with pytest.raises(LessonError) as caught:
        lockfiles.read(tmp_path / "pixi.lock")
    assert "no lock file" in caught.value.what
    assert str(tmp_path) in caught.value.where
    assert "pixi lock" in caught.value.fix
