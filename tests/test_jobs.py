"""Jobs on a real pool: submitted, followed in words, and collected; and every way in which that fails."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from lesson_helpers import events, jobs
from lesson_helpers.errors import LessonError

pytest.importorskip("htcondor2", reason="HTCondor's bindings are for Linux")

DESCRIPTION = """\
executable = run.sh
arguments = "$(what:works)"
request_cpus = 1
request_memory = $(memory:100 MB)
request_disk = 10 MB
should_transfer_files = YES
when_to_transfer_output = ON_SUCCESS
success_exit_code = 0
max_retries = 0
transfer_input_files = $(input)
transfer_output_files = result.txt
transfer_output_remaps = "result.txt = results/$(Cluster).$(Process)/result.txt"
output = results/$(Cluster).$(Process)/job.out
error = results/$(Cluster).$(Process)/job.err
log = job_$(Cluster).log
queue $(count:1)
"""
SCRIPT = """\
#!/bin/bash
printf 'I was asked for: %s\\n' "$*"
case $1 in
    fails) echo "there was no moon" >&2; exit 3 ;;
    sleeps) sleep 60 ;;
    forgets) echo "$*" > other.txt; exit 0 ;;
    dies) kill -9 $$ ;;
esac
echo "$*" > result.txt
"""


@pytest.fixture
def folder(tmp_path):
    """Give a folder with a small submit description and the script that it starts."""
    (tmp_path / "job.sub").write_text(DESCRIPTION)
    (tmp_path / "run.sh").write_text(SCRIPT)
    (tmp_path / "run.sh").chmod(0o755)
    return tmp_path


@pytest.fixture
def queue(pool, folder):
    """Give the same folder beside a running pool; whatever a test leaves in the queue is removed."""
    yield folder
    subprocess.run(["condor_rm", "-all"], capture_output=True, timeout=30, check=False)


def refused(call, *arguments, **settings) -> LessonError:
    with pytest.raises(LessonError) as caught:
        call(*arguments, **settings)
    assert all((caught.value.what, caught.value.where, caught.value.fix))
    return caught.value


def until(job, kind):
    """Wait until a job has had an event of a kind."""
    for event in events.follow(job.log, job.files, 60):
        if event.kind == kind:
            return
    pytest.fail(f"{job} had no {kind}")


# --- What goes well


def test_a_job_runs_and_what_it_made_comes_back(queue, capsys):
    job = jobs.submit(queue / "job.sub")
    job.wait(60)
    files = job.outputs()
    assert set(files) == {"result.txt", "job.out", "job.err"}
    assert files["result.txt"] == queue / "results" / f"{job.cluster}.0" / "result.txt"
    assert files["result.txt"].read_text() == "works\n"
    assert files["job.out"].read_text() == "I was asked for: works\n"
    told = capsys.readouterr().out
    for part in ("in the queue", "runs with 1 core, ", " on slot1_1@", "ended with exit code 0; used "):
        assert part in told


def test_each_value_arrives_as_it_was_written(queue):
    values = ["two words", "naïve ☂", "a;b=c", "#5", "100%", "../x", "-1"]
    sent = {value: jobs.submit(queue / "job.sub", what=value) for value in values}
    for value, job in sent.items():
        job.wait(60, on_event=lambda event: None)
        assert job.outputs()["result.txt"].read_text() == f"{value}\n"


def test_an_empty_value_leaves_the_description_s_own(queue):
    job = jobs.submit(queue / "job.sub", what="")
    job.wait(60, on_event=lambda event: None)
    assert job.outputs()["result.txt"].read_text() == "works\n"


def test_a_cluster_of_three_is_followed_to_the_end_of_each(queue):
    told = []
    job = jobs.submit(queue / "job.sub", count=3)
    job.wait(90, on_event=told.append)
    ends = [event.job for event in told if event.kind == "JOB_TERMINATED"]
    assert sorted(ends) == [f"{job.cluster}.{proc}" for proc in range(3)]
    assert {job.outputs(proc)["result.txt"].parent.name for proc in range(3)} == set(ends)
    assert "no job" in refused(job.outputs, 3).what
    assert "3 jobs" in str(job)


def test_waiting_again_tells_only_how_it_ended(queue, capsys):
    job = jobs.submit(queue / "job.sub")
    job.wait(60)
    capsys.readouterr()
    job.wait(60)
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1
    assert "ended with exit code 0" in told[0]


def test_a_result_that_was_taken_away_is_said(queue):
    job = jobs.submit(queue / "job.sub")
    job.wait(60)
    (queue / "results" / f"{job.cluster}.0" / "result.txt").unlink()
    assert "its result.txt isn't there any more" in refused(job.outputs).what


def test_an_earlier_pool_s_job_of_the_same_number_is_not_taken_for_this_one(queue):
    earlier, job = jobs.submit(queue / "job.sub", what="fails"), jobs.submit(queue / "job.sub")
    refused(earlier.wait, 60)
    job.wait(60)
    log = earlier.log.read_text().replace(f"({earlier.cluster:03}.", f"({job.cluster:03}.")
    (queue / "both.log").write_text(log + job.log.read_text())
    told = list(events.follow(queue / "both.log", job.files, 0))
    assert [event.kind for event in told].count("SUBMIT") == 1
    assert [event.details.get("ReturnValue") for event in told if event.ends] == [0]


def test_warnings_of_condor_submit_are_shown(queue, capsys):
    text = DESCRIPTION.replace("request_cpus", "request_cpu")
    (queue / "typo.sub").write_text(text)
    jobs.submit(queue / "typo.sub")
    assert "did you mean request_cpus?" in capsys.readouterr().out


def test_a_gpu_that_the_slot_gave_is_named(queue, pool):
    if not pool.gpus.names:
        pytest.skip("condor_gpu_discovery simulates no GPU here")
    (queue / "gpu.sub").write_text("request_gpus = 1\n" + DESCRIPTION)
    told = []
    jobs.submit(queue / "gpu.sub").wait(60, on_event=told.append)
    text = next(event.text for event in told if event.kind == "EXECUTE")
    assert pool.gpus.names[0] in text
    assert ("1 simulated GPU" in text) == pool.gpus.simulated


# --- What a pool does to jobs


def test_a_failed_job_says_its_exit_code_and_its_last_words(queue):
    job = jobs.submit(queue / "job.sub", what="fails")
    error = refused(job.wait, 60)
    assert error.what == f"Job {job.cluster}.0 failed: it ended with exit code 3."
    assert error.where.endswith("job.err, which ends with:\n  there was no moon")
    assert "submit again" in error.fix
    assert str(refused(job.outputs)) == str(error)


def test_a_killed_program_says_its_signal(queue):
    error = refused(jobs.submit(queue / "job.sub", what="dies").wait, 60)
    assert "signal 9" in error.what


def test_a_missing_result_holds_the_job_until_it_is_mended(queue, capsys):
    job = jobs.submit(queue / "job.sub", what="forgets")
    error = refused(job.wait, 60)
    job_id = f"{job.cluster}.0"
    assert error.what.startswith(f"Job {job_id} is on hold: ")
    assert "result.txt" in error.what
    assert error.where.endswith("hold code 12")
    assert f"condor_qedit {job_id} TransferOutput" in error.fix
    mend = ["condor_qedit", job_id, "TransferOutput", '"other.txt"']
    assert "on hold" in refused(job.wait, 0).what  # nobody has released it
    for command in (mend, ["condor_release", job_id]):
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    capsys.readouterr()
    job.wait(60)
    told = capsys.readouterr().out
    assert "released" in told
    assert "is on hold" not in told
    assert "exit code 0" in told


def test_missing_input_holds_the_job_and_the_message_says_what_to_do(queue):
    error = refused(jobs.submit(queue / "job.sub", input="nowhere.tar.gz").wait, 60)
    assert "nowhere.tar.gz" in error.what
    assert error.where.endswith("hold code 13")
    assert "condor_release" in error.fix


def test_an_executable_that_cannot_start_holds_the_job(queue):
    (queue / "run.sh").write_text("#!/no/such/shell\n")
    error = refused(jobs.submit(queue / "job.sub").wait, 60)
    assert error.where.endswith("hold code 6")
    assert "#!/bin/bash" in error.fix


def test_a_removed_job_is_an_error_with_its_reason(queue, capsys):
    job = jobs.submit(queue / "job.sub", memory="900 TB")
    job.remove()
    assert f"Cluster {job.cluster} is removed from the queue." in capsys.readouterr().out
    error = refused(job.wait, 60)
    assert "removed" in error.what
    assert "condor_rm" in error.what
    job.remove()
    assert "had left the queue already" in capsys.readouterr().out


@pytest.mark.timeout(60)
def test_a_job_that_no_slot_fits_reaches_the_limit_and_says_what_it_waited_for(queue):
    job = jobs.submit(queue / "job.sub", memory="900 TB")
    error = refused(job.wait, 2)
    assert "has not ended within 2 seconds" in error.what
    assert "waits for a slot that fits it" in error.what
    assert "the last it says is that the job is in the queue, idle" in error.where
    assert "has not ended yet" in refused(job.outputs).what
    assert f"condor_q -better-analyze {job.cluster}.0" in error.fix
    assert "stays in the queue" in error.fix
    assert f"condor_rm {job.cluster}" in error.fix


def test_an_evicted_job_goes_back_to_the_queue(queue):
    job, told = jobs.submit(queue / "job.sub", what="sleeps"), []
    until(job, "EXECUTE")
    subprocess.run(
        ["condor_vacate_job", "-fast", str(job.cluster)], check=True, capture_output=True, timeout=30
    )
    until(job, "JOB_EVICTED")
    refused(job.wait, 0, on_event=told.append)
    assert any("lost its slot and goes back to the queue" in event.text for event in told)


def test_ctrl_c_leaves_the_job_in_the_queue_and_says_so(queue, capsys):
    job = jobs.submit(queue / "job.sub", memory="900 TB")
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        job.wait(30)
    assert f"Cluster {job.cluster} stays in the queue" in capsys.readouterr().out
    asked = subprocess.run(
        ["condor_q", str(job.cluster), "-json"], capture_output=True, text=True, check=True, timeout=30
    )
    assert json.loads(asked.stdout)[0]["JobStatus"] == 1


# --- What is refused before or by condor_submit


@pytest.mark.parametrize("value", ["a\nqueue 100", 'say "x"', "$(HOME)", "it's", "back\\", "\x00", None, [1]])
def test_a_value_that_could_mean_more_than_itself_is_refused(folder, value):
    error = refused(jobs.submit, folder / "job.sub", what=value)
    assert "what" in error.where
    assert "without quotes" in error.fix


def test_a_macro_that_the_description_lacks_is_refused_with_the_nearest(folder):
    error = refused(jobs.submit, folder / "job.sub", mem="1 GB")
    assert "no macro mem" in error.what
    assert error.fix == "Did you mean memory?"
    assert "$(zebra)" in refused(jobs.submit, folder / "job.sub", zebra=1).fix


def test_a_name_that_is_no_identifier_is_refused(folder):
    assert "no macro" in refused(jobs.submit, folder / "job.sub", **{"what = x\nqueue": 1}).what


def test_a_description_that_is_not_there_is_refused(folder):
    error = refused(jobs.submit, folder / "nothing.sub")
    assert "can't be read: No such file" in error.what
    assert error.where.endswith("nothing.sub")


def test_a_description_that_is_not_text_is_refused(folder):
    (folder / "job.sub").write_bytes(b"\xff\xfe\x00")
    assert "not text" in refused(jobs.submit, folder / "job.sub").what


def test_a_description_without_a_log_is_refused(folder):
    (folder / "job.sub").write_text(DESCRIPTION.replace("log =", "# log ="))
    error = refused(jobs.submit, folder / "job.sub")
    assert "no event log" in error.what
    assert "log = " in error.fix


def test_without_htcondor_it_says_where_to_get_a_pool(folder, monkeypatch):
    monkeypatch.setenv("PATH", str(folder))
    error = refused(jobs.submit, folder / "job.sub")
    assert error.what == "There is no condor_submit, so there is no queue to talk to."
    assert "pool.start" in error.fix


def test_a_pool_that_is_gone_is_said(pool, folder, monkeypatch):
    monkeypatch.setenv("PATH", f"{pool.condor.bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CONDOR_CONFIG", os.devnull)
    error = refused(jobs.submit, folder / "job.sub")
    assert "Can't find address of local schedd" in error.what
    assert "pool.start" in error.fix


def test_an_executable_that_is_not_there_is_said(queue):
    (queue / "run.sh").unlink()
    error = refused(jobs.submit, queue / "job.sub")
    assert "run.sh" in error.what
    assert str(queue) in error.fix


def test_a_line_that_condor_submit_cannot_read_is_said(queue):
    error = refused(jobs.submit, queue / "job.sub", memory="lots and lots")
    assert "lots and lots" in error.what
    assert error.where.endswith("job.sub")


def test_a_command_that_never_answers_is_given_up(folder, monkeypatch):
    program = folder / "condor_submit"
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(jobs, "COMMAND_LIMIT", 0.5)
    error = refused(jobs.submit, folder / "job.sub")
    assert "has not answered within 0.5 seconds" in error.what


# --- The words


def test_events_know_their_reason_and_what_comes_next():
    event = events.Event("1.0", 5, "JOB_HELD", "is on hold", {"HoldReason": "two\n lines"})
    assert event.reason == "two lines"
    assert event.ends
    assert str(event) == "   5 s  1.0  is on hold"
    assert events.Event("1.0", 5, "EXECUTE", "").waits_for == "its program to end"


def test_memory_is_told_when_it_has_grown_much(tmp_path):
    lines = ["000 (001.000.000) 2026-11-24 11:00:00 Job submitted from host: <127.0.0.1:1>"]
    for used in (8, 700, 720, 900):
        lines += [f"006 (001.000.000) 2026-11-24 11:00:05 Image size of job updated: {used}"]
        lines[-1] += (
            f"\n\t{used}  -  MemoryUsage of job (MB)\n\t{used * 1000}  -  ResidentSetSize of job (KB)"
        )
    (tmp_path / "job.log").write_text("".join(f"{line}\n...\n" for line in lines))
    told = [event.text for event in events.follow(tmp_path / "job.log", ["1.0"], 0)]
    assert told[1:] == ["uses 700 MB of memory", "uses 900 MB of memory"]


@pytest.mark.timeout(60)
def test_following_a_log_that_never_appears_stops_at_the_limit(tmp_path):
    assert list(events.follow(tmp_path / "no.log", ["1.0"], 0.5)) == []


def test_the_package_is_importable_without_htcondor():
    code = "import sys; sys.modules.update(htcondor2=None, classad2=None); import lesson_helpers.jobs"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
