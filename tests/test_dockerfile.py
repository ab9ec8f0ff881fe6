"""The promises that the kit's Dockerfile makes in its comments and on the page, read from its lines."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lesson_helpers import paths

KIT = paths.root()


@pytest.fixture(scope="module")
def instructions():
    """Give the Dockerfile's instructions, each as one line without comments, in order."""
    text = (KIT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [line.strip() for line in joined.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def stages(instructions):
    """Give the instructions of each stage by its name."""
    found = {}
    for line in instructions:
        if line.startswith("FROM "):
            found[line.split()[-1]] = []
        if found:
            found[[*found][-1]].append(line)
    return found


def index(lines, begin):
    return next(number for number, line in enumerate(lines) if line.startswith(begin))


def test_docker_podman_and_buildah_can_all_read_it():
    text = (KIT / "Dockerfile").read_text()
    assert not re.search(r"<<-?['\"]?\w", text), "Buildah before 1.33 knows no heredocs"
    assert "--link" not in text, "Buildah knows no COPY --link"
    assert not re.search(r"^#\s*syntax=", text, re.MULTILINE), "it asks a registry in each build"


def test_every_base_image_is_pinned_where_dependabot_looks_for_it(instructions):
    bases = [line.split()[1] for line in instructions if line.startswith("FROM ") and "$" not in line]
    assert len(bases) == 2
    assert all(re.search(r":\d+(\.\d+)+(@sha256:[0-9a-f]{64})?$", base) for base in bases)
    # only full names: Podman and Buildah don't guess a registry
    assert all("." in base.split("/")[0] for base in bases)


def test_both_base_images_can_be_changed_by_an_argument(instructions):
    first = index(instructions, "FROM")
    assert instructions[:first] == ["ARG BUILD_IMAGE=pixi", "ARG RUNTIME_IMAGE=ubuntu"]
    assert {"FROM ${BUILD_IMAGE} AS build", "FROM ${RUNTIME_IMAGE} AS runtime"} <= set(instructions)


def test_its_pixi_is_new_enough_for_the_manifest(stages):
    needs = tomllib.loads((KIT / "pixi.toml").read_text())["workspace"]["requires-pixi"].removeprefix(">=")
    has = re.search(r":([\d.]+)", stages["pixi"][0])[1]
    assert [*map(int, has.split("."))] >= [*map(int, needs.split("."))]


def test_manifest_and_lock_are_all_that_is_copied_before_the_installation(stages):
    before = stages["build"][: index(stages["build"], "RUN --mount=type=cache")]
    assert [line for line in before if line.startswith(("COPY", "ADD"))] == ["COPY pixi.toml pixi.lock ./"]


def test_the_installation_is_of_one_environment_exactly_as_locked(stages):
    install = stages["build"][index(stages["build"], "RUN --mount=type=cache")]
    assert install.endswith('pixi install --locked --environment "${ENVIRONMENT}"')
    assert "ENV CONDA_OVERRIDE_CUDA=${CUDA_VERSION}" in stages["build"]


def test_the_gpu_environment_is_the_default_and_exists(stages):
    assert "ARG ENVIRONMENT=gpu" in stages["build"]
    assert "ARG ENVIRONMENT=gpu" in stages["runtime"]
    assert "gpu" in tomllib.loads((KIT / "pixi.toml").read_text())["environments"]


def test_the_cuda_version_is_the_one_that_the_manifest_asks_for(stages):
    platforms = tomllib.loads((KIT / "pixi.toml").read_text())["workspace"]["platforms"]
    cuda = next(platform["cuda"] for platform in platforms if isinstance(platform, dict))
    assert f"ARG CUDA_VERSION={cuda}" in stages["build"]


def test_the_stage_that_ships_takes_no_more_than_the_environment_and_two_scripts(stages):
    copies = [line for line in stages["runtime"] if line.startswith(("COPY", "ADD"))]
    assert copies == [
        "COPY --from=build /app/.pixi/envs/${ENVIRONMENT} /app/.pixi/envs/${ENVIRONMENT}",
        "COPY --from=build /app/activate.sh /app/entrypoint.sh /app/",
    ]
    assert not any("pixi " in line for line in stages["runtime"] if line.startswith("RUN"))


def test_a_job_finds_the_environment_with_the_entrypoint_and_without_it(stages):
    variables = stages["runtime"][index(stages["runtime"], "ENV")]
    assert "CONDA_PREFIX=/app/.pixi/envs/${ENVIRONMENT}" in variables
    assert "PATH=/app/.pixi/envs/${ENVIRONMENT}/bin:${PATH}" in variables
    assert 'ENTRYPOINT ["/app/entrypoint.sh"]' in stages["runtime"]
    script = stages["build"][index(stages["build"], "RUN printf")]
    assert "'set -eo pipefail' '. /app/activate.sh' 'set -u' 'exec \"$@\"'" in script


def test_nothing_in_it_runs_as_root_or_listens(stages, instructions):
    assert re.fullmatch(r"USER [1-9]\d*:[1-9]\d*", stages["runtime"][index(stages["runtime"], "USER")])
    assert not any(line.startswith("EXPOSE") for line in instructions)


def test_only_what_it_copies_is_ever_sent_to_the_builder(stages):
    lines = (KIT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    copied = stages["build"][index(stages["build"], "COPY")].split()[1:-1]
    assert rules == ["*", *(f"!{name}" for name in copied)]


def hadolint(*arguments, **options):
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint is not in this environment")  # Pixi's has no linters, Windows no hadolint
    command = [program, "--no-color", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def test_the_linter_of_dockerfiles_finds_nothing_and_is_told_to_overlook_nothing():
    done = hadolint(KIT / "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hadolint ignore" not in (KIT / "Dockerfile").read_text()
    assert not [*KIT.glob(".hadolint.y*ml")]


def test_the_linter_would_find_a_version_that_is_not_pinned():
    assert "DL3007" in hadolint("-", input="FROM docker.io/library/ubuntu:latest\n").stdout
