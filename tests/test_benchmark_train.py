"""The benchmark of the training: what it computes, and that it can be called."""

import importlib.util
import subprocess
import sys

import pytest

from lesson_helpers import paths

FILE = paths.root() / "benchmarks" / "train.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_train", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_it_puts_medians_and_ratios_beside_the_limits(benchmark):
    fast = [
        benchmark.Run(4, 3, 700, 2, 0.99),
        benchmark.Run(5, 3, 700, 2, 0.986),
        benchmark.Run(6, 3, 700, 3, 0.99),
    ]
    reference = [benchmark.Run(150, 260, 900, 120, 0.988)]
    rows = benchmark.compare(benchmark.Run(2, 1, 650), fast, reference).rows
    assert rows == (
        ("files to tested model", "2.00 s", "120.0 s", "60 times", "60 times"),
        ("whole process", "5.00 s", "150.0 s", "30 times", "30 times"),
        ("CPU time of the process", "3.00 s", "260.0 s", "87 times", ""),
        ("right, mean of the seeds", "98.87 %", "98.80 %", "", "98.74 %"),
        ("right, worst seed", "98.60 %", "98.80 %", "", "98.50 %"),
        ("memory above `import torch`", "50 MB", "250 MB", "", "400 MB"),
    )


def test_the_peak_of_a_process_is_seen_and_its_time(benchmark, tmp_path):
    ran = benchmark.measure([sys.executable, "-c", "bytearray(b'x') * 600_000_000"], tmp_path)
    assert 600 < ran.peak < 700
    assert ran.process > 0


def test_a_process_that_fails_ends_it(benchmark, tmp_path):
    with pytest.raises(SystemExit, match="ended with code 3"):
        benchmark.measure([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


def lesson(*arguments):
    command = [sys.executable, "-P", "-m", "lesson_helpers", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_hands_its_options_on():
    ran = lesson("train", "--reference-seeds", "0")
    assert ran.returncode == 2
    assert "$ python benchmarks/train.py --reference-seeds 0" in ran.stdout
    assert "--reference-seeds: invalid choice: 0" in ran.stderr


def test_an_unknown_benchmark_is_a_clear_mistake():
    ran = lesson("trian")
    assert ran.returncode == 1
    assert ran.stderr.startswith(
        "What: There is no benchmark 'trian'.\nWhere: ./lesson bench\nDo: Use one of: "
    )
    assert "train" in ran.stderr
