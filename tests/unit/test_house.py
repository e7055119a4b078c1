"""The house: imports go downward and in no circle, counted with those inside functions and for types; files stay short.

`lint-imports` holds the same contract of floors, which pyproject.toml states; this says it with pytest alone, and the circles and sizes too.
"""

import ast
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/ddrs"
MODULES = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in PACKAGE.rglob("*.py")}
CONTRACT = next(one for one in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
FLOORS = [[room.strip() for room in layer.split("|")] for layer in reversed(CONTRACT["layers"])]


def imports() -> dict[str, set[str]]:
    """Which modules of the package each imports, anywhere in it."""
    found: dict[str, set[str]] = {name: set() for name in MODULES}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{name}: a relative import"
                whole = [f"{node.module}.{one.name}" for one in node.names]
                found[name] |= {one if one in MODULES else str(node.module) for one in whole} & MODULES.keys()
            elif isinstance(node, ast.Import):
                found[name] |= {one.name for one in node.names} & MODULES.keys()
    return found


def test_no_circle():
    """The package's `__init__` names the public ones, which load on first use; a folder's own may be imported by what lies in it."""
    graph = {name: {one for one in found if one != "ddrs"} for name, found in imports().items() if name != "ddrs"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_imports_go_downward():
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    wrong = []
    for name, found in imports().items():
        room = name.split(".")[1] if "." in name else None
        if room in (None, "__main__"):
            continue
        assert room in floor, f"{name}: has no floor in pyproject.toml"
        wrong += [f"{name} -> {one}" for one in found if one == "ddrs" or (one.split(".")[1] != room and floor[one.split(".")[1]] >= floor[room])]
    assert not wrong


def test_files_are_short_and_few_lie_flat():
    longest = max(MODULES.values(), key=lambda path: len(path.read_text().splitlines()))
    assert len(longest.read_text().splitlines()) <= 400, longest
    assert len(list(PACKAGE.glob("*.py"))) - 2 <= 8  # but for __init__ and __main__
    rules = [*(ROOT / "workflow/rules").glob("*.smk"), ROOT / "Snakefile"]
    assert sum(len(path.read_text().splitlines()) for path in rules) <= 600


def test_a_folder_says_what_is_in_it():
    silent = [name for name, path in MODULES.items() if path.name == "__init__.py" and not ast.get_docstring(ast.parse(path.read_bytes()))]
    assert not silent
