"""What is tried against what was found, and in which order: nothing here trains.

An expert looks at data first, then at the loss, the loop, the structure, numbers, the learning rate and at last the fit, because an
earlier fault makes later ones look like faults. So causes come in that order, each a group with the symptoms under it; within a
group the remedies of the cause come first, the best of each of its sentences before the second best. Groups are cut into a few
at a time: what helps among the first few is kept, and the others are never trained.

    >>> for few in groups(found, recipe): print([one.remedy for one in few])
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wellfit.doctor.finding import catalogue
from wellfit.recipe import Recipe
from wellfit.trials import remedies

ORDER = ("data", "loss and head", "the loop", "units and structure", "numbers", "learning rate", "fit")
FEW = 4  # tried before one is looked at more closely
MEASURED, USUAL = "measured-learning-rate", "usual-learning-rate"

Finding = Mapping[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A remedy in a recipe, and the finding that it is for."""

    remedy: str
    finding: str
    recipe: Recipe


def treatable(findings: Sequence[Finding]) -> list[Finding]:
    """Causes that a recipe may mend: neither advice, nor what is a matter of code, data or the machine alone."""
    return [one for one in findings if one["severity"] != "advice" and catalogue()[one["id"]].family in ORDER]


def comes_after(one: str, other: str) -> bool:
    """Whether a finding is of a kind that is looked at after another's."""
    return ORDER.index(catalogue()[one].family) > ORDER.index(catalogue()[other].family)


def groups(findings: Sequence[Finding], recipe: Recipe, *, same_loss: bool = False) -> Iterator[list[Candidate]]:
    """The candidates for a resolved recipe, a few at a time, in the order of trying; none twice.

    `same_loss`: without those that change the loss itself, where that is what decides.
    """
    known = [recipe.flat()]
    for cause in sorted(findings, key=lambda one: ORDER.index(catalogue()[one["id"]].family)):
        found: list[Candidate] = []
        for finding in [cause, *(one for one in _below(cause) if one["severity"] != "advice")]:
            for name in names(finding["id"]):
                made = remedies.applied(name, recipe, f"tried against {finding['id']}: {remedies.about(name)}")
                if made is None or made.flat() in known or (same_loss and _bends_the_loss(recipe, made)):
                    continue
                known.append(made.flat())
                found.append(Candidate(name, finding["id"], made))
        yield from (found[i : i + FEW] for i in range(0, len(found), FEW))


def names(finding: str) -> list[str]:
    """The names of a finding's remedies: the first of each sentence, then the second of each."""
    rows = [remedy.change for remedy in catalogue()[finding].remedies if remedy.change]
    longest = max(map(len, rows), default=0)
    return list(dict.fromkeys(row[i] for i in range(longest) for row in rows if i < len(row)))


def _below(cause: Finding) -> Iterator[Finding]:
    for symptom in cause.get("symptoms", ()):
        yield symptom
        yield from _below(symptom)


def _bends_the_loss(before: Recipe, after: Recipe) -> bool:
    return any(change.path.startswith("loss.") for change in before.diff(after))
