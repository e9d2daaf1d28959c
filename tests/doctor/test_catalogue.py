"""The catalogue, the rules and the documentation name the same faults."""

import ast
from pathlib import Path

import pytest

from wellfit.doctor.finding import SEVERITIES, Finding, catalogue, ranked
from wellfit.doctor.rules import EXPLAINS, RULES

ROOT = Path(__file__).parents[2]
RULE_FILES = sorted((ROOT / "src" / "wellfit" / "doctor" / "rules").glob("*.py"))


def test_every_id_has_meaning_recognition_and_remedies() -> None:
    for kind in catalogue().values():
        assert kind.severity in SEVERITIES
        assert len(kind.what) > 30, kind.id
        assert len(kind.recognised) > 20, kind.id
        assert kind.remedies, kind.id


def test_every_id_has_a_rule_and_every_rule_an_id() -> None:
    named = set()
    for path in RULE_FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "find":
                first = node.args[0]
                assert isinstance(first, ast.Constant), path
                named.add(first.value)
    assert named == set(catalogue())


def test_what_explains_what_are_known_ids() -> None:
    for cause, symptoms in EXPLAINS.items():
        assert {cause, *symptoms} <= set(catalogue())
        assert cause not in symptoms


def test_every_rule_is_asked() -> None:
    asked = {rule.__name__ for rules in RULES.values() for rule in rules}
    for path in RULE_FILES:
        if path.name == "__init__.py":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert node.name in asked, f"{path.name}: {node.name}"


def test_a_symptom_stands_under_its_cause_and_the_most_important_comes_first() -> None:
    def made(name: str, severity: str, step: int) -> Finding:
        return Finding(name, severity, step, 1.0, "")

    found = [
        made("training-too-short", "advice", 90),
        made("loss-not-finite", "error", 12),
        made("overfitting", "warning", 50),
        made("learning-rate-too-high", "error", 3),
    ]
    order = ranked(found, EXPLAINS)
    assert [f.id for f in order] == ["learning-rate-too-high"]
    assert {f.id for f in order[0].symptoms} == {"loss-not-finite", "overfitting", "training-too-short"}


def test_two_that_explain_each_other_are_both_told() -> None:
    a, b = Finding("a", "error", 1, 1.0, ""), Finding("b", "error", 2, 1.0, "")
    order = ranked([a, b], {"a": ("b",), "b": ("a",)})
    assert len(order) == 1
    assert len(order[0].symptoms) == 1


@pytest.mark.parametrize("name", list(catalogue()))
def test_every_finding_has_its_page(name: str) -> None:
    page = ROOT / "docs" / "findings" / f"{name}.md"
    kind = catalogue()[name]
    text = page.read_text(encoding="utf-8")
    assert kind.what in text
    assert kind.recognised in text
    assert all(remedy.words in text for remedy in kind.remedies)
