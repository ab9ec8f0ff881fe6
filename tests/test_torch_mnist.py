"""The training script: it learns, its files say what happened, and its mistakes are one sentence."""

import ast
import json
import pickle
import random
import resource
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import scripts

from lesson_helpers import environments, mnist

SCRIPT = "torch_mnist.py"


@pytest.fixture(scope="module")
def trained(mnist_data, tmp_path_factory):
    """Train on the whole of MNIST for one epoch, in a process of its own, and test the saved weights."""
    folder = tmp_path_factory.mktemp("trained")
    command = [*environments.training_python(), scripts.SOURCES / SCRIPT, "--data-dir", mnist_data]
    said = []
    for more in (["--epochs", "1", "--save-model"], ["--evaluate", "mnist_cnn.pt"]):
        ran = subprocess.run(
            [*command, "--device", "cpu", *more], cwd=folder, capture_output=True, text=True, timeout=300
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        said.append(ran.stdout)
    return folder, *said


def test_one_epoch_reads_at_least_987_of_1000_digits_right(trained):
    folder, said, _ = trained
    last = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][-1]
    assert (last["set"], last["epoch"], last["step"]) == ("test", 1, 468)
    assert last["accuracy"] >= 0.987
    assert f"Epoch 1: {100 * last['accuracy']:.2f} % of the test digits right" in said


def test_the_saved_weights_give_the_same_accuracy_and_predictions(trained, mnist_data):
    folder, _, said = trained
    predictions = np.load(folder / "predictions.npz")
    truth = np.fromfile(mnist_data / "MNIST/raw/t10k-labels-idx1-ubyte", np.uint8, offset=8)
    assert (predictions["labels"] == truth).all()
    accuracy = (predictions["predictions"] == truth).mean()
    assert f"mnist_cnn.pt: {100 * accuracy:.2f} % of 10,000 test digits right." in said
    assert accuracy >= 0.987


# --- on few digits, in one process


@pytest.fixture(scope="module")
def few(mnist_data, tmp_path_factory):
    return scripts.few_digits(mnist_data, tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="module")
def runs(few, tmp_path_factory):
    """Train on few digits in several ways; give each one's folder and answer."""
    ways = {
        "fast": ["--epochs", 2, "--save-model"],
        "again": ["--epochs", 2, "--save-model"],
        "other-seed": ["--epochs", 2, "--save-model", "--seed", 2],
        "other-name": ["--epochs", 1, "--save-model", "weights.pt", "--batch-size", 64, "--lr", 0.01],
        "reference": ["--recipe", "reference", "--epochs", 2, "--save-model"],
        "reference-again": ["--recipe", "reference", "--epochs", 2, "--save-model"],
    }
    folders = {name: tmp_path_factory.mktemp(name) for name in ways}
    (folders["fast"] / "metrics.jsonl").write_text("of an earlier run\n")
    same = ("--device", "cpu", "--data-dir", few)
    calls = [scripts.call(SCRIPT, folders[name], *ways[name], *same) for name in ways]
    weights = folders["reference"] / "mnist_cnn.pt"
    ways["evaluate"], folders["evaluate"] = [], tmp_path_factory.mktemp("evaluate")
    calls.append(scripts.call(SCRIPT, folders["evaluate"], "--evaluate", weights, *same))
    answers = scripts.answers(calls)
    assert [(a.code, a.err) for a in answers] == [(0, "")] * len(ways)
    return {name: (folders[name], answer) for name, answer in zip(ways, answers, strict=True)}


@pytest.mark.parametrize(("recipe", "steps", "every"), [("fast", 10, 1), ("reference", 20, 2)])
def test_the_metrics_have_a_line_each_tenth_of_an_epoch_and_each_epoch(runs, recipe, steps, every):
    folder, _ = runs[recipe]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    expected = []
    for epoch in (1, 2):
        first = (epoch - 1) * steps
        expected += [(epoch, "train", first + step) for step in range(every, steps + 1, every)]
        expected += [(epoch, "test", first + steps)]
    assert [(line["epoch"], line["set"], line["step"]) for line in lines] == expected
    for line in lines:
        keys = {"step", "steps", "epoch", "set", "pictures", "loss", "accuracy", "seconds", "device"}
        assert set(line) == keys
        assert line["steps"] == 2 * steps
        assert line["pictures"] == line["step"] * 1280 // steps
        assert line["loss"] > 0
        assert 0 <= line["accuracy"] <= 1
        assert line["device"] == "cpu"
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    assert lines[-1]["accuracy"] > 0.5  # it has learned something, even from so few


def test_the_peak_of_memory_is_within_400_mb_of_what_importing_torch_takes(mnist_data, tmp_path):
    script = scripts.SOURCES / SCRIPT
    peak = "import resource as r; print(r.getrusage(r.RUSAGE_CHILDREN).ru_maxrss)"
    run = f"import subprocess as s, sys; s.run(sys.argv[1:], check=True, stdout=s.DEVNULL); {peak}"
    python = environments.training_python()
    taken = []
    for command in (["-c", "import torch"], [script, "--device", "cpu", "--epochs", "1"]):
        more = ["--data-dir", mnist_data] if script in command else []
        watched = [sys.executable, "-c", run, *python, *command, *more]
        ran = subprocess.run(watched, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
        taken.append(int(ran.stdout) * (1 if sys.platform == "darwin" else 1024))
    assert 0 < taken[1] - taken[0] < 400e6


def test_the_predictions_are_the_most_probable_digits(runs):
    predictions = np.load(runs["fast"][0] / "predictions.npz")
    probabilities = predictions["probabilities"]
    assert probabilities.shape == (1000, 10)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (predictions["predictions"] == probabilities.argmax(axis=1)).all()


def test_nothing_but_the_results_is_left(runs):
    for name in ("fast", "reference"):
        assert {p.name for p in runs[name][0].iterdir()} == {
            "metrics.jsonl",
            "mnist_cnn.pt",
            "predictions.npz",
        }
    assert (runs["other-name"][0] / "weights.pt").is_file()


@pytest.mark.parametrize(("one", "two"), [("fast", "again"), ("reference", "reference-again")])
def test_the_same_seed_gives_the_same_weights_to_the_last_bit(runs, one, two):
    assert tensors(runs[one][0]) == tensors(runs[two][0])
    assert (runs[one][0] / "predictions.npz").read_bytes() == (runs[two][0] / "predictions.npz").read_bytes()


def test_another_seed_gives_other_weights(runs):
    assert tensors(runs["fast"][0]) != tensors(runs["other-seed"][0])


def tensors(folder):
    """Return the bytes of the tensors in a weights file, which is a zip archive."""
    with zipfile.ZipFile(folder / "mnist_cnn.pt") as archive:
        return {n: archive.read(n) for n in archive.namelist() if "/data/" in n}


def test_a_saved_network_is_recognised_and_tested(runs):
    (folder, answer), (trained, _) = runs["evaluate"], runs["reference"]
    assert {p.name for p in folder.iterdir()} == {"predictions.npz"}
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"{100 * last['accuracy']:.2f} % of 1,000 test digits right." in answer.out
    first, second = (np.load(f / "predictions.npz") for f in (trained, folder))
    assert (first["probabilities"] == second["probabilities"]).all()


def test_torchvision_is_imported_only_for_the_reference_recipe(runs):
    assert not runs["other-name"][1].torchvision
    assert runs["reference"][1].torchvision


def test_the_scripts_need_nothing_that_a_worker_does_not_have():
    files = list(scripts.SOURCES.glob("*.py"))
    beside = {path.stem for path in files}
    for path in files:
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.partition(".")[0])
        assert names <= {"torch", "torchvision", "numpy", *beside, *sys.stdlib_module_names}, path.name


# --- ended early, and continued


def resumed(few, folder, *more):
    """Describe a training that goes on from a checkpoint."""
    options = ("--epochs", 2, "--save-model", "--checkpoint", "a.ckpt", *more)
    return scripts.call(SCRIPT, folder, "--device", "cpu", "--data-dir", few, *options)


def same(one, two):
    """Tell whether two trainings came to the same: weights, predictions, metrics but for the seconds."""
    lines = []
    for folder in (one, two):
        noted = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [n["seconds"] for n in noted] == sorted(n["seconds"] for n in noted)
        lines.append([{**line, "seconds": 0} for line in noted])
    predictions = [(folder / "predictions.npz").read_bytes() for folder in (one, two)]
    return tensors(one) == tensors(two) and lines[0] == lines[1] and predictions[0] == predictions[1]


@pytest.mark.parametrize(
    ("recipe", "every", "longest"), [("fast", 3, 0.35), ("fast", 1, 0.2), ("reference", 7, 1.5)]
)
def test_killed_at_any_instant_and_started_again_it_ends_in_the_same_bits(
    few, runs, recipe, every, longest, tmp_path
):
    described = resumed(few, tmp_path, "--recipe", recipe, "--checkpoint-every", every)
    instants = random.Random(every)
    delays = [instants.uniform(longest / 4, longest) for _ in range(4 if recipe == "reference" else 8)]
    codes = scripts.killed(described, signal.SIGKILL, [*delays, 60])
    assert codes[-1] == 0
    assert -signal.SIGKILL in codes
    assert same(tmp_path, runs[recipe][0])
    assert not list(tmp_path.glob("*.new.*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_makes_a_checkpoint_and_the_next_start_goes_on(few, runs, number, code, tmp_path):
    described = resumed(few, tmp_path, "--recipe", "reference", "--checkpoint-every", 1000)
    codes = scripts.killed(described, number, [0, 60], begun=True)
    assert codes == [code, 0]
    said = (tmp_path / "said").read_text()
    stopped = int(said.partition("Stopped after step ")[2].partition(" of 40")[0])
    assert f"Continuing after step {stopped} of 40, from a.ckpt." in said
    assert same(tmp_path, runs["reference"][0])


def test_with_85_it_leaves_at_each_checkpoint_for_htcondor_to_fetch_it(few, runs, tmp_path):
    described = resumed(few, tmp_path, "--checkpoint-every", 7, "--exit-85-on-checkpoint")
    answers = scripts.answers([described] * 3)
    assert [a.code for a in answers] == [85, 85, 0]
    assert "Stopped after step 7 of 20; a.ckpt holds what is done." in answers[0].out
    assert "Continuing after step 14 of 20, from a.ckpt." in answers[2].out
    assert same(tmp_path, runs["fast"][0])


def test_a_checkpoint_of_another_training_is_refused(few, tmp_path):
    ways = {
        "recipe is fast, not reference": ["--recipe", "reference"],
        "seed is 1, not 2": ["--seed", 2],
        "epochs is 2, not 3": ["--epochs", 3],
        "batch size is None, not 64": ["--batch-size", 64],
        "lr is None, not 0.1": ["--lr", 0.1],
    }
    first = resumed(few, tmp_path, "--exit-85-on-checkpoint")
    answers = scripts.answers([first, *(resumed(few, tmp_path, *way) for way in ways.values())])
    assert answers[0].code == 85
    for answer, way in zip(answers[1:], ways, strict=True):
        assert answer.code == 2
        assert answer.err == (
            f"torch_mnist.py: a.ckpt is not a checkpoint of this training: its {way}; "
            "use the same options, or another file.\n"
        )


# --- mistakes


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.fixture(scope="module")
def mistakes(few, runs, tmp_path_factory):
    """Make each mistake once; give the answers and the folder that they were made in."""
    folder = tmp_path_factory.mktemp("mistakes")
    good = runs["fast"][0] / "mnist_cnn.pt"
    raw = "MNIST/raw"
    images, labels = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
    broken = {
        n: scripts.few_digits(few, folder / n)
        for n in ("truncated", "swapped", "unequal", "letters", "empty")
    }
    path = broken["truncated"] / raw / images
    path.write_bytes(path.read_bytes()[:-1])
    (broken["swapped"] / raw / images).write_bytes((few / raw / labels).read_bytes())
    scripts.write_idx(broken["unequal"] / raw / labels, np.zeros(1279))
    scripts.write_idx(broken["letters"] / raw / labels, np.full(1280, 26))
    (broken["empty"] / raw / "t10k-labels-idx1-ubyte").write_bytes(b"")
    (folder / "text.pt").write_text("no weights")
    (folder / "cut.pt").write_bytes(good.read_bytes()[:5000])
    (folder / "trap.pt").write_bytes(pickle.dumps(Trap(folder / "sprung")))
    (folder / "file").write_text("")
    (folder / "text.ckpt").write_text("no checkpoint")
    (folder / "trap.ckpt").write_bytes(pickle.dumps(Trap(folder / "sprung")))
    (folder / "taken" / "predictions.npz").mkdir(parents=True)
    (folder / "metrics-taken" / "metrics.jsonl").mkdir(parents=True)
    other = (
        "import torch; torch.save(torch.nn.Linear(2, 2).state_dict(), 'other.pt'); torch.save([1], 'list.pt')"
    )
    subprocess.run([*environments.training_python(), "-c", other], cwd=folder, check=True, timeout=60)
    calls = {
        "no-data": ["--data-dir", "nowhere"],
        "truncated": ["--data-dir", "truncated"],
        "swapped": ["--data-dir", "swapped"],
        "unequal": ["--data-dir", "unequal"],
        "letters": ["--data-dir", "letters"],
        "empty": ["--data-dir", "empty"],
        "no-epochs": ["--epochs", 0],
        "no-batch": ["--batch-size", 0],
        "large-batch": ["--batch-size", 1281],
        "no-lr": ["--lr", "nan"],
        "negative-seed": ["--seed", -1],
        "words": ["--epochs", "two"],
        "unknown": ["--epoch-count", 2],
        "no-recipe": ["--recipe", "slow"],
        "cuda": ["--device", "cuda"],
        "mps": ["--device", "mps"],
        "no-folder": ["--save-model", "nowhere/mnist_cnn.pt"],
        "a-folder": ["--save-model", "truncated"],
        "in-a-file": ["--save-model", "file/mnist_cnn.pt"],
        "no-weights-file": ["--evaluate", "nothing.pt"],
        "text": ["--evaluate", "text.pt"],
        "cut": ["--evaluate", "cut.pt"],
        "trap": ["--evaluate", "trap.pt"],
        "other": ["--evaluate", "other.pt"],
        "list": ["--evaluate", "list.pt"],
        "diverged": ["--lr", 1000, "--epochs", 10],
        "large-batch-reference": ["--batch-size", 1281, "--recipe", "reference"],
        "no-checkpoint": ["--checkpoint", "text.ckpt"],
        "trap-checkpoint": ["--checkpoint", "trap.ckpt"],
        "weights-as-checkpoint": ["--checkpoint", good],
        "no-such-folder": ["--checkpoint", "nowhere/a.ckpt"],
        "every-zero": ["--checkpoint", "a.ckpt", "--checkpoint-every", 0],
        "every-alone": ["--checkpoint-every", 5],
        "85-alone": ["--exit-85-on-checkpoint"],
    }
    described = [scripts.call(SCRIPT, folder, "--data-dir", few, *given) for given in calls.values()]
    for name, where in (("taken", "taken"), ("metrics-taken", "metrics-taken")):
        calls[name] = []
        described.append(scripts.call(SCRIPT, folder / where, "--data-dir", few))
    for name, without, given in (
        ("no-torch", ["torch"], []),
        ("no-torchvision", ["torchvision"], ["--recipe", "reference"]),
    ):
        calls[name] = []
        described.append(scripts.call(SCRIPT, folder, "--data-dir", few, *given, without=without))
    return folder, dict(zip(calls, scripts.answers(described), strict=True))


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("no-data", "nowhere/MNIST/raw/t10k-images-idx3-ubyte can't be read (No such file", "--data-dir"),
        ("truncated", "truncated/MNIST/raw/train-images-idx3-ubyte is damaged", "fetch MNIST again"),
        ("swapped", "swapped/MNIST/raw/train-images-idx3-ubyte is damaged or another file", "fetch MNIST"),
        ("unequal", "The train files in unequal don't belong together", "fetch MNIST again"),
        ("letters", "The train files in letters don't belong together", "fetch MNIST again"),
        ("empty", "empty/MNIST/raw/t10k-labels-idx1-ubyte is damaged", "fetch MNIST again"),
        ("no-epochs", "--epochs is 0", "use a number from 1 to 1000"),
        ("no-batch", "--batch-size is 0", "use a number from 1 to 60000"),
        ("large-batch", "--batch-size 1281 is more than the 1280 training pictures", "use less"),
        ("no-lr", "--lr is nan", "use a number from 1e-09 to 1000"),
        ("negative-seed", "--seed is -1", "use a number from 0"),
        ("words", "Argument --epochs: invalid int value: 'two'", "see --help"),
        ("unknown", "Unrecognized arguments: --epoch-count 2", "see --help"),
        ("no-recipe", "Argument --recipe: invalid choice: 'slow'", "see --help"),
        ("no-folder", "nowhere/mnist_cnn.pt can't be written", "use a folder where you may write"),
        ("a-folder", "truncated can't be written", "use a folder where you may write"),
        ("in-a-file", "file/mnist_cnn.pt can't be written", "use a folder where you may write"),
        ("taken", "taken/predictions.npz can't be written", "use a folder where you may write"),
        ("metrics-taken", "metrics.jsonl can't be written (Is a directory)", "use another folder"),
        (
            "no-weights-file",
            "nothing.pt: No such file or directory",
            "train with --save-model and name its file",
        ),
        ("text", "text.pt holds no weights", "train with --save-model and name its file"),
        ("cut", "cut.pt holds no weights", "train with --save-model and name its file"),
        ("trap", "trap.pt holds no weights", "train with --save-model and name its file"),
        ("other", "other.pt holds another network's weights", "use a file that torch_mnist.py has saved"),
        ("list", "list.pt holds another network's weights", "use a file that torch_mnist.py has saved"),
        ("diverged", "The loss is not a number in epoch", "use a smaller --lr"),
        ("large-batch-reference", "--batch-size 1281 is more than the 1280 training pictures", "use less"),
        ("no-checkpoint", "text.ckpt holds no checkpoint", "or name another file with --checkpoint"),
        ("trap-checkpoint", "trap.ckpt holds no checkpoint", "or name another file with --checkpoint"),
        ("weights-as-checkpoint", "mnist_cnn.pt is not a checkpoint of this training", "name another file"),
        ("no-such-folder", "nowhere/a.ckpt can't be written", "use a folder where you may write"),
        ("every-zero", "--checkpoint-every is 0", "use a number from 1"),
        ("every-alone", "Where the checkpoint lies isn't said", "name a file with --checkpoint"),
        ("85-alone", "Where the checkpoint lies isn't said", "name a file with --checkpoint"),
        ("no-torch", "This Python has no torch", "use the environment cpu or gpu"),
        ("no-torchvision", "The reference recipe needs torchvision", "use --recipe fast"),
    ],
)
def test_a_mistake_is_one_sentence_with_what_to_do(mistakes, name, what, fix):
    _, answers = mistakes
    said = answers[name].err
    assert answers[name].code == 2, said
    assert said.startswith("torch_mnist.py: ")
    assert said.count("\n") == 1
    assert what in said
    assert said.rindex(fix) > said.index(what)


def test_code_in_a_weights_file_is_not_run(mistakes):
    folder, answers = mistakes
    assert answers["trap"].code == answers["trap-checkpoint"].code == 2
    assert not (folder / "sprung").exists()


def test_a_full_disk_is_said_with_the_file(few, tmp_path):
    """A limit on the size of files is met as the end of a disk is: by an error when writing."""
    limits = {"metrics.jsonl": 200, "predictions.npz": 8000, "a.ckpt": 20_000}
    for name, limit in limits.items():
        folder = tmp_path / name
        folder.mkdir()
        more = ["--checkpoint", "a.ckpt", "--checkpoint-every", "5"] if name == "a.ckpt" else []
        command = [*environments.training_python(), scripts.SOURCES / SCRIPT, "--device", "cpu", *more]
        ran = subprocess.run(
            [*command, "--data-dir", few],
            cwd=folder,
            preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 2
        assert ran.stderr.startswith(f"torch_mnist.py: {name} can't be written (File too large); make room")
        assert ran.stderr.count("\n") == 1
        assert not list(folder.glob("*.new"))


SMALL_GPU = """
import runpy, sys, torch
script, fits, *sys.argv[1:] = sys.argv[1:]
sys.path.insert(0, script.rpartition("/")[0])
import mnist_network
class Small(torch.nn.Module):
    def forward(self, pictures):
        if len(pictures) > int(fits):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return pictures
whole = mnist_network.fast_network
mnist_network.fast_network = lambda: torch.nn.Sequential(Small(), *whole())
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("fits", "fix"), [(300, "use --batch-size 256, which fits"), (0, "use another device")]
)
def test_a_gpu_out_of_memory_is_said_with_the_batch_that_would_fit(few, tmp_path, fits, fix):
    """No GPU here: a layer raises what PyTorch raises there."""
    arguments = ["--device", "cpu", "--data-dir", few, "--batch-size", "1024"]
    ran = subprocess.run(
        [*environments.training_python(), "-c", SMALL_GPU, scripts.SOURCES / SCRIPT, str(fits), *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.stderr == f"torch_mnist.py: The GPU's memory is too small for batches of 1024; {fix}.\n"
    assert ran.returncode == 2


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_said(mistakes, device):
    answer = mistakes[1][device]
    if answer.code == 0:
        pytest.skip(f"this machine has a {device} device")
    assert answer.code == 2
    assert answer.err == (
        f"torch_mnist.py: PyTorch sees no {device} device here; use --device auto or --device cpu.\n"
    )


def test_the_data_that_are_fetched_are_the_data_that_are_read(mnist_data):
    assert all((mnist_data / "MNIST/raw" / name).is_file() for name in mnist.FILES)
