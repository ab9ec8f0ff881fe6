"""Whose a background program is, and that it ends: with real programs, killed owners and used pids."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lesson_helpers import paths, processes

# An owner: claims, starts a program that outlives it, says both pids and its mark, and waits.
OWNER = """
import subprocess, sys, time
from lesson_helpers import processes
mark = processes.claim(anew=True)
(processes.session() / "log").write_text("kept while the owner lives")
child = subprocess.Popen(["sleep", "300"], start_new_session=True)
print(child.pid, mark, flush=True)
sys.stdin.read()
"""


class Owner:
    """Another process that owns a program."""

    def __init__(self, checkout=None, code=OWNER):
        environment = {**os.environ, "PYTHONPATH": str(checkout or paths.root())}
        command = [sys.executable, "-P", "-c", code]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        number, self.mark = self.process.stdout.readline().strip().split(" ", 1)
        self.program = psutil.Process(int(number))
        pid, start, checkout = self.mark.split(":", 2)
        self.session = paths.Path(checkout) / ".lesson/sessions" / f"{pid}-{start}"

    def kill(self):
        """Kill the owner and leave it as a zombie, as in a container whose first process reaps nobody."""
        self.process.kill()
        wait(lambda: psutil.Process(self.process.pid).status() == psutil.STATUS_ZOMBIE)

    def close(self):
        self.process.kill()
        processes.end([self.program])  # it holds the other end of the pipe
        self.process.communicate(timeout=10)


@pytest.fixture
def start():
    """Start owners that end with the test."""
    owners = []

    def start(*arguments, **named):
        owners.append(Owner(*arguments, **named))
        return owners[-1]

    yield start
    for owner in owners:
        owner.close()


def wait(true, seconds=10):
    """Wait until something is true."""
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def runs(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_an_owner_that_ends_takes_its_programs_and_its_folder_along(start):
    owner = start()
    assert runs(owner.program)
    assert (owner.session / "log").is_file()
    owner.process.communicate("", timeout=20)
    assert not runs(owner.program)
    assert not owner.session.exists()


def test_what_a_killed_owner_left_is_ended_and_a_living_owner_is_left_alone(start):
    killed, living = start(), start()
    killed.kill()
    assert not processes.alive(killed.mark)
    began = time.monotonic()
    assert processes.end_leftovers() >= 1
    assert time.monotonic() - began < 4
    assert not runs(killed.program)
    assert not killed.session.exists()
    assert runs(living.program)
    assert (living.session / "log").is_file()
    assert living.mark in processes.owners()
    assert killed.mark not in processes.owners()


def test_a_pid_that_is_used_again_is_not_taken_for_the_owner_and_is_not_ended(start):
    living = start()
    number, ticks, checkout = living.mark.split(":", 2)
    earlier = f"{number}:{int(ticks) - 1}:{checkout}"  # had the same pid, and ended long ago
    assert processes.alive(living.mark)
    assert not processes.alive(earlier)
    processes.end_owned(earlier)
    assert living.process.poll() is None
    assert runs(living.program)


def test_programs_of_another_checkout_are_not_touched(start, tmp_path):
    (tmp_path / "lesson_helpers").symlink_to(tmp_path / "package")
    (tmp_path / "package").mkdir()
    for name in ("__init__", "errors", "paths", "processes"):
        (tmp_path / f"package/{name}.py").write_text((paths.root() / f"lesson_helpers/{name}.py").read_text())
    other = start(tmp_path)
    assert other.mark.split(":", 2)[2] != str(paths.root())
    other.kill()
    processes.end_leftovers()
    assert runs(other.program)
    assert other.session.is_dir()


def test_a_session_folder_of_another_machine_is_left_alone():
    """A home that two machines share: a pid says nothing about the other machine."""
    folder = paths.state() / "sessions" / "999999999-1"
    folder.mkdir(parents=True)
    (folder / "host").write_text("another-machine")
    try:
        processes.end_leftovers()
        assert folder.is_dir()
    finally:
        processes.remove(folder)


def test_a_program_that_ignores_the_request_is_killed():
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True)"
    stubborn = subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(300)"], stdout=subprocess.PIPE, text=True
    )
    with stubborn:
        stubborn.stdout.readline()
        processes.end([psutil.Process(stubborn.pid)], seconds=0.3)
        assert stubborn.wait(5) == -signal.SIGKILL


def test_the_children_of_a_program_end_with_it():
    code = "import subprocess as s; p = s.Popen(['sleep', '300']); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        processes.end([psutil.Process(parent.pid)])
        assert not runs(child)


def test_a_process_inside_of_an_owner_works_for_it_unless_it_claims_anew(monkeypatch):
    ask = [sys.executable, "-c", "from lesson_helpers import processes; print(processes.claim())"]
    mine = processes.claim()
    said = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    assert said == mine
    ask[-1] = ask[-1].replace("claim()", "claim(anew=True)")
    said = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    assert said != mine
    for dead in ("", "no mark", "1:0:/nowhere", "²:1:/nowhere", f"{os.getpid()}:1:{paths.root()}"):
        assert not processes.alive(dead)


def test_what_is_mounted_in_a_session_is_let_go_and_not_emptied(tmp_path):
    kept, folder = tmp_path / "kept", tmp_path / "session"
    kept.mkdir()
    (kept / "precious").write_text("the learner's")
    (folder / "a mount").mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "--bind", kept, folder / "a mount"], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"nothing may be mounted here: {mounted.stderr.strip()}")
    assert processes.remove(folder)
    assert (kept / "precious").read_text() == "the learner's"


def test_of_a_link_only_the_link_is_removed_and_what_is_mounted_behind_it_stays(tmp_path):
    disk, behind, link = tmp_path / "disk", tmp_path / "behind", tmp_path / "workspace"
    (disk / "kept").mkdir(parents=True)
    behind.mkdir()
    mounted = subprocess.run(
        ["mount", "--bind", disk, behind], capture_output=True, text=True, check=False
    ).returncode
    behind.joinpath("precious").write_text("the learner's")
    link.symlink_to(behind)
    try:
        assert processes.remove(link)
        assert not link.is_symlink()
        assert (behind / "precious").read_text() == "the learner's"
        points = [line.split()[4] for line in paths.Path("/proc/self/mountinfo").read_text().splitlines()]
        assert bool(mounted) != (str(behind) in points)
    finally:
        if not mounted:
            subprocess.run(["umount", behind], check=True)


def test_nobody_else_can_read_what_jupyter_writes():
    folder = paths.Path(paths.tool_environment()["JUPYTER_RUNTIME_DIR"]).parent
    assert folder.stat().st_mode & 0o077 == 0
