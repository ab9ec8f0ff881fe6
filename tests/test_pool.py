"""The personal pool: real daemons that start, do jobs, are found again, and leave nothing behind."""

import dataclasses
import getpass
import json
import os
import pwd
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import filelock
import psutil
import pytest

from lesson_helpers import pool as pools
from lesson_helpers import processes
from lesson_helpers.errors import LessonError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="HTCondor's daemons run on Linux only")

TRIVIAL = """\
executable = {program}
arguments = {arguments}
output = out
error = err
log = log
request_memory = 100MB
request_disk = 10MB
{more}
queue
"""
# an owner of its own: starts its pool and a job in it that outlasts it, says where, and waits
OWNER = """
import json, os, subprocess, sys, time
from pathlib import Path
from lesson_helpers import pool, processes
mine = pool.start()
mine.activate()
os.chdir(sys.argv[1])
subprocess.run(["condor_submit", "job.sub"], check=True, capture_output=True)
while "Job executing" not in (Path("log").read_text() if Path("log").exists() else ""):
    time.sleep(0.05)
print(json.dumps([str(mine.folder), os.environ["LESSON_OWNER"], subprocess.run(
    ["condor_status", "-af", "MyAddress"], capture_output=True, text=True, check=True).stdout]), flush=True)
time.sleep(300)
"""


def describe(folder: Path, program="/bin/true", arguments="", more="") -> Path:
    file = folder / "job.sub"
    file.write_text(TRIVIAL.format(program=program, arguments=arguments, more=more))
    return file


def until(log: Path, event: str, seconds: float = 60) -> float:
    """Wait until a job's event log has an event, and return how long that took."""
    begin = time.monotonic()
    while event not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() - begin < seconds, f"no {event!r} in {log} after {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - begin


def say(*command, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refused(**settings) -> LessonError:
    with pytest.raises(LessonError) as caught:
        pools.start(**settings)
    assert all((caught.value.what, caught.value.where, caught.value.fix))
    return caught.value


def processes_of(folder) -> list[psutil.Process]:
    return pools._members(Path(folder))


@pytest.fixture
def owner(tmp_path):
    """Give the folder, mark and address of a pool that another process owns, and that process."""
    describe(tmp_path, "/bin/sleep", "300")
    environment = {name: value for name, value in os.environ.items() if name != processes.OWNER}
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, tmp_path], env=environment, stdout=subprocess.PIPE, text=True
    )
    with process:
        folder, mark, address = json.loads(process.stdout.readline())
        yield process, Path(folder), mark, address
        process.kill()
    processes.end_owned(mark)


def test_a_trivial_job_is_back_in_about_a_second(pool, tmp_path):
    times = []
    for _ in range(5):
        (tmp_path / "log").unlink(missing_ok=True)
        time.sleep(1.3)  # the slot of the job before is told to the negotiator a second after it is free
        say("condor_submit", describe(tmp_path), cwd=tmp_path)
        times.append(until(tmp_path / "log", "Job terminated"))
    assert statistics.median(times) < 3  # 0.7 on an idle machine; 60 with HTCondor's stock intervals


def test_it_is_found_again(pool):
    begin = time.monotonic()
    again = pools.start()
    assert again == pool
    assert time.monotonic() - begin < 2


def test_it_starts_quickly_and_stops_at_once(pool, tmp_path):
    begin = time.monotonic()
    other = pools.start(folder=tmp_path / "pool")
    started = time.monotonic()
    assert started - begin < 6  # 1.5 on an idle machine
    assert other.answers()
    other.stop()
    assert time.monotonic() - started < 5
    assert not other.answers()
    assert not processes_of(other.folder)
    assert pool.answers()


def test_it_listens_on_this_machine_only(pool):
    ports = [
        connection
        for process in processes_of(pool.folder)
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert ports
    assert {port.laddr.ip for port in ports} == {"127.0.0.1"}


def test_nobody_who_does_not_prove_who_they_are_is_let_in(pool, tmp_path):
    """Another account would be asked to make a file, and can't in a folder that only the owner may enter."""
    anonymous = tmp_path / "anonymous"
    anonymous.write_text(
        pool.config.read_text() + "SEC_DEFAULT_AUTHENTICATION_METHODS = ANONYMOUS, CLAIMTOBE\n"
    )
    program = [*pool.account.join, pool.condor.bin / "condor_status", "-schedd"]
    done = subprocess.run(
        program,
        env=pool.condor.environment(anonymous),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "No auth methods" in done.stderr
    assert pool.folder.stat().st_mode & 0o077 == 0


def test_nothing_of_it_lies_in_the_systems_temporary_folder(pool, tmp_path):
    say("condor_submit", describe(tmp_path), cwd=tmp_path)
    until(tmp_path / "log", "Job terminated")
    for name in ("LOCAL_DIR", "EXECUTE", "SPOOL", "LOCK", "LOG", "RUN", "TMP_DIR", "FS_LOCAL_DIR"):
        assert Path(say("condor_config_val", name)).is_relative_to(pool.folder)
    open_files = {file.path for process in processes_of(pool.folder) for file in process.open_files()}
    assert not [path for path in open_files if path.startswith("/tmp/")]


def test_nothing_of_it_lies_in_the_users_home(pool, tmp_path):
    """HTCondor's own place for known servers is a folder in the home that the account list names."""
    homes = [Path(pwd.getpwnam(name).pw_dir, ".condor") for name in (pool.account.name, getpass.getuser())]
    before = [home.exists() and home.stat().st_mtime for home in homes]
    say("condor_q")
    say(sys.executable, "-c", "import htcondor2; htcondor2.Schedd().query(); htcondor2.Collector().query()")
    assert (pool.folder / "known_hosts").exists()
    assert [home.exists() and home.stat().st_mtime for home in homes] == before
    assert str(Path.home()) not in say("condor_config_val", "-config")


@pytest.fixture
def environment(pool, tmp_path):
    """Give the environment of a job that asks for a GPU, as old and new submit files do."""
    if not pool.gpus.names:
        pytest.skip("this pool has no GPU")
    more = """\
request_gpus = 1
gpus_minimum_runtime = 12.0
gpus_minimum_capability = 7.0
requirements = (Target.CUDADriverVersion >= 12.0)"""
    say("condor_submit", describe(tmp_path, "/usr/bin/env", more=more), cwd=tmp_path)
    until(tmp_path / "log", "Job terminated")
    return dict(line.split("=", 1) for line in (tmp_path / "out").read_text().splitlines())


def test_a_job_gets_a_gpu_and_is_told_where_it_is_simulated(pool, environment):
    assert environment["CUDA_VISIBLE_DEVICES"].startswith("GPU-")
    assert ("LESSON_SIMULATED_GPU" in environment) == pool.gpus.simulated


def test_a_job_finds_python_and_belongs_to_its_owner(pool, environment):
    assert environment["PATH"].split(":")[0] == str(pool.python) == str(Path(sys.executable).parent)
    assert environment[processes.OWNER] == processes.claim()
    assert "CONDOR_CONFIG" not in environment


def test_a_driver_that_no_gpu_has_is_not_matched(pool, tmp_path):
    more = "request_gpus = 1\ngpus_minimum_runtime = 99.0"
    number = say("condor_submit", "-terse", describe(tmp_path, more=more), cwd=tmp_path).split(".")[0]
    time.sleep(3)
    assert say("condor_q", number, "-af", "JobStatus") == "1"  # idle
    say("condor_rm", number)


def test_the_slot_says_that_its_gpu_is_simulated(pool):
    shown = say("condor_status", "-af", "GPUs", "GPUs_Simulated")
    assert shown.startswith(str(len(pool.gpus.names)))
    assert shown.endswith("true") == pool.gpus.simulated


def test_what_stands_in_is_said(pool):
    rungs = {rung.part: str(rung) for rung in pool.rungs()}
    assert rungs.keys() == {"pool", "GPU", "job's software"}
    assert "personal pool" in rungs["pool"]
    assert ("(simulated)" in rungs["GPU"]) == ("instead of a real GPU" in rungs["GPU"]) == pool.gpus.simulated
    assert "container image" in rungs["job's software"]


@pytest.mark.parametrize(("version", "ignored"), [("23.4.0", True), ("23.9.6", False), ("25.14.1", False)])
def test_an_htcondor_that_ignores_a_line_of_the_lesson_is_said(pool, version, ignored):
    older = dataclasses.replace(pool, condor=dataclasses.replace(pool.condor, version=version))
    parts = [rung.part for rung in older.rungs()]
    assert ("gpus_minimum_runtime" in parts) == ignored


def test_its_commands_work_from_any_terminal(pool, tmp_path):
    environment = {"PATH": "/usr/bin:/bin"}
    assert "Total for query" in say(pool.bin / "condor_q", env=environment, cwd=tmp_path)
    assert "condor_watch_q" in say(pool.bin / "condor_watch_q", "-help", env=environment, cwd=tmp_path)


@pytest.mark.parametrize("first", ["activate", "import"])
def test_the_python_bindings_talk_to_it(pool, tmp_path, first):
    """In a process of its own, as in a new kernel; and in one that has imported them too early."""
    steps = {
        "activate": "mine = pool.start(); mine.activate(); import htcondor2",
        "import": "import warnings; warnings.simplefilter('ignore'); import htcondor2; "
        "mine = pool.start(); mine.activate()",
    }
    program = f"""
import os, time
from lesson_helpers import pool
{steps[first]}
description = htcondor2.Submit(open("job.sub").read())
cluster = htcondor2.Schedd().submit(description).cluster()
print(cluster, [ad["ClusterId"] for ad in htcondor2.Schedd().query(f"ClusterId == {{cluster}}")])
"""
    describe(tmp_path, more="hold = true")
    environment = {name: value for name, value in os.environ.items() if name != "CONDOR_CONFIG"}
    said = say(sys.executable, "-c", program, cwd=tmp_path, env=environment).splitlines()[-1]
    number = said.split()[0]
    assert said == f"{number} [{number}]"
    say("condor_rm", number)


def test_files_that_a_job_makes_belong_to_the_user(pool, tmp_path):
    say("condor_submit", describe(tmp_path, "/bin/date"), cwd=tmp_path)
    until(tmp_path / "log", "Job terminated")
    for name in ("out", "err", "log"):
        assert (tmp_path / name).stat().st_uid == os.getuid()


def test_a_folder_may_have_spaces_and_be_deep(tmp_path):
    """A socket's path has room for 108 characters, and HTCondor splits many settings at spaces."""
    deep = tmp_path / "Zoë's very own Übungen, no. 1" / "/".join(["a folder with a rather long name"] * 4)
    deep.mkdir(parents=True)
    other = pools.start(folder=deep / "pool")
    try:
        more = "request_gpus = 1" if other.gpus.names else ""
        say(other.bin / "condor_submit", describe(deep, "/usr/bin/env", more=more), cwd=deep)
        until(deep / "log", "Job terminated")
        assert f"LESSON_POOL={other.folder}" in (deep / "out").read_text().splitlines()
    finally:
        other.stop()


def test_other_settings_take_effect_but_not_under_jobs(tmp_path):
    other = pools.start(folder=tmp_path / "pool", simulated_gpus=0)
    try:
        other = pools.start(folder=tmp_path / "pool", simulated_gpus=2, settings={"LESSON_TEST": "first"})
        assert len(other.gpus.names) == 2 or not other.gpus.simulated
        assert say(other.bin / "condor_config_val", "LESSON_TEST") == "first"
        say(other.bin / "condor_submit", describe(tmp_path, "/bin/sleep", "60"), cwd=tmp_path)
        error = refused(folder=tmp_path / "pool", settings={"LESSON_TEST": "second"})
        assert "other settings" in error.what
        assert "condor_rm -all" in error.fix
        assert other.answers()
    finally:
        other.stop()


@pytest.mark.parametrize("number", [-1, 9, "2", 1.5, True, None])
def test_a_wrong_number_of_gpus_is_refused(number):
    error = refused(simulated_gpus=number)
    assert repr(number) in error.what
    assert error.where == "simulated_gpus"
    assert "0 to 8" in error.fix


@pytest.mark.parametrize(("name", "value"), [("A B", "1"), ("", "1"), ("X", "1\nY = 2"), ("X", "1\\")])
def test_a_setting_that_would_be_two_is_refused(tmp_path, name, value):
    error = refused(folder=tmp_path / "pool", settings={name: value})
    assert "no setting" in error.what
    assert "NAME" in error.fix


def test_a_folder_whose_name_htcondor_would_read_as_a_setting_is_refused(tmp_path):
    error = refused(folder=tmp_path / "$(LOG)" / "pool")
    assert "$(LOG)" in error.where
    assert "another folder" in error.fix


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"LOG": "/no/such/folder"}, "condor_master has ended"),
        ({"COLLECTOR_HOST": "192.0.2.1:9618"}, "no answer in 3 s"),  # an address that nobody has
    ],
)
def test_a_pool_that_can_not_start_says_why(tmp_path, monkeypatch, setting, reason):
    monkeypatch.setattr(pools, "READY", 3)
    monkeypatch.setattr(pools, "STOPPED", 1)
    error = refused(folder=tmp_path / "pool", settings=setting)
    assert error.what == f"The pool did not start: {reason}."
    assert str(tmp_path / "pool/log") in error.where
    assert len(error.where.splitlines()) > 1
    assert "Run the cell again" in error.fix
    assert not processes_of(tmp_path / "pool")


def test_waiting_for_another_notebook_has_a_limit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pools, "LOCKED", 0.2)
    with filelock.FileLock(tmp_path / "pool.lock"):
        error = refused(folder=tmp_path / "pool")
    assert "Another process has been starting the pool" in error.what
    assert error.where.endswith("pool.lock")
    assert "kernel" in error.fix
    assert "waiting for it" in capsys.readouterr().out


def test_a_pool_whose_master_was_killed_is_replaced(tmp_path):
    folder = tmp_path / "pool"
    first = pools.start(folder=folder)
    say(first.bin / "condor_submit", describe(tmp_path, "/bin/sleep", "300"), cwd=tmp_path)
    until(tmp_path / "log", "Job executing")
    [master] = pools._members(folder, "condor_master")
    before = processes_of(folder)
    master.kill()
    second = pools.start(folder=folder)
    try:
        assert second.answers()
        assert not [process for process in before if processes._runs(process)]
    finally:
        second.stop()


def test_a_pool_that_no_longer_answers_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "ANSWERED", 3)
    monkeypatch.setattr(pools, "STOPPED", 1)
    folder = tmp_path / "pool"
    first = pools.start(folder=folder)
    for process in processes_of(folder):
        if process.name() in ("condor_schedd", "condor_collector"):
            process.send_signal(signal.SIGSTOP)
    assert not first.answers()
    second = pools.start(folder=folder)
    try:
        assert second.answers()
    finally:
        second.stop()


def test_stop_ends_jobs_that_refuse_to_end(tmp_path):
    script = tmp_path / "stubborn.sh"
    script.write_text("#!/bin/sh\ntrap '' TERM INT QUIT HUP\nsetsid sleep 300 &\nwhile :; do sleep 1; done\n")
    script.chmod(0o755)
    other = pools.start(folder=tmp_path / "pool")
    say(other.bin / "condor_submit", describe(tmp_path, script), cwd=tmp_path)
    until(tmp_path / "log", "Job executing")
    limit = time.monotonic() + 20
    before = processes_of(other.folder)
    while "sleep" not in {process.name() for process in before}:
        assert time.monotonic() < limit
        before = processes_of(other.folder)
    other.stop()
    assert not [process for process in before if processes._runs(process)]


def test_settings_of_an_access_point_do_not_lead_away_from_it(pool, monkeypatch):
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("_CONDOR_SCHEDD_HOST", "nowhere.example")
    monkeypatch.setenv("_condor_COLLECTOR_HOST", "nowhere.example:9618")
    pool.activate()
    assert say("condor_q", "-allusers", "-totals")
    assert say("condor_status", "-schedd", "-af", "Name")


def test_stop_gives_the_kernel_its_environment_back(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("CONDOR_CONFIG", raising=False)
    other = pools.start(folder=tmp_path / "pool")
    other.activate()
    assert os.environ["PATH"] == f"{other.bin}:/usr/bin:/bin"
    assert os.environ["CONDOR_CONFIG"] == str(other.config)
    other.activate()
    other.stop()
    assert os.environ["PATH"] == "/usr/bin:/bin"
    assert "CONDOR_CONFIG" not in os.environ
    other.stop()  # a second time is no mistake


def test_two_owners_have_two_pools_that_do_not_meet(pool, owner):
    _, folder, _, address = owner
    assert folder != pool.folder
    assert say("condor_status", "-af", "MyAddress") != address
    assert say("condor_q", "-allusers", "-totals", "-af", "Cmd").count("/bin/sleep") == 0


def test_nothing_is_left_when_an_owner_is_ended(owner):
    _, folder, mark, _ = owner
    names = {process.name() for process in processes_of(folder)}
    assert {"condor_master", "condor_schedd", "condor_startd", "condor_starter", "sleep"} <= names
    processes.end_owned(mark)
    assert not processes_of(folder)
    assert not folder.exists()


def test_what_a_killed_owner_left_is_ended_by_the_next_start(pool, owner):
    process, folder, _, _ = owner
    process.kill()
    process.wait()
    assert processes_of(folder)
    assert pools.start() == pool
    assert not processes_of(folder)
    assert not folder.exists()
