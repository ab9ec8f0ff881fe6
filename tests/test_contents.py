"""What is in an image: its layers, its largest files, those that are hidden, and for which machines it is."""

import io
import json
import shutil
import tarfile

import pytest

from lesson_helpers import contents
from lesson_helpers.contents import Image
from lesson_helpers.errors import LessonError

IMAGE = Image("lesson/x:1", 1, 1, "65532:65532", ("/e.sh",), ("python",), {"a.title": "<x>"}, "amd64")

# A secret that is removed a line later, a file that is replaced, and a program of another machine.
LEAK = """\
FROM scratch
COPY base/ /app/
COPY .env /app/.env
COPY newer/ /app/
LABEL org.opencontainers.image.title="a leak"
"""


def add(tar, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def packed(files):
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, size in files.items():
                add(tar, name, b"x" * size)
        return buffer.getvalue()


def archive(path, steps, *contents):
    """Write an archive as `docker save` does, each layer from names and sizes."""
    history = [{"created_by": step} for step in steps]
    with tarfile.open(path, "w") as tar:
        names = [f"{number}.tar" for number in range(len(contents))]
        for name, files in zip(names, contents, strict=True):
            add(tar, name, packed(files))
        add(tar, "c.json", json.dumps({"history": history}).encode())
        add(tar, "manifest.json", json.dumps([{"Config": "c.json", "Layers": names}]).encode())
    return path


def paths_of(files):
    return [file.path for file in files]


def test_the_largest_file_comes_first_with_its_layer(tmp_path):
    found = contents.read(archive(tmp_path / "i.tar", [], {"a": 10, "b": 30}, {"c": 20}), IMAGE)
    assert [(file.path, file.size, file.layer) for file in found.files] == [
        *(("/b", 30, 1), ("/c", 20, 2), ("/a", 10, 1))
    ]
    assert [(layer.size, layer.files) for layer in found.layers] == [(40, 2), (20, 1)]


@pytest.mark.parametrize(
    ("above", "hidden"),
    [
        ({"app/.wh..env": 0}, ["/app/.env"]),
        ({"app/.env": 5}, ["/app/.env"]),
        ({".wh.app": 0}, ["/app/.env", "/app/x/y"]),
        ({"app/.wh..wh..opq": 0}, ["/app/.env", "/app/x/y"]),
        ({"app/.wh.x": 0}, ["/app/x/y"]),
        ({"application/.wh.x": 0}, []),
    ],
)
def test_what_a_later_layer_removes_or_replaces_is_hidden_and_still_counted(tmp_path, above, hidden):
    below = {"app/.env": 20, "app/x/y": 10, "application/z": 1}
    found = contents.read(archive(tmp_path / "i.tar", [], below, above), IMAGE)
    assert paths_of(found.hidden) == hidden
    assert found.layers[0].size == 31


@pytest.mark.parametrize(
    ("kept", "step"),
    [
        ("RUN |1 ENVIRONMENT=tiny /bin/sh -c pixi install # buildkit", "RUN pixi install"),
        ("COPY a b # buildkit", "COPY a b"),
        (f"/bin/sh -c #(nop) COPY file:{'ab1' * 20} in /app ", "COPY file in /app"),
        ("|1 ENVIRONMENT=tiny /bin/sh -c pixi install", "RUN pixi install"),
    ],
)
def test_each_layer_has_the_line_that_made_it(tmp_path, kept, step):
    found = contents.read(archive(tmp_path / "i.tar", [kept], {"a": 1}), IMAGE)
    assert found.layers[0].step == step


def test_it_reads_well_as_text_and_as_html(tmp_path):
    found = contents.read(archive(tmp_path / "i.tar", ["COPY <a> b"], {"a": 2000}, {".wh.a": 0}), IMAGE)
    for text in (str(found), repr(found)):
        assert "user       65532:65532" in text
        assert "entrypoint /e.sh" in text
        assert "a.title = <x>" in text
        assert "1 files, 2.0 kB, are hidden by a later layer and shipped all the same." in text
    page = found._repr_html_()
    assert "COPY &lt;a&gt; b" in page
    assert "a.title = &lt;x&gt;" in page
    assert "color" not in page


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_is_no_archive_or_is_cut_off_is_a_clear_message(tmp_path, content):
    path = archive(tmp_path / "i.tar", [], {"a": 9000})
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(LessonError) as refused:
        contents.read(path, IMAGE)
    assert refused.value.what.startswith("This is no image archive, or only a part of one")
    assert refused.value.where == str(path)
    assert "disk is full" in refused.value.fix


@pytest.fixture(scope="module")
def leaking(engine, tmp_path_factory):
    """Give an image, built for real, with a file that is replaced, for arm64 machines."""
    folder = tmp_path_factory.mktemp("leak")
    for name, size in (("base/model.pt", 300_000), ("base/notes", 10), ("newer/model.pt", 200_000)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x" * size)
    (folder / ".env").write_text("TOKEN=secret\n")
    (folder / "Dockerfile").write_text(LEAK)
    yield engine.build(folder, "lesson/leak:1", platform="linux/arm64", quiet=True)
    engine.remove("lesson/leak:1")
    shutil.rmtree(folder)


class TestOfARealImage:
    """The same, of an image that an engine has built."""

    def test_its_layers_files_and_steps_are_those_of_the_dockerfile(self, engine, leaking):
        found = engine.look("lesson/leak:1")
        assert [layer.files for layer in found.layers] == [2, 1, 1]
        assert [layer.size for layer in found.layers] == [300_010, 13, 200_000]
        assert [layer.step.split()[0] for layer in found.layers] == ["COPY"] * 3
        assert paths_of(found.files)[:2] == ["/app/model.pt", "/app/model.pt"]
        assert [(file.layer, file.hidden) for file in found.files[:2]] == [(1, True), (3, False)]
        assert found.image == leaking

    def test_one_for_other_machines_is_stopped_before_the_push(self, engine, leaking, registry):
        assert leaking.architecture == "arm64"
        with pytest.raises(LessonError) as refused:
            engine.push("lesson/leak:1", registry, "lesson/wrong:1", architecture="amd64")
        assert refused.value.what.startswith("This image is for arm64 machines")
        assert "exec format error" in refused.value.what
        assert refused.value.where == "lesson/leak:1"
        assert 'platform="linux/amd64"' in refused.value.fix
        with pytest.raises(LessonError, match="does not have this image"):
            registry.tags("lesson/wrong")

    def test_one_for_the_right_machines_is_pushed(self, engine, leaking, registry):
        digest = engine.push("lesson/leak:1", registry, "lesson/right:1", architecture="aarch64")
        assert registry.digest("lesson/right", "1") == digest


def test_an_architecture_that_is_none_is_a_clear_message():
    with pytest.raises(LessonError) as refused:
        IMAGE.check("amd46")
    assert refused.value.what == "There is no architecture 'amd46'."
    assert refused.value.where == "the parameter `architecture`"
    assert "amd64" in refused.value.fix
