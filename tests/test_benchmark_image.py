"""The benchmark of the image: what it computes, and that it builds both recipes for real."""

import importlib.util
import shutil
import sys

import pytest

from lesson_helpers import images, paths, recipe_check

FILE = paths.root() / "benchmarks" / "image.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_image", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_it_puts_the_median_of_the_edits_and_the_ratio_beside_each_other(benchmark):
    kit = benchmark.Trial(60, (0.4, 0.5, 9), False, 4_000_000_000)
    plain = benchmark.Trial(50, (40, 50, 60), True, 9_000_000_000)
    assert benchmark.compare(kit, plain).rows == (
        ("first build", "60.0 s", "50.0 s", ""),
        ("build after an edit of the code", "0.50 s", "50.00 s", "1 s"),
        ("plain / kit, after an edit", "100.0 times", "", ""),
        ("installed again after an edit", "no", "yes", "no"),
        ("size of the image", "4,000 MB", "9,000 MB", ""),
    )
    assert benchmark.kept(kit, plain)


def test_it_fails_where_the_kit_is_not_better(benchmark):
    good, slow = benchmark.Trial(1, (1,), False, 1), benchmark.Trial(1, (2,), True, 1)
    assert benchmark.kept(good, slow)
    assert not benchmark.kept(slow, good)
    assert not benchmark.kept(benchmark.Trial(1, (1,), True, 1), slow)


def test_the_plain_recipe_is_what_people_write_and_the_exercise_is_about(benchmark, tmp_path):
    (tmp_path / "Dockerfile").write_text(benchmark.PLAIN.format(image="ghcr.io/prefix-dev/pixi:0.78.0"))
    hints = recipe_check.check(tmp_path / "Dockerfile").hints
    assert [hint.says.split(",")[0] for hint in hints] == [
        ". is copied before the installation: each edit installs all again."
    ]


def test_an_edit_is_seen_to_install_again_with_the_plain_recipe_and_not_with_the_kits(
    benchmark, engine, tmp_path
):
    found = {}
    for name in ("kit", "plain"):
        folder = tmp_path / name
        shutil.copytree(paths.root() / "jobs", folder / "jobs")
        for file in benchmark.FILES:
            shutil.copy(paths.root() / file, folder)
        arguments, _ = images.base_arguments(engine, folder, "tiny")
        if name == "plain":
            (folder / "Dockerfile").write_text(benchmark.PLAIN.format(image="ghcr.io/prefix-dev/pixi:0.78.0"))
            (folder / ".dockerignore").unlink()
            arguments.pop("RUNTIME_IMAGE", None)
        found[name] = benchmark.measure(engine, folder, f"lesson/{name}:1", arguments, 1)
        engine.remove(f"lesson/{name}:1")
    assert not found["kit"].installed_again
    assert found["plain"].installed_again
    assert found["kit"].size < found["plain"].size
