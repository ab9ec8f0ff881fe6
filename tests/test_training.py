"""The training as the notebooks start it: followed while it runs, ended in time, its mistakes passed on."""

import json
import shutil
import sys

import psutil
import pytest
import scripts

from lesson_helpers import environments, paths, training
from lesson_helpers.errors import LessonError

SLEEP = [sys.executable, "-c", "print('begun', flush=True); import time; time.sleep(60)"]


@pytest.fixture
def here(workspace):
    shutil.copytree(paths.root() / "jobs/src", workspace / "jobs/src")
    return workspace


def test_a_training_prints_its_command_and_what_it_says_and_gives_its_metrics(here, mnist_data, capfd):
    few = scripts.few_digits(mnist_data, here / "few digits")
    result = training.run(here, epochs=1, batch_size=64, device="cpu", data_dir=few, save_model="net.pt")
    said, errors = capfd.readouterr()
    assert said.startswith(
        "$ python jobs/src/torch_mnist.py --epochs 1 --batch-size 64 --device cpu "
        "--data-dir 'few digits' --save-model net.pt\n"
    )
    assert errors == ""
    assert "Epoch 1: " in said
    assert (here / "net.pt").is_file()
    assert len(result.of("train")) == 10
    (test,) = result.of("test")
    assert result.accuracy == test["accuracy"]
    assert f"{100 * test['accuracy']:.2f} % of the test digits right after 1 epoch on cpu" in str(result)
    assert f"<p>{result}</p>" == result._repr_html_()
    assert result.seconds > test["seconds"]


def test_the_scripts_own_sentence_becomes_the_three_parts(here):
    with pytest.raises(LessonError) as caught:
        training.run(here, epochs=0)
    assert caught.value.what == "--epochs is 0."
    assert caught.value.where == f"python jobs/src/torch_mnist.py --epochs 0, in {here}"
    assert caught.value.fix == "Use a number from 1 to 1000."


def test_a_script_that_breaks_is_quoted(here):
    (here / training.SCRIPT).write_text("raise ValueError('edited badly')")
    with pytest.raises(LessonError) as caught:
        training.run(here, epochs=1)
    assert "ended with code 1; the last it said is: ValueError: edited badly" in caught.value.what
    assert str(training.SCRIPT) in caught.value.where
    assert "mend that" in caught.value.fix


def test_a_training_that_takes_too_long_is_ended(here, monkeypatch):
    monkeypatch.setattr(training, "LIMIT", 1)
    monkeypatch.setattr(environments, "training_python", lambda: SLEEP)
    with pytest.raises(LessonError) as caught:
        training.run(here)
    assert "it was not done after" in caught.value.what
    assert not any(
        child.cmdline()[: len(SLEEP)] == SLEEP for child in psutil.Process().children(recursive=True)
    )


def test_an_interrupted_cell_leaves_no_process(here, monkeypatch):
    monkeypatch.setattr(environments, "training_python", lambda: SLEEP)

    def interrupt(line, end="\n"):
        if line.startswith("begun"):
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "print", interrupt, raising=False)
    with pytest.raises(KeyboardInterrupt):
        training.run(here)
    assert not any(
        child.cmdline()[: len(SLEEP)] == SLEEP for child in psutil.Process().children(recursive=True)
    )


def test_metrics_can_be_read_while_they_are_written(tmp_path):
    file = tmp_path / "metrics.jsonl"
    line = {"step": 46, "epoch": 1, "set": "train", "loss": 1.05}
    file.write_text(json.dumps(line) + "\n" + '{"step": 92, "ep')
    assert training.read_metrics(file) == (line,)


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), ("no json\n", "Expecting value")])
def test_metrics_that_can_not_be_read_are_a_clear_mistake(tmp_path, content, said):
    file = tmp_path / "metrics.jsonl"
    if content:
        file.write_text(content)
    with pytest.raises(LessonError) as caught:
        training.read_metrics(file)
    assert f"metrics of the training can't be read: {said}" in caught.value.what
    assert caught.value.where == str(file)
    assert "Run the training again" in caught.value.fix


def test_the_page_says_which_python_trains():
    rung = training.rung()
    if environments.training_python() == [sys.executable]:
        assert rung.instead_of == "the environment cpu"
        assert "PyTorch 2." in rung.ran
    else:
        assert rung.instead_of == ""
