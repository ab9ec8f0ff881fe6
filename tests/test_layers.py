"""The modules of the package: each has its place, and imports go one way."""

import ast
import re

from lesson_helpers import paths

PACKAGE = paths.root() / "lesson_helpers"


def order() -> list[str]:
    """Return the modules in the order that CONTRIBUTING.md gives them, from the top down."""
    text = (paths.root() / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^  \| [^|`-]+ \| ((?:`\w+` ?)+)\|$", text, re.MULTILINE)
    return re.findall(r"`(\w+)`", " ".join(rows))


def imported(module: str) -> set[str]:
    """Return the modules of the package that one imports, at its top or inside of a function."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lesson_helpers"):
            _, _, name = node.module.partition(".")
            found |= {name} if name else {alias.name for alias in node.names}
    return found


def test_every_module_has_its_place():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert sorted(order()) == sorted(modules)


def test_imports_go_one_way():
    places = {module: place for place, module in enumerate(order())}
    up = [(one, other) for one in places for other in imported(one) if places[other] <= places[one]]
    assert up == []


def test_the_training_needs_nothing_of_the_package():
    for script in (paths.root() / "jobs" / "src").glob("*.py"):
        assert "lesson_helpers" not in script.read_text()
