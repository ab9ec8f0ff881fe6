"""Notebook 03: what is special to it. That it runs alone and twice is tested with all notebooks."""

import re
import shutil

import nbformat
import papermill
import psutil
import pytest

from lesson_helpers import images, ladder, paths, registry

NOTEBOOK = paths.root() / "notebooks/03-container-image.ipynb"


def execute(workspace, **parameters):
    """Run the notebook and return it with its outputs."""
    result = papermill.execute_notebook(
        NOTEBOOK,
        workspace / "executed.ipynb",
        parameters={"folder": str(workspace / "lesson"), **parameters},
        kernel_name="python3",
        cwd=NOTEBOOK.parent,
        execution_timeout=600,
        progress_bar=False,
    )
    return nbformat.from_dict(result)


def printed(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.get("name") == "stderr" for output in outputs)
    return "".join(output.text for output in outputs if output.output_type == "stream")


def results(notebook):
    """Return what cells show other than by printing it."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.data["text/plain"] for output in outputs if "data" in output]


def test_without_an_engine_it_does_all_that_needs_none_and_says_in_one_line_what_it_left_out(workspace):
    answer = workspace / "lesson/exercise-1/Dockerfile"
    answer.parent.mkdir(parents=True)
    shutil.copy(paths.root() / "Dockerfile", answer)
    notebook = execute(workspace, engine="none")
    assert "No image can be built here." in printed(notebook)
    assert [rung.part for rung in ladder.read(notebook)] == ["image engine"]
    shown = results(notebook)
    assert any("FROM ${BUILD_IMAGE} AS build" in text for text in shown)
    assert any("packages: write" in text for text in shown)
    assert any(text.startswith("Right: it installs gpu") for text in shown)
    assert answer.read_bytes() == (paths.root() / "Dockerfile").read_bytes()


@pytest.fixture(scope="module")
def with_other_values(tmp_path_factory):
    """Give the notebook run with other values than its own."""
    if not images.choose().engine:
        pytest.skip("no image can be built here")
    # where the real pixi runs, gpu would download 4 GB
    environment = "tiny" if registry.reachable("ghcr.io/prefix-dev/pixi") else "gpu"
    folder = tmp_path_factory.mktemp("other")
    return execute(folder, environment=environment, image="another/name", tag="v2.0")


def test_other_values_are_what_is_built_run_and_pushed(with_other_values):
    said = printed(with_other_values)
    assert re.search(r"through the entrypoint: /app/\.pixi/envs/(gpu|tiny) \| activated: True", said)
    assert re.search(r"without the entrypoint: /app/\.pixi/envs/(gpu|tiny) \| activated: False", said)
    assert re.search(r"\$ crane ls 127\.0\.0\.1:\d+/another/name\nv2\.0\n", said)


def test_the_digest_is_the_same_from_the_push_the_registry_and_for_the_submit_description(with_other_values):
    digests = re.findall(r"sha256:[0-9a-f]{64}", printed(with_other_values))
    assert len(digests) == 3
    assert len(set(digests)) == 1
    assert re.search(r"image=docker://127\.0\.0\.1:\d+/another/name@sha256:", printed(with_other_values))


def test_only_a_change_of_the_manifest_installs_again(with_other_values):
    trials = printed(with_other_values).split("After a change in ")[1:]
    again = {trial.split(":")[0]: not re.search(r"pixi install.*\n? *\(cached\)", trial) for trial in trials}
    assert again == {"jobs/src/torch_mnist.py": False, "pixi.toml": True, "Dockerfile": False}


def test_the_report_learns_what_the_image_was_built_on(with_other_values):
    rungs = {rung.part: rung for rung in ladder.read(with_other_values)}
    assert set(rungs) == {"image engine", "base images", "registry"}
    assert rungs["base images"].ran.startswith(("stand-ins", "ghcr.io/prefix-dev/pixi:"))


def test_the_image_is_opened_and_its_layers_and_largest_files_are_shown(with_other_values):
    layers = next(text for text in results(with_other_values) if text.startswith("Layers"))
    last = layers.splitlines()[-1].split()
    assert last[last.index("COPY") - 1] == "2"  # the two scripts
    files = next(text for text in results(with_other_values) if text.startswith("Largest files"))
    assert len(files.splitlines()) == 2 + 5


def test_a_learner_who_has_not_begun_the_exercise_sees_hints_and_no_error(with_other_values):
    answer = next(text for text in results(with_other_values) if text.startswith("Not yet."))
    assert len(answer.splitlines()) == 2 + 5


def test_nothing_that_it_started_is_left(with_other_values):
    port = re.search(r"crane ls 127\.0\.0\.1:(\d+)", printed(with_other_values))[1]
    listening = [c.laddr.port for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert int(port) not in listening
