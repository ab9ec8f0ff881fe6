"""The networks that read handwritten digits, and the two recipes by which torch_mnist.py trains them."""

import argparse
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

MEAN, SPREAD = 0.1307, 0.3081  # of the training pictures' grey levels, counted from 0 to 1

# --- The networks: pictures of 28 × 28 grey levels in, a score for each of the ten digits out.


def block(channels_in: int, channels_out: int, size: int, stride: int = 1, pool: int = 1) -> nn.Sequential:
    """Return a convolution whose results are thinned out, brought to one scale, the negative ones cut off."""
    convolution = nn.Conv2d(channels_in, channels_out, size, stride, bias=False)
    return nn.Sequential(convolution, nn.MaxPool2d(pool), nn.BatchNorm2d(channels_out), nn.ReLU())


def fast_network() -> nn.Sequential:
    """Return a network of 8,974 weights that shrinks the picture early, which saves most of the work."""
    return nn.Sequential(
        block(1, 12, 5, stride=2, pool=2),  # 28 × 28 pixels become 12 × 12, then 6 × 6, in 12 channels
        block(12, 32, 3),  # 4 × 4, in 32 channels
        nn.Flatten(),  # 512 numbers
        nn.Linear(512, 10),
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


def scaled(pictures: torch.Tensor) -> torch.Tensor:
    """Return pictures whose grey levels have mean 0 and spread 1."""
    return pictures.float().sub_(255 * MEAN).div_(255 * SPREAD)


def batches(pictures: torch.Tensor, labels: torch.Tensor, size: int, order: torch.Tensor) -> Iterator:
    """Yield scaled pictures and labels in this order, `size` at a time."""
    for chosen in order.to(labels.device).split(size):
        yield scaled(pictures[chosen]), labels[chosen]


def shuffled(count: int, seed: int, epoch: int) -> torch.Tensor:
    """Return the order of the pictures in an epoch; it depends on nothing else, so it can be had again."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(1000 * seed + epoch))


# --- The recipes: how a network is trained


class AdamW:
    """Moves weights against their gradient, each by about as much (Loshchilov and Hutter 2019).

    Does what torch.optim.AdamW does. That takes 1.6 seconds to import, and this goes through a small network
    quicker: all weights lie in one vector.
    """

    def __init__(self, network: nn.Module, decay: float = 0.01) -> None:
        self.param_groups = [{"lr": 0.0}]
        self.decay, self.steps, begin = decay, 0, 0
        first = next(network.parameters())
        count = sum(weight.numel() for weight in network.parameters())
        self.weights, self.slope, self.mean, self.square = first.new_zeros(4, count).detach()
        for weight in network.parameters():  # becomes a view of its part of the vector, its gradient too
            part = slice(begin, begin := begin + weight.numel())
            view = self.weights[part].as_strided(weight.shape, weight.stride())
            weight.data = view.copy_(weight.data)
            weight.grad = self.slope[part].as_strided(weight.shape, weight.stride())

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.slope.zero_()

    def step(self) -> None:
        """Move the weights."""
        self.steps += 1
        rate = self.param_groups[0]["lr"]
        self.mean.lerp_(self.slope, 0.1)
        self.square.lerp_(self.slope.square(), 0.01)
        mean, square = self.mean / (1 - 0.9**self.steps), self.square / (1 - 0.99**self.steps)
        self.weights.mul_(1 - rate * self.decay).addcdiv_(mean, square.sqrt_().add_(1e-8), value=-rate)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next step depends on, beside the weights."""
        return {"steps": self.steps, "mean": self.mean, "square": self.square}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` has returned."""
        self.steps = state["steps"]
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])


@dataclass
class Recipe:
    """A network and how it is trained."""

    network: nn.Module
    optimizer: Any  # AdamW, or one of torch.optim
    rate: Callable[[int], float]  # the learning rate of a step, counted from 0
    batches: Callable[[int, int], Iterable]  # those of an epoch, from a step of it on; both counted from 0
    size: int  # pictures in a batch
    steps: int  # in an epoch
    smoothing: float = 0.0  # how much of a label is spread over the other digits, against overconfidence

    def place(self, step: int) -> tuple[int, int]:
        """Return the epoch that a step lies in and its number there; all counted from 1."""
        epoch, inside = divmod(step - 1, self.steps)
        return epoch + 1, inside + 1


def fast(options: argparse.Namespace, device: torch.device) -> Recipe:
    """Return our own recipe: data in memory, few weights, a learning rate that rises and falls once."""
    size, highest = options.batch_size or 128, options.lr or 0.015
    pictures, labels = read_digits(options.data_dir, "train", device)
    check_batch(size, len(labels))
    steps = len(labels) // size  # full batches only
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # several would wait for each other ten times as long on a busy machine
    layout = torch.contiguous_format if device.type == "mps" else torch.channels_last  # the quicker one
    network = fast_network().to(device, memory_format=layout)

    def rate(step: int) -> float:
        done = (step + 0.5) / (steps * options.epochs)
        return highest * min(done / 0.25, (1 - done) / 0.75)

    def epoch(number: int, begin: int) -> Iterator:
        order = shuffled(len(labels), options.seed, number)[begin * size : steps * size]
        return batches(pictures, labels, size, order)

    return Recipe(network, AdamW(network), rate, epoch, size, steps, smoothing=0.1)


def reference(options: argparse.Namespace, device: torch.device) -> Recipe:
    """Return the recipe of PyTorch's MNIST example: pictures one by one, Adadelta, a rate that steps down."""
    try:
        from torchvision import datasets, transforms
    except ImportError as error:
        raise MistakeError("The reference recipe needs torchvision; use --recipe fast.") from error
    size, first = options.batch_size or 64, options.lr or 1.0
    _, labels = read_digits(options.data_dir, "train", torch.device("cpu"))  # for its messages
    check_batch(size, len(labels))
    of_picture = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (SPREAD,))])
    digits = datasets.MNIST(options.data_dir, train=True, transform=of_picture)
    steps = math.ceil(len(labels) / size)
    network = reference_network().to(device)

    def epoch(number: int, begin: int) -> Iterable:
        order = shuffled(len(labels), options.seed, number)[begin * size :]
        part = torch.utils.data.Subset(digits, order.tolist())
        return torch.utils.data.DataLoader(part, size, generator=torch.Generator())  # else it draws from ours

    optimizer = torch.optim.Adadelta(network.parameters(), first)
    return Recipe(network, optimizer, lambda step: first * 0.7 ** (step // steps), epoch, size, steps)


def check_batch(size: int, count: int) -> None:
    """Say so where a batch is more than there is."""
    if size > count:
        raise MistakeError(f"--batch-size {size} is more than the {count} training pictures; use less.")
