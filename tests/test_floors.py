"""Imports go only downward: each file of wellfit may import from its own floor and those below."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "wellfit"

FLOORS: dict[str, int] = {
    "__init__": 0, "settings": 0, "recipe": 0, "defaults": 0, "events": 0, "errors": 0, "addresses": 0, "kept": 0, "untrusted": 0, "whole": 0,
    "run": 1, "glance": 1, "listening": 1, "environment": 1, "data": 1, "models": 1, "optim": 1, "losses": 1, "precision": 1, "distributed": 1, "presence": 1,
    "sharding": 1, "zero": 1, "checkpoint": 1, "tasks": 2, "finetune": 2, "doctor": 2, "plan": 2,
    "train": 3, "integrations": 3, "advise": 3,
    "report": 4, "deliver": 4, "laboratory": 4,
    "trials": 5, "estimators": 5, "api": 5, "examine": 5, "curve": 5, "memory": 5,
    "cli": 6, "__main__": 6,
}  # fmt: skip
NEVER = {"doctor": {"train"}, "train": {"doctor"}}
TORCHLESS = ("settings", "recipe", "defaults", "events", "errors", "addresses", "kept", "untrusted", "whole")


def room(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms that a file imports from, those for type checking alone left out."""
    rooms: set[str] = set()

    def look(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "wellfit":
            parts = node.module.split(".")
            rooms.update(
                [parts[1]] if len(parts) > 1 else [a.name if a.name in FLOORS else "__init__" for a in node.names]
            )
        if isinstance(node, ast.Import):
            rooms.update(a.name.split(".")[1] for a in node.names if a.name.startswith("wellfit."))
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
        for child in ast.iter_child_nodes(node):
            look(child)

    look(ast.parse(path.read_text(encoding="utf-8")))
    return rooms


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda path: str(path.relative_to(SRC)))
def test_imports_go_downward(path: Path) -> None:
    here = room(path)
    assert here in FLOORS, f"{here} has no floor; give it one"
    for there in imported(path) - {here}:
        assert FLOORS[there] <= FLOORS[here], f"{here} (floor {FLOORS[here]}) imports {there} (floor {FLOORS[there]})"
        assert there not in NEVER.get(here, set()), f"{here} must never import {there}"


def test_every_file_says_what_it_is() -> None:
    for path in SRC.rglob("*.py"):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert doc, f"{path} has no docstring"
        assert len(doc) > 40, path


@pytest.mark.parametrize("name", TORCHLESS)
def test_the_ground_floor_needs_no_torch(name: str) -> None:
    code = f"import sys, wellfit.{name}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_page_is_one_page() -> None:
    lines = (SRC / "train" / "fit.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 95
