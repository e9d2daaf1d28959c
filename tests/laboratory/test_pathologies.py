"""The lab's pathologies as data: each edit fits, each program is one, each cure is a remedy of the doctor's."""

import ast
import re
import subprocess
import sys

import pytest

from wellfit.doctor.finding import catalogue
from wellfit.errors import RecipeError
from wellfit.laboratory.pathologies import PATHOLOGIES, Edit, diff, edited, find, text

ALL = list(PATHOLOGIES.values())


def test_there_are_enough_and_each_is_its_own() -> None:
    assert len(ALL) >= 14
    assert len(PATHOLOGIES) == len({one.title for one in ALL}) == len({one.faulty for one in ALL})
    assert len({one.finding for one in ALL}) >= 14


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_a_pathology_is_a_small_edit_with_a_remedy_of_the_catalogue(one) -> None:
    for program in (one.healthy, one.faulty, one.cured):
        ast.parse(program)
    assert len({one.healthy, one.faulty, one.cured}) == (2 if one.undone else 3)
    for lines in (one.fault_diff, one.cure_diff):
        changed = [line for line in lines if line[0] in "+-"]
        assert 1 <= len(changed) <= 4, lines
        assert all(re.match(r"[+-] |  …$", line) for line in lines)
        assert max(map(len, lines)) <= 90
    assert one.words in catalogue()[one.finding].remedies
    assert 2 <= len(one.explains) <= 5
    assert all(sentence.endswith(".") for sentence in one.explains)
    assert one.source
    assert one.line[0].islower() or one.line.startswith(("model.", "scheduler.", "zero_grad", "maximize"))


def test_a_diff_undoes_itself() -> None:
    before, after = "a\n    b\nc\nd\n", "a\n    x\n    y\nc\n"
    assert diff(before, after) == ("-     b", "+     x", "+     y", "  …", "- d")
    assert diff("f(\n        1,\n)\n", "f(\n        2,\n)\n") == ("- 1,", "+ 2,")


def test_an_edit_that_does_not_fit_once_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="fits 0 times"):
        edited(text(), (Edit("no such line", ""),), "x")
    with pytest.raises(AssertionError, match="must fit once"):
        edited(text(), (Edit("import", ""),), "x")


def test_find_takes_a_name_or_the_doctors_id() -> None:
    assert find("double-softmax") is find("softmax-before-cross-entropy")
    assert find("vanishing-gradients").name == "vanishing-gradients"  # two have this id, and one this name
    with pytest.raises(RecipeError, match="Did you mean `double-softmax`"):
        find("double-softmx")


def test_the_list_needs_no_torch() -> None:
    code = "import sys, wellfit.cli.pathologies as p; p.listed(); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"  {one.name} " in done.stdout for one in ALL)
