"""What the doctor says, on this machine and on ones that lack something."""

import platform
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import small

from lesson_helpers import condor, doctor, images, paths
from lesson_helpers.errors import LessonError


def program(folder, name, text):
    """Write a small program, for a PATH on which it is found first."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_it_answers_with_a_table_of_all_parts():
    assert doctor.examine().runs
    command = small.command("doctor")
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    parts = ("Python", "environment", "training", "disk", "memory", "packages", "Pixi", "image engine")
    for part in (*parts, "HTCondor", "GPU"):
        assert re.search(rf"[✓▽] │ {part} +│ \S", done.stdout), part
    assert platform.python_version() in done.stdout


def test_it_fetches_nothing_and_makes_nothing(tmp_path):
    kit = small.checkout(tmp_path / "kit")
    done = small.lesson(kit, "doctor")
    assert done.returncode == 0, done.stderr
    assert not any(path.is_file() for path in (kit / ".lesson").rglob("*"))
    assert not list((kit / ".lesson/programs").iterdir())


def test_without_a_network_it_says_what_pip_says(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(doctor, "LIMIT", 60)  # a busy machine takes longer to start pip
    found = doctor.packages()
    assert found.state == "lower"
    assert found.here.startswith("pip finds none: ")
    assert found.runs == "what is here already; the rest says what it lacks"


@pytest.mark.timeout(20)
def test_a_look_that_does_not_end_or_fails_is_a_finding():
    def hangs():
        time.sleep(30)

    def refuses():
        raise LessonError("It may not be.", "here", "Do without.")

    def breaks():
        raise subprocess.TimeoutExpired(["tool"], 3)

    found = doctor.examine({"a": hangs, "b": refuses, "c": breaks, "d": doctor.disk}, seconds=0.5)
    a, b, c, d = found.findings
    assert (a.state, a.here) == ("lower", "no answer within 0 s")
    assert (b.state, b.here, b.runs) == ("lower", "It may not be.", "Do without.")
    assert c.here == "it can't be asked: Command '['tool']' timed out after 3 seconds"
    assert d.part == "disk"
    assert found.runs


@pytest.mark.parametrize(("free", "state"), [(0.5e9, "stops"), (4e9, "lower"), (80e9, "full")])
def test_a_full_disk_stops_the_lesson(monkeypatch, free, state):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    found = doctor.disk()
    assert (found.state, found.here) == (state, f"{free / 1e9:.1f} GB free")
    assert doctor.Findings((found,)).runs == (state != "stops")


def test_the_command_has_exit_code_1_only_where_the_lesson_cannot_run(monkeypatch):
    from typer.testing import CliRunner

    from lesson_helpers import cli

    def found(state):
        return lambda: doctor.Findings((doctor.Finding("disk", "little", "nothing", state),))

    for state, code in (("stops", 1), ("lower", 0), ("full", 0)):
        monkeypatch.setattr(doctor, "examine", found(state))
        assert CliRunner().invoke(cli.app, ["doctor"]).exit_code == code


def test_a_python_that_is_too_old_and_packages_that_are_missing_stop_the_lesson(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    assert doctor.python().state == "stops"
    assert doctor.python().runs == "nothing: the lesson needs Python 3.11 to 3.14"
    monkeypatch.setattr(doctor, "NEEDED", ("papermill", "no-such-package"))
    found = doctor.environment()
    assert found.state == "stops"
    assert found.runs == "nothing: no-such-package not installed; ./lesson run makes a complete one"


def test_an_environment_of_ones_own_is_told_from_the_kits(monkeypatch, tmp_path):
    assert doctor.environment().state in ("full", "lower")
    monkeypatch.setattr(sys, "prefix", str(paths.root() / ".lesson/venv"))
    assert doctor.environment().here == "a pip-made one, .lesson/venv"
    assert doctor.environment().state == "full"
    (tmp_path / "conda-meta").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    found = doctor.environment()
    assert (found.state, found.here) == ("lower", f"Pixi's, {tmp_path}")


def test_a_gpu_is_found_by_asking_its_driver(monkeypatch, tmp_path):
    if sys.platform == "darwin":
        pytest.skip("a Mac has no nvidia-smi to ask")
    monkeypatch.setenv("PATH", f"{tmp_path}/driver:/usr/bin:/bin")
    program(tmp_path / "driver", "nvidia-smi", "echo 'NVIDIA A100, 550.1'; echo 'NVIDIA A100, 550.1'")
    found = doctor.gpu()
    assert (found.state, found.here) == ("full", "NVIDIA A100, 550.1 and 1 more")
    assert found.runs == "the GPU job on a real GPU"
    program(tmp_path / "driver", "nvidia-smi", "echo 'No devices were found' >&2; exit 6")
    found = doctor.gpu()
    assert (found.state, found.here) == ("lower", "nvidia-smi: No devices were found")
    assert found.runs == "a simulated GPU: matched like a real one, computes nothing"
    monkeypatch.setenv("PATH", "/nowhere")
    assert doctor.gpu().here == "none (there is no nvidia-smi)"


def test_a_program_called_pixi_that_is_another_one_is_not_taken_for_pixi(monkeypatch, tmp_path):
    program(tmp_path / "bin", "pixi", "echo 'pixi 1 image downloader'")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    found = doctor.pixi()
    assert (found.state, found.here) == ("lower", "none of version 0.72 or newer")
    program(tmp_path / "bin", "pixi", "echo 'pixi 0.80.1'")
    assert doctor.pixi().state == "full"
    assert doctor.pixi().here == f"{tmp_path}/bin/pixi"


def test_an_engine_is_asked_and_not_only_looked_for(monkeypatch, tmp_path):
    program(tmp_path / "bin", "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    monkeypatch.setattr(paths, "programs", lambda: tmp_path)  # nothing was fetched
    found = doctor.engine()
    assert found.state == "lower"
    assert "docker: Cannot connect to the Docker daemon" in found.here
    assert found.runs == "notebook 03 without the build"  # no apt on that PATH either


def test_root_without_user_namespaces_is_told_before_the_pool_needs_them(monkeypatch):
    if sys.platform != "linux":
        pytest.skip("HTCondor's daemons run on Linux only")

    def forbidden():
        raise LessonError("A user namespace is forbidden here.", "unshare", "Run the lesson as a user.")

    monkeypatch.setattr(condor, "account", forbidden)
    with pytest.raises(LessonError, match="forbidden"):
        doctor.htcondor()
    found = doctor.examine({"HTCondor": doctor.htcondor}).findings[0]
    assert (found.state, found.runs) == ("lower", "Run the lesson as a user.")


def test_a_machine_that_can_have_no_pool_is_told_the_other_ways(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    found = doctor.htcondor()
    assert found.state == "lower"
    assert found.runs == "notebook 04 up to the submit description; its pool needs Linux"


def test_memory_is_what_this_process_may_use():
    found = doctor.memory()
    assert re.fullmatch(r"\d+\.\d GiB for use, \d+ cores", found.here)


def test_a_finding_is_a_line_and_the_engine_that_was_found_is_named(monkeypatch):
    assert str(doctor.Finding("GPU", "none", "a simulated one", "lower")) == "▽ GPU: none; a simulated one"
    engine = images.Engine("docker", paths.Path("docker"), "28.0", "the machine's own daemon")
    monkeypatch.setattr(images, "choose", lambda fetch: images.Choice(engine, ()))
    assert doctor.engine() == doctor.Finding("image engine", str(engine), "the image is built")
