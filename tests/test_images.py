"""Images: choosing an engine, building with it, running, pushing, and what is said where that fails."""

import contextlib
import io
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
import requests

from lesson_helpers import buildlog, images, paths, processes, standin
from lesson_helpers import registry as registries
from lesson_helpers.errors import LessonError

KIT = paths.root()
NAME = "lesson/tiny:1"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Give a folder that is the whole PATH, and a function that puts a program there; none can be fetched."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(paths, "programs", lambda: tmp_path)

    def put(name, script):
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)

    return put


class TestChoosing:
    """Which engine is taken."""

    def test_none_is_found_where_there_is_none_and_each_reason_is_kept(self, programs):
        choice = images.choose(fetch=False)
        assert choice.engine is None
        assert [answer.name for answer in choice.answers] == ["docker", "podman", "buildah", "fetched"]
        assert "docker: it is not installed; podman: it is not installed" in choice.rung().reason
        assert str(choice).endswith("No image can be built here.")

    def test_a_docker_client_without_a_daemon_is_not_taken(self, programs):
        programs(
            "docker", "echo 'Cannot connect to the Docker daemon at unix:///x. Is it running?' >&2; exit 1"
        )
        choice = images.choose(fetch=False)
        assert choice.engine is None
        assert choice.answers[0].said.startswith("Cannot connect to the Docker daemon")

    def test_asking_for_a_docker_client_without_a_daemon_is_a_clear_message(self, programs):
        programs("docker", "echo 'Cannot connect to the Docker daemon at unix:///x.' >&2; exit 1")
        with pytest.raises(LessonError) as refused:
            images.choose("docker")
        assert refused.value.what.startswith("The engine 'docker' does not work here: Cannot connect")
        assert refused.value.where == "the parameter `engine`"
        assert 'engine = "auto"' in refused.value.fix

    def test_docker_without_buildkit_is_not_taken(self, programs):
        programs(
            "docker", '[ "$1" = info ] && echo 28.5 || { echo "unknown command: docker $1" >&2; exit 1; }'
        )
        assert images.choose(fetch=False).answers[0].said == "unknown command: docker buildx"

    def test_docker_with_daemon_and_buildkit_comes_first(self, programs):
        programs("docker", 'case "$1" in info) echo 28.5 ;; network) echo bridge ;; esac')
        programs("buildah", "echo buildah version 1.28.2")
        choice = images.choose()
        assert (choice.engine.kind, choice.engine.version) == ("docker", "28.5")
        assert choice.rung().instead_of == ""

    def test_podman_that_keeps_a_store_of_its_own_is_left_alone(self, programs):
        programs("podman", "echo 'graphRoot: /home/core/.local/share/containers'")
        choice = images.choose(fetch=False)
        assert choice.engine is None
        assert choice.answers[1].said == "it only uses a store of its own"

    def test_for_a_user_who_could_not_use_it_nothing_is_fetched(self, programs, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr(images.debian, "unpack", lambda *names, **options: pytest.fail("it was fetched"))
        with pytest.raises(LessonError, match="ordinary user needs newuidmap") as refused:
            images.choose("fetched")
        assert "the parameter `engine`" in refused.value.where
        assert refused.value.fix

    def test_an_explicit_setting_wins(self, programs):
        programs("docker", 'case "$1" in info) echo 28.5 ;; network) echo bridge ;; esac')
        programs(
            "buildah",
            'case "$1" in info) cat "$CONTAINERS_STORAGE_CONF" ;; *) echo buildah version 1.28.2 ;; esac',
        )
        (Path(os.environ["PATH"]) / "cat").symlink_to(shutil.which("cat", path="/usr/bin:/bin"))
        assert images.choose("buildah").engine.kind == "buildah"

    def test_one_can_go_on_without_any(self):
        assert images.choose("none").rung().reason == "none: no engine was asked for"

    def test_a_setting_that_is_not_known_is_a_clear_message(self):
        with pytest.raises(LessonError) as refused:
            images.choose("dcoker")
        assert refused.value.what == "There is no engine 'dcoker'."
        assert refused.value.where == "the parameter `engine`"
        assert "docker, podman, buildah" in refused.value.fix


@contextlib.contextmanager
def server(code):
    """Run a web server on loopback that always gives one answer; give the name of an image there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.end_headers()

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"127.0.0.1:{http.server_port}/a/b:1"
        http.shutdown()
        thread.join()


class TestReachable:
    """Whether the registry of a base image answers."""

    @pytest.mark.parametrize(("code", "answer"), [(200, True), (401, True), (403, False), (502, False)])
    def test_a_registry_with_or_without_login_is_there_and_a_proxy_that_refuses_is_not(self, code, answer):
        with server(code) as image:
            assert registries.reachable(image) is answer

    def test_a_closed_port_is_not_there(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            assert not registries.reachable(f"127.0.0.1:{free.getsockname()[1]}/a/b:1")

    def test_one_that_never_answers_costs_no_more_than_the_limit(self):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            assert not registries.reachable(f"127.0.0.1:{silent.getsockname()[1]}/a/b:1", seconds=0.3)


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """Give a copy of what the kit's image is made of, with things beside it that must stay out."""
    folder = tmp_path_factory.mktemp("context")
    for name in ("Dockerfile", ".dockerignore", "pixi.toml", "pixi.lock"):
        shutil.copy(KIT / name, folder)
    (folder / ".env").write_text("TOKEN=secret\n")
    (folder / "train.py").write_text("print('training')\n")
    return folder


@pytest.fixture(scope="module")
def private():
    """Let nobody else read what is written, as a careful umask does; images are to work all the same."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture(scope="module")
def arguments(engine, context, private):
    return images.base_arguments(engine, context, "tiny")[0]


@pytest.fixture(scope="module")
def built(engine, context, arguments, private):
    """Give the image of the environment tiny, and what the screen showed when it was built."""
    with contextlib.redirect_stdout(io.StringIO()) as screen:
        image = engine.build(context, NAME, arguments=arguments)
    yield image, screen.getvalue()
    engine.remove(NAME)


class TestBuilding:
    """The kit's own Dockerfile, built by a real engine, on stand-in bases where the real ones aren't had."""

    def test_stand_in_base_images_are_taken_where_the_real_ones_do_not_answer_and_that_is_said(
        self, engine, context, monkeypatch
    ):
        monkeypatch.setattr(registries, "reachable", lambda image: False)
        arguments, rung = images.base_arguments(engine, context, "tiny")
        assert arguments["BUILD_IMAGE"] == "localhost/stand-in-pixi:1"
        assert rung.ran.startswith("stand-ins")
        assert rung.reason == "ghcr.io and docker.io can't be reached from here"

    def test_the_real_base_images_are_taken_where_their_registries_answer(self, tmp_path):
        for name in ("pixi.toml", "pixi.lock"):
            shutil.copy(KIT / name, tmp_path)
        with server(401) as image:
            (tmp_path / "Dockerfile").write_text(f"FROM {image} AS pixi\nFROM pixi\n")
            arguments, rung = images.base_arguments(None, tmp_path, "gpu")
        assert arguments == {"ENVIRONMENT": "gpu"}
        assert (rung.ran, rung.instead_of) == (image, "")

    def test_an_environment_that_is_not_there_is_a_clear_message(self, context):
        with pytest.raises(LessonError) as refused:
            images.base_arguments(None, context, "gppu")
        assert refused.value.what == "There is no environment 'gppu' in this workspace."
        assert refused.value.where.endswith("pixi.toml")
        assert refused.value.fix == "Use one of: cpu, default, gpu, tiny."

    def test_the_steps_that_make_layers_are_shown_in_short_lines(self, built):
        steps = built[1].splitlines()
        assert any("pixi install --locked" in step for step in steps)
        assert all(len(step) < 90 for step in steps)

    def test_a_code_edit_installs_nothing_again(self, engine, context, built, arguments, capsys):
        (context / "train.py").write_text("print('training better')\n")
        engine.build(context, NAME, arguments=arguments)
        install = next(line for line in capsys.readouterr().out.splitlines() if "pixi install" in line)
        assert install.endswith("(cached)")

    def test_the_image_says_who_runs_what_and_what_it_is(self, built):
        image = built[0]
        assert image.user == "65532:65532"
        assert image.entrypoint == ("/app/entrypoint.sh",)
        assert image.labels["org.opencontainers.image.title"] == "Pixi environment tiny"
        assert image.labels["org.opencontainers.image.licenses"] == "BSD-3-Clause"

    def test_python_of_the_environment_runs_through_the_entrypoint_and_without_it(self, engine, built):
        look = "import os, sys; print(sys.prefix, os.environ.get('PIXI_ENVIRONMENT_NAME'), os.getuid())"
        through = engine.run(NAME, ["python", "-c", look])
        assert through.split() == ["/app/.pixi/envs/tiny", "tiny", "65532"]
        without = engine.run(NAME, ["python", "-c", look], entrypoint=False)
        assert without.split() == ["/app/.pixi/envs/tiny", "None", "65532"]

    def test_only_the_one_environment_is_in_it_and_no_pixi_and_nothing_that_lay_beside(self, engine, built):
        assert engine.run(NAME, ["ls", "-A", "/app", "/app/.pixi/envs"]).split() == [
            *("/app:", ".pixi", "activate.sh", "entrypoint.sh"),
            *("/app/.pixi/envs:", "tiny"),
        ]
        assert engine.run(NAME, ["sh", "-c", "command -v pixi || echo none"]).strip() == "none"

    def test_a_command_that_fails_in_the_container_says_what_it_said(self, engine, built):
        with pytest.raises(LessonError, match="No module named 'torch'") as failed:
            engine.run(NAME, ["python", "-c", "import torch"])
        assert failed.value.where == f"{engine.kind} run"

    def test_a_build_that_fails_says_what_it_said(self, engine, arguments, tmp_path):
        (tmp_path / "Dockerfile").write_text(
            "ARG RUNTIME_IMAGE\nFROM ${RUNTIME_IMAGE}\nRUN echo the reason >&2; exit 3\n"
        )
        bases = {"RUNTIME_IMAGE": arguments.get("RUNTIME_IMAGE", "docker.io/library/ubuntu:24.04")}
        with pytest.raises(LessonError, match="the reason") as failed:
            engine.build(tmp_path, "lesson/broken:1", arguments=bases)
        assert failed.value.where.endswith("Dockerfile")
        assert "run this again" in failed.value.fix

    def test_a_build_that_takes_too_long_is_ended_and_says_where_it_was(self, engine, arguments, tmp_path):
        (tmp_path / "Dockerfile").write_text("ARG RUNTIME_IMAGE\nFROM ${RUNTIME_IMAGE}\nRUN sleep 987\n")
        bases = {"RUNTIME_IMAGE": arguments.get("RUNTIME_IMAGE", "docker.io/library/ubuntu:24.04")}
        with pytest.raises(LessonError, match=r"did not finish within 4 s; it was at: .*sleep 987") as late:
            engine.build(tmp_path, "lesson/slow:1", arguments=bases, seconds=4)
        assert late.value.where.startswith(str(engine.program))
        assert "allow it more seconds" in late.value.fix
        if engine.store:  # Docker's daemon ends it by itself
            assert not any("987" in process.info["cmdline"] for process in running())

    def test_a_folder_without_a_dockerfile_is_a_clear_message(self, engine, tmp_path):
        with pytest.raises(LessonError) as refused:
            engine.build(tmp_path, NAME)
        assert refused.value.what == "There is no Dockerfile to build from."
        assert refused.value.where == str(tmp_path)
        assert refused.value.fix == "Name the folder that has it."

    def test_nothing_is_written_where_the_machine_keeps_its_own_images(self, engine, built):
        if "fetched" not in engine.source:
            pytest.skip("an installed engine may keep notes in its own places")
        begin = psutil.Process().create_time()
        places = [
            "/etc/containers",
            "/etc/cni",
            "/var/lib/containers",
            Path.home() / ".local/share/containers",
        ]
        there = [Path(place) for place in places if Path(place).exists()]
        assert [str(place) for place in there if place.stat().st_mtime > begin] == []

    def test_the_store_is_below_the_session_and_goes_with_it(self):
        choice = images.choose("fetched") if platform.system() == "Linux" else images.choose("none")
        if not choice.engine:
            pytest.skip("Debian's packages are for Linux")
        assert choice.engine.store.is_relative_to(processes.session())
        assert all(
            str(choice.engine.store) in value for value in choice.engine.environment.values() if "/" in value
        )
        choice.engine.close()
        assert not choice.engine.store.exists()


def running():
    return [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"]]


class TestStandInPixi:
    """The script in the place of pixi checks what pixi would check."""

    @pytest.fixture
    def pixi(self, tmp_path):
        for name in ("pixi.toml", "pixi.lock"):
            shutil.copy(KIT / name, tmp_path)

        def run(*words):
            script = KIT / "lesson_helpers/standin_pixi.sh"
            return subprocess.run(
                ["bash", script, *words],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )

        return run

    @pytest.mark.parametrize("environment", ["default", "cpu", "gpu", "tiny"])
    def test_it_knows_the_environments_of_the_lock(self, pixi, environment):
        hook = pixi("shell-hook", "--locked", "--environment", environment)
        assert f'export PIXI_ENVIRONMENT_NAME="{environment}"' in hook.stdout

    @pytest.mark.parametrize("environment", ["nosuch", "linux-64", "channels", "ti"])
    def test_it_refuses_an_environment_that_the_lock_lacks(self, pixi, environment):
        hook = pixi("shell-hook", "--locked", "--environment", environment)
        assert hook.returncode == 1
        assert f"unknown environment '{environment}'" in hook.stderr

    def test_it_refuses_to_install_what_is_not_locked(self, pixi):
        assert "without --locked" in pixi("install", "--environment", "tiny").stderr

    def test_it_refuses_what_it_does_not_know(self, pixi):
        assert "the command 'run' is not known here" in pixi("run", "--locked", "-e", "tiny").stderr
        assert "the option --frozen is not known" in pixi("install", "--frozen").stderr

    def test_the_shell_linter_finds_nothing_in_it(self):
        linter = Path(sys.executable).with_name("shellcheck")
        if not linter.exists():
            pytest.skip("shellcheck is not in this environment")
        script = KIT / "lesson_helpers/standin_pixi.sh"
        done = subprocess.run([linter, script], capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == ""

    def test_the_stand_in_images_are_small(self, tmp_path):
        if platform.system() != "Linux":
            pytest.skip("stand-ins are made out of Linux programs")
        files = [path for path in standin.context(tmp_path / "context").rglob("*") if path.is_file()]
        assert sum(path.lstat().st_size for path in files if not path.is_symlink()) < 60e6


class TestReasons:
    """What engines and pixi say when a build fails, and what is made of it."""

    def test_an_engine_that_was_closed_says_so_in_three_parts(self, tmp_path):
        with pytest.raises(LessonError, match="can't be started") as refused:
            buildlog.follow([str(tmp_path / "gone")], {}, 10, quiet=True)
        assert refused.value.where == str(tmp_path / "gone")
        assert "images.choose()" in refused.value.fix

    @pytest.mark.parametrize(
        ("said", "what", "fix"),
        [
            ("write /var/tmp/x: no space left on device", "The disk is full.", "Free some space"),
            (
                "dial tcp: lookup ghcr.io: no such host",
                "A registry could not be reached.",
                "Check the network",
            ),
            (
                "dial tcp 127.0.0.1:5000: connect: connection refused",
                "A registry could not",
                "Check the network",
            ),
            ("× lock-file not up-to-date with the workspace", "pixi.lock does not fit", "Run `pixi lock`"),
            ("unknown environment 'gppu'", "The environment is not in pixi.lock.", "run `pixi lock` after"),
            (
                "permission denied while trying to connect to the Docker daemon at unix:///var/run/docker.sock",
                "You may not use the Docker daemon's socket.",
                "the group `docker`",
            ),
            ("denied: requested access to the resource is denied", "The registry refuses it", "the owner"),
            ("unauthorized: authentication required", "The registry does not accept", "Log in again"),
            ("pull access denied for x/y", "The registry does not have this image", "letter by letter"),
            ("gcc: fatal error", "It failed.", "Mend the line"),
        ],
    )
    def test_each_known_reason_has_its_own_words(self, said, what, fix):
        error = buildlog.explain(f"STEP 1/2: FROM x\n{said}\n", "docker build")
        assert error.what.startswith(what)
        assert said in error.what
        assert error.where == "docker build"
        assert fix in error.fix

    def test_only_what_the_failed_step_said_is_quoted_of_buildkits_log(self):
        log = "#7 ERROR: 1\n------\n > [2/2] RUN x:\n0.1 the reason\n------\nDockerfile:2\n 2 | >>> RUN x\n"
        assert "Dockerfile:2" not in buildlog.explain(log, "docker build").what
        assert "the reason" in buildlog.explain(log, "docker build").what


class TestNames:
    """Names that a registry takes."""

    @pytest.mark.parametrize(
        "name", ["lesson/gpu:1", "a", "a-b.c_d/e:V1.0", "localhost/lesson/gpu", "a__b:_x"]
    )
    def test_names_that_are_allowed(self, name):
        registries.check_name(name)

    @pytest.mark.parametrize(
        ("name", "better"),
        [
            ("Lesson/GPU:1", "lesson/gpu:1"),
            ("my lesson:1", "my-lesson:1"),
            ("lesson/gpu:a b", "lesson/gpu:a-b"),
            ("/gpu:1", "gpu:1"),
            ("lesson:", "lesson:1"),
            ("", "lesson/gpu:1"),
            ("größe:1", "gr-e:1"),
            ("a;rm -rf /:1", "a-rm-rf:1"),
            ("lesson/gpu:" + "x" * 129, ""),
        ],
    )
    def test_a_name_that_is_not_allowed_is_a_clear_message_with_a_better_one(self, name, better):
        with pytest.raises(LessonError) as refused:
            registries.check_name(name)
        assert refused.value.what == f"No registry takes the image name {name!r}."
        assert refused.value.where
        assert refused.value.fix.endswith(f"For example: {better}") or not better

    def test_a_build_with_such_a_name_is_not_begun(self, engine, context):
        with pytest.raises(LessonError, match="No registry takes the image name 'Lesson:1'"):
            engine.build(context, "Lesson:1")


class TestRegistry:
    """A registry of one's own on loopback."""

    def test_a_push_gives_the_digest_that_the_registry_has(self, engine, built, registry):
        digest = engine.push(NAME, registry, "lesson/pushed:1")
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
        assert registry.digest("lesson/pushed", "1") == digest

    def test_tags_are_listed_without_those_of_attached_artifacts(self, engine, built, registry):
        for tag in ("2", "1", "sha256-abc.sig"):
            engine.push(NAME, registry, f"lesson/tags:{tag}")
        assert registry.tags("lesson/tags") == ["1", "2"]

    def test_crane_gives_the_same_answers_and_is_shown_as_one_would_type_it(
        self, engine, built, registry, capsys
    ):
        if not registry.crane:
            pytest.skip("the program crane can't be had here")
        digest = engine.push(NAME, registry, "lesson/asked:1")
        assert registry.ask("ls", "lesson/asked") == "1"
        assert registry.ask("digest", "lesson/asked:1") == digest
        assert f"$ crane ls {registry.address}/lesson/asked\n" in capsys.readouterr().out

    def test_it_listens_on_loopback_only(self, registry):
        connections = psutil.Process(registry.process.pid).net_connections()
        listening = [c.laddr for c in connections if c.status == psutil.CONN_LISTEN]
        assert [f"{address.ip}:{address.port}" for address in listening] == [registry.address]

    def test_nobody_gets_in_without_the_password(self, registry):
        url = f"http://{registry.address}/v2/"
        assert requests.get(url, timeout=5).status_code == 401
        assert requests.get(url, auth=("lesson", "guess"), timeout=5).status_code == 401
        assert requests.get(url, auth=("lesson", registry.password), timeout=5).status_code == 200

    def test_the_password_is_shown_nowhere_and_only_its_owner_can_read_it(self, registry):
        assert registry.password not in repr(registry)
        assert registry.password not in " ".join(psutil.Process(registry.process.pid).cmdline())
        assert registry.folder.stat().st_mode & 0o077 == 0

    def test_two_registries_do_not_meet(self, registry):
        other = registries.start()
        assert other.address != registry.address
        other.stop()
        assert requests.get(f"http://{registry.address}/v2/", timeout=5).status_code == 401

    def test_an_image_that_is_not_there_is_a_clear_message(self, registry):
        with pytest.raises(LessonError) as refused:
            registry.digest("lesson/none", "1")
        assert "does not have this image" in refused.value.what
        assert refused.value.where == f"{registry.address}/lesson/none:1"
        assert "Push it first" in refused.value.fix

    def test_a_registry_that_is_down_is_a_clear_message(self, engine, built):
        down = registries.start()
        down.stop()
        down.stop()  # harmless
        with pytest.raises(LessonError) as refused:
            down.tags("lesson/tiny")
        assert refused.value.what == "The registry does not answer."
        assert refused.value.where == down.address
        assert "registry.start()" in refused.value.fix
        with pytest.raises(LessonError, match="The registry does not answer"):
            engine.push(NAME, down, "lesson/tiny:1")

    def test_one_that_can_not_start_says_so_in_time(self, tmp_path, monkeypatch):
        program = tmp_path / "docker-registry"
        program.write_text("#!/bin/sh\necho the disk is read-only >&2\nexit 1\n")
        program.chmod(0o755)
        monkeypatch.setattr(registries, "program", lambda name: program)
        with pytest.raises(LessonError) as refused:
            registries.start()
        assert refused.value.what == "The registry ended at once; it said: the disk is read-only"
        assert refused.value.where.endswith("log")
        assert refused.value.fix

    def test_a_machine_whose_c_library_makes_no_such_hash_is_told_in_three_parts(self, monkeypatch):
        monkeypatch.setattr(registries, "LIBRARIES", ("libnone.so.1",))
        started, rung = registries.offer()
        assert started is None
        assert "makes no bcrypt hashes" in str(rung)
        with pytest.raises(LessonError) as refused:
            registries.start()
        assert "libnone" in refused.value.where
        assert "libxcrypt" in refused.value.fix

    def test_where_none_can_be_had_that_is_said_in_one_line(self, monkeypatch):
        def none(name):
            raise LessonError("This machine has no apt.", "PATH", "Install it.")

        monkeypatch.setattr(registries, "program", none)
        started, rung = registries.offer()
        assert started is None
        assert str(rung) == (
            "registry: nothing, instead of a registry on this machine, because This machine has no apt."
        )
