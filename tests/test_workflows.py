"""The workflows in .github, read by linters that need no network, and the promises that image.yaml makes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lesson_helpers import paths

GITHUB = paths.root() / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.y*ml"))
BIN = Path(sys.executable).parent

every_workflow = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)


def lint(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr


def jobs(workflow):
    return yaml.safe_load(workflow.read_text())["jobs"]


def used(workflow):
    return [step["uses"] for job in jobs(workflow).values() for step in job["steps"] if "uses" in step]


def tool(name):
    program = BIN / name
    if not program.exists():
        pytest.skip(f"{name} is not in this environment")  # Pixi's has no linters
    return program


def test_each_file_fits_the_schema_that_github_publishes():
    check = [tool("check-jsonschema"), "--builtin-schema"]
    lint(*check, "vendor.github-workflows", *WORKFLOWS)
    lint(*check, "vendor.dependabot", GITHUB / "dependabot.yml")


def test_the_security_linter_finds_nothing():
    lint(tool("zizmor"), "--offline", "--no-progress", "--quiet", GITHUB)


@every_workflow
def test_the_shell_linter_finds_nothing_in_what_a_step_runs(workflow):
    for job in jobs(workflow).values():
        for script in (step["run"] for step in job["steps"] if "run" in step):
            # the expressions are filled in before a shell sees them
            plain = re.sub(r"\$\{\{.*?\}\}", "expression", script)
            lint(tool("shellcheck"), "--shell=bash", "-", input=plain)


@every_workflow
def test_nothing_is_allowed_that_a_job_does_not_ask_for(workflow):
    assert yaml.safe_load(workflow.read_text())["permissions"] == {}
    assert all("permissions" in job for job in jobs(workflow).values())


@every_workflow
def test_no_job_can_run_for_ever(workflow):
    assert all("timeout-minutes" in job for job in jobs(workflow).values())


@every_workflow
def test_each_action_is_pinned_by_commit_with_its_version_beside_it(workflow):
    pinned = re.findall(r"uses: (\S+@[0-9a-f]{40}) # v\d+\.\d+\.\d+$", workflow.read_text(), re.MULTILINE)
    assert pinned == used(workflow)


def test_one_action_has_one_commit_in_all_workflows():
    commits = {}
    for action, _, commit in (name.partition("@") for path in WORKFLOWS for name in used(path)):
        commits.setdefault(action, set()).add(commit)
    assert [action for action, found in commits.items() if len(found) > 1] == []


@every_workflow
def test_a_checkout_does_not_leave_its_token_behind(workflow):
    steps = [step for job in jobs(workflow).values() for step in job["steps"]]
    checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


class TestImage:
    """What the page on the image workflow tells its readers."""

    @pytest.fixture
    def image(self):
        return yaml.safe_load((GITHUB / "workflows/image.yaml").read_text())

    def test_only_the_job_that_publishes_may_write_and_it_runs_nothing_of_the_repository(self, image):
        build, publish = image["jobs"]["build"], image["jobs"]["publish"]
        assert build["permissions"] == {"contents": "read"}
        assert publish["permissions"] == {"packages": "write"}
        assert not any(step.get("uses", "").startswith("actions/checkout@") for step in publish["steps"])

    def test_it_publishes_on_main_and_tags_only(self, image):
        on = image[True]  # YAML 1.1 takes `on` for a truth value
        assert on["push"]["branches"] == ["main"]
        assert on["push"]["tags"] == ["v*"]
        assert "pull_request_target" not in on
        assert image["jobs"]["publish"]["if"] == "github.event_name == 'push'"

    def test_it_builds_once_and_runs_the_image_before_it_is_handed_over(self, image):
        names = [step.get("name") for step in image["jobs"]["build"]["steps"]]
        assert names.index("Build") < names.index("Run it") < names.index("Hand it over")
        assert sum("docker/build-push-action" in name for name in used(GITHUB / "workflows/image.yaml")) == 1

    def test_it_watches_every_file_that_the_dockerfile_copies(self, image):
        copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (paths.root() / "Dockerfile").read_text(), re.M)
        watched = image[True]["push"]["paths"]
        assert watched == image[True]["pull_request"]["paths"]
        assert {"Dockerfile", ".dockerignore", *copied[0].split()} <= set(watched)
