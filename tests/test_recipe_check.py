"""Exercise 1 of notebook 03: right answers pass however they are written, wrong ones get their own hint."""

import contextlib

import pytest

from lesson_helpers import paths, recipe_check
from lesson_helpers.errors import LessonError

PLAIN = """\
FROM ghcr.io/prefix-dev/pixi:0.78.0 AS build
WORKDIR /app
COPY pixi.toml pixi.lock ./
ENV CONDA_OVERRIDE_CUDA=12
RUN pixi install --locked --environment gpu
"""

RIGHT = {
    "plain": PLAIN,
    "short": """\
from ghcr.io/prefix-dev/pixi:0.78.0
copy pixi.* /srv/
run cd /srv && CONDA_OVERRIDE_CUDA=12.9 pixi i -e gpu --locked
""",
    "arguments": """\
ARG VERSION=0.78.0
ARG NAME=gpu
FROM ghcr.io/prefix-dev/pixi:${VERSION} AS build
ARG NAME
ARG CUDA=12
ENV CONDA_OVERRIDE_CUDA=$CUDA PIXI_LOCKED=true
WORKDIR /app
COPY ["pixi.toml", "pixi.lock", "/app/"]
RUN --mount=type=cache,target=/root/.cache/rattler \\
    # a comment may stand here
    pixi install "--environment=${NAME}"
""",
    "mounted": """\
FROM ghcr.io/prefix-dev/pixi@sha256:0123456789abcdef
WORKDIR /app
ENV CONDA_OVERRIDE_CUDA 12
RUN --mount=type=bind,source=pixi.toml,target=pixi.toml \\
    --mount=type=bind,source=pixi.lock,target=pixi.lock \\
    ["pixi", "install", "--locked", "-e", "gpu"]
COPY . .
""",
    "own pixi": """\
FROM docker.io/library/ubuntu:24.04 AS base
ADD pixi.lock pixi.toml /srv/
RUN curl -fsSL https://pixi.sh/install.sh | bash
FROM base AS build
RUN <<EOF
set -e
export CONDA_OVERRIDE_CUDA=12
/root/.pixi/bin/pixi install --locked --manifest-path /srv/pixi.toml -e gpu
rm -rf /root/.cache
EOF
""",
    "two stages": PLAIN
    + """\
RUN pixi shell-hook -e gpu > activate.sh
COPY train.py .
FROM docker.io/library/ubuntu:24.04
COPY --from=build /app/.pixi/envs/gpu /app/.pixi/envs/gpu
CMD ["/app/.pixi/envs/gpu/bin/python"]
""",
    "by number": PLAIN.replace(" AS build", "")
    + """\
FROM docker.io/library/ubuntu:24.04
WORKDIR /app
COPY --from=0 /app/.pixi ./.pixi
""",
    "manifest first, lock after it": PLAIN.replace(
        "COPY pixi.toml pixi.lock ./", "COPY ./pixi.toml pixi.toml\nCOPY pixi.lock /app/pixi.lock"
    ),
}

WRONG = {
    "no FROM": ("RUN pixi install\n", "there is no FROM"),
    "nothing installed": (PLAIN.replace("RUN pixi install", "RUN pixi info"), "Nothing is installed."),
    "installed at the start": (
        "FROM ghcr.io/prefix-dev/pixi:0.78.0\nCOPY pixi.toml pixi.lock ./\nCMD pixi run python train.py\n",
        "in each container",
    ),
    "latest": (PLAIN.replace(":0.78.0", ":latest"), "whatever is new on that day"),
    "no pixi": (
        PLAIN.replace("ghcr.io/prefix-dev/pixi:0.78.0", "docker.io/library/ubuntu:24.04"),
        "no pixi in",
    ),
    "everything copied": (PLAIN.replace("COPY pixi.toml pixi.lock ./", "COPY . ."), ". is copied before"),
    "code copied": (PLAIN.replace("pixi.lock ./", "pixi.lock train.py ./"), "train.py is copied before"),
    "no lock": (PLAIN.replace(" pixi.lock", ""), "There is no pixi.lock to install from"),
    "no files": (PLAIN.replace("COPY pixi.toml pixi.lock ./\n", ""), "no pixi.toml and no pixi.lock where"),
    "elsewhere": (PLAIN.replace("pixi.lock ./", "pixi.lock /srv/"), "lie somewhere else"),
    "default": (PLAIN.replace(" --environment gpu", ""), "It installs `default`"),
    "cpu": (PLAIN.replace("environment gpu", "environment cpu"), "It installs cpu."),
    "both": (PLAIN.replace("environment gpu", "environment gpu -e cpu"), "It installs cpu as well."),
    "all": (PLAIN.replace("--environment gpu", "--all"), "All environments are installed."),
    "not locked": (PLAIN.replace(" --locked", ""), "quietly makes another"),
    "frozen": (PLAIN.replace("--locked", "--frozen"), "With --frozen nobody looks"),
    "no CUDA": (PLAIN.replace("ENV CONDA_OVERRIDE_CUDA=12\n", ""), "has no GPU"),
    "CUDA too late": (
        PLAIN.replace("ENV CONDA_OVERRIDE_CUDA=12\n", "") + "ENV CONDA_OVERRIDE_CUDA=12\n",
        "won't install for one that it does not see",
    ),
    "old CUDA": (PLAIN.replace("CUDA=12", "CUDA=11.8"), "no CUDA that the manifest allows"),
    "failure hidden": (PLAIN.replace("environment gpu", "environment gpu || true"), "the build goes on"),
    "failure passed over": (PLAIN.replace("environment gpu", "environment gpu; date"), "the build goes on"),
    "not shipped": (PLAIN + "FROM docker.io/library/ubuntu:24.04\n", "has no environment"),
    "moved": (
        PLAIN + "FROM docker.io/library/ubuntu:24.04\nCOPY --from=build /app/.pixi/envs/gpu /env\n",
        "elsewhere than where it was installed",
    ),
}


@pytest.fixture
def answer(tmp_path):
    def check(text, **options):
        (tmp_path / "Dockerfile").write_text(text)
        return recipe_check.check(tmp_path / "Dockerfile", **options)

    return check


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT)
def test_a_right_answer_passes_however_it_is_written(answer, text):
    found = answer(text)
    assert found.hints == ()
    assert found.right
    assert str(found).startswith("Right: it installs gpu")


@pytest.mark.parametrize(("text", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_answer_gets_one_hint_which_is_its_own(answer, text, says):
    found = answer(text)
    assert not found.right
    assert [says in hint.says for hint in found.hints] == [True]
    assert 1 <= found.hints[0].line <= text.count("\n")
    assert found.hints[0].try_this in str(found)


TWICE = ("CUDA too late", "failure passed over")  # each one more way to make the same mistake


def test_no_two_wrong_answers_get_the_same_hint(answer):
    said = [answer(text).hints[0].says for name, (text, _) in WRONG.items() if name not in TWICE]
    assert len(set(said)) == len(said) > 12


def test_the_colleagues_file_of_the_exercise_gets_all_its_hints_at_once(answer):
    found = answer(
        "FROM ghcr.io/prefix-dev/pixi:latest\nCOPY . /app\nWORKDIR /app\nRUN pixi install\nCMD pixi run x\n"
    )
    assert [hint.line for hint in found.hints] == [1, 2, 4, 4, 4]


def test_the_kits_own_dockerfile_is_right():
    assert recipe_check.check(paths.root() / "Dockerfile").hints == ()


def test_a_hint_gives_no_solution_away_as_a_line_to_copy(answer):
    for text, _ in WRONG.values():
        assert not any("RUN pixi install --locked" in hint.try_this for hint in answer(text).hints)


def test_a_word_that_is_no_instruction_is_a_clear_message(answer, tmp_path):
    with pytest.raises(LessonError) as refused:
        answer(PLAIN.replace("COPY", "COPI"))
    assert refused.value.what == "Line 3 begins with 'COPI', which is no instruction of a Dockerfile."
    assert refused.value.where == f"{tmp_path / 'Dockerfile'}, line 3"
    assert "COPY" in refused.value.fix


def test_a_file_that_is_not_there_is_a_clear_message(tmp_path):
    with pytest.raises(LessonError) as refused:
        recipe_check.check(tmp_path / "Dockerfile")
    assert refused.value.what == "The Dockerfile can't be read."
    assert refused.value.where == str(tmp_path / "Dockerfile")
    assert refused.value.fix


@pytest.mark.parametrize(
    "text", ["", "\\", "FROM", "FROM x\nCOPY", "FROM x\nRUN 'pixi install", "FROM x\nENV"]
)
def test_what_is_hardly_begun_gets_a_hint_and_no_traceback(answer, text):
    with contextlib.suppress(LessonError):
        assert answer(text).hints
