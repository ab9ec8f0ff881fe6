"""The files that torch_mnist.py writes while it trains: the metrics, and the checkpoint."""

import argparse
import io
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from mnist_network import MistakeError, Recipe

CHECKPOINT_EXIT_CODE = 85  # HTCondor's manual has it: the checkpoint is fetched, the job started again


class StoppedError(Exception):
    """The training ends before it is done, with this exit code."""


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Let a failure to write say which file it was: a full disk doesn't."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write(path: Path, save: Callable) -> None:
    """Save beside and rename, so that nobody reads half a file."""
    buffer, beside = io.BytesIO(), path.with_name(f"{path.name}.new")
    save(buffer)
    with named(path):
        try:
            beside.write_bytes(buffer.getvalue())
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


def load(path: Path, what: str, fix: str):
    """Return what a file of torch.save holds; tensors and plain values only, code in it is refused."""
    try:
        content = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise MistakeError(f"{path}: {error.strerror}; {fix}.") from error
    try:
        return torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds: pickle's, zip's, torch's
        raise MistakeError(f"{path} holds no {what}; {fix}.") from error


class Metrics:
    """The lines of ``metrics.jsonl``, and what is said on the way."""

    def __init__(self, recipe: Recipe, options: argparse.Namespace, device: torch.device) -> None:
        self.recipe, self.steps, self.device = recipe, recipe.steps * options.epochs, device
        self.path, self.said = Path("metrics.jsonl"), time.monotonic()
        self.begin("", time.monotonic() - options.began)

    def begin(self, lines: str, seconds: float) -> None:
        """Begin the file with the lines of the first `seconds` of the training."""
        self.lines, self.started = lines, time.monotonic() - seconds
        with named(self.path):
            self.path.write_text(lines)

    def seconds(self) -> float:
        """Return the seconds since the training began, without those between a checkpoint and its resume."""
        return round(time.monotonic() - self.started, 3)

    def note(self, step: int, which: str, loss: float, accuracy: float) -> None:
        """Add a line about the training or the test pictures."""
        epoch, done = self.recipe.place(step)
        if not math.isfinite(loss):
            raise MistakeError(f"The loss is not a number in epoch {epoch}; use a smaller --lr.")
        line = {"step": step, "steps": self.steps, "epoch": epoch, "set": which}
        line |= {"pictures": step * self.recipe.size, "loss": round(loss, 5), "accuracy": round(accuracy, 5)}
        line |= {"seconds": self.seconds(), "device": self.device.type}
        text = json.dumps(line) + "\n"
        with named(self.path), self.path.open("a") as file:
            file.write(text)
        self.lines += text
        if which == "test":
            said = f"{100 * accuracy:.2f} % of the test digits right, {self.seconds():.1f} seconds so far"
        elif time.monotonic() - self.said > 5:
            said = f"{100 * done // self.recipe.steps} % done, loss {loss:.3f}"
        else:
            return
        print(f"Epoch {epoch}: {said}.")
        self.said = time.monotonic()


class Checkpoint:
    """The file that a training is continued from; without ``--checkpoint`` it does nothing."""

    def __init__(self, options: argparse.Namespace, recipe: Recipe, metrics: Metrics) -> None:
        self.path, self.recipe, self.metrics = options.checkpoint, recipe, metrics
        self.every = options.checkpoint_every or recipe.steps
        self.leave = options.exit_85_on_checkpoint
        self.training = {n: getattr(options, n) for n in ("recipe", "epochs", "batch_size", "lr", "seed")}
        self.training["steps"] = recipe.steps
        self.signal = 0
        if self.path:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self.remember)

    def remember(self, number: int, frame) -> None:
        """Take note of a signal; a second one ends the process at once."""
        self.signal = number
        signal.signal(number, signal.SIG_DFL)

    def resume(self, sums: torch.Tensor) -> int:
        """Go back to where the checkpoint was written; return the steps that are done."""
        if not self.path or not self.path.exists():
            return 0
        saved = load(self.path, "checkpoint", "remove it, or name another file with --checkpoint")
        another = f"{self.path} is not a checkpoint of this training"
        if not isinstance(saved, dict) or "training" not in saved:
            raise MistakeError(f"{another}; name another file with --checkpoint, or remove this one.")
        for name, value in self.training.items():
            if saved["training"].get(name) != value:
                was = f"its {name.replace('_', ' ')} is {saved['training'].get(name)}, not {value}"
                raise MistakeError(f"{another}: {was}; use the same options, or another file.")
        try:
            self.recipe.network.load_state_dict(saved["network"])
            self.recipe.optimizer.load_state_dict(saved["optimizer"])
            sums.copy_(saved["sums"])
            torch.set_rng_state(saved["random"])
            if sums.is_cuda:
                torch.cuda.set_rng_state(saved["random on the GPU"])
            step = range(1, self.metrics.steps)[saved["step"] - 1]
            self.metrics.begin(saved["metrics"], saved["seconds"])
        except (LookupError, RuntimeError, TypeError, AttributeError, ValueError) as error:
            raise MistakeError(f"{another}, or of an older version; remove it.") from error
        print(f"Continuing after step {step} of {self.metrics.steps}, from {self.path}.")
        return step

    def after(self, step: int, sums: torch.Tensor) -> None:
        """Write the checkpoint where it is due or a signal came, and leave where that is asked for."""
        due = step % self.every == 0
        if not self.path or not (due or self.signal) or step == self.metrics.steps:
            return
        state = {"training": self.training, "step": step, "sums": sums, "metrics": self.metrics.lines}
        state |= {"network": self.recipe.network.state_dict(), "seconds": self.metrics.seconds()}
        state |= {"optimizer": self.recipe.optimizer.state_dict(), "random": torch.get_rng_state()}
        if sums.is_cuda:
            state["random on the GPU"] = torch.cuda.get_rng_state()
        write(self.path, partial(torch.save, state))
        if self.signal or self.leave:
            print(f"Stopped after step {step} of {self.metrics.steps}; {self.path} holds what is done.")
            raise StoppedError(CHECKPOINT_EXIT_CODE if self.leave else 128 + self.signal)
