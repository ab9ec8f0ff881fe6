"""How much ``./lesson`` adds before Python where everything is set up. Limit: 0.3 seconds.

Runs ``./lesson --help`` and the same command without the script, in turn, and prints both medians and what
lies between them. ``./lesson`` itself has to have run once.
"""

import statistics
import subprocess
import sys
import time

from lesson_helpers import paths

RUNS = 20


def seconds(command: list[str]) -> float:
    """Return how long a command takes."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return time.perf_counter() - begun


def main() -> None:
    """Measure in turn, so that a busy machine slows both."""
    script = [str(paths.root() / "lesson"), "--help"]
    python = [sys.executable, "-P", "-m", "lesson_helpers", "--help"]
    seconds(script)
    pairs = [(seconds(script), seconds(python)) for _ in range(RUNS)]
    with_script, without = (statistics.median(column) for column in zip(*pairs, strict=True))
    added = statistics.median(one - other for one, other in pairs)
    print(f"./lesson --help          {with_script:.3f} s, median of {RUNS}")
    print(f"python -m lesson_helpers {without:.3f} s")
    print(f"the script adds          {added:.3f} s; the limit is 0.300 s")


if __name__ == "__main__":
    main()
