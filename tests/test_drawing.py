"""The pad: what is drawn on it is read by the trained network, in a process of its own."""

import base64
import shutil
import subprocess

import numpy as np
import psutil
import pytest

from lesson_helpers import drawing, environments, paths, processes
from lesson_helpers.errors import LessonError


@pytest.fixture(scope="module")
def trained(mnist_data, tmp_path_factory):
    """Train for an epoch in a workspace; give it and the first test pictures."""
    folder = tmp_path_factory.mktemp("drawing")
    shutil.copytree(paths.root() / "jobs/src", folder / "jobs/src")
    options = ["--epochs", "1", "--device", "cpu", "--data-dir", mnist_data, "--save-model"]
    command = [*environments.training_python(), "jobs/src/torch_mnist.py", *options]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=200)
    file = mnist_data / "MNIST/raw/t10k-images-idx3-ubyte"
    pictures = np.fromfile(file, np.uint8, offset=16, count=10 * 784).reshape(-1, 28, 28)
    return folder, pictures


@pytest.fixture(scope="module")
def pad(trained):
    folder, pictures = trained
    made = drawing.Pad(folder, "mnist_cnn.pt", pictures[0])
    yield made
    made._reader.close()


def test_what_is_drawn_is_read_again_and_again_by_one_process(pad, trained):
    answers = []
    process = pad._reader.process
    for picture in trained[1][:5]:
        pad.picture = base64.b64encode(picture.tobytes()).decode()
        answers.append(pad.answer)
    assert [answer[:3] for answer in answers] == [
        "a 7",
        "a 2",
        "a 1",
        "a 0",
        "a 4",
    ]  # MNIST's first test labels
    assert pad._reader.process is process
    pad.picture = ""
    assert pad.answer == drawing.ASK


def test_rubbish_from_the_page_is_not_read(pad):
    for rubbish in ("%%%", base64.b64encode(b"short").decode()):
        pad.picture = rubbish
        assert pad.answer == drawing.ASK


def test_a_page_on_which_nobody_can_draw_shows_an_example_and_what_the_network_said(pad):
    bundle = pad._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "role='img'" in data["text/html"]
    assert "The network says: a 7, " in data["text/html"]
    assert "In JupyterLab you draw your own here." in data["text/html"]
    assert "the network says: a 7" in data["text/plain"]


def test_a_process_that_was_lost_is_started_again(pad, trained):
    pad._reader.process.kill()
    pad._reader.process.wait(20)
    pad.picture = base64.b64encode(trained[1][1].tobytes()).decode()
    assert pad.answer.startswith("a 2")


def test_it_ends_with_its_owner(pad):
    assert psutil.Process(pad._reader.process.pid).environ()[processes.OWNER] == processes.claim()


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_weights_that_can_not_be_used_are_a_clear_mistake(trained, content):
    folder, pictures = trained
    if content:
        (folder / "bad.pt").write_bytes(content)
    name = "bad.pt" if content else "none.pt"
    with pytest.raises(LessonError) as caught:
        drawing.Pad(folder, name, pictures[0])
    assert caught.value.what.startswith("The network can't read it: ")
    assert name in caught.value.what
    assert caught.value.where == str(folder / name)
    assert "Train with save_model" in caught.value.fix
