"""Train a small network to read handwritten digits (MNIST), on a CPU or a GPU, and test it.

    python torch_mnist.py --epochs 2 --data-dir data --save-model
    python torch_mnist.py --evaluate mnist_cnn.pt --data-dir data

Needs PyTorch, and torchvision for the reference recipe. In the current folder it writes

- ``metrics.jsonl``: a line every tenth of an epoch (training pictures) and after each epoch (test pictures)
  with step, epoch, set, loss, accuracy (0 to 1), seconds since the start, and device;
- ``predictions.npz``: labels, predictions and probabilities of the 10,000 test pictures;
- ``mnist_cnn.pt``, with ``--save-model``: the weights, to be read with ``torch.load(weights_only=True)``.

A mistake is answered with one sentence on stderr and exit code 2.
"""

import argparse
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

try:
    import numpy as np
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy
except ImportError as error:
    print(
        f"torch_mnist.py: This Python has no {error.name}; use the cpu or gpu environment's.", file=sys.stderr
    )
    sys.exit(2)

MEAN, SPREAD = 0.1307, 0.3081  # of the training pictures' grey levels, counted from 0 to 1

# --- The networks: pictures of 28 × 28 grey levels in, a score for each of the ten digits out.


def block(channels_in: int, channels_out: int, size: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution whose results are brought to one scale, the negative ones cut off."""
    convolution = nn.Conv2d(channels_in, channels_out, size, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


def fast_network() -> nn.Sequential:
    """Return a network of 26,000 weights that shrinks the picture early, which saves most of the work."""
    return nn.Sequential(
        block(1, 16, 5, stride=2),  # 28 × 28 pixels become 12 × 12, in 16 channels
        nn.MaxPool2d(2),  # 6 × 6
        block(16, 32, 3),  # 4 × 4, in 32 channels
        block(32, 64, 3),  # 2 × 2, in 64 channels
        nn.Flatten(),  # 256 numbers
        nn.Linear(256, 10),
    )


def reference_network() -> nn.Sequential:
    """Return the network of PyTorch's MNIST example: 1.2 million weights."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU()),  # 26 × 26, in 32 channels
        *(nn.Conv2d(32, 64, 3), nn.ReLU()),  # 24 × 24, in 64 channels
        *(nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten()),  # 9,216 numbers
        *(nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(128, 10),
    )


# --- The data


class MistakeError(Exception):
    """Something that whoever started this can mend, in one sentence."""


def read_digits(folder: Path, name: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Read two of MNIST's IDX files: pictures (n × 1 × 28 × 28, grey levels 0 to 255) and labels (n)."""
    arrays = []
    for path, dimensions in ((f"{name}-images-idx3-ubyte", 3), (f"{name}-labels-idx1-ubyte", 1)):
        path = folder / "MNIST" / "raw" / path
        try:
            content = np.fromfile(path, np.uint8)
        except OSError as error:
            problem = f"{path} can't be read ({error.strerror})"
            raise MistakeError(f"{problem}; name the folder above MNIST/raw with --data-dir.") from error
        # IDX: two zeros, 8 for bytes, how many dimensions; then each dimension's length; then the bytes
        head = 4 + 4 * dimensions
        lengths = content[4:head].view(">u4").tolist() if len(content) >= head else []
        if bytes(content[:4]) != bytes([0, 0, 8, dimensions]) or len(content) != head + math.prod(lengths):
            raise MistakeError(f"{path} is damaged or another file; remove it and fetch MNIST again.")
        arrays.append(torch.from_numpy(content[head:].reshape(lengths)))
    pictures, labels = arrays
    if pictures.shape != (len(labels), 28, 28) or not len(labels) or labels.max() > 9:
        raise MistakeError(f"The {name} files in {folder} don't belong together; fetch MNIST again.")
    return pictures[:, None].to(device), labels.long().to(device)


def batches(pictures: torch.Tensor, labels: torch.Tensor, size: int, order: torch.Tensor | None = None):
    """Yield pictures, their grey levels brought to mean 0 and spread 1, and labels, `size` at a time."""
    order = torch.arange(len(labels)) if order is None else order
    for chosen in order.to(labels.device).split(size):
        yield (pictures[chosen].float() / 255 - MEAN) / SPREAD, labels[chosen]


# --- The recipes: how a network is trained


@dataclass
class Recipe:
    """A network and how it is trained; `epoch` gives the batches of one pass over the training set."""

    network: nn.Module
    epoch: Callable
    steps: int
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    schedule_each_step: bool
    smoothing: float = 0.0  # how much of a label is spread over the other digits, against overconfidence


def fast(options: argparse.Namespace, device: torch.device) -> Recipe:
    """Return our own recipe: data in memory, few weights, a learning rate that rises and falls once."""
    size, rate = options.batch_size or 128, options.lr or 0.015
    pictures, labels = read_digits(options.data_dir, "train", device)
    steps = len(labels) // size  # full batches only
    if not steps:
        raise MistakeError(f"--batch-size {size} is more than the {len(labels)} training pictures; use less.")
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # several would wait for each other ten times as long on a busy machine
    layout = torch.contiguous_format if device.type == "mps" else torch.channels_last  # the quicker one
    network = fast_network().to(device, memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps * options.epochs, pct_start=0.25)

    def epoch():
        return batches(pictures, labels, size, torch.randperm(len(labels))[: steps * size])

    return Recipe(network, epoch, steps, optimizer, schedule, schedule_each_step=True, smoothing=0.1)


def reference(options: argparse.Namespace, device: torch.device) -> Recipe:
    """Return the recipe of PyTorch's MNIST example: pictures one by one, Adadelta, a rate that steps down."""
    try:
        from torchvision import datasets, transforms
    except ImportError as error:
        raise MistakeError("The reference recipe needs torchvision; use --recipe fast.") from error
    read_digits(options.data_dir, "train", torch.device("cpu"))  # for its messages
    steps_of_picture = [transforms.ToTensor(), transforms.Normalize((MEAN,), (SPREAD,))]
    digits = datasets.MNIST(options.data_dir, train=True, transform=transforms.Compose(steps_of_picture))
    loader = torch.utils.data.DataLoader(digits, options.batch_size or 64, shuffle=True)
    network = reference_network().to(device)
    optimizer = torch.optim.Adadelta(network.parameters(), options.lr or 1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    return Recipe(network, lambda: loader, len(loader), optimizer, schedule, schedule_each_step=False)


def train_epoch(recipe: Recipe, device: torch.device):
    """Train for one pass over the training set; yield step, loss and accuracy about ten times on the way."""
    # bfloat16 where the GPU computes with it: half the bytes, and the range of float32
    half = device.type == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
    sums = torch.zeros(3, device=device)  # loss, right, seen: kept on the device and read rarely
    recipe.network.train()
    for step, (pictures, labels) in enumerate(recipe.epoch(), 1):
        pictures, labels = pictures.to(device), labels.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            scores = recipe.network(pictures)
            loss = cross_entropy(scores, labels, label_smoothing=recipe.smoothing)
        recipe.optimizer.zero_grad()
        loss.backward()
        recipe.optimizer.step()
        if recipe.schedule_each_step or step == recipe.steps:
            recipe.schedule.step()
        with torch.no_grad():
            plain = cross_entropy(scores, labels, reduction="sum")  # not smoothed, like the test's
            right = (scores.argmax(1) == labels).sum()
            sums += torch.stack([plain, right, torch.full_like(right, len(labels))])
        if step % max(1, recipe.steps // 10) == 0:
            yield step, *(sums[:2] / sums[2]).tolist()
            sums.zero_()


def train(recipe: Recipe, epochs: int, device: torch.device, test_digits: tuple) -> torch.Tensor:
    """Train, test after each epoch, write ``metrics.jsonl`` on the way; return `test`'s probabilities."""
    started, said = time.monotonic(), 0.0
    with Path("metrics.jsonl").open("w", buffering=1) as metrics:
        for epoch in range(1, epochs + 1):
            before = (epoch - 1) * recipe.steps

            def note(step: int, of: str, loss: float, accuracy: float, epoch: int = epoch) -> float:
                seconds = round(time.monotonic() - started, 3)
                line = {"step": step, "epoch": epoch, "set": of, "loss": round(loss, 5)}
                line |= {"accuracy": round(accuracy, 5), "seconds": seconds, "device": device.type}
                metrics.write(json.dumps(line) + "\n")
                return seconds

            for step, loss, accuracy in train_epoch(recipe, device):
                if not math.isfinite(loss):
                    raise MistakeError(f"The loss is not a number in epoch {epoch}; use a smaller --lr.")
                seconds = note(before + step, "train", loss, accuracy)
                if seconds - said > 5:
                    said = seconds
                    print(f"Epoch {epoch}: {100 * step // recipe.steps} % done, loss {loss:.3f}.")
            loss, accuracy, probabilities = test(recipe.network, test_digits)
            said = note(before + recipe.steps, "test", loss, accuracy)
            print(
                f"Epoch {epoch}: {100 * accuracy:.2f} % of the test digits right, {said:.1f} seconds so far."
            )
    return probabilities


@torch.inference_mode()
def test(network: nn.Module, digits: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, float, torch.Tensor]:
    """Return the mean loss, the accuracy (0 to 1) and the probabilities (n × 10) of the test set."""
    network.eval()
    scores = torch.cat([network(pictures) for pictures, _ in batches(*digits, 1000)])
    right = (scores.argmax(1) == digits[1]).float().mean()
    return cross_entropy(scores, digits[1]).item(), right.item(), scores.softmax(1).cpu()


# --- Files and options


def write(path: Path, save: Callable) -> None:
    """Save beside and rename, so that nobody reads half a file."""
    buffer, beside = io.BytesIO(), path.with_name(f"{path.name}.new")
    save(buffer)
    beside.write_bytes(buffer.getvalue())
    beside.replace(path)


def load_network(path: Path) -> nn.Module:
    """Return the network whose weights a file holds; weights only, code in it is refused."""
    try:
        content = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise MistakeError(f"{path}: {error.strerror}; train with --save-model first.") from error
    try:
        weights = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds: pickle's, zip's, torch's
        raise MistakeError(f"{path} holds no weights; train with --save-model again.") from error
    for network in (fast_network(), reference_network()):
        with suppress(RuntimeError, TypeError, AttributeError):  # other names or shapes, no weights at all
            network.load_state_dict(weights)
            return network
    raise MistakeError(f"{path} holds another network's weights; use a file that torch_mnist.py has saved.")


def choose_device(name: str) -> torch.device:
    """Return the device asked for, or the best there is."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(n for n in there if there[n]) if name == "auto" else name
    if not there[name]:
        raise MistakeError(f"PyTorch sees no {name} device here; use --device auto or --device cpu.")
    return torch.device(name)


def complain(message: str) -> None:
    """Say in one sentence what is wrong with the options."""
    raise MistakeError(f"{message[0].upper()}{message[1:]}; see --help.")


def read_options() -> argparse.Namespace:
    """Read the command line, and check what can be checked before the work starts."""
    parser = argparse.ArgumentParser(description="Train a network on MNIST and test it.")
    parser.error = complain
    for option, settings, meaning in (
        ("--epochs", {"type": int, "default": 2}, "passes over the training set (default: 2)"),
        ("--batch-size", {"type": int}, "pictures a step (default: 128, reference: 64)"),
        ("--lr", {"type": float}, "highest learning rate (default: 0.015, reference: 1.0)"),
        ("--seed", {"type": int, "default": 1}, "same seed, same weights, on a CPU (default: 1)"),
        ("--data-dir", {"type": Path, "default": "data"}, "folder above MNIST/raw (default: data)"),
        ("--save-model", {"type": Path, "nargs": "?", "const": "mnist_cnn.pt"}, "save the weights"),
        ("--device", {"choices": ["auto", "cpu", "cuda", "mps"], "default": "auto"}, "default: the best"),
        ("--recipe", {"choices": ["fast", "reference"], "default": "fast"}, "reference: PyTorch's example"),
        ("--evaluate", {"type": Path, "metavar": "WEIGHTS"}, "train nothing, test these weights"),
    ):
        parser.add_argument(option, **settings, help=meaning)
    options = parser.parse_args()
    limits = {"epochs": (1, 1000), "batch_size": (1, 60_000), "lr": (1e-9, 1000), "seed": (0, 2**63 - 1)}
    for name, (lowest, highest) in limits.items():
        value = getattr(options, name)
        if value is not None and not lowest <= value <= highest:
            option = f"--{name.replace('_', '-')}"
            raise MistakeError(f"{option} is {value}; use a number from {lowest} to {highest}.")
    for path in (Path("predictions.npz").resolve(), options.save_model):
        if path and (path.is_dir() or not os.access(f"{path.resolve().parent}/", os.W_OK)):
            raise MistakeError(f"{path} can't be written; use a folder where you may write.")
    return options


def main() -> None:
    """Do what the command line says."""
    options = read_options()
    device = choose_device(options.device)
    test_digits = read_digits(options.data_dir, "t10k", device)
    if options.evaluate:
        network = load_network(options.evaluate).to(device)
        _, accuracy, probabilities = test(network, test_digits)
        print(f"{options.evaluate}: {100 * accuracy:.2f} % of {len(probabilities):,} test digits right.")
    else:
        torch.manual_seed(options.seed)
        recipe = {"fast": fast, "reference": reference}[options.recipe](options, device)
        network = recipe.network
        print(f"Training by the {options.recipe} recipe on {device.type}, {recipe.steps} steps an epoch.")
        probabilities = train(recipe, options.epochs, device, test_digits)
    arrays = {"labels": test_digits[1].cpu(), "predictions": probabilities.argmax(1)}
    write(Path("predictions.npz"), partial(np.savez_compressed, probabilities=probabilities, **arrays))
    if options.save_model:
        weights = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
        write(options.save_model, partial(torch.save, weights))
        print(f"The weights are in {options.save_model}.")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    try:
        main()
    except MistakeError as error:
        reason = error
    except torch.OutOfMemoryError:
        reason = "The GPU's memory is too small for this; use a smaller --batch-size."
    except OSError as error:
        reason = f"{error.filename or 'A file'} can't be written ({error.strerror}); use another folder."
    else:
        sys.exit(0)
    print(f"torch_mnist.py: {reason}", file=sys.stderr)
    sys.exit(2)
