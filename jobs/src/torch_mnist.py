"""Train a small network to read handwritten digits (MNIST), on a CPU or a GPU, and test it.

    python torch_mnist.py --epochs 2 --data-dir data --save-model
    python torch_mnist.py --evaluate mnist_cnn.pt --data-dir data

Needs PyTorch, mnist_network.py beside it, and torchvision for the reference recipe. In the current folder it
writes

- ``metrics.jsonl``: a line every tenth of an epoch (training pictures) and after each epoch (test pictures)
  with step, steps (of the whole training), epoch, set, pictures (trained with so far), loss, accuracy
  (0 to 1), seconds since the start (PyTorch was imported, no data read), and device;
- ``predictions.npz``: labels, predictions and probabilities of the 10,000 test pictures;
- ``mnist_cnn.pt``, with ``--save-model``: the weights, to be read with ``torch.load(weights_only=True)``.

With ``--checkpoint FILE`` the file is written every now and then, and on SIGTERM and Ctrl-C; the same command
goes on from there, and on a CPU it comes to the same weights, to the last bit.

Exit codes: 0 done; 2 a mistake, in one sentence on stderr; 85 a checkpoint was written and there is more to
do, with ``--exit-85-on-checkpoint``; else 143 after SIGTERM and 130 after Ctrl-C.
"""

import argparse
import os
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ in the folder that travels

try:
    import numpy as np
    import torch
    from mnist_files import Checkpoint, Metrics, StoppedError, load, write
    from mnist_network import (
        MistakeError,
        Recipe,
        fast,
        fast_network,
        read_digits,
        reference,
        reference_network,
        scaled,
    )
    from torch.nn.functional import cross_entropy
except ImportError as error:
    fix = (
        "copy all of the folder src"
        if str(error.name).startswith("mnist_")
        else "use the environment cpu or gpu"
    )
    print(f"torch_mnist.py: This Python has no {error.name}; {fix}.", file=sys.stderr)
    sys.exit(2)
except KeyboardInterrupt:
    sys.exit(130)

# --- Training


def train_step(recipe: Recipe, device: torch.device, pictures: torch.Tensor, labels: torch.Tensor):
    """Move the weights once; return the sum of the losses, how many were right and how many there were."""
    # bfloat16 where the GPU computes with it: half the bytes, and the range of float32
    half = device.type == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
    pictures, labels = pictures.to(device), labels.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        scores = recipe.network(pictures)
        loss = cross_entropy(scores, labels, label_smoothing=recipe.smoothing)
    recipe.optimizer.zero_grad()
    loss.backward()
    recipe.optimizer.step()
    with torch.no_grad():
        plain = cross_entropy(scores, labels, reduction="sum")  # not smoothed, like the test's
        right = (scores.argmax(1) == labels).sum()
        return torch.stack([plain, right, torch.full_like(right, len(labels))])


def train(recipe: Recipe, options: argparse.Namespace, device: torch.device, digits: tuple) -> torch.Tensor:
    """Train, test after each epoch, write metrics and checkpoints; return `test`'s probabilities."""
    metrics = Metrics(recipe, options, device)
    checkpoint = Checkpoint(options, recipe, metrics)
    sums = torch.zeros(3, device=device)  # loss, right, seen: kept on the device and read rarely
    step = checkpoint.resume(sums)
    tenth = max(1, recipe.steps // 10)
    while step < metrics.steps:
        recipe.network.train()
        for pictures, labels in recipe.batches(*divmod(step, recipe.steps)):
            recipe.optimizer.param_groups[0]["lr"] = recipe.rate(step)
            sums += train_step(recipe, device, pictures, labels)
            step += 1
            if recipe.place(step)[1] % tenth == 0:
                metrics.note(step, "train", *(sums[:2] / sums[2]).tolist())
                sums.zero_()
            if step % recipe.steps == 0:
                sums.zero_()
                loss, accuracy, probabilities = test(recipe.network, digits)
                metrics.note(step, "test", loss, accuracy)
            checkpoint.after(step, sums)
    return probabilities


@torch.inference_mode()
def test(network: torch.nn.Module, digits: tuple) -> tuple[float, float, torch.Tensor]:
    """Return the mean loss, the accuracy (0 to 1) and the probabilities (n × 10) of the test set."""
    pictures, labels = digits
    training = network.training
    network.eval()
    scores = torch.cat([network(scaled(part)) for part in pictures.split(500)])
    network.train(training)
    right = (scores.argmax(1) == labels).float().mean()
    return cross_entropy(scores, labels).item(), right.item(), scores.softmax(1).cpu()


def fitting_batch(recipe: Recipe, device: torch.device) -> int:
    """Return a batch size that the device has memory for, found by trying ever smaller ones; 0 for none."""
    size = recipe.size
    while size := size // 2:
        with suppress(torch.OutOfMemoryError):
            pictures = torch.zeros(size, 1, 28, 28, device=device)
            train_step(recipe, device, pictures, torch.zeros(size, dtype=torch.long, device=device))
            break
    return size


# --- Options


def load_network(path: Path) -> torch.nn.Module:
    """Return the network whose weights a file holds."""
    weights = load(path, "weights", "train with --save-model and name its file")
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
        ("--checkpoint", {"type": Path, "metavar": "FILE"}, "continue from this file, and write it"),
        ("--checkpoint-every", {"type": int, "metavar": "STEPS"}, "how often (default: each epoch)"),
        ("--exit-85-on-checkpoint", {"action": "store_true"}, "exit when it is written, for HTCondor"),
    ):
        parser.add_argument(option, **settings, help=meaning)
    options = parser.parse_args()
    options.began = time.monotonic()
    limits = {"epochs": (1, 1000), "batch_size": (1, 60_000), "lr": (1e-9, 1000), "seed": (0, 2**32 - 1)}
    limits |= {"checkpoint_every": (1, 10**9)}
    for name, (lowest, highest) in limits.items():
        value = getattr(options, name)
        if value is not None and not lowest <= value <= highest:
            option = f"--{name.replace('_', '-')}"
            raise MistakeError(f"{option} is {value}; use a number from {lowest} to {highest}.")
    if not options.checkpoint and (options.checkpoint_every or options.exit_85_on_checkpoint):
        raise MistakeError("Where the checkpoint lies isn't said; name a file with --checkpoint.")
    for path in (Path("predictions.npz").resolve(), options.save_model, options.checkpoint):
        if path and (path.is_dir() or not os.access(f"{path.resolve().parent}/", os.W_OK)):
            raise MistakeError(f"{path} can't be written; use a folder where you may write.")
    return options


def main() -> None:
    """Do what the command line says."""
    options = read_options()
    device = choose_device(options.device)
    digits = read_digits(options.data_dir, "t10k", device)
    if options.evaluate:
        network = load_network(options.evaluate).to(device)
        _, accuracy, probabilities = test(network, digits)
        print(f"{options.evaluate}: {100 * accuracy:.2f} % of {len(probabilities):,} test digits right.")
    else:
        torch.manual_seed(options.seed)
        recipe = {"fast": fast, "reference": reference}[options.recipe](options, device)
        network = recipe.network
        print(f"Training by the {options.recipe} recipe on {device.type}, {recipe.steps} steps an epoch.")
        try:
            probabilities = train(recipe, options, device, digits)
        except torch.OutOfMemoryError:
            probabilities = None  # what was held on the way is let go when this block ends
        if probabilities is None:
            fits = fitting_batch(recipe, device)
            fix = f"use --batch-size {fits}, which fits" if fits else "use another device"
            raise MistakeError(f"The GPU's memory is too small for batches of {recipe.size}; {fix}.")
    arrays = {"labels": digits[1].cpu(), "predictions": probabilities.argmax(1)}
    write(Path("predictions.npz"), partial(np.savez_compressed, probabilities=probabilities, **arrays))
    if options.save_model:
        weights = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
        write(options.save_model, partial(torch.save, weights))
        print(f"The weights are in {options.save_model}.")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    code = 2
    try:
        main()
        sys.exit(0)
    except StoppedError as error:
        sys.exit(error.args[0])
    except KeyboardInterrupt:
        code, reason = 130, "Interrupted; nothing is saved. With --checkpoint FILE it would go on from here."
    except MistakeError as error:
        reason = error
    except torch.OutOfMemoryError:
        reason = "The GPU's memory is too small even for the data; use another device."
    except OSError as error:
        fix = "make room, or use another folder"
        reason = f"{error.filename or 'A file'} can't be written ({error.strerror}); {fix}."
    print(f"torch_mnist.py: {reason}", file=sys.stderr)
    sys.exit(code)
