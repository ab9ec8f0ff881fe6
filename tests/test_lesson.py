"""The script ``./lesson`` and the set-up behind it, in small checkouts of their own.

A small checkout has the real script and the real set-up with one package to install instead of two
hundred, so uv, pip and the machine's package index are the real ones and a set-up takes two seconds.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from lesson_helpers import bootstrap, paths
from lesson_helpers.errors import LessonError

KIT = ["lesson", "constraints.txt", "lesson_helpers/__init__.py", "lesson_helpers/__main__.py"]
KIT += ["lesson_helpers/bootstrap.py", "lesson_helpers/errors.py", "lesson_helpers/paths.py"]
SYSTEM = "/usr/bin:/bin"


@pytest.fixture
def checkout(tmp_path):
    """Make a small checkout that is not set up, in a folder with a space in its name."""
    folder = tmp_path / "small checkout"
    (folder / "lesson_helpers").mkdir(parents=True)
    for name in KIT:
        shutil.copy2(paths.root() / name, folder / name)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "small"\nversion = "1"\ndependencies = ["iniconfig"]\n'
        '[dependency-groups]\ntest = ["pluggy"]\n'
    )
    (folder / "lesson_helpers/cli.py").write_text(
        "import sys\ndef main():\n    import iniconfig, pluggy\n    print('ran', sys.prefix, *sys.argv[1:])\n"
    )
    return folder


@pytest.fixture
def prepared(checkout):
    """Make a small checkout that has uv already: two seconds less for each test that isn't about that."""
    bootstrap.install_uv()
    shutil.copytree(
        paths.state() / "uv",
        checkout / ".lesson/uv",
        symlinks=True,
        copy_function=os.link,
        dirs_exist_ok=True,
    )
    return checkout


def lesson(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run the checkout's script and return what it said."""
    command = [str(checkout / "lesson"), *arguments]
    merged = {**os.environ, "LESSON_ENV": "venv", **environment}
    return subprocess.run(command, env=merged, capture_output=True, text=True, timeout=120, check=False)


def program(folder: Path, name: str, text: str) -> Path:
    """Write a small program, for a PATH on which it is found first."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return folder


def three_parts(said: str) -> bool:
    return [line.split(":")[0] for line in said.strip().splitlines()[-3:]] == ["What", "Where", "Do"]


def test_one_command_sets_up_and_runs_and_the_next_one_only_runs(checkout):
    first = lesson(checkout, "run", "a b")
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"ran {checkout}/.lesson/venv run a b\n"
    assert "Setting this checkout up" in first.stderr
    second = lesson(checkout, "again", PATH=SYSTEM, PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert (second.returncode, second.stderr) == (0, "")


def test_a_changed_pin_sets_up_again_from_what_was_downloaded(prepared):
    assert lesson(prepared).returncode == 0
    pins = prepared / "constraints.txt"
    pins.write_text(pins.read_text() + "# changed\n")
    assert "Setting this checkout up" in lesson(prepared).stderr
    assert lesson(prepared).stderr == ""


def test_a_checkout_that_was_moved_sets_itself_up_again(prepared):
    assert lesson(prepared).returncode == 0
    moved = prepared.rename(prepared.with_name("moved"))
    assert lesson(moved).stdout == f"ran {moved}/.lesson/venv\n"


def test_a_checkout_whose_path_the_locale_can_not_write_sets_itself_up(prepared):
    kit = prepared.rename(prepared.with_name("leçon"))
    module = "import lesson_helpers\ndef main(): print(ascii(lesson_helpers.__file__))\n"
    (kit / "lesson_helpers/cli.py").write_text(module)
    for _ in range(2):
        ran = lesson(kit, LC_ALL="C")
        assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == ascii(str(kit / "lesson_helpers/__init__.py"))


def test_the_command_can_be_called_through_a_link_from_anywhere(prepared, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/lesson").symlink_to("../link")
    (tmp_path / "link").symlink_to(prepared / "lesson")
    called = subprocess.run(
        [tmp_path / "bin/lesson", "run"],
        env={**os.environ, "LESSON_ENV": "venv"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert called.stdout == f"ran {prepared}/.lesson/venv run\n"


def test_another_pythons_packages_are_left_out(prepared, tmp_path):
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster/iniconfig.py").write_text("raise SystemExit('the cluster's')\n")
    ran = lesson(prepared, PYTHONPATH=str(tmp_path / "cluster"), PYTHONHOME="/nowhere")
    assert ran.stdout == f"ran {prepared}/.lesson/venv\n"


def test_settings_to_install_somewhere_else_are_left_out(checkout, tmp_path):
    ran = lesson(checkout, PIP_USER="1", PIP_TARGET=str(tmp_path / "else"), HOME=str(tmp_path / "home"))
    assert ran.stdout == f"ran {checkout}/.lesson/venv\n", ran.stderr
    assert not (tmp_path / "else").exists()
    assert not [name for name in (".cache", ".local") if (tmp_path / "home" / name).exists()]


def test_an_environment_whose_python_is_gone_is_made_again(prepared):
    assert lesson(prepared).returncode == 0
    for name in ("uv", "venv"):
        python = prepared / ".lesson" / name / "bin/python"
        python.unlink()
        python.symlink_to("/nowhere/python")
    assert lesson(prepared).stdout == f"ran {prepared}/.lesson/venv\n"


def test_a_set_up_that_is_killed_half_way_repairs_itself(prepared):
    command = [str(prepared / "lesson"), "run"]
    environment = {**os.environ, "LESSON_ENV": "venv"}
    killed = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 60
    while not (prepared / ".lesson/venv/bin").exists() and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait(10)
    assert not (prepared / ".lesson/venv/ready").exists()
    assert lesson(prepared).stdout == f"ran {prepared}/.lesson/venv\n"


def slow_uv(checkout: Path) -> Path:
    """Put a program in the place of the real uv that says its pid and then takes long."""
    uv = checkout / ".lesson/uv/bin/uv"
    real = uv.rename(uv.with_name("uv-real"))
    text = f'[ "$1" != venv ] || {{ echo $$ > "{checkout}/pid"; exec sleep 300; }}\nexec "{real}" "$@"'
    program(uv.parent, "uv", text)
    return real


def begin(checkout: Path) -> tuple[subprocess.Popen, psutil.Process]:
    """Start a set-up that takes long, and return it with the program that it waits for."""
    environment = {**os.environ, "LESSON_ENV": "venv"}
    process = subprocess.Popen(
        [checkout / "lesson", "run"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until, said = time.monotonic() + 60, checkout / "pid"
    while not (said.exists() and said.read_text().endswith("\n")):
        assert time.monotonic() < until, "the set-up never came to uv"
        time.sleep(0.02)
    return process, psutil.Process(int(said.read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_set_up_ends_what_it_started_too(prepared, number):
    slow_uv(prepared)
    process, uv = begin(prepared)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == "Stopped. Call ./lesson again to go on: what was downloaded is kept."
    assert not uv.is_running()


def test_what_a_killed_set_up_left_running_is_waited_for(prepared):
    real = slow_uv(prepared)
    killed, uv = begin(prepared)
    killed.kill()
    killed.wait(30)
    killed.stderr.close()  # its end at the other side is still held
    assert uv.is_running()
    real.replace(real.with_name("uv"))
    environment = {**os.environ, "LESSON_ENV": "venv"}
    after = subprocess.Popen(
        [prepared / "lesson"], env=environment, stdout=-1, stderr=subprocess.PIPE, text=True
    )
    assert after.stderr.readline().startswith("Waiting for another ./lesson")
    uv.kill()
    said, _ = after.communicate(timeout=60)
    assert said == f"ran {prepared}/.lesson/venv\n"


def test_two_set_ups_at_once_wait_for_each_other(prepared):
    command = [str(prepared / "lesson"), "run"]
    environment = {**os.environ, "LESSON_ENV": "venv"}
    both = [
        subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True, start_new_session=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [out for out, _ in said] == [f"ran {prepared}/.lesson/venv run\n"] * 2
    assert sum("Setting this checkout up" in err for _, err in said) == 1
    assert sum("Waiting" in err for _, err in said) == 1


def test_no_network_is_said_in_three_parts_and_the_next_call_goes_on(checkout):
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull}
    nowhere |= {"PIP_FIND_LINKS": "", "PIP_NO_CACHE_DIR": "1"}
    refused = lesson(checkout, **nowhere)
    assert refused.returncode == 1
    assert "The package index can't be reached" in refused.stderr
    assert three_parts(refused.stderr)
    assert "Traceback" not in refused.stderr
    assert lesson(checkout).returncode == 0


def test_no_network_after_uv_is_there_is_said_in_three_parts(prepared):
    assert lesson(prepared).returncode == 0
    shutil.rmtree(prepared / ".lesson/venv")
    shutil.rmtree(prepared / ".lesson/cache")
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull}
    refused = lesson(prepared, **nowhere, PIP_FIND_LINKS="")
    assert "The package index can't be reached" in refused.stderr
    assert three_parts(refused.stderr)


def test_packages_that_do_not_exist_are_not_blamed_on_the_network(prepared):
    project = prepared / "pyproject.toml"
    project.write_text(project.read_text().replace("iniconfig", "iniconfig==0.0.404"))
    refused = lesson(prepared)
    assert "The packages of this lesson don't install" in refused.stderr
    assert three_parts(refused.stderr)


def test_no_python_is_said_in_three_parts(prepared, tmp_path):
    old = program(
        tmp_path / "old", "python3", 'case $1 in --version) echo "Python 3.9.18" ;; *) exit 1 ;; esac'
    )
    for name in ("dirname", "cat", "cksum", "sh"):
        (old / name).symlink_to(shutil.which(name))
    refused = lesson(prepared, PATH=str(old))
    assert refused.returncode == 1
    assert "python3 here is: Python 3.9.18" in refused.stderr
    assert three_parts(refused.stderr)


def test_a_named_python_that_is_too_old_is_said_in_three_parts(prepared, tmp_path):
    old = program(tmp_path / "old", "python3.9", "exit 1")
    refused = lesson(prepared, LESSON_PYTHON=str(old / "python3.9"))
    assert f"Where: LESSON_PYTHON={old}/python3.9" in refused.stderr
    assert three_parts(refused.stderr)


def test_an_environment_of_an_unknown_kind_is_said_in_three_parts(prepared):
    refused = lesson(prepared, LESSON_ENV="conda")
    assert "no environment of the kind 'conda'" in refused.stderr
    assert three_parts(refused.stderr)


@pytest.mark.parametrize("version", ["pixi 0.72.0", "pixi 0.101.2", "pixi 1.0.0"])
def test_a_stand_in_for_a_new_enough_pixi_is_handed_the_call(prepared, tmp_path, version):
    pixi = f'[ "$1" = --version ] && echo "{version}" || printf "%s|" "$@"'
    path = program(tmp_path / "bin", "pixi", pixi)
    ran = lesson(prepared, "run", "-p", "a=b c", PATH=f"{path}:{SYSTEM}", LESSON_ENV="pixi")
    manifest = f"--manifest-path|{prepared}/pixi.toml|--locked"
    assert ran.stdout == f"run|{manifest}|python|-P|-m|lesson_helpers|run|-p|a=b c|"


@pytest.mark.parametrize("version", ["pixi 0.71.9", "pixi 0.8.0", "pixi, the image downloader 4.2", ""])
def test_a_stand_in_for_a_pixi_that_is_too_old_is_said_in_three_parts(prepared, tmp_path, version):
    path = program(tmp_path / "bin", "pixi", f'echo "{version}"')
    refused = lesson(prepared, PATH=f"{path}:{SYSTEM}", LESSON_ENV="pixi")
    assert refused.returncode == 1
    assert "no pixi 0.72 or newer" in refused.stderr
    assert three_parts(refused.stderr)


def test_a_colon_in_the_path_is_said_in_three_parts(checkout):
    refused = lesson(checkout.rename(checkout.with_name("a:b")))
    assert refused.returncode == 1
    assert "A colon in a folder's name" in refused.stderr
    assert three_parts(refused.stderr)


def test_a_checkout_that_can_not_be_written_is_said_in_three_parts(checkout):
    (checkout / ".lesson").write_text("")  # a file: root may write into any folder
    refused = lesson(checkout)
    assert refused.returncode == 1
    assert "can't be set up: " in refused.stderr
    assert f"Where: {checkout}/.lesson" in refused.stderr
    assert three_parts(refused.stderr)
    assert "Traceback" not in refused.stderr


def test_too_little_disk_is_said_in_three_parts(monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=3_100_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(LessonError, match=r"needs 8 GB of disk and 3\.1 GB are free") as refused:
        bootstrap.check_disk(tmp_path)
    assert refused.value.where == str(tmp_path)
    assert "Free some space" in refused.value.fix


def test_pips_own_settings_are_handed_to_uv_and_passwords_not_as_arguments():
    settings = {"index-url": ["https://ada:word@a/simple"], "extra-index-url": ["file:///b", "https://c"]}
    settings |= {"find-links": ["/wheels"], "no-index": ["true"], "trusted-host": ["a"]}
    options = bootstrap.uv_options(settings)
    pairs = list(zip(options[::2], options[1::2], strict=False))
    assert ("--find-links", "/wheels") in pairs
    assert ("--allow-insecure-host", "a") in pairs
    assert options[-1] == "--no-index"
    variables = bootstrap.uv_environment(settings)
    assert variables["UV_DEFAULT_INDEX"] == "https://ada:word@a/simple"
    assert variables["UV_INDEX"] == "file:///b https://c"
    assert not [option for option in options if "word" in option]


def test_a_setting_of_the_environment_wins_over_the_configuration_file(monkeypatch, tmp_path):
    configuration = tmp_path / "pip.conf"
    configuration.write_text("[global]\nindex-url = https://a/simple\nfind-links = /one /two\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("PIP_FIND_LINKS", "/three")
    bootstrap.install_uv()
    settings = bootstrap.pip_settings()
    assert settings["index-url"] == ["https://a/simple"]
    assert settings["find-links"] == ["/three"]
