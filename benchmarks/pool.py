"""The personal pool beside HTCondor's stock intervals: ready, one trivial job on an idle pool, stopped.

Limits: ready in less than 2 seconds, a trivial job back in about one. The rival is the same pool with the
intervals that HTCondor has by itself, in the same run; it is asked for fewer jobs, since each takes up to a
minute there. ``python benchmarks/pool.py [JOBS]``.
"""

import contextlib
import io
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

from lesson_helpers import jobs, paths
from lesson_helpers import pool as pools

# What pool.conf sets below "A pool of thousands", back to the values of HTCondor's manual.
STOCK = {
    "NEGOTIATOR_INTERVAL": "60",
    "NEGOTIATOR_MIN_INTERVAL": "5",
    "NEGOTIATOR_CYCLE_DELAY": "20",
    "SCHEDD_INTERVAL": "300",
    "SCHEDD_MIN_INTERVAL": "5",
    "UPDATE_INTERVAL": "300",
    "CLAIM_WORKLIFE": "1200",
}
JOB = """\
executable = /bin/true
transfer_executable = false
request_memory = 50 MB
request_disk = 50 MB
log = {number}.log
queue
"""


def measure(name: str, settings: dict[str, str], count: int, folder: Path) -> float:
    """Start a pool, let it run jobs one at a time, each on an idle pool; print and return the median."""
    begun = time.perf_counter()
    pool = pools.start(settings=settings, folder=folder / name)
    ready = time.perf_counter() - begun
    pool.activate()
    took = []
    for number in range(count):
        time.sleep(3)  # the slot is idle again, and has said so
        description = folder / f"{name}-{number}.sub"
        description.write_text(JOB.format(number=f"{name}-{number}"))
        begun = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            jobs.submit(description).wait(300)
        took.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    pool.stop()
    stopped = time.perf_counter() - begun
    median = statistics.median(took)
    print(f"{name:6} ready {ready:.1f} s   job {median:.1f} s (median of {count})   stopped {stopped:.1f} s")
    return median


def main(arguments: list[str]) -> int:
    """Measure both in turn and print the ratio."""
    if len(arguments) > 1 or not all(re.fullmatch(r"[1-9]\d?", argument) for argument in arguments):
        print("usage: python benchmarks/pool.py [JOBS], a number from 1 to 99", file=sys.stderr)
        return 2
    count = int(arguments[0]) if arguments else 10
    with tempfile.TemporaryDirectory(dir=paths.state()) as folder:
        ours = measure("ours", {}, count, Path(folder))
        stock = measure("stock", STOCK, max(1, count // 3), Path(folder))
    print(f"a job takes {stock / ours:.0f} times as long with HTCondor's stock intervals")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
