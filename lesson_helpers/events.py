"""HTCondor's event log, told in words.

HTCondor writes each thing that happens to a job into the job's own log, on the access point. Reading that
file asks the queue nothing, so it works on any pool, with any number of people following their jobs.
"""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PAUSE = 0.1  # seconds between two looks into the log, a local file
SHELL = 50  # MB of memory, more than the shell takes that starts a program
GROWN = 1.2  # memory is told again when it has grown by a fifth

FIRST_OTHER_CODE = 1000  # lower ones are hold reason codes

# After these nothing more happens to a job by itself; a held one can be released.
ENDS = ("JOB_TERMINATED", "JOB_ABORTED", "JOB_HELD")

# What a job waits for after an event.
WAITS_FOR = {
    "SUBMIT": "a slot that fits it",
    "JOB_RELEASED": "a slot that fits it",
    "JOB_EVICTED": "another slot that fits it",
    "SHADOW_EXCEPTION": "another slot that fits it",
    "JOB_RECONNECT_FAILED": "another slot that fits it",
    "JOB_DISCONNECTED": "its execute point to answer again",
    "FILE_TRANSFER": "its files, or for its program to start",
    "EXECUTE": "its program to end",
    "IMAGE_SIZE": "its program to end",
}

# Kinds of FILE_TRANSFER (htcondor2.FileTransferEventType); after the way back comes the end of the job.
TRANSFERS = {
    1: "has a slot, and waits for its turn to send its files",
    2: "has a slot: its files are on their way to the execute point",
    3: "has its files on the execute point",
    5: "sends its results back",
}

# Events that need no more than a sentence.
SENTENCES = {
    "SUBMIT": "is in the queue, idle until a slot fits",
    "JOB_RELEASED": "is released, back in the queue",
    "JOB_EVICTED": "lost its slot and goes back to the queue: {reason}",
    "SHADOW_EXCEPTION": "could not go on and will be tried again: {reason}",
    "REMOTE_ERROR": "met an error on its execute point: {reason}",
    "JOB_DISCONNECTED": "has lost the connection to its execute point; HTCondor tries to find it again",
    "JOB_RECONNECTED": "is connected again",
    "JOB_RECONNECT_FAILED": "was not found again and goes back to the queue",
    "JOB_SUSPENDED": "is suspended while its slot is needed by its owner",
    "JOB_UNSUSPENDED": "runs on",
    "JOB_HELD": "is on hold: {reason}",
    "JOB_ABORTED": "was removed from the queue: {reason}",
}


@dataclass(frozen=True)
class Event:
    """One thing that happened to a job.

    Parameters
    ----------
    job : str
        The job's id, cluster and proc: ``"14.0"``.
    seconds : int
        Seconds since the first event that was read of these jobs, which is the submission.
    kind : str
        HTCondor's name of the event: ``"SUBMIT"``, ``"EXECUTE"``, ``"JOB_HELD"``.
    text : str
        The event in words, going on from the job's name.
    details : mapping
        The event's attributes, as HTCondor wrote them.
    """

    job: str
    seconds: int
    kind: str
    text: str
    details: Mapping = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.seconds:4d} s  {self.job}  {self.text}"

    @property
    def ends(self) -> bool:
        """Whether nothing more happens to the job by itself: it terminated, was removed or is held."""
        return self.kind in ENDS

    @property
    def reason(self) -> str:
        """Why HTCondor or a person did it, as HTCondor wrote it, on one line."""
        get = self.details.get
        keys = ("HoldReason", "Reason", "Message", "ErrorMsg")  # each event has its own
        return _line(next(filter(None, map(get, keys)), "no reason given"))

    @property
    def waits_for(self) -> str:
        """What the job waits for after this event."""
        return WAITS_FOR.get(self.kind, "its next event")


def follow(log: Path, jobs: Collection[str], seconds: float) -> Iterator[Event]:
    """Yield what happened and what happens to jobs, until each has ended or time is up.

    Parameters
    ----------
    log : Path
        The event log. It may not be there yet, and may hold other clusters' events too.
    jobs : collection of str
        The ids of the jobs to follow: ``["14.0", "14.1"]``.
    seconds : float
        The limit.
    """
    from htcondor2 import JobEventLog  # only Linux has it

    deadline = time.monotonic() + seconds
    waiting, first, reader, memory = set(jobs), None, None, {}
    while True:
        if reader is None and log.exists():
            reader = JobEventLog(str(log))
        for raw in _new(reader, jobs) if reader else ():
            first = raw.timestamp if first is None else first
            job, kind, text = f"{raw.cluster}.{raw.proc}", raw.type.name, in_words(raw.type.name, raw)
            if kind == "IMAGE_SIZE":
                if raw.get("MemoryUsage", 0) < GROWN * memory.get(job, SHELL):
                    continue
                memory[job] = raw["MemoryUsage"]
            if text:
                event = Event(job, raw.timestamp - first, kind, text, dict(raw))
                (waiting.discard if event.ends else waiting.add)(job)
                yield event
        # only here, with all read: a hold in the middle of the log may have been released since
        if not waiting or time.monotonic() >= deadline:
            return
        time.sleep(PAUSE)


def _new(reader, jobs: Collection[str]) -> list:
    """Return the events that are new in a log, of these jobs.

    A pool that was made anew counts its clusters from 1 again, so the log may tell of an earlier job with
    the same number. The log has a job's submission before ``condor_submit`` returns: what stands before the
    last one is not about this job.
    """
    found = []
    for raw in reader.events(stop_after=0):
        if f"{raw.cluster}.{raw.proc}" in jobs:  # not another cluster's, nor one of the cluster as a whole
            if raw.type.name == "SUBMIT":
                found = [old for old in found if (old.cluster, old.proc) != (raw.cluster, raw.proc)]
            found.append(raw)
    return found


def in_words(kind: str, event: Mapping) -> str:
    """Say what an event means for its job; empty for one that a reader needs not know.

    Parameters
    ----------
    kind : str
        HTCondor's name of the event.
    event : mapping
        Its attributes.

    Examples
    --------
    >>> in_words("JOB_HELD", {"HoldReason": "via condor_hold (by user ada)", "HoldReasonCode": 1})
    'is on hold: via condor_hold (by user ada)'
    >>> in_words("FILE_TRANSFER", {"Type": 3})
    'has its files on the execute point'
    """
    if kind == "FILE_TRANSFER":
        return TRANSFERS.get(event.get("Type"), "")
    if kind == "EXECUTE":
        return _runs(event)
    if kind in ("JOB_EVICTED", "REMOTE_ERROR"):
        code = event.get("ReasonCode") or event.get("HoldReasonCode") or 0
        if 0 < code < FIRST_OTHER_CODE:
            return ""  # the hold is an event of its own and comes next
    if kind == "JOB_TERMINATED":
        return _ended(event)
    if kind == "IMAGE_SIZE":
        return f"uses {event['MemoryUsage']} MB of memory" if "MemoryUsage" in event else ""
    return SENTENCES.get(kind, "").format(reason=Event("", 0, kind, "", event).reason)


def exit_in_words(event: Mapping) -> str:
    """Say how a terminated job's program ended: ``exit code 3`` or ``signal 9``."""
    if event.get("TerminatedNormally"):
        return f"exit code {event.get('ReturnValue')}"
    return f"signal {event.get('TerminatedBySignal')}"


def _runs(event: Mapping) -> str:
    """Say what a job's slot was given, and where it is."""
    slot = event.get("ExecuteProps") or {}
    given = []
    for name in slot.get("AvailableGPUs") or ():
        gpu = slot.get(str(name)) or {}
        simulated = "simulated " if gpu.get("Simulated") else ""
        given.append(f"1 {simulated}GPU ({gpu.get('DeviceName', name)})")
    if "Cpus" in slot:
        given.append(f"{slot['Cpus']} core" + "s" * (slot["Cpus"] != 1))
    if "Memory" in slot:
        given.append(f"{slot['Memory']} MB of memory")
    where = event.get("SlotName") or event.get("ExecuteHost", "an execute point")
    return "runs " + (f"with {', '.join(given)} " if given else "") + f"on {where}"


def _ended(event: Mapping) -> str:
    """Say how a job ended and what it used."""
    parts = [f"ended with {exit_in_words(event)}"]
    if "MemoryUsage" in event and "RequestMemory" in event:
        parts.append(f"used {event['MemoryUsage']} of {event['RequestMemory']} MB of memory")
    there, back = event.get("TotalReceivedBytes", 0), event.get("TotalSentBytes", 0)
    if there or back:
        parts.append(f"{there / 1e6:.1f} MB went, {back / 1e6:.1f} MB came back")
    return "; ".join(parts)


def _line(text: object) -> str:
    return " ".join(str(text).split())
