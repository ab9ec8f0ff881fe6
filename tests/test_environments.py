import os
import subprocess
import sys
from pathlib import Path

import pytest

from lesson_helpers import environments, lockfiles, manifests, paths
from lesson_helpers.errors import LessonError


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """Give a function that makes a script the only `pixi` on PATH."""

    def on_path(script):
        program = tmp_path / "bin" / "pixi"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        return program

    return on_path


@pytest.fixture
def no_torch(monkeypatch):
    """Let this Python look like the one of the Pixi environment, which has no torch."""
    find = environments.importlib.util.find_spec
    monkeypatch.setattr(environments.importlib.util, "find_spec", lambda name: name != "torch" and find(name))


def test_the_training_python_has_torch():
    command = [*environments.training_python(), "-c", "import torch; print(torch.__version__)"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert said.stdout[0] == "2"
    assert (environments.training_folder() / "python").exists()


def test_the_pip_made_environment_trains_with_its_own_python():
    if not environments.importlib.util.find_spec("torch"):
        pytest.skip("this is Pixi's environment, whose Python has no torch")
    assert environments.training_python() == [sys.executable]


def test_under_pixi_the_cpu_environments_python_trains(on_path, no_torch):
    program = on_path(
        '[ "$1" = --version ] && echo "pixi 0.77.0" && exit; echo "$@" >"$0.log"; echo /envs/cpu/bin/python'
    )
    assert environments.training_python() == ["/envs/cpu/bin/python"]
    assert environments.training_folder() == Path("/envs/cpu/bin")
    asked = program.with_name("pixi.log").read_text()
    assert asked.startswith(f"run --locked --manifest-path {paths.root()}/pixi.toml -e cpu python -c")


def test_where_no_python_has_torch_there_is_a_clear_message(no_torch, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LessonError) as caught:
        environments.training_python()
    assert "No Python with torch" in caught.value.what
    assert caught.value.where == sys.executable
    assert "./lesson" in caught.value.fix


def test_where_pixi_can_not_install_the_message_has_its_reason(on_path, no_torch):
    on_path('[ "$1" = --version ] && echo "pixi 0.77.0" && exit; echo "no route to conda-forge" >&2; exit 1')
    with pytest.raises(LessonError) as caught:
        environments.training_python()
    assert "no route to conda-forge" in caught.value.what
    assert "-e cpu" in caught.value.where
    assert "terminal" in caught.value.fix


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("pixi 0.77.0", True),
        ("pixi 1.0.0", True),
        ("pixi 0.71.3", False),
        ("pixi, version 0.1.4", False),
        ("Pixiv downloader", False),
    ],
)
def test_only_a_pixi_that_is_new_enough_and_is_the_right_program_counts(on_path, said, found):
    program = on_path(f'echo "{said}"')
    assert environments.find_pixi() == (program if found else None)


def test_a_pixi_that_fails_does_not_count(on_path):
    on_path("exit 3")
    assert environments.find_pixi() is None


def test_the_machine_has_virtual_packages_and_one_can_be_put_in_place_of_what_is_found(monkeypatch):
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "12.4")
    assert environments.machine()["__cuda"] == "12.4"
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "")
    assert "__cuda" not in environments.machine()
    if sys.platform == "linux":
        assert environments.machine()["__linux"].split(".")[0] == os.uname().release.split(".")[0]


@pytest.mark.parametrize(
    ("cuda", "lacks"),
    [("", ["__cuda is missing"]), ("11.8", ["__cuda 11.8 is too old"]), ("12", []), ("13.1", [])],
)
def test_what_the_machine_lacks_for_a_platform_is_said(monkeypatch, cuda, lacks):
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", cuda)
    here = lockfiles.this_subdir()
    assert environments.lacking(manifests.Platform("p1", here, ("__cuda=12",))) == lacks


def test_another_kind_of_machine_is_said():
    other = "win-64" if lockfiles.this_subdir() != "win-64" else "linux-64"
    assert environments.lacking(manifests.Platform(other, other, ())) == [
        f"this is {lockfiles.this_subdir()}"
    ]


def test_the_overview_reads_well_as_text_and_as_a_table(monkeypatch):
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "")
    monkeypatch.setattr(lockfiles, "this_subdir", lambda: "linux-64")
    table = environments.overview(paths.root() / "pixi.lock")
    lines = str(table).splitlines()
    assert lines[0].split("  ")[0] == "environment"
    (gpu,) = (line for line in lines if line.startswith("gpu"))
    assert " ".join(gpu.split()) == "gpu linux-64 with cuda 12 120 4,009 MB no, __cuda is missing"
    assert table._repr_html_().count("<tr>") == len(lines) == 11
