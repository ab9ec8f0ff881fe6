import re

import pytest
import tomlkit

from lesson_helpers import lockcheck, pixi
from lesson_helpers.errors import LessonError

MANIFEST = """\
# made by hand
[workspace]
channels = ["conda-forge"]  # the only one
platforms = ["linux-64"]
"""


@pytest.fixture
def without(tmp_path):
    """Give Pixi for an empty workspace, as on a machine that has not got the program."""
    without = pixi.Pixi(tmp_path)
    without.program = None
    return without


def test_the_lessons_commands_make_a_workspace_that_can_be_locked(without, capsys):
    without("init --platform linux-64")
    without("workspace platform add osx-arm64 --no-install")
    without("workspace platform add linux-64-cuda=linux-64 --cuda 12")
    without('add "python=3.13.*"')
    without('add --feature gpu "pytorch-gpu>=2.8,<3" torchvision')
    without("workspace environment add gpu --feature gpu")
    manifest = tomlkit.parse(without.manifest.read_text()).unwrap()
    cuda = {"name": "linux-64-cuda", "platform": "linux-64", "cuda": "12"}
    assert manifest["workspace"]["platforms"] == ["linux-64", "osx-arm64", cuda]
    assert manifest["dependencies"] == {"python": "3.13.*"}
    assert manifest["feature"]["gpu"]["dependencies"] == {"pytorch-gpu": ">=2.8,<3", "torchvision": "*"}
    assert manifest["environments"] == {"gpu": ["gpu"]}
    manifest["feature"]["gpu"]["platforms"] = ["linux-64-cuda"]
    without.manifest.write_text(tomlkit.dumps(manifest))
    without("lock")
    assert lockcheck.check(without.manifest, without.lock).fits
    capsys.readouterr()
    without("lock --check")
    assert capsys.readouterr().out == "$ pixi lock --check\nThe lock file satisfies the manifest.\n"


def test_comments_and_order_survive(without):
    without.manifest.write_text(MANIFEST)
    without("add python=3.13")
    assert without.manifest.read_text() == f'{MANIFEST}\n[dependencies]\npython = "3.13.*"\n'


def test_a_command_shows_what_it_changes(without, capsys):
    without.manifest.write_text(MANIFEST)
    without("workspace platform add win-64")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "$ pixi workspace platform add win-64"
    assert said[2:] == ['    -platforms = ["linux-64"]', '    +platforms = ["linux-64", "win-64"]']


def test_a_platform_that_is_there_is_not_added_twice(without, capsys):
    without.manifest.write_text(MANIFEST)
    without("workspace platform add linux-64")
    assert "linux-64 is there already." in capsys.readouterr().out
    assert without.manifest.read_text() == MANIFEST


def test_run_uses_the_environment_with_torch_and_says_so(without, capfd):
    without.manifest.write_text(f'{MANIFEST}[feature.cpu]\n[environments]\ncpu = ["cpu"]\n')
    without("run --environment cpu python -c 'import torch; print(torch.__name__)'")
    said = capfd.readouterr().out.splitlines()
    assert "instead of the locked one, because there is no pixi" in said[1]
    assert said[2:] == ["torch"]


def test_the_rung_says_that_the_program_is_not_there(without):
    assert "py-rattler" in without.rung.ran
    assert without.rung.instead_of == "pixi"
    assert "0.72" in without.rung.reason


def test_with_the_program_the_real_commands_run_in_the_workspace(tmp_path, monkeypatch, capsys):
    program = tmp_path / "bin" / "pixi"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "pixi 0.77.0" && exit\n'
        'pwd; env | grep ^PIXI_PROJECT; for word; do echo "<$word>"; done; echo x >pixi.toml\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("PIXI_PROJECT_MANIFEST", "the kit's own")
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    real = pixi.Pixi(workspace)
    assert (real.rung.ran, real.rung.instead_of) == ("pixi 0.77.0", "")
    real("add --feature cpu 'pytorch-cpu>=2.8,<3'")
    said = capsys.readouterr().out.splitlines()
    assert said[1:6] == [str(workspace), "<add>", "<--feature>", "<cpu>", "<pytorch-cpu>=2.8,<3>"]
    assert said[-1] == "    +x"


def test_a_command_of_the_program_that_fails_has_a_clear_message(tmp_path, monkeypatch, capsys):
    program = tmp_path / "pixi"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "pixi 0.77.0" && exit\necho "no network" >&2; exit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(LessonError) as caught:
        pixi.Pixi(tmp_path)("lock")
    assert "no network" in caught.value.what
    assert f"pixi lock, in {tmp_path}" in caught.value.where
    assert "run the cell again" in caught.value.fix
    assert "no network" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "what", "where"),
    [
        ("shell --environment cpu", "does not know", "pixi shell --environment cpu"),
        ("add", "does not know", "pixi add"),
        ("add --platform win-64 numpy", "does not know", "pixi add"),
        ("init", "a manifest already", "pixi.toml"),
        ("add 'numpy>>2'", "no package with a version", "numpy>>2"),
        ("workspace environment add cpu --feature cpu", "an environment 'cpu' already", "pixi.toml"),
        ("run --environment gpu python", "no environment 'gpu'", "pixi.toml"),
        ("run --environment cpu ls", "needs the program pixi", "pixi run --environment cpu ls"),
        ("lock --check", "no lock file", "pixi.lock"),
    ],
)
def test_what_can_not_be_done_without_the_program_has_a_clear_message(without, line, what, where):
    without.manifest.write_text(f'{MANIFEST}[feature.cpu]\n[environments]\ncpu = ["cpu"]\n')
    with pytest.raises(LessonError) as caught:
        without(line)
    assert what in caught.value.what
    assert where in caught.value.where
    assert caught.value.fix


def test_a_lock_that_does_not_fit_has_a_clear_message(without):
    without.manifest.write_text(f'{MANIFEST}[dependencies]\npython = "3.13.*"\n')
    without("lock")
    without.manifest.write_text(f'{MANIFEST}[dependencies]\npython = "3.12.*"\n')
    with pytest.raises(LessonError) as caught:
        without("lock --check")
    assert "default on linux-64: the manifest asks for `python 3.12.*`" in caught.value.what
    assert "pixi.lock" in caught.value.where
    assert "pixi lock" in caught.value.fix


def test_an_earlier_manifest_is_set_aside_and_said(tmp_path, capsys):
    pixi.set_aside(tmp_path)
    assert capsys.readouterr().out == "There is no pixi.toml here yet.\n"
    for text, folder in (
        ("one", "earlier/1"),
        ("two", "earlier/2"),
        ("two", "earlier/2"),
        ("one", "earlier/3"),
    ):
        (tmp_path / "pixi.toml").write_text(text)
        pixi.set_aside(tmp_path)
        assert (tmp_path / folder / "pixi.toml").read_text() == text
        assert f"pixi.toml of that time lie in {folder} now" in capsys.readouterr().out
        assert not (tmp_path / "pixi.toml").exists()


COMMENTED = """\
# a workspace of mine

[workspace]  # it begins here
# first the channels
channels = ["conda-forge"]  # the only one
platforms = [
  "linux-64",  # the pool
  "osx-arm64",  # my laptop
]

# what I need

[feature.cpu.dependencies]  # no CUDA
zlib = "*"  # last in the alphabet, first here
python = "3.13.*"  # not the newest

# the end
"""


def test_comments_survive_each_command(without):
    without.manifest.write_text(COMMENTED)
    without("workspace platform add linux-64-cuda=linux-64 --cuda 12")
    without('add --feature cpu "pytorch-cpu>=2.8,<3"')
    without('add --feature gpu "pytorch-gpu>=2.8,<3"')
    without("workspace environment add cpu --feature cpu")
    text = without.manifest.read_text()
    for line in COMMENTED.splitlines():
        for comment in re.findall("#.*", line):
            assert comment in text
    kept = [line for line in text.splitlines() if line in COMMENTED.splitlines() and line]
    assert kept == [line for line in COMMENTED.splitlines() if line]
    manifest = tomlkit.parse(text).unwrap()
    assert list(manifest["feature"]["cpu"]["dependencies"]) == ["zlib", "python", "pytorch-cpu"]
    assert list(manifest)[:2] == ["workspace", "feature"]
