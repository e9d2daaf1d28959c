"""The handbook's page keeps its word: every row is there, and every name, field, command and test in it exists."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from wellfit.cli import app
from wellfit.recipe import paths

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "handbook.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| [A-I]\d+ \|", line)
]
SPINE = {
    *(f"A{i}" for i in range(1, 11)),
    "B1",
    "B2",
    "B3",
    "B4",
    "B8",
    "C1",
    "C4",
    "D1",
    "D2",
    "D3",
    "E1",
    "F1",
    "F9",
    "I3",
}


def exists(name: str) -> bool:
    if name.startswith("wellfit "):
        return name.split()[1] in {command.callback.__name__ for command in app.registered_commands}
    if not name.startswith("wellfit."):
        return name in paths()
    *parts, last = name.split(".")
    for cut in range(len(parts) + 1, 0, -1):  # the name itself may be a module that nothing has imported yet
        try:
            thing = importlib.import_module(".".join([*parts, last][:cut]))
        except ModuleNotFoundError:
            continue
        for part in [*parts, last][cut:]:
            thing = getattr(thing, part)
        return True
    return False


def test_every_row_is_there_once() -> None:
    names = [row[0] for row in ROWS]
    assert len(names) == len(set(names))
    assert set(names) >= SPINE


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_name_and_test_exists(row: list[str]) -> None:
    _, _, how, proof = row
    names, tests = re.findall(r"`([^`]+)`", how), re.findall(r"`([^`]+)`", proof)
    assert names
    assert tests
    for name in names:
        assert exists(name), name
    for test in tests:
        file, _, function = test.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not function or function in functions, test
        assert any(found.startswith("test_") for found in functions)
