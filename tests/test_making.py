import functools
import http.server
import shutil
import subprocess
import sys
import threading

import pytest

from lesson_helpers import channel, environments, lens, lockcheck, lockfiles, making, manifests, paths, solver
from lesson_helpers.errors import LessonError

KIT = paths.root()


@pytest.fixture(autouse=True)
def on_unix():
    if sys.platform == "win32":
        pytest.skip("the small channel has programs for Linux and macOS only")


@pytest.fixture
def no_pixi(monkeypatch):
    monkeypatch.setattr(environments, "find_pixi", lambda: None)


@pytest.fixture
def kit_copy(tmp_path):
    for name in ("pixi.toml", "pixi.lock"):
        shutil.copy(KIT / name, tmp_path)
    return tmp_path


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Give a workspace whose lock file has packages of a channel behind HTTP, as conda-forge's are."""
    monkeypatch.setattr(paths, "state", lambda: tmp_path / "state")  # nothing is in the cache
    folder = tmp_path / "served"
    subdir = lockfiles.this_subdir()
    channel.make(folder, channel.recipes(subdir))
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        workspace = tmp_path / "a workspace"
        workspace.mkdir()
        address = f"http://127.0.0.1:{server.server_port}"
        text = making.MANIFEST.format(channel=address, platform=f'"{subdir}"')
        (workspace / "pixi.toml").write_text(text)
        asked = manifests.read(workspace / "pixi.toml")
        (platform,) = asked.wanted["default"]
        records = solver.wait_for(making.find(address, ["device"], platform))
        solver.write(asked, {("default", platform): records}, workspace / "pixi.lock")
        yield workspace, folder
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_without_pixi_and_network_an_environment_is_made_from_a_channel_on_the_spot(no_pixi, kit_copy):
    made = making.make(kit_copy, "tiny", seconds=0.001)
    assert made.prefix == kit_copy / "made/.pixi/envs/default"
    assert made.run("device") == "the cpu build of device, on device cpu"
    assert made.rung.instead_of == "pixi and conda-forge"
    assert "there is no pixi on PATH, and conda.anaconda.org can't be reached" in made.rung.reason
    assert "a channel made on the spot" in made.rung.ran
    assert lockcheck.check(kit_copy / "made/pixi.toml", kit_copy / "made/pixi.lock").fits


def test_made_again_it_is_the_same_and_with_an_override_it_is_the_cuda_build(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "")
    first = making.from_scratch(tmp_path)
    lock = (tmp_path / "pixi.lock").read_bytes()
    assert making.from_scratch(tmp_path).run("device") == first.run("device")
    assert (tmp_path / "pixi.lock").read_bytes() == lock
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "12.4")
    assert making.from_scratch(tmp_path).run("device") == "the cuda build of device, on device cuda"
    assert lockcheck.check(tmp_path / "pixi.toml", tmp_path / "pixi.lock").fits
    (part,) = lockfiles.read(tmp_path / "pixi.lock").parts
    assert part.platform.declared == ("__cuda=12.4",)


def test_where_the_locks_address_answers_its_packages_are_downloaded(no_pixi, served):
    workspace, _ = served
    made = making.make(workspace)
    assert made.prefix == workspace / ".pixi/envs/default"
    assert made.rung.ran.endswith("with the locked packages, downloaded from 127.0.0.1")
    assert made.run("python", "-c", "print(6 * 7)") == "42"
    assert set(lens.installed(made.prefix)) == {"python", "device"}
    assert " on disk, in " in made.table().note


def test_a_package_with_another_hash_is_not_installed(no_pixi, served):
    workspace, folder = served
    for package in folder.glob("*/device*.tar.bz2"):
        other = next(folder.glob("*/python*.tar.bz2"))
        package.write_bytes(other.read_bytes())
    made = making.make(workspace)
    assert made.prefix == workspace / "made/.pixi/envs/default"
    assert "can't be installed" in made.rung.reason


def test_with_pixi_the_real_program_installs(kit_copy, tmp_path, monkeypatch, capsys):
    program = tmp_path / "bin" / "pixi"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "pixi 0.77.0" && exit; pwd; echo "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    made = making.make(kit_copy, "tiny")
    words = "install --locked --environment tiny"
    assert capsys.readouterr().out.splitlines() == [f"$ pixi {words}", str(kit_copy), words]
    assert made.prefix == kit_copy / ".pixi/envs/tiny"
    assert (made.rung.ran, made.rung.instead_of) == ("pixi", "")
    words = f"run --manifest-path {kit_copy}/pixi.toml -e tiny python --version"
    assert made.run("python", "--version").endswith(words)


def test_what_is_run_is_activated_and_this_pythons_own_environment_stays(tmp_path):
    made = making.from_scratch(tmp_path / "with a space")
    prefix = made.run("python", "-c", "import os; print(os.environ['CONDA_PREFIX'], os.environ['DEVICE'])")
    assert prefix.startswith(f"{made.prefix} ")
    which = subprocess.run(["sh", "-c", "command -v device"], capture_output=True, text=True, timeout=10)
    assert str(made.prefix) not in which.stdout


def test_no_word_of_a_command_is_read_by_the_shell(tmp_path):
    made = making.from_scratch(tmp_path)
    words = made.run("python", "-c", "import sys; print(sys.argv[1])", "$(touch evil); `id`")
    assert words == "$(touch evil); `id`"


def test_a_command_that_fails_has_a_clear_message(tmp_path):
    made = making.from_scratch(tmp_path)
    with pytest.raises(LessonError) as caught:
        made.run("python", "-c", "1/0")
    assert "ZeroDivisionError" in caught.value.what
    assert caught.value.where == "python -c 1/0"
    assert caught.value.fix


def test_an_environment_that_is_not_there_has_a_clear_message(no_pixi, kit_copy):
    with pytest.raises(LessonError) as caught:
        making.make(kit_copy, "tini")
    assert "no environment 'tini'" in caught.value.what
    assert "pixi.lock" in caught.value.where
    assert caught.value.fix == "Did you mean tiny?"
