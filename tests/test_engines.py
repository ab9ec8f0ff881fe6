"""What an engine meets outside of itself: a full disk, a registry that is down, wrong passwords, refusals."""

import base64
import json
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from lesson_helpers import images, paths
from lesson_helpers import registry as registries
from lesson_helpers.errors import LessonError

SMALL = "lesson/small:1"


@pytest.fixture(scope="module")
def small(engine, tmp_path_factory):
    """Give the name of a very small image."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "note").write_text("small\n")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY note /note\n")
    engine.build(folder, SMALL, quiet=True)
    yield SMALL
    engine.remove(SMALL)


def refusal(act):
    with pytest.raises(LessonError) as refused:
        act()
    assert refused.value.where
    return refused.value


def login(folder, address, password):
    """Write a login file of a registry."""
    (folder / "login").mkdir()
    secret = base64.b64encode(f"lesson:{password}".encode()).decode()
    (folder / "login/config.json").write_text(json.dumps({"auths": {address: {"auth": secret}}}))


@contextmanager
def refusing(code, said):
    """Run a registry that answers, and takes nothing; give its address."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.dumps({"errors": [{"code": said, "message": "not for you"}]}).encode()
            self.send_response(200 if self.command == "GET" else 404 if self.command == "HEAD" else code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.command != "HEAD" else b"")

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = answer

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


class TestPushing:
    """A push that does not succeed says why, in three parts."""

    def test_a_registry_that_is_down(self, engine, small):
        down = registries.start()
        down.stop()
        error = refusal(lambda: engine.push(small, down, "lesson/small:1"))
        assert error.what == "The registry does not answer."
        assert error.where == down.address
        assert "registry.start()" in error.fix

    def test_a_wrong_password(self, engine, small, registry, tmp_path):
        login(tmp_path, registry.address, "a guess")
        # asked with the right one whether it is there, so that the push itself is refused
        wrong = replace(registry, folder=tmp_path)
        error = refusal(lambda: engine.push(small, wrong, "lesson/small:1"))
        assert error.what.startswith("The registry does not accept your name and password.")
        assert error.where == f"{engine.kind} push"
        assert "Log in again" in error.fix
        assert "a guess" not in str(error)

    def test_a_wrong_password_is_told_already_where_the_registry_is_asked(self, registry):
        error = refusal(replace(registry, password="a guess").check)
        assert error.what.startswith("The registry does not accept your name and password.")
        assert error.where == registry.address
        assert "Log in again" in error.fix

    def test_a_push_that_is_refused(self, engine, small, registry, tmp_path):
        with refusing(403, "DENIED") as address:
            login(tmp_path, address, "right")
            error = refusal(
                lambda: engine.push(small, replace(registry, address=address, folder=tmp_path), "its/own:1")
            )
        assert error.what.startswith("The registry refuses it: you may not write there.")
        assert error.where == f"{engine.kind} push"
        assert "the owner in the image's name" in error.fix


class TestBuilding:
    """A build that can't succeed."""

    def test_a_disk_that_is_full_in_the_middle_of_a_step(self, engine, tmp_path):
        for name in ("pixi.toml", "pixi.lock", "Dockerfile", ".dockerignore"):
            shutil.copy(paths.root() / name, tmp_path)
        bases = images.base_arguments(engine, tmp_path, "tiny")[0]
        base = bases.get("RUNTIME_IMAGE", "docker.io/library/ubuntu:24.04")
        # a device that the kernel has for this: each write says that the disk is full
        (tmp_path / "Dockerfile").write_text(f"FROM {base}\nRUN echo 4 GB > /dev/full\n")
        error = refusal(lambda: engine.build(tmp_path, "lesson/full:1", quiet=True))
        assert error.what.startswith("The disk is full.")
        assert error.where == f"{engine.kind} build, {tmp_path / 'Dockerfile'}"
        assert "Free some space" in error.fix

    def test_a_lock_that_does_not_satisfy_the_manifest_is_told_with_the_reason(self, tmp_path):
        for name in ("pixi.toml", "pixi.lock", "Dockerfile"):
            shutil.copy(paths.root() / name, tmp_path)
        manifest = tmp_path / "pixi.toml"
        manifest.write_text(manifest.read_text().replace("3.13.*", "3.14.*"))
        error = refusal(lambda: images.base_arguments(None, tmp_path, "tiny"))
        assert error.what.startswith("The lock does not satisfy the manifest, so --locked will stop.")
        assert "the manifest asks for `python 3.14.*`, and python 3.13." in error.what
        assert error.where == str(tmp_path / "pixi.lock")
        assert "pixi lock" in error.fix

    def test_a_lock_that_is_not_there(self, tmp_path):
        shutil.copy(paths.root() / "pixi.toml", tmp_path)
        error = refusal(lambda: images.base_arguments(None, tmp_path, "tiny"))
        assert error.what == "There is no pixi.lock, and the Dockerfile installs what it says."
        assert error.where == str(tmp_path)
        assert error.fix == "Run `pixi lock`."
