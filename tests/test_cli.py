"""The command as a person meets it: its words, its exit codes, and that nothing survives it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest
import small

from lesson_helpers import processes

BACKGROUND = """import subprocess, time
daemon = subprocess.Popen(["setsid", "--fork", "sleep", "300"])
time.sleep(epochs)"""


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """Make a small checkout: one notebook that passes, one that fails, one that starts a daemon and waits."""
    folder = small.checkout(tmp_path_factory.mktemp("kit"))
    small.notebook(folder / "notebooks/01-good.ipynb", "print(epochs, folder)")
    bad = (
        "from lesson_helpers.errors import LessonError\nraise LessonError('It is bad.', 'there', 'Do well.')"
    )
    small.notebook(folder / "notebooks/02-bad.ipynb", bad)
    small.notebook(folder / "notebooks/03-waits.ipynb", BACKGROUND)
    return folder


@pytest.fixture
def waiting(kit):
    """Start a run whose notebook has started a daemon and waits."""
    running = small.Started(kit, "run", "03", "-p", "epochs=300")
    yield running
    running.process.kill()
    running.process.wait(10)
    processes.end(of(kit))  # what a failed test has left


def of(kit):
    """Return what runs for a checkout: the kernels and what they started, but not the command itself."""
    found = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(processes.OWNER, "")
            alive = process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            continue
        if mark.endswith(f":{kit}") and alive:
            found.append(process)
    return found


def words(process):
    """Return a process's command line; none where it has ended since."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def wait_for(true, seconds=60):
    limit = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)
    return value


def daemon(kit):
    """Wait until the notebook's daemon runs, and return it."""
    return wait_for(lambda: next((p for p in of(kit) if words(p)[:1] == ["sleep"]), None))


def newest(kit):
    return sorted((kit / ".lesson/runs").iterdir())[-1]


def says(done, *parts):
    """Tell whether stderr is exactly the three parts, and no traceback."""
    labels = ("What: ", "Where: ", "Do: ")
    lines = done.stderr.splitlines()
    return [label + part for label, part in zip(labels, parts, strict=True)] == lines


def test_help_comes_at_once(kit):
    done = small.lesson(kit, "--help")
    for name in ("run", "test", "site", "lab", "doctor", "clean"):
        assert re.search(rf"^  {name} +\S", done.stdout, re.MULTILINE)
    assert "..." not in done.stdout.partition("Commands:")[2]  # each fits its line
    slow = "{'IPython', 'papermill', 'rattler', 'torch', 'htcondor2', 'matplotlib'}"
    look = f"import sys, lesson_helpers.cli; print(sorted({slow} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", look], text=True) == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["runn"], "runn"),
        (["run", "--fast"], "--fast"),
        (["run", "--limit", "soon"], "--limit"),
        (["run", "-p"], "-p"),
    ],
)
def test_a_usage_error_is_three_parts_and_exit_code_2(kit, arguments, named):
    done = small.lesson(kit, *arguments)
    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["What", "Where", "Do"]
    assert named in done.stderr
    assert "--help" in done.stderr


def test_a_mistake_is_three_lines_on_stderr_and_exit_code_1_before_anything_runs(kit):
    runs = kit / ".lesson/runs"
    before = sorted(runs.iterdir()) if runs.exists() else []
    done = small.lesson(kit, "run", "-p", "epoch=3")
    assert done.returncode == 1
    assert says(
        done,
        "There is no parameter `epoch` in 01-good, 02-bad, 03-waits.",
        "-p epoch=3",
        "Did you mean epochs (01-good, 02-bad, 03-waits)?",
    )
    done = small.lesson(kit, "run", "godo")
    assert done.returncode == 1
    assert says(done, "There is no notebook 'godo'.", "notebooks", "Did you mean 01-good?")
    assert (sorted(runs.iterdir()) if runs.exists() else []) == before


def test_a_file_that_cannot_be_written_is_told_without_a_traceback(tmp_path):
    kit = small.checkout(tmp_path / "kit")
    (kit / ".lesson").write_text("a file where a folder belongs")
    done = small.lesson(kit, "run")
    assert done.returncode == 1
    what, where, fix = done.stderr.splitlines()
    assert what == "What: A file can't be read or written: File exists."
    assert where == f"Where: {kit / '.lesson'}"
    assert fix == "Do: Make room, or make it yours; then call ./lesson again."


def test_where_only_ascii_can_be_printed_the_rest_is_a_question_mark(kit):
    done = small.lesson(kit, "run", "1", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr
    assert "what ran, ? in full" in done.stdout


def test_a_run_ends_with_a_table_and_its_exit_code_says_whether_all_passed(kit):
    done = small.lesson(kit, "run", "1", "-p", "epochs=5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert re.search(r"01-good +│ passed +│ +\d", done.stdout)
    folder = newest(kit)
    assert f"Report: {folder}/report.json" in done.stdout
    assert f"5 {folder}/workspace" in (folder / "01-good.ipynb").read_text()


def test_a_failed_notebook_is_told_with_its_cell_its_error_and_its_copy_and_the_next_one_runs(kit):
    done = small.lesson(kit, "run", "02", "01")
    assert done.returncode == 1
    assert re.search(r"02-bad +│ failed", done.stdout)
    assert re.search(r"01-good +│ passed", done.stdout)
    copy = newest(kit) / "02-bad.ipynb"
    told = done.stdout.partition("02-bad failed in cell 3: from lesson_helpers.errors import LessonError\n")[
        2
    ]
    told = told.splitlines()
    assert told[:3] == ["What: It is bad.", "Where: there", "Do: Do well."]
    assert told[3] == f"Executed copy: {copy}"
    assert copy.is_file()


def test_a_given_folder_is_the_workspace(kit, tmp_path):
    done = small.lesson(kit, "run", "1", "-p", f"folder={tmp_path / 'my work'}")
    assert done.returncode == 0
    assert not (newest(kit) / "workspace").exists()
    assert str(tmp_path / "my work") in (newest(kit) / "01-good.ipynb").read_text()


def test_nothing_survives_a_run(kit):
    done = small.lesson(kit, "run", "03", "-p", "epochs=0")
    assert done.returncode == 0
    assert of(kit) == []
    assert not list((kit / ".lesson").glob("sessions/*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_and_all_it_started(kit, waiting, number):
    daemon(kit)
    assert waiting.stop(number) == 128 + number
    assert "Interrupted; all that was started has ended." in waiting.said()
    assert "Traceback" not in waiting.said()
    assert of(kit) == []
    report = json.loads((newest(kit) / "report.json").read_text())
    assert report["result"] == "interrupted"
    assert report["notebooks"][0]["result"] == "interrupted"
    assert report["notebooks"][0]["line"] == "import subprocess, time"


def test_a_closed_terminal_does_not_end_a_run_under_nohup(kit):
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; what is started inherits it
    try:
        running = small.Started(kit, "run", "03", "-p", "epochs=2")
    finally:
        signal.signal(signal.SIGHUP, usual)
    wait_for(lambda: "cell" in running.said() or of(kit))
    assert running.stop(signal.SIGHUP) == 0


def test_closed_output_is_no_traceback(kit):
    call = 'exec "$@" >&- 2>said-without-output'
    done = subprocess.run(
        ["sh", "-c", call, "sh", *small.command("--help")],
        env=small.environment(kit),
        cwd=kit,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in (kit / "said-without-output").read_text()
    assert done.returncode in (0, 1)


def test_a_second_ctrl_c_hangs_nothing_and_leaves_nothing(kit, waiting):
    daemon(kit)
    assert waiting.stop(signal.SIGINT, signal.SIGINT, seconds=15) == 130
    assert of(kit) == []


def test_after_a_kill_the_next_call_ends_what_was_left_and_works(kit, waiting):
    left = daemon(kit)
    assert waiting.stop(signal.SIGKILL) == -signal.SIGKILL
    assert left.is_running()
    done = small.lesson(kit, "run", "01")
    assert done.returncode == 0
    assert re.search(r"Ended \d process(es)? that an earlier call, which was killed, had left\.", done.stdout)
    assert of(kit) == []
    assert not left.is_running()


def test_two_runs_at_once_do_not_meet(kit, waiting):
    theirs = daemon(kit)
    done = small.lesson(kit, "run", "03", "-p", "epochs=0")
    assert done.returncode == 0
    assert "Ended" not in done.stdout
    assert theirs.is_running()
    assert [p.pid for p in of(kit) if words(p)[:1] == ["sleep"]] == [theirs.pid]
    waiting.stop(signal.SIGTERM)
    first, second = sorted((kit / ".lesson/runs").iterdir())[-2:]
    results = {json.loads((folder / "report.json").read_text())["result"] for folder in (first, second)}
    assert results == {"passed", "interrupted"}


def test_the_tests_are_run_with_the_arguments_and_their_exit_code_is_kept(kit):
    (kit / "test_small.py").write_text(
        "import pytest\ndef test_a(): pass\n"
        "def test_b(): pytest.skip('this machine has no moon')\ndef test_c(): assert False\n"
    )
    (kit / "pytest.ini").write_text("[pytest]\naddopts = -ra\n")
    done = small.lesson(kit, "test", "-k", "test_a or test_b", "test_small.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 1 skipped, 1 deselected" in done.stdout
    assert "this machine has no moon" in done.stdout
    assert small.lesson(kit, "test", "test_small.py", "-q").returncode == 1


def test_ctrl_c_stops_the_tests_and_ends_what_they_started(kit):
    (kit / "test_slow.py").write_text(
        "import subprocess, time\ndef test_a():\n"
        "    subprocess.Popen(['setsid', '--fork', 'sleep', '300']).wait()\n    time.sleep(300)\n"
    )
    running = small.Started(kit, "test", "test_slow.py")
    daemon(kit)
    assert running.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    assert "KeyboardInterrupt" in running.said()  # pytest's own last words
    assert of(kit) == []


def test_jupyterlab_listens_on_loopback_wants_its_token_and_ends_with_its_kernels(kit):
    running = small.Started(kit, "lab")
    try:
        url = wait_for(lambda: re.search("^JupyterLab: (.*)\n", running.said()))[1]
        place, _, token = url.partition("?token=")
        assert place.startswith("http://127.0.0.1:")
        assert place.endswith("/lab/tree/notebooks/01-good.ipynb")
        base = place.partition("/lab/")[0]
        assert len(token) >= 32
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{base}/api/contents", timeout=10)
        ask = urllib.request.Request(
            f"{base}/api/kernels", b"{}", {"Authorization": f"token {token}"}, method="POST"
        )
        with urllib.request.urlopen(ask, timeout=30) as answer:
            assert answer.status == 201
        terminal = urllib.request.Request(
            f"{base}/api/terminals", b"{}", {"Authorization": f"token {token}"}, method="POST"
        )
        with urllib.request.urlopen(terminal, timeout=30) as answer:
            assert answer.status == 200
        path = wait_for(lambda: next((p.environ()["PATH"] for p in of(kit) if p.terminal()), ""))
        assert path.split(os.pathsep)[0].endswith("/pool/bin")  # condor_q works there as typed
        page = urllib.request.Request(f"{base}/lab", headers={"Authorization": f"token {token}"})
        with urllib.request.urlopen(page, timeout=30) as answer:
            assert "apputils-extension:announcements" in answer.read().decode()
        server = next(p for p in of(kit) if "jupyterlab" in words(p))
        assert token not in " ".join(server.cmdline())  # other users see it
        assert {c.laddr.ip for c in server.net_connections("tcp") if c.status == "LISTEN"} == {"127.0.0.1"}
        wait_for(lambda: any("ipykernel_launcher" in words(p) for p in of(kit)))
    finally:
        code = running.stop(signal.SIGINT, seconds=40)
    assert code == 130
    assert of(kit) == []


def test_jupyterlab_that_cannot_start_is_told(kit, tmp_path):
    (tmp_path / "jupyterlab.py").write_text("raise SystemExit('no such port')")
    done = small.lesson(kit, "lab", PYTHONPATH=f"{tmp_path}{os.pathsep}{kit}")
    assert done.returncode == 1
    what, where, fix = done.stderr.splitlines()
    assert what == "What: JupyterLab ended at once."
    assert where.startswith("Where: ")
    assert where.endswith("-m jupyterlab: no such port")
    assert fix.startswith("Do: Call ./lesson doctor; ")


@pytest.fixture
def dirty(tmp_path):
    """Make a small checkout in which something was run, and a learner's workspace."""
    kit = small.checkout(tmp_path / "kit")
    small.notebook(kit / "notebooks/01-waits.ipynb", BACKGROUND)
    for name in ("_build/html", "workspace", ".lesson/programs/tool"):
        (kit / name).mkdir(parents=True)
        (kit / name / "file").write_bytes(b"x" * 2_000_000)
    (kit / ".lesson/programs/tool").chmod(0o555)  # as in a package cache
    return kit


def test_clean_asks_first_and_then_removes_all_but_the_workspace(dirty):
    done = small.lesson(dirty, "clean")  # nobody is there to answer
    assert [line.split(":")[0] for line in done.stderr.splitlines()[-3:]] == ["What", "Where", "Do"]
    assert done.returncode == 1
    assert re.search(r"To be removed: .lesson, _build.*, \d MB", done.stdout)
    assert (dirty / "_build").exists()
    done = small.lesson(dirty, "clean", "--yes")
    assert done.returncode == 0, done.stderr
    assert re.search(r"Freed [4-9] MB\.", done.stdout)
    assert sorted(path.name for path in dirty.iterdir()) == ["lesson_helpers", "notebooks", "workspace"]
    assert not list(dirty.rglob("__pycache__"))


def test_clean_removes_the_workspace_only_when_told_to(dirty):
    assert small.lesson(dirty, "clean", "--yes", "--workspace").returncode == 0
    assert not (dirty / "workspace").exists()


def test_clean_stops_a_run_after_saying_so(dirty):
    running = small.Started(dirty, "run", "-p", "epochs=300")
    try:
        daemon(dirty)
        done = small.lesson(dirty, "clean", "--yes")
        assert done.returncode == 0, done.stderr
        assert (
            f"To be stopped: python -P -m lesson_helpers run -p epochs=300 (pid {running.process.pid})"
            in done.stdout
        )
        assert running.process.wait(10) == 128 + signal.SIGTERM
        assert of(dirty) == []
        assert not (dirty / ".lesson").exists()
    finally:
        running.process.kill()
        running.process.wait(10)


def test_clean_does_not_stop_the_program_it_was_called_from(dirty):
    code = "import subprocess, sys\nfrom lesson_helpers import processes\nprocesses.claim(anew=True)\n"
    code += "processes.session()\nsys.exit(subprocess.run(sys.argv[1:]).returncode)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *small.command("clean", "--yes")],
        env=small.environment(dirty),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    what, where, fix = done.stderr.splitlines()
    assert what == "What: This would stop the program that it was called from."
    assert re.fullmatch(r"Where: python.* \(pid \d+\)", where)
    assert fix == "Do: End that first, or call ./lesson clean in a terminal outside of it."
    assert (dirty / "_build").exists()


def test_the_environment_that_clean_runs_in_goes_last_and_cannot_be_taken_for_complete(dirty):
    """With the real environment it would be gone for the other tests: a small one stands in the checkout."""
    venv = dirty / ".lesson/venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    packages = next(venv.glob("lib/python*/site-packages"))
    own = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "all.pth").write_text(f"{dirty}\n{own}\n")
    (venv / "ready").write_text("all")
    environment = small.environment(dirty)
    del environment["PYTHONPATH"]
    done = subprocess.run(
        [venv / "bin/python", "-P", "-m", "lesson_helpers", "clean", "--yes"],
        env=environment,
        cwd=dirty,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Freed" in done.stdout
    assert done.stderr == ""
    assert not (dirty / ".lesson").exists()
