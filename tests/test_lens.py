import json
from dataclasses import replace

import pytest

from lesson_helpers import differences, lens, lockfiles, paths, solver
from lesson_helpers.errors import LessonError

MANIFEST, LOCK = paths.root() / "pixi.toml", paths.root() / "pixi.lock"


@pytest.fixture(scope="module")
def lock():
    return lockfiles.read(LOCK)


@pytest.fixture(scope="module")
def gpu(lock):
    return lock.part("gpu")


def test_packages_are_listed_with_version_build_and_size(lock):
    part = lock.part("tiny", "osx-arm64")
    table = lens.packages(part).table()
    assert table.head == ("package", "version", "build", "download")
    assert len(table.rows) == len(part.packages)
    names = [row[0] for row in table.rows]
    assert names == sorted(names)
    python = part.package("python")
    assert ("python", python.version, python.build) in [row[:3] for row in table.rows]


def test_the_ten_largest_are_listed_the_largest_first(gpu):
    listing = lens.largest(gpu)
    sizes = [package.size for package in listing.packages]
    assert len(sizes) == 10
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] >= max(p.size for p in gpu.packages if p not in listing.packages)
    assert "10 of 120 packages" in listing.table().note


def test_it_is_said_that_a_lock_does_not_know_the_size_on_disk(gpu):
    listing = lens.largest(gpu)
    assert "A lock file has the sizes of the downloads" in str(listing)
    assert "on disk" not in listing.table().head


def test_the_size_on_disk_is_known_once_it_is_installed(gpu, tmp_path):
    (tmp_path / "conda-meta").mkdir()
    (tmp_path / "conda-meta" / "history").write_text("")
    files = [{"_path": "lib/a", "size_in_bytes": 70_000_000}, {"_path": "lib/b", "size_in_bytes": 5_000_000}]
    record = {"name": "libtorch", "paths_data": {"paths": files}}
    (tmp_path / "conda-meta" / "libtorch-2.9.1-x.json").write_text(json.dumps(record))
    (tmp_path / "conda-meta" / "broken.json").write_text("{")
    table = lens.largest(gpu, 2, tmp_path).table()
    assert table.head[-1] == "on disk"
    assert [row[-1] for row in table.rows] == ["75 MB", "?"]


def test_a_folder_without_an_environment_has_a_clear_message(tmp_path):
    with pytest.raises(LessonError) as caught:
        lens.installed(tmp_path)
    assert "No environment is installed here" in caught.value.what
    assert caught.value.where == str(tmp_path)
    assert "pixi install" in caught.value.fix


def test_each_package_is_counted_under_its_licence_once(gpu):
    found = lens.licences(gpu)
    assert sum(map(len, found.packages.values())) == len(gpu.packages)
    assert "pytorch" in found.packages["BSD-3-Clause"]


def test_licences_with_a_text_of_their_own_are_pointed_out(lock, gpu):
    assert "LicenseRef-NVIDIA-End-User-License-Agreement" in lens.licences(gpu).own
    assert "read it before you hand on an image" in str(lens.licences(gpu))
    assert not any("NVIDIA" in name for name in lens.licences(lock.part("cpu", "linux-64")).own)


def test_why_gives_the_way_from_the_manifest(gpu):
    found = lens.why(MANIFEST, gpu, "libmagma")
    assert found.steps[0] == lens.Step("the manifest", "pytorch-gpu >=2.8,<3")
    assert [step.who.split()[0] for step in found.steps] == ["the", "pytorch-gpu", "pytorch"]
    assert found.steps[-1].spec.startswith("libmagma ")
    assert found.needed_by == ("libtorch", "pytorch")


def test_each_step_of_the_way_is_one_that_the_lock_has(gpu):
    for package in gpu.packages:
        for step in lens.why(MANIFEST, gpu, package.name).steps[1:]:
            assert step.spec in gpu.package(step.who.split()[0]).depends


def test_why_knows_virtual_packages(gpu):
    assert lens.why(MANIFEST, gpu, "__cuda").steps[-1] == lens.Step("pytorch 2.9.1", "__cuda")


def test_a_package_that_is_not_there_has_a_clear_message(gpu):
    with pytest.raises(LessonError) as caught:
        lens.why(MANIFEST, gpu, "libmagna")
    assert "no package 'libmagna'" in caught.value.what
    assert caught.value.where == "gpu on linux-64 with cuda 12"
    assert caught.value.fix == "Did you mean libmagma?"


def test_a_package_that_the_manifest_does_not_lead_to_has_a_clear_message(gpu, tmp_path):
    text = MANIFEST.read_text().replace('pytorch-gpu = ">=2.8,<3"\ntorchvision = ">=0.24,<0.27"\n', "")
    (tmp_path / "pixi.toml").write_text(text)
    with pytest.raises(LessonError) as caught:
        lens.why(tmp_path / "pixi.toml", gpu, "libmagma")
    assert "the manifest does not lead to it" in caught.value.what
    assert "environment gpu" in caught.value.where
    assert "pixi lock" in caught.value.fix


def test_two_environments_are_compared(lock, gpu):
    found = differences.between(lock.part("cpu", "linux-64"), gpu)
    assert (found.first, found.second) == ("cpu", "gpu")
    assert "libmagma" in {change.name for change in found.of("added")}
    assert [change.name for change in found.of("removed")] == ["pytorch-cpu"]
    assert "pytorch" in {change.name for change in found.of("version")}
    assert [change.name for change in found.of("build")] == ["torchvision-extra-decoders"]
    assert found.sizes == (lock.part("cpu", "linux-64").size, gpu.size)


def test_what_matters_most_for_the_download_comes_first(lock, gpu):
    table = differences.between(lock.part("cpu", "linux-64"), gpu).table(3)
    assert [row[0] for row in table.rows] == ["libtorch", "libmagma", "libcublas"]
    assert table.rows[1][1:] == ("", "2.9.0", "+554 MB")
    assert "33 only in gpu" in table.note
    assert "The 3 that matter most" in table.note


def test_an_environment_does_not_differ_from_itself(gpu):
    found = differences.between(gpu, gpu)
    assert found.changes == ()
    assert "No package differs" in str(found)


def test_two_lock_files_are_compared_environment_by_environment(lock, tmp_path):
    text = MANIFEST.read_text().replace('cpu = ["cpu"]\n', "").replace("[feature.cpu", "[feature.unused")
    (tmp_path / "pixi.toml").write_text(text)
    other = solver.make(tmp_path / "pixi.toml", LOCK, tmp_path / "new.lock")
    found = differences.between(lock, other)
    assert {change.where for change in found.changes} == {
        "cpu on linux-64",
        "cpu on osx-arm64",
        "cpu on win-64",
    }
    assert {change.kind for change in found.changes} == {"removed"}
    assert found.table().head == ("where", "package", "pixi.lock", "new.lock", "download")


def test_tables_read_well_in_lab_in_text_and_in_a_terminal(gpu, capsys):
    from rich.console import Console

    listing = lens.largest(gpu, 3)
    html = listing._repr_html_()
    assert html.count("<tr>") == 4
    assert "text-align: right" in html
    assert "885 MB" in html
    assert repr(listing) == str(listing)
    lines = str(listing).splitlines()
    assert lines[0] == "gpu on linux-64 with cuda 12"
    assert lines[1].split() == ["package", "version", "build", "download"]
    Console(width=90).print(listing)
    assert "libmagma" in capsys.readouterr().out


def test_nothing_of_a_hostile_lock_reaches_the_page_or_the_terminal_as_a_command(gpu):
    evil = replace(gpu.packages[0], licence="<script>alert(1)</script>", build="\x1b[2J\x07")
    part = replace(gpu, packages=(evil,))
    assert "<script>" not in lens.licences(part)._repr_html_()
    assert "\x1b" not in str(lens.packages(part))
