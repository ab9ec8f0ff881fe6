import shutil

import pytest

from lesson_helpers import lockcheck, paths, pixi, puzzles
from lesson_helpers.errors import LessonError


@pytest.fixture
def workspace(tmp_path):
    for name in ("pixi.toml", "pixi.lock"):
        shutil.copy(paths.root() / name, tmp_path)
    return tmp_path


def problems(folder):
    return lockcheck.check(folder / "pixi.toml", folder / "pixi.lock").problems


def test_each_of_the_three_fails_for_a_reason_of_its_own(workspace, capsys):
    one, two, three = puzzles.broken_locks(workspace)
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert {p.package for p in problems(one)} == {"rich"}
    assert any("no platform linux-64 with __cuda=13" in p.says for p in problems(two))
    assert {(p.environment, p.platform, p.package) for p in problems(three)} == {
        ("cpu", "osx-arm64", "numpy")
    }
    assert all("git checkout pixi.lock" in p.fix for p in problems(three))


def test_what_is_to_be_typed_mends_each(workspace):
    for folder in puzzles.broken_locks(workspace):
        without = pixi.Pixi(folder)
        without.program = None
        without("lock")
        assert not problems(folder)


def test_the_workspace_stays_as_it_is(workspace):
    before = [(workspace / name).read_bytes() for name in ("pixi.toml", "pixi.lock")]
    puzzles.broken_locks(workspace)
    assert [(workspace / name).read_bytes() for name in ("pixi.toml", "pixi.lock")] == before


def test_a_workspace_without_the_two_environments_has_a_clear_message(workspace):
    text = (workspace / "pixi.toml").read_text()
    (workspace / "pixi.toml").write_text(text.replace('gpu = ["gpu"]\n', ""))
    with pytest.raises(LessonError) as caught:
        puzzles.broken_locks(workspace)
    assert "no environment 'gpu'" in caught.value.what
    assert "pixi.toml" in caught.value.where
    assert "pixi lock" in caught.value.fix
