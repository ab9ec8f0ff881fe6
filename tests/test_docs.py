"""What people read: README, CONTRIBUTING, pages, notebooks, licences, citation."""

import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
import typer
import yaml

from lesson_helpers import paths
from lesson_helpers.cli import app

ROOT = paths.root()
MARKDOWN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "pages").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LINK = re.compile(
    r"\]\(([^)\s]+)\)|\{download\}`[^`<]*<([^>`]+)>`|^:::\{(?:literal)?include\} (\S+)", re.MULTILINE
)
COMMAND = re.compile(r"\./lesson ([a-z]+)")
FENCE = re.compile(r"^(`{3,})[^\n]*\n(.*?)^\1`*$", re.MULTILINE | re.DOTALL)
SHOWN = ("jobs/**/*", "pixi.toml", "Dockerfile", ".github/workflows/*", "lesson_helpers/*.py", "lesson")
PASTED = 4  # so many lines of a file in a row are a copy; fewer are a way to speak of it

documents = pytest.mark.parametrize("path", [*MARKDOWN, *NOTEBOOKS], ids=lambda path: path.name)


def prose(path):
    """Return a document's Markdown."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def without_code(text):
    """Leave out code, but not the text of a role such as {download}`that <file>`."""
    return re.sub(r"(?<!\})`[^`\n]*`", "", FENCE.sub("", text))


def lines_of(text):
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def run(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_first_screen_of_the_readme_has_two_commands_to_remember():
    first = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[0]
    assert len(first.splitlines()) <= 20
    assert COMMAND.findall(first) == ["run", "test"]


@documents
def test_each_command_that_is_named_exists(path):
    known = typer.main.get_command(app).commands
    named = set(COMMAND.findall(prose(path)))
    assert named <= set(known), named - set(known)


def test_the_readme_names_every_command():
    named = COMMAND.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert set(typer.main.get_command(app).commands) <= set(named)


@documents
def test_links_to_files_lead_to_files(path):
    made = {"generated/status.md"}  # by lesson_helpers/site.py
    for groups in LINK.findall(without_code(prose(path))):
        address = next(filter(None, groups))
        if re.match(r"[a-z]+:", address) or address in made:
            continue
        target, _, _ = address.partition("#")
        assert not target or (path.parent / target).exists(), address


@documents
def test_a_file_of_the_repository_is_shown_and_not_pasted(path):
    files = [
        file for pattern in SHOWN for file in ROOT.glob(pattern) if file.is_file() and file.suffix != ".pyc"
    ]
    known = {}
    for file in files:
        lines = lines_of(file.read_text(encoding="utf-8"))
        for start in range(len(lines) - PASTED + 1):
            known.setdefault(tuple(lines[start : start + PASTED]), file)
    for _, code in FENCE.findall(prose(path)):
        lines = lines_of(code)
        for start in range(len(lines) - PASTED + 1):
            copied = known.get(tuple(lines[start : start + PASTED]))
            assert not copied, f"{path.name} has a copy of {copied}:\n{code}"


@documents
def test_boxes_and_solutions_are_made_with_colons_and_without_html(path):
    text = prose(path)
    assert not re.search(r"^`{3,}\{", text, re.MULTILINE)
    assert not re.search(r"<(details|div|span|br|img|table|script)\b", without_code(text))


@documents
def test_formulas_are_written_in_words_or_unicode(path):
    """The site leaves `$` alone: it stands in shell and submit files, and MathJax is on another host."""
    found = re.search(r"\$[^$\n]*\\[a-zA-Z]+[^$\n]*\$", without_code(prose(path)))
    assert not found, found[0]


def test_the_spelling_is_right():
    documents = [str(path) for path in (*MARKDOWN, *NOTEBOOKS, ROOT / "LICENSE-text", ROOT / "CITATION.cff")]
    run(sys.executable, "-P", "-m", "codespell_lib", *documents)


def test_every_notebook_is_committed_without_outputs():
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs"), path.name
            assert not cell.get("execution_count"), path.name


def test_the_code_is_formatted_and_ruff_finds_nothing():
    run(sys.executable, "-P", "-m", "ruff", "check", "--quiet", ".")
    run(sys.executable, "-P", "-m", "ruff", "format", "--check", "--quiet", ".")


def test_the_citation_has_what_its_format_asks_for_and_names_where_ideas_came_from():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == ["BSD-3-Clause", "CC-BY-4.0"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    named = yaml.safe_dump(citation["references"])
    assert "Reproducible Machine Learning Workflows for Scientists" in named
    assert "Feickert" in named
    assert "PyTorch examples: MNIST" in named


def test_code_and_text_have_their_licences():
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("BSD 3-Clause License")
    text = (ROOT / "LICENSE-text").read_text(encoding="utf-8")
    assert "https://creativecommons.org/licenses/by/4.0/legalcode" in text
    assert "SPDX-License-Identifier: CC-BY-4.0" in text


@pytest.mark.parametrize("name", ["pixi.toml", "Dockerfile", "jobs/mnist_gpu.sub", "jobs/src/torch_mnist.py"])
def test_the_page_of_files_includes_the_file_itself(name):
    assert f":::{{literalinclude}} ../{name}\n" in (ROOT / "pages/files.md").read_text(encoding="utf-8")
