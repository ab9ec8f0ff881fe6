"""Apptainer builds the kit's definition file, for real, and what it has built is run."""

import os
import shutil
import sys

import pytest

from lesson_helpers import apptainer, images, paths
from lesson_helpers.errors import LessonError

LOOK = "import os, sys; print(sys.prefix, os.environ.get('PIXI_ENVIRONMENT_NAME'))"


@pytest.fixture(scope="module")
def program():
    if sys.platform != "linux":
        pytest.skip("Apptainer runs on Linux only")
    try:
        return apptainer.find()
    except LessonError as error:
        pytest.skip(f"no Apptainer can be had here: {error.what}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sif")
    for name in ("apptainer.def", "Dockerfile", "pixi.toml", "pixi.lock"):
        shutil.copy(paths.root() / name, folder)
    return folder


@pytest.fixture(scope="module")
def sif(program, folder, engine, registry):
    """Give the environment tiny as a SIF file, from the bases that the Dockerfile would be built on here."""
    bases, _ = images.base_arguments(engine, folder, "tiny")
    arguments, own = {"ENVIRONMENT": "tiny"}, None
    for name in ("BUILD_IMAGE", "RUNTIME_IMAGE"):
        if name in bases:
            own = registry
            engine.push(bases[name], registry, f"{name.lower()}:1")
            arguments[name] = f"{registry.address}/{name.lower()}:1"
    return program.build(folder / "apptainer.def", folder / "tiny.sif", arguments=arguments, registry=own)


def test_the_environment_is_found_through_the_runscript_and_without_it(program, sif):
    assert program.run(sif, ["python", "-c", LOOK]).split() == ["/app/.pixi/envs/tiny", "tiny"]
    without = program.run(sif, ["python", "-c", LOOK], runscript=False)
    assert without.split() == ["/app/.pixi/envs/tiny", "None"]


def test_only_the_environment_and_two_scripts_are_in_it(program, sif):
    found = program.run(sif, ["ls", "-A", "/app", "/app/.pixi/envs"], runscript=False).split()
    assert found == ["/app:", ".pixi", "activate.sh", "entrypoint.sh", "/app/.pixi/envs:", "tiny"]


def test_a_command_that_fails_in_the_container_says_what_it_said(program, sif):
    with pytest.raises(LessonError, match="No module named 'torch'") as failed:
        program.run(sif, ["python", "-c", "import torch"])
    assert failed.value.where == "apptainer run"
    assert failed.value.fix


def test_a_build_that_fails_says_what_it_said_and_leaves_the_old_file_alone(program, folder, tmp_path):
    (tmp_path / "broken.def").write_text("Bootstrap: localimage\nFrom: none.sif\n")
    (tmp_path / "x.sif").write_text("the old one")
    with pytest.raises(LessonError, match=r"none\.sif") as failed:
        program.build(tmp_path / "broken.def", tmp_path / "x.sif")
    assert failed.value.where == "apptainer build"
    assert "run this again" in failed.value.fix
    assert (tmp_path / "x.sif").read_text() == "the old one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.def", "x.sif"]


def test_a_definition_that_is_not_there_is_a_clear_message(program, tmp_path):
    with pytest.raises(LessonError) as refused:
        program.build(tmp_path / "apptainer.def", tmp_path / "x.sif")
    assert refused.value.what == "There is no definition file to build from."
    assert refused.value.where == str(tmp_path / "apptainer.def")
    assert refused.value.fix


def test_one_on_path_is_taken_before_any_is_fetched(tmp_path, monkeypatch):
    (tmp_path / "apptainer").write_text("#!/bin/sh\necho apptainer version 1.3.6\n")
    (tmp_path / "apptainer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert str(apptainer.find()) == "apptainer 1.3.6 (on PATH)"
