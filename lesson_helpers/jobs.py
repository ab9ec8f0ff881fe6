"""Jobs: submit a description, follow the jobs in words, collect what came back."""

import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from lesson_helpers import events
from lesson_helpers.errors import LessonError

COMMAND_LIMIT = 60  # seconds for one condor_* command; a busy access point may take tens
RELEASE_LIMIT = 5  # seconds from condor_release to its event in the log
START_A_POOL = "Start the personal pool (the cell with pool.start), or work on an access point."

# What to do about a hold, by its reason code (HTCondor manual, job attribute HoldReasonCode).
HOLDS = {
    1: "A person put it on hold, with condor_hold. `condor_release {job}` puts it back into the queue.",
    6: "Its executable can't be started: look at the first line of that file (#!/bin/bash, and no Windows "
    "line ends) and mend it. Then `condor_rm {job}`, and submit again.",
    12: "Its results can't come back, most often because the program never wrote a file that is named in "
    "transfer_output_files. Mend the description, `condor_rm {job}` and submit again; or mend this job with "
    "`condor_qedit {job} TransferOutput '\"FILE\"'` and `condor_release {job}`.",
    13: "Its input can't be sent, most often because a file named in transfer_input_files isn't there. Put "
    "it there (paths count from the description's folder), then `condor_release {job}`.",
}
OTHER_HOLD = "Mend what the reason names, then `condor_release {job}`; or `condor_rm {job}` and submit again."


@dataclass
class Job:
    """The jobs of one cluster: what one ``condor_submit`` put into the queue.

    They belong to the queue, not to this object: when you stop waiting, they stay there and run, until
    they end or you call `remove`.

    Parameters
    ----------
    cluster : int
        The cluster's id.
    log : Path
        The event log.
    files : dict of str to dict of str to Path
        For each job id (``"14.0"``) what comes back: the file's name, and where it will lie.
    errors : dict of str to Path
        For each job id the file with what it printed to its standard error.
    """

    cluster: int
    log: Path
    files: dict[str, dict[str, Path]] = field(repr=False)
    errors: dict[str, Path] = field(repr=False)
    _told: int = field(default=0, repr=False)  # events that an earlier wait() has told already

    def __str__(self) -> str:
        count = f"{len(self.files)} jobs" if len(self.files) > 1 else "1 job"
        return f"cluster {self.cluster} ({count}; event log {self.log.name})"

    def wait(self, seconds: float = 600, on_event: Callable[[events.Event], object] = print) -> None:
        """Follow the event log until each job of the cluster has ended well.

        Where you stop waiting, by the limit or with Ctrl-C, the jobs stay in the queue; a message says so.

        Parameters
        ----------
        seconds : float
            The limit.
        on_event : callable
            Called with each `events.Event` that no earlier call has told, or where there is none with the
            last one of each job; by default it is printed.

        Raises
        ------
        LessonError
            Where a job was held or removed, did not end with exit code 0, or the limit is reached.
        """
        told, started = self._told, time.monotonic()
        try:
            last = self._follow(seconds, on_event)
            # a hold that was told before: the release is on its way into the log, or there was none
            while self._told == told and any(event.kind == "JOB_HELD" for event in last.values()):
                if time.monotonic() - started > min(seconds, RELEASE_LIMIT):
                    break
                time.sleep(events.PAUSE)
                last = self._follow(seconds, on_event)
        except KeyboardInterrupt:
            print(f"You stopped waiting. {self._stays()}")
            raise
        if self._told == told:  # in a cell that is run again, nothing at all would be seen
            for event in last.values():
                on_event(event)
        for event in last.values():
            self._judge(event)
        late = [job for job in self.files if job not in last or not last[job].ends]
        if late:
            event = last.get(late[0])
            raise LessonError(
                f"Job {late[0]} has not ended within {seconds:g} seconds; it waits for "
                f"{event.waits_for if event else 'its first event'}.",
                f"{self.log}; the last it says is that the job {event.text if event else 'is unknown'}",
                f"`condor_q -better-analyze {late[0]}` tells which of its requirements no slot meets. "
                + self._stays(),
            )

    def outputs(self, proc: int = 0) -> dict[str, Path]:
        """Return the files that came back from a job that ended well: their names, and where they lie.

        What the job printed is among them, under the names that the description gives it.

        Parameters
        ----------
        proc : int
            Which job of the cluster; 0 is the first.

        Raises
        ------
        LessonError
            Where there is no such job, it has not ended or not ended well, or a file is gone.
        """
        job = f"{self.cluster}.{proc}"
        if job not in self.files:
            last = len(self.files) - 1
            raise LessonError(f"There is no job {job}.", str(self), f"Use a proc from 0 to {last}.")
        event = list(events.follow(self.log, [job], 0))[-1:]
        if not event or not event[0].ends:
            raise LessonError(f"Job {job} has not ended yet.", str(self), "Wait for it: job.wait().")
        self._judge(event[0])
        missing = [path for path in self.files[job].values() if not path.exists()]
        if missing:
            raise LessonError(
                f"Job {job} has ended well, and its {missing[0].name} isn't there any more.",
                str(missing[0]),
                "Submit it again, and leave the file where it arrives.",
            )
        return dict(self.files[job])

    def remove(self) -> None:
        """Take the cluster's jobs out of the queue, running or not: ``condor_rm``.

        Raises
        ------
        LessonError
            Where ``condor_rm`` fails, other than because they have left the queue already.
        """
        ran = _run(["condor_rm", str(self.cluster)], self.log.parent)
        said = " ".join((ran.stdout + ran.stderr).split())
        if ran.returncode and f"find/remove all jobs in cluster {self.cluster}" not in said:
            raise LessonError(
                f"Cluster {self.cluster} could not be removed: {said}",
                f"condor_rm {self.cluster}",
                "See with condor_q whether it is still in the queue, and try the command in a terminal.",
            )
        left = "had left the queue already" if ran.returncode else "is removed from the queue"
        print(f"Cluster {self.cluster} {left}.")

    def _follow(self, seconds: float, on_event: Callable) -> dict[str, events.Event]:
        """Tell the events that are new, and return the last one of each job."""
        last = {}
        for number, event in enumerate(events.follow(self.log, self.files, seconds), 1):
            last[event.job] = event
            if number > self._told:
                self._told = number
                on_event(event)
        return last

    def _stays(self) -> str:
        return (
            f"Cluster {self.cluster} stays in the queue and will run: wait on with job.wait(), "
            f"or take it out with job.remove(), which is `condor_rm {self.cluster}`."
        )

    def _judge(self, event: events.Event) -> None:
        """Raise where a job's last event says that it did not succeed."""
        job = event.job
        if event.kind == "JOB_HELD":
            code = event.details.get("HoldReasonCode", 0)
            fix = HOLDS.get(code, OTHER_HOLD).format(job=job)
            raise LessonError(f"Job {job} is on hold: {event.reason}", f"{self.log}, hold code {code}", fix)
        if event.kind == "JOB_ABORTED":
            raise LessonError(
                f"Job {job} was removed from the queue: {event.reason}",
                str(self.log),
                "Submit it again, where that wasn't what you wanted.",
            )
        if event.kind == "JOB_TERMINATED" and event.details.get("ReturnValue") != 0:
            printed = self.errors.get(job)
            lines = printed.read_text(errors="replace").splitlines() if printed and printed.is_file() else []
            raise LessonError(
                f"Job {job} failed: it ended with {events.exit_in_words(event.details)}.",
                f"{printed}, which ends with:\n  " + "\n  ".join(lines[-10:]) if lines else str(self.log),
                "Mend what it says there, and submit again.",
            )


def submit(description: str | Path, **macros: str | int | float | Path) -> Job:
    """Put the jobs of a submit description into the queue: ``condor_submit NAME=VALUE … FILE``.

    Parameters
    ----------
    description : str or Path
        The submit description. ``condor_submit`` runs in its folder, so paths in it count from there.
    **macros
        Values for macros of the description, such as ``epochs`` where it says ``$(epochs:2)``.
        An empty text leaves the description's own value.

    Returns
    -------
    Job
        To wait for, and to collect what came back.

    Raises
    ------
    LessonError
        Where the description can't be read or has no ``log``, a macro is not in it or its value can't stand
        there, or ``condor_submit`` refuses.
    """
    path = Path(description).absolute()
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise LessonError(
            f"The submit description can't be read: {reason}.",
            str(path),
            "Name a file such as jobs/mnist_gpu.sub in your workspace.",
        ) from None
    if not re.search(r"^\s*log\s*=\s*\S", text, re.MULTILINE | re.IGNORECASE):
        raise LessonError(
            "The submit description names no event log, so its jobs could not be followed.",
            str(path),
            "Add a line such as: log = my_job_$(Cluster).log",
        )
    settings = [f"{name}={_checked(name, value, text)}" for name, value in macros.items() if value != ""]
    # -verbose prints each job's ad: its id, its log, and where its files will lie
    command = ["condor_submit", "-verbose", *settings, path.name]
    print(f"$ {shlex.join(command)}")
    ran = _run(command, path.parent)
    ads = _ads(ran.stdout)
    if ran.returncode or not ads:
        raise _refusal(ran.stderr.strip() or ran.stdout.strip(), path)
    for warning in re.findall(r"^WARNING: (.*)$", ran.stderr, re.MULTILINE):
        print(f"condor_submit warns: {warning}")
    job = Job(
        cluster=ads[0]["ClusterId"],
        log=Path(ads[0]["Iwd"], ads[0]["UserLog"]),
        files={_id(ad): _files(ad) for ad in ads},
        errors={_id(ad): Path(ad["Iwd"], ad["Err"]) for ad in ads},
    )
    print(f"In the queue: {job}.")
    return job


def _checked(name: str, value: object, text: str) -> str:
    """Return a macro's value as text, if this description has it and the value means only itself there."""
    where = f"submit(…, {name}={value!r})"
    if not isinstance(value, str | int | float | Path) or re.search(r"[\x00-\x1f\x7f$\"'\\]", str(value)):
        raise LessonError(
            f"The value of {name} can't stand in a submit description.",
            where,
            "Use a number, or a text without quotes, $, backslashes and line breaks.",
        )
    known = set(re.findall(r"\$\((\w+)|\bdefined\s+(\w+)", text))
    known = {found.lower() for pair in known for found in pair if found}  # HTCondor ignores case
    if name.lower() not in known:
        near = get_close_matches(name.lower(), known, 1)
        raise LessonError(
            f"The submit description has no macro {name}, so the value would change nothing.",
            where,
            f"Did you mean {near[0]}?" if near else f"Write $({name}) in it, where the value belongs.",
        )
    return str(value)


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    """Run one of HTCondor's commands in a folder; its exit code is the caller's to judge."""
    if shutil.which(command[0]) is None:
        raise LessonError(f"There is no {command[0]}, so there is no queue to talk to.", "PATH", START_A_POOL)
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "errors": "replace"}
    try:
        return subprocess.run(command, cwd=folder, timeout=COMMAND_LIMIT, check=False, **options)
    except subprocess.TimeoutExpired:
        raise LessonError(
            f"{command[0]} has not answered within {COMMAND_LIMIT} seconds.",
            " ".join(command),
            "Try it in a terminal: the access point is busy, or can't be reached from here.",
        ) from None


def _refusal(said: str, path: Path) -> LessonError:
    """Say in three parts why ``condor_submit`` did not submit."""
    error = " ".join(said[said.find("ERROR:") + 6 if "ERROR:" in said else 0 :].split())
    if re.search(r"local (schedd|queue manager)|CONDOR_CONFIG", said):
        fix = START_A_POOL
    elif "executable file" in said:
        fix = f"Put the executable there, or mend the line; paths count from {path.parent}."
    else:
        fix = "Mend the line that it means, and submit again."
    return LessonError(f"condor_submit refuses: {error or 'it did not say why'}", str(path), fix)


def _ads(verbose: str) -> list:
    """Return the job ads that ``condor_submit -verbose`` prints, one for each job."""
    from classad2 import parseOne  # only Linux has it

    blocks = re.split(r"^\*\* Proc [\d.]+:\n", verbose, flags=re.MULTILINE)[1:]
    return [parseOne(block.strip()) for block in blocks]


def _id(ad) -> str:
    return f"{ad['ClusterId']}.{ad['ProcId']}"


def _files(ad) -> dict[str, Path]:
    """Return what comes back from a job and where it will lie, from its ad."""
    pairs = [pair.split("=", 1) for pair in ad.get("TransferOutputRemaps", "").split(";") if "=" in pair]
    remaps = {name.strip(): target.strip() for name, target in pairs}
    names = [name.strip() for name in ad.get("TransferOutput", "").split(",") if name.strip()]
    paths = [remaps.get(name, Path(name).name) for name in names]
    paths += [ad[key] for key in ("Out", "Err") if ad.get(key, "/dev/null") != "/dev/null"]
    return {Path(path).name: Path(ad["Iwd"], path) for path in paths}
