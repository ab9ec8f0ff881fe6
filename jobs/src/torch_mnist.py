"""Train a small network to read handwritten digits (MNIST), on a CPU or a GPU, and test it.

    python torch_mnist.py --epochs 2 --data-dir data --save-model
    python torch_mnist.py --evaluate mnist_cnn.pt --data-dir data

It needs PyTorch, and torchvision for the reference recipe, nothing else. In the current folder it writes

- ``metrics.jsonl``: a line about every tenth of an epoch (training pictures) and after each epoch (test
  pictures), with step, epoch, set, loss, accuracy (0 to 1), seconds since the start, and device;
- ``predictions.npz``: ``labels``, ``predictions`` and ``probabilities`` of the 10,000 test pictures;
- ``mnist_cnn.pt``, with ``--save-model``: the weights, to be read with ``torch.load(weights_only=True)``.

A mistake of yours is one sentence on stderr and exit code 2.
"""

import argparse
import io
import json
import math
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

try:
    import numpy as np
    import torch
    from torch import nn
except ImportError as error:
    print(
        f"torch_mnist.py: This Python has no {error.name}; use the cpu or gpu environment's.", file=sys.stderr
    )
    sys.exit(2)

MEAN, SPREAD = 0.1307, 0.3081  # of the training pictures' grey levels, from 0 to 1


# The networks: 1 × 28 × 28 grey levels in, a score for each of the ten digits out.


def block(channels_in: int, channels_out: int, size: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution, its scores brought to one scale, and the negative ones cut off."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, size, stride, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class FastNet(nn.Sequential):
    """A small network, 27,000 weights: most of the picture's size is gone after its first layer."""

    def __init__(self) -> None:
        super().__init__(
            block(1, 16, 5, stride=2),  # 28 × 28 pixels become 12 × 12
            nn.MaxPool2d(2),  # 6 × 6
            block(16, 32, 3),  # 4 × 4
            block(32, 64, 3),  # 2 × 2
            nn.Flatten(),  # 64 × 2 × 2 = 256 numbers
            nn.Linear(256, 10),
        )


class ReferenceNet(nn.Module):
    """The network of PyTorch's MNIST example, 1.2 million weights."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures = nn.Sequential(
            nn.Conv2d(1, 32, 3),  # 26 × 26
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),  # 24 × 24
            nn.ReLU(),
            nn.MaxPool2d(2),  # 12 × 12
            nn.Dropout(0.25),
            nn.Flatten(),  # 64 × 12 × 12 = 9,216 numbers
        )
        self.digits = nn.Sequential(nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the scores, n × 10."""
        return self.digits(self.pictures(pictures))


# The data


class MistakeError(Exception):
    """Something that the person who started this can mend, in one sentence."""


@dataclass(frozen=True)
class Digits:
    """Pictures (n × 1 × 28 × 28, ``uint8``) and their labels (n)."""

    pictures: torch.Tensor
    labels: torch.Tensor

    def batches(self, size: int, order: torch.Tensor | None = None) -> Iterable:
        """Yield pictures as normalised ``float32`` and labels, in the order given and full batches only."""
        for chosen in (torch.arange(len(self.labels)) if order is None else order).split(size):
            if order is None or len(chosen) == size:
                chosen = chosen.to(self.labels.device)
                yield (self.pictures[chosen].float() / 255 - MEAN) / SPREAD, self.labels[chosen]


def read_digits(folder: Path, name: str, device: torch.device) -> Digits:
    """Read a pair of MNIST's IDX files: two zeros, the type (8: bytes), the dimensions, the bytes."""
    arrays = []
    for file, dimensions in ((f"{name}-images-idx3-ubyte", 3), (f"{name}-labels-idx1-ubyte", 1)):
        path = folder / "MNIST" / "raw" / file
        try:
            content = np.fromfile(path, np.uint8)
        except OSError as error:
            raise MistakeError(
                f"{path} can't be read ({error.strerror}); fetch MNIST, or name the folder above MNIST/raw "
                "with --data-dir."
            ) from error
        head = 4 + 4 * dimensions
        shape = tuple(int(n) for n in content[4:head].view(">u4")) if len(content) >= head else ()
        if bytes(content[:4]) != bytes((0, 0, 8, dimensions)) or len(content) != head + math.prod(shape):
            raise MistakeError(f"{path} is damaged or another file; remove it and fetch MNIST again.")
        arrays.append(torch.from_numpy(content[head:].reshape(shape)))
    pictures, labels = arrays
    if pictures.shape[1:] != (28, 28) or len(pictures) != len(labels) or not len(labels) or labels.max() > 9:
        raise MistakeError(
            f"The {name} pictures and labels in {folder} don't belong together; fetch MNIST again."
        )
    return Digits(pictures[:, None].to(device), labels.long().to(device))


# The recipes: how a network is trained


@dataclass
class Recipe:
    """A network and how it is trained."""

    net: nn.Module
    train: Callable[[], Iterable]  # gives an epoch's batches
    test: Callable[[], Iterable]  # gives the test set's
    steps: int  # in an epoch
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    every_step: bool = False  # whether the schedule moves after each step, or after each epoch
    smoothing: float = 0.0  # how much of each label is spread over the other digits


def fast(options: argparse.Namespace, device: torch.device, train: Digits, test: Digits) -> Recipe:
    """Return our own recipe: all data in memory, few weights, a learning rate that rises and falls once."""
    size, rate = options.batch_size or 128, options.lr or 0.015
    net = FastNet().to(device)
    if device.type != "mps":
        net = net.to(memory_format=torch.channels_last)  # quicker convolutions
    steps = len(train.labels) // size
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01, fused=True)
    return Recipe(
        net=net,
        train=lambda: train.batches(size, torch.randperm(len(train.labels))),
        test=lambda: test.batches(1000),
        steps=steps,
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=steps * options.epochs, pct_start=0.25
        ),
        every_step=True,
        smoothing=0.1,
    )


def reference(options: argparse.Namespace, device: torch.device, train: Digits, test: Digits) -> Recipe:
    """Return the recipe of PyTorch's MNIST example: pictures one by one, Adadelta, a rate that steps down."""
    try:
        from torchvision import datasets, transforms
    except ImportError as error:
        raise MistakeError("The reference recipe needs torchvision; use --recipe fast.") from error

    picture = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (SPREAD,))])

    def loader(of_train: bool, size: int) -> torch.utils.data.DataLoader:
        digits = datasets.MNIST(options.data_dir, train=of_train, transform=picture)
        return torch.utils.data.DataLoader(digits, size, shuffle=of_train)

    train_loader, test_loader = loader(True, options.batch_size or 64), loader(False, 1000)
    net = ReferenceNet().to(device)
    optimizer = torch.optim.Adadelta(net.parameters(), lr=options.lr or 1.0)
    return Recipe(
        net=net,
        train=lambda: train_loader,
        test=lambda: test_loader,
        steps=len(train_loader),
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7),
    )


def mixed_precision(device: torch.device) -> torch.autocast:
    """Let a GPU that has it compute in ``bfloat16`` where that does no harm."""
    has_it = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.autocast(device.type, torch.bfloat16, enabled=has_it)


def train(recipe: Recipe, epochs: int, device: torch.device, started: float) -> torch.Tensor:
    """Train and test; write ``metrics.jsonl``; return the test pictures' probabilities (n × 10)."""
    every, said, step = max(1, recipe.steps // 10), time.monotonic(), 0
    with Path("metrics.jsonl").open("w", buffering=1) as metrics:

        def note(epoch: int, of: str, loss: float, accuracy: float) -> float:
            seconds = time.monotonic() - started
            line = {"step": step, "epoch": epoch, "set": of, "loss": loss, "accuracy": accuracy}
            metrics.write(json.dumps({**line, "seconds": round(seconds, 3), "device": device.type}) + "\n")
            return seconds

        for epoch in range(1, epochs + 1):
            recipe.net.train()
            # summed on the device: asking for a number makes a GPU wait
            loss_sum, right, seen = torch.zeros((), device=device), torch.zeros((), device=device), 0
            for number, (pictures, labels) in enumerate(recipe.train(), 1):
                pictures, labels = pictures.to(device), labels.to(device)
                with mixed_precision(device):
                    scores = recipe.net(pictures)
                    loss = nn.functional.cross_entropy(scores, labels, label_smoothing=recipe.smoothing)
                recipe.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                recipe.optimizer.step()
                step += 1
                if recipe.every_step:
                    recipe.schedule.step()
                loss_sum += loss.detach() * len(labels)
                right += (scores.argmax(1) == labels).sum()
                seen += len(labels)
                if number % every == 0:
                    mean = loss_sum.item() / seen
                    if not math.isfinite(mean):
                        raise MistakeError(f"The loss is no number after step {step}; use a smaller --lr.")
                    note(epoch, "train", mean, right.item() / seen)
                    if time.monotonic() - said > 5:
                        said = time.monotonic()
                        print(f"Epoch {epoch}: {number / recipe.steps:.0%} done, loss {mean:.3f}.")
                    loss_sum, right, seen = torch.zeros_like(loss_sum), torch.zeros_like(right), 0
            if not recipe.every_step:
                recipe.schedule.step()
            loss, probabilities, labels = test(recipe.net, recipe.test(), device)
            accuracy = (probabilities.argmax(1) == labels).float().mean().item()
            seconds = note(epoch, "test", loss, accuracy)
            print(
                f"Epoch {epoch} of {epochs}: {accuracy:.2%} of the test digits right, {seconds:.1f} s so far."
            )
    return probabilities


@torch.inference_mode()
def test(net: nn.Module, batches: Iterable, device: torch.device) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Return the mean loss, the probabilities (n × 10) and the labels (n) of the test set, on the CPU."""
    net.eval()
    scores, labels = [], []
    for pictures, right in batches:
        scores.append(net(pictures.to(device)).float().cpu())
        labels.append(right.cpu())
    scores, labels = torch.cat(scores), torch.cat(labels)
    return nn.functional.cross_entropy(scores, labels).item(), scores.softmax(1), labels


# Files and options


def write(path: Path, content: bytes) -> None:
    """Write beside and rename: a reader never sees half a file."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(content)
    beside.replace(path)


def write_predictions(probabilities: torch.Tensor, labels: torch.Tensor) -> None:
    """Write ``predictions.npz``."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        labels=labels.cpu().numpy(),
        predictions=probabilities.argmax(1).numpy(),
        probabilities=probabilities.numpy(),
    )
    write(Path("predictions.npz"), content.getvalue())


def load_network(path: Path) -> nn.Module:
    """Return the network whose weights a file holds; only tensors are read from it, never code."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise MistakeError(
            f"{path} can't be read ({error.strerror}); train with --save-model first."
        ) from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise MistakeError(
            f"{path} holds no weights or is damaged; train with --save-model again."
        ) from error
    for network in (FastNet(), ReferenceNet()):
        expected = {name: value.shape for name, value in network.state_dict().items()}
        if isinstance(weights, dict) and expected == {k: getattr(v, "shape", 0) for k, v in weights.items()}:
            network.load_state_dict(weights)
            return network
    raise MistakeError(f"{path} holds another network's weights; use a file that torch_mnist.py has saved.")


def choose_device(name: str) -> torch.device:
    """Return the device asked for, or the best there is."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(n for n, is_there in there.items() if is_there)
    if not there[name]:
        raise MistakeError(f"PyTorch sees no {name} device here; use --device auto or --device cpu.")
    return torch.device(name)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one sentence too."""

    def error(self, message: str) -> None:
        """Complain."""
        raise MistakeError(f"{message[0].upper()}{message[1:]}; see --help.")


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line and check what can be checked before any work."""
    parser = Parser(description="Train a network on MNIST and test it.")
    add = parser.add_argument
    add("--epochs", type=int, default=2, help="passes over the training set (default: 2)")
    add("--batch-size", type=int, help="pictures a step (default: 128, reference: 64)")
    add("--lr", type=float, help="highest learning rate (default: 0.015, reference: 1.0)")
    add("--seed", type=int, default=1, help="the same seed gives the same weights on a CPU (default: 1)")
    add("--data-dir", type=Path, default=Path("data"), help="the folder above MNIST/raw (default: data)")
    add("--save-model", type=Path, nargs="?", const=Path("mnist_cnn.pt"), metavar="PATH",
        help="save the weights (PATH if not given: mnist_cnn.pt)")  # fmt: skip
    add("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="default: the best there is")
    add("--recipe", choices=["fast", "reference"], default="fast", help="reference: PyTorch's example")
    add("--evaluate", type=Path, metavar="PATH", help="only test the weights in a file")
    options = parser.parse_args(arguments)
    for name, lowest, highest in (
        ("epochs", 1, 1000),
        ("batch_size", 1, 60_000),
        ("lr", 1e-9, 1000.0),
        ("seed", 0, 2**63 - 1),
    ):
        value = getattr(options, name)
        if value is not None and not lowest <= value <= highest:
            option = f"--{name.replace('_', '-')}"
            raise MistakeError(f"{option} is {value}; use a number from {lowest} to {highest}.")
    for path in (options.save_model, Path("predictions.npz")):
        if path and (path.is_dir() or not os.access(path.resolve().parent, os.W_OK)):
            raise MistakeError(
                f"{path.resolve()} can't be written; name or enter a folder that you may write to."
            )
    return options


def main(arguments: list[str] | None = None) -> None:
    """Do what the command line says."""
    options = read_options(arguments)
    started, device = time.monotonic(), choose_device(options.device)
    test_digits = read_digits(options.data_dir, "t10k", device)
    if options.evaluate:
        net = load_network(options.evaluate).to(device)
        _, probabilities, labels = test(net, test_digits.batches(1000), device)
        accuracy = (probabilities.argmax(1) == labels).float().mean().item()
        print(f"{options.evaluate}: {accuracy:.2%} of {len(labels):,} test digits right ({device.type}).")
        write_predictions(probabilities, labels)
        return
    torch.manual_seed(options.seed)
    train_digits = read_digits(options.data_dir, "train", device)
    make = {"fast": fast, "reference": reference}[options.recipe]
    recipe = make(options, device, train_digits, test_digits)
    weights = sum(p.numel() for p in recipe.net.parameters())
    print(f"Training on {device.type}: {options.recipe} recipe, {weights:,} weights, "
          f"{options.epochs} epochs of {recipe.steps} steps.")  # fmt: skip
    probabilities = train(recipe, options.epochs, device, started)
    write_predictions(probabilities, test_digits.labels)
    if options.save_model:
        content = io.BytesIO()
        torch.save({k: v.cpu().contiguous() for k, v in recipe.net.state_dict().items()}, content)
        write(options.save_model, content.getvalue())
        print(f"Saved the weights in {options.save_model}, {content.tell() / 1000:,.0f} kB.")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    try:
        main()
    except MistakeError as mistake:
        reason = str(mistake)
    except torch.OutOfMemoryError:
        reason = "The GPU has too little memory free; use a smaller --batch-size."
    except OSError as error:
        reason = f"{error.filename or 'A file'} can't be written ({error.strerror}); use another folder."
    else:
        sys.exit(0)
    print(f"torch_mnist.py: {reason}", file=sys.stderr)
    sys.exit(2)
