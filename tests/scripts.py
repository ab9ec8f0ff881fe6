"""Running the stand-alone scripts of ``jobs/src`` as a worker does, many calls in one process.

Importing PyTorch takes seconds, so the calls share it; each has its own folder and its own ``__main__``.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lesson_helpers import environments, paths

SOURCES = paths.root() / "jobs" / "src"

KILLER = r"""
import json, os, runpy, signal, sys, time
import torch, torchvision.datasets
call = json.load(sys.stdin)
os.chdir(call["folder"])
sys.path[0] = os.path.dirname(call["script"])
sys.argv = [call["script"], *call["arguments"]]
open("metrics.jsonl", "a").close()
ended = []
for delay in call["delays"]:
    child = os.fork()
    if not child:
        os.dup2(os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        code = 0
        try:
            runpy.run_path(call["script"], run_name="__main__")
        except SystemExit as exit:
            code = exit.code or 0
        os._exit(code)
    limit, done = time.monotonic() + delay, 0
    while not done and (time.monotonic() < limit or call["begun"] and not os.path.getsize("metrics.jsonl")):
        time.sleep(0.001)
        done, status = os.waitpid(child, os.WNOHANG)
    if not done:
        os.kill(child, call["signal"])
        _, status = os.waitpid(child, 0)
    ended.append(os.waitstatus_to_exitcode(status))
    if not ended[-1]:
        break
json.dump(ended, sys.__stdout__)
"""

DRIVER = r"""
import contextlib, io, json, os, runpy, sys
answers = []
for call in json.load(sys.stdin):
    sys.path[0] = os.path.dirname(call["script"])  # as for a script that is started
    os.chdir(call["folder"])
    sys.argv = [call["script"], *call["arguments"]]
    hidden = {name: sys.modules.get(name) for name in call["without"]}
    sys.modules.update(dict.fromkeys(hidden))  # None: import finds nothing
    os.environ.update(call["variables"])
    code, out, err = 0, *(io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(call["script"], run_name="__main__")
        except SystemExit as ended:
            code = ended.code or 0
    for name, module in hidden.items():
        sys.modules.pop(name)
        if module:
            sys.modules[name] = module
    for name in call["variables"]:
        del os.environ[name]
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]
    answers.append([code, *said, "torchvision" in sys.modules])
json.dump(answers, sys.__stdout__)
"""


@dataclass(frozen=True)
class Answer:
    """What a call came to."""

    code: int
    out: str
    err: str
    torchvision: bool  # whether it was imported by then


def call(script: str, folder: Path, *arguments, without=(), **variables) -> dict:
    """Describe a call of a script in a folder, with names that can't be imported and variables."""
    return {
        "script": str(SOURCES / script),
        "folder": str(folder),
        "arguments": [str(argument) for argument in arguments],
        "without": list(without),
        "variables": variables,
    }


def answers(calls: list[dict], seconds: float = 240) -> list[Answer]:
    """Make the calls one after the other with the Python that trains, and return what they came to."""
    ran = subprocess.run(
        [*environments.training_python(), "-W", "error", "-c", DRIVER],
        input=json.dumps(calls),
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # several wait for each other on a busy machine
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [Answer(*answer) for answer in json.loads(ran.stdout)]


def killed(described: dict, number: int, delays: list[float], begun: bool = False) -> list[int]:
    """Start the same call anew and anew, each time end it with a signal after so many seconds.

    With `begun` not before there is a line of metrics. Returns the exit codes, the last 0
    where it came to its end; what it said is in the folder, in ``said``.
    """
    ran = subprocess.run(
        [*environments.training_python(), "-c", KILLER],
        input=json.dumps(described | {"signal": number, "delays": delays, "begun": begun}),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=sum(delays) + 120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an array of bytes as an IDX file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def few_digits(mnist_data: Path, folder: Path, train: int = 1280, test: int = 1000) -> Path:
    """Write the first few of MNIST's real digits, so that a training takes a moment."""
    for name, count in (("train", train), ("t10k", test)):
        for kind, offset, shape in (("images-idx3", 16, (-1, 28, 28)), ("labels-idx1", 8, (-1,))):
            file = f"MNIST/raw/{name}-{kind}-ubyte"
            array = np.fromfile(mnist_data / file, np.uint8, offset=offset).reshape(shape)
            write_idx(folder / file, array[:count])
    return folder
