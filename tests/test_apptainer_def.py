"""The definition file for Apptainer makes the same image as the Dockerfile, step by step."""

import re

import pytest

from lesson_helpers import dockerfiles, paths

KIT = paths.root()


@pytest.fixture(scope="module")
def docker():
    """Give the Dockerfile's stages by name, with all variables filled in."""
    instructions = dockerfiles.read((KIT / "Dockerfile").read_text())
    return {stage.name: stage for stage in dockerfiles.stages(instructions)}


@pytest.fixture(scope="module")
def apptainer():
    """Give the definition's stages by name: header and sections, with all variables filled in."""
    text = re.sub(r"^#.*\n", "", (KIT / "apptainer.def").read_text(), flags=re.MULTILINE)
    found = {}
    for part in re.split(r"^(?=Bootstrap:)", text, flags=re.MULTILINE)[1:]:
        arguments = dict(re.findall(r"^    (\w+)=(\S+)$", part, re.MULTILINE))
        filled = re.sub(r"\{\{ (\w+) \}\}", lambda name, values=arguments: values[name[1]], part)
        header, *sections = re.split(r"^%", filled, flags=re.MULTILINE)
        stage = dict(re.findall(r"^(\w+): (\S+)$", header, re.MULTILINE))
        for section in sections:
            title, _, body = section.partition("\n")
            joined = re.sub(r"\\\n\s*", "", body)
            stage[title] = [line.strip() for line in joined.splitlines() if line.strip()]
        found[stage["Stage"]] = stage
    return found


def runs(stage):
    """Return the commands of all RUN instructions, each as its words."""
    return [
        words
        for one, variables, _ in stage.steps
        if one.keyword == "RUN"
        for words, _ in dockerfiles.commands(one, variables)
    ]


def copies(stage):
    """Return from where to where each file is copied, with full paths."""
    for one, variables, folder in stage.steps:
        if one.keyword == "COPY":
            *sources, target = [dockerfiles.expand(word, variables) for word in one.words]
            for source in sources:
                name = source.rpartition("/")[2]
                place = (
                    target if not target.endswith("/") else f"{folder if target[0] == '.' else target}/{name}"
                )
                yield source, place.replace("//", "/")


def variables_of(stage, keyword):
    return {
        name: dockerfiles.expand(value, seen)
        for one, seen, _ in stage.steps
        if one.keyword == keyword
        for name, _, value in (word.partition("=") for word in one.words)
    }


def test_both_begin_with_the_same_images(docker, apptainer):
    assert apptainer["build"]["From"] == docker["pixi"].image
    name, _, digest = apptainer["runtime"]["From"].partition("@")
    assert docker["ubuntu"].image == f"{name}:24.04@{digest}"
    assert "this is ubuntu:24.04" in (KIT / "apptainer.def").read_text()


def test_both_run_the_same_commands_in_the_same_order(docker, apptainer):
    script = dockerfiles.Instruction("RUN", "\n".join(apptainer["build"]["%post"[1:]]), (), 1)
    ours = [words for words, _ in dockerfiles.commands(script, {})]
    assert ours[0] == ["export", "CONDA_OVERRIDE_CUDA=12"]
    assert variables_of(docker["build"], "ENV") == {"CONDA_OVERRIDE_CUDA": "12"}
    assert ours[1] == ["cd", docker["build"].folder]
    assert ours[2:] == runs(docker["build"])


def test_both_take_the_same_files(docker, apptainer):
    taken = [tuple(line.split()) for line in apptainer["build"]["files"]]
    assert taken == list(copies(docker["build"]))
    shipped = [tuple(line.split()) for line in apptainer["runtime"]["files from build"]]
    assert shipped == list(copies(docker["runtime"]))


def test_both_set_the_same_variables_and_labels(docker, apptainer):
    lines = (line.removeprefix("export ").partition("=") for line in apptainer["runtime"]["environment"])
    ours = {name: value.strip('"').removesuffix(":$PATH") for name, _, value in lines}
    theirs = variables_of(docker["runtime"], "ENV")
    assert ours == {name: value.rstrip(":") for name, value in theirs.items()}
    labels = {line.split()[0]: " ".join(line.split()[1:]) for line in apptainer["runtime"]["labels"]}
    assert labels == variables_of(docker["runtime"], "LABEL")


def test_both_start_through_the_same_script(docker, apptainer):
    entry = next(one for one, _, _ in docker["runtime"].steps if one.keyword == "ENTRYPOINT")
    assert apptainer["runtime"]["runscript"] == [f'exec {entry.words[0]} "$@"']
