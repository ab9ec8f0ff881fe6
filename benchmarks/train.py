"""The fast recipe beside PyTorch's MNIST example, in the same run: time, accuracy, memory.

Limits: from the files to the tested model in 1/60 of the reference recipe's time, the whole process in 1/30;
98.74 % of the test digits right (mean of the seeds, the worst at least 98.5 %); memory within 400 MB of
what ``import torch`` alone takes. The reference recipe takes minutes:

    python benchmarks/train.py [--seeds 10] [--epochs 1] [--reference-seeds 1] [--reference-epochs 2]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lesson_helpers import environments, mnist, paths
from lesson_helpers.tables import Table

LIMITS = {"training": 60, "process": 30}  # times as fast
PEAK = 400  # MB above `import torch`


@dataclass(frozen=True)
class Run:
    """A process that has ended: seconds, CPU seconds, peak in MB; of a training also its own seconds."""

    process: float
    cpu: float
    peak: float
    training: float = 0.0
    accuracy: float = 0.0


def measure(command: list, folder: Path) -> Run:
    """Run a process; its peak of memory is at least this process's own."""
    begun = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with code {process.returncode}.")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes; getrusage(2)
    seconds = time.perf_counter() - begun
    return Run(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * unit / 1e6)


def train(recipe: str, epochs: int, seed: int, data: Path) -> Run:
    """Train once, on the CPU."""
    script = paths.root() / "jobs/src/torch_mnist.py"
    options = ["--recipe", recipe, "--epochs", epochs, "--seed", seed, "--device", "cpu", "--data-dir", data]
    with tempfile.TemporaryDirectory(dir=paths.state()) as folder:
        ran = measure([*environments.training_python(), script, *options], Path(folder))
        last = json.loads((Path(folder) / "metrics.jsonl").read_text().splitlines()[-1])
    print(f"{recipe}, seed {seed}: {100 * last['accuracy']:.2f} %, {last['seconds']:.1f} s, process "
          f"{ran.process:.1f} s, CPU {ran.cpu:.1f} s", flush=True)  # fmt: skip
    return Run(ran.process, ran.cpu, ran.peak, last["seconds"], last["accuracy"])


def compare(alone: Run, fast: list[Run], reference: list[Run]) -> Table:
    """Return the medians and the ratios, beside the limits."""
    median = {
        name: [statistics.median(getattr(run, name) for run in runs) for runs in (fast, reference)]
        for name in ("training", "process", "cpu", "peak")
    }
    rows = []
    for name, words in (
        ("training", "files to tested model"),
        ("process", "whole process"),
        ("cpu", "CPU time of the process"),
    ):
        ours, theirs = median[name]
        limit = f"{LIMITS[name]} times" if name in LIMITS else ""
        rows.append((words, f"{ours:.2f} s", f"{theirs:.1f} s", f"{theirs / ours:.0f} times", limit))
    shares = [[100 * run.accuracy for run in runs] for runs in (fast, reference)]
    mean = [f"{statistics.mean(share):.2f} %" for share in shares]
    worst = [f"{min(share):.2f} %" for share in shares]
    rows.append(("right, mean of the seeds", *mean, "", "98.74 %"))
    rows.append(("right, worst seed", *worst, "", "98.50 %"))
    over = [f"{peak - alone.peak:.0f} MB" for peak in median["peak"]]
    rows.append(("memory above `import torch`", *over, "", f"{PEAK} MB"))
    note = f"`import torch` alone: {alone.process:.1f} s, {alone.peak:.0f} MB. Times are medians."
    head = ("", f"fast ({len(fast)})", f"reference ({len(reference)})", "ratio", "limit")
    return Table(head, tuple(rows), note=note)


def main() -> None:
    """Measure in turn, so that a busy machine slows both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("seeds", 10), ("epochs", 1), ("reference-seeds", 1), ("reference-epochs", 2)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", choices=range(1, 1000))
    options = parser.parse_args()
    data = mnist.fetch()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(dir=paths.state()) as folder:
        alone = measure([*environments.training_python(), "-c", "import torch"], Path(folder))
    fast, reference = [], []
    for turn in range(options.reference_seeds + 1):  # some of the fast ones before, some after each slow one
        for seed in range(1 + turn, 1 + options.seeds, options.reference_seeds + 1):
            fast.append(train("fast", options.epochs, seed, data))
        if turn < options.reference_seeds:
            reference.append(train("reference", options.reference_epochs, turn + 1, data))
    print(f"load {os.getloadavg()[0]:.1f}")
    print(compare(alone, fast, reference))


if __name__ == "__main__":
    main()
