import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from lesson_helpers import env_cli, paths
from lesson_helpers.errors import LessonError


@pytest.fixture
def env(monkeypatch):
    """Give a function that calls `env …` and returns the exit code and what it prints."""
    monkeypatch.setenv("COLUMNS", "140")  # else a table folds

    def env(*arguments):
        done = CliRunner().invoke(env_cli.app, [str(argument) for argument in arguments])
        if isinstance(done.exception, LessonError):
            raise done.exception
        return done.exit_code, done.output

    return env


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["list"], 0, "4,009 MB"),
        (["show", "tiny", "--platform", "osx-arm64"], 0, "openssl"),
        (["largest", "gpu", "-n", "3"], 0, "3 of 120 packages"),
        (["licences", "gpu"], 0, "LicenseRef-NVIDIA"),
        (["diff", "cpu", "gpu", "--platform", "linux-64"], 0, "33 only in gpu"),
        (["diff", paths.root() / "pixi.lock", paths.root() / "pixi.lock"], 0, "No package differs"),
        (["why", "libmagma", "gpu"], 0, "pytorch 2.9.1 cuda*_mkl*301"),
        (["check"], 0, "The lock file satisfies the manifest."),
        (["solve", "pytorch", "--platform", "linux-64"], 0, "cpu_mkl_py313"),
        (["solve", "pytorch", "--platform", "linux-64", "--cuda", "12"], 0, "cuda129_mkl_py313"),
        (["explain", "gpu"], 0, "cuda129"),
        (
            ["fits", "gpu", "--driver", "535.104", "--compute", "7.5", "--glibc", "2.34"],
            0,
            "runs on that machine",
        ),
        (["fits", "gpu", "--driver", "470.57"], 1, "does not run on that machine"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_each_command_answers_in_a_table(env, monkeypatch, arguments, code, said):
    if arguments[0] == "diff" and str(arguments[1]) == "cpu":
        arguments = ["diff", "cpu", "gpu", "--platform", "linux-64"]
    assert env(*arguments)[0] == code
    assert said in env(*arguments)[1]


def test_a_lock_that_does_not_fit_is_said_with_exit_code_1(env, tmp_path):
    for name in ("pixi.toml", "pixi.lock"):
        shutil.copy(paths.root() / name, tmp_path)
    text = (tmp_path / "pixi.toml").read_text()
    (tmp_path / "pixi.toml").write_text(text.replace('pytorch-gpu = ">=2.8,<3"', 'pytorch-gpu = ">=3"'))
    code, said = env("check", "--in", tmp_path)
    assert code == 1
    assert "The lock file does not satisfy the manifest." in said
    assert "pytorch-gpu" in said


def test_what_has_no_solution_is_said(env):
    with pytest.raises(LessonError) as caught:
        env("solve", "pytorch-gpu", "--platform", "linux-64")
    assert "can't be had on linux-64" in caught.value.what
    assert caught.value.where == "the solver"
    assert "CONDA_OVERRIDE_CUDA" in caught.value.fix


def test_a_wrong_platform_has_a_clear_message(env):
    with pytest.raises(LessonError) as caught:
        env("solve", "pytorch", "--platform", "linux-46")
    assert "'linux-46'" in caught.value.what
    assert caught.value.where == "--platform"
    assert caught.value.fix == "Did you mean linux-64?"


def test_the_help_of_each_command_fits_its_line_and_names_pixis_own(env):
    code, said = env("--help")
    assert code == 0
    lines = said.partition("Commands:")[2].strip().splitlines()
    assert len(lines) == 10
    assert not any(line.endswith("...") for line in lines)
    assert sum("(pixi " in line or "(git " in line for line in lines) == 9


def test_help_comes_without_the_solver():
    program = (
        "import sys; from lesson_helpers import env_cli; "
        "print(sorted({'rattler', 'rich', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"
