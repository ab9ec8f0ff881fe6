"""The submit description and the script that travel to the worker."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lesson_helpers import environments, paths

htcondor2 = pytest.importorskip("htcondor2", reason="HTCondor's bindings are for Linux")

JOBS = paths.root() / "jobs"
DESCRIPTION = (JOBS / "mnist_gpu.sub").read_text()
IMAGE = "docker://ghcr.io/somebody/mnist:sha-1"


def parsed(*settings):
    """Return the description as HTCondor reads it, with settings as `condor_submit` puts them in front."""
    return htcondor2.Submit("\n".join([*settings, DESCRIPTION]))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("executable", "mnist_gpu.sh"),
        ("request_gpus", "1"),
        ("gpus_minimum_runtime", "12.0"),
        ("MY.WantGPULab", "true"),
        ("MY.GPUJobLength", '"short"'),
        ("transfer_input_files", "MNIST_data.tar.gz, src"),
        ("transfer_output_files", "mnist_cnn.pt, metrics.jsonl, predictions.npz"),
    ],
)
def test_it_says_what_the_job_needs(key, value):
    assert parsed()[key] == value


@pytest.mark.parametrize("key", ["request_memory", "request_disk"])
@pytest.mark.parametrize("settings", [[], [f"image = {IMAGE}"]])
def test_each_amount_has_its_unit(key, settings):
    assert re.fullmatch(r"\d+ GB", parsed(*settings)[key])


def test_it_becomes_one_job():
    assert parsed().getQArgs() == ""
    assert DESCRIPTION.rstrip().endswith("\nqueue")


def test_no_key_stands_twice_on_one_way_through_it():
    joined = re.sub(r"\\\n\s*", "", DESCRIPTION)  # a backslash goes on in the next line
    branches = re.split(r"^(?:if|else|endif).*$", joined, flags=re.MULTILINE)
    assert len(branches) == 4
    before, with_image, without, after = (
        re.findall(r"^\s*([+\w]+)\s*=", branch, re.MULTILINE) for branch in branches
    )
    for way in (before + with_image + after, before + without + after):
        assert max(Counter(key.lower() for key in way).values()) == 1


def test_no_value_has_swallowed_a_comment():
    for settings in ([], [f"image = {IMAGE}"]):
        assert not [value for value in dict(parsed(*settings)).values() if "#" in value]


def test_every_key_has_a_comment_above_it():
    for block in DESCRIPTION.strip().split("\n\n"):
        assert block.startswith("#") or block == "queue"


def test_without_an_image_the_slot_itself_provides_the_software():
    description = parsed()
    assert "container_image" not in description
    assert "universe" not in description


def test_an_image_makes_it_a_container_job_with_more_disk():
    description = parsed(f"image = {IMAGE}")
    assert description["universe"] == "container"
    assert description.expand("container_image") == IMAGE
    assert int(description["request_disk"].split()[0]) >= 10


def test_values_from_the_command_line_reach_the_training():
    assert parsed().expand("arguments") == '"--epochs 2 --recipe fast --seed 1"'
    settings = ["epochs = 7", "recipe = reference", "seed = 3"]
    assert parsed(*settings).expand("arguments") == '"--epochs 7 --recipe reference --seed 3"'


def test_every_result_has_its_place_in_the_job_s_own_folder():
    description = parsed()
    results = [name.strip() for name in description["transfer_output_files"].split(",")]
    remaps = description["transfer_output_remaps"].strip('"').split(";")
    remaps = [" ".join(remap.split()) for remap in remaps]
    assert remaps == [f"{name} = $(results)/{name}" for name in results]
    assert description["results"] == "results/$(Cluster).$(Process)"


# --- The script


@pytest.fixture
def sandbox(tmp_path):
    """Give a folder with what the job finds in its own folder on the execute point."""
    shutil.copytree(JOBS / "src", tmp_path / "src")
    shutil.copy2(JOBS / "mnist_gpu.sh", tmp_path)
    return tmp_path


def run(sandbox: Path, *arguments, **environment):
    settings = {"PATH": f"{environments.training_folder()}:{os.defpath}", **environment}
    return subprocess.run(
        ["bash", "mnist_gpu.sh", *arguments],
        cwd=sandbox, env=settings, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_script_can_be_executed_and_shellcheck_finds_nothing():
    script = JOBS / "mnist_gpu.sh"
    assert os.access(script, os.X_OK)
    beside_python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    program = shutil.which("shellcheck", path=beside_python)
    checked = subprocess.run(
        [program, "--severity=style", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.stdout == ""
    assert checked.returncode == 0


def test_without_python_it_says_so(sandbox):
    (sandbox / "bin").mkdir()
    (sandbox / "bin" / "bash").symlink_to(shutil.which("bash"))
    ended = run(sandbox, PATH=str(sandbox / "bin"))
    assert ended.returncode == 1
    assert "no python on PATH; name a container image" in ended.stderr


def test_without_a_gpu_it_does_not_train(sandbox):
    # an empty list hides real GPUs from CUDA (CUDA C++ programming guide, environment variables)
    ended = run(sandbox, CUDA_VISIBLE_DEVICES="")
    assert ended.returncode == 1
    assert "GPUs given to this job: none" in ended.stdout
    assert "torch can't use a GPU here, so the training was not started." in ended.stderr
    assert not (sandbox / "metrics.jsonl").exists()


def test_data_that_is_no_tarball_ends_it(sandbox):
    (sandbox / "MNIST_data.tar.gz").write_bytes(b"<html>403</html>")
    ended = run(sandbox, LESSON_SIMULATED_GPU="1")
    assert ended.returncode == 1
    assert "MNIST_data.tar.gz can't be unpacked" in ended.stderr


def test_the_training_s_own_exit_code_is_the_job_s(sandbox):
    subprocess.run(["tar", "-czf", "MNIST_data.tar.gz", "src"], cwd=sandbox, check=True, timeout=20)
    ended = run(sandbox, "--epochs", "0", LESSON_SIMULATED_GPU="1")
    assert ended.returncode == 2
    assert "--epochs is 0" in ended.stderr
    assert "the training ended with code 2." in ended.stderr
