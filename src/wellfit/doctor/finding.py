"""A finding: one fault of one training, in words, with its evidence and what to do about it.

What each id means, and its remedies, stands in `catalogue.yaml`, read by the documentation and the report as well; the
rules add what was measured.

    >>> found = find("weights-not-changing", 2, "The learning rate is 0.", {"learning_rate": 0.0})
    >>> found.severity, found.remedies[0].words
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

SEVERITIES = ("error", "warning", "advice")


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something to try: in words, as code for one's own loop, and as changes of a recipe, by their names in `trials/remedies.py`."""

    words: str
    snippet: str = ""
    change: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kind:
    """What an id of the catalogue stands for."""

    id: str
    family: str
    severity: str
    what: str
    recognised: str
    remedies: tuple[Remedy, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault that was found. `onset_step` counts optimizer steps from 1; 0 is before the first."""

    id: str
    severity: str
    onset_step: int
    confidence: float  # 0 to 1
    says: str
    evidence: Mapping[str, float | str] = field(default_factory=dict)
    remedies: tuple[Remedy, ...] = ()
    of: str = ""  # which training, where a program has several
    place: str = ""  # file:line, where the program is known
    symptoms: tuple[Finding, ...] = ()  # what it explains

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain data, for JSON. NaN and infinities become words."""
        body: dict[str, Any] = {
            "id": self.id, "severity": self.severity, "onset_step": self.onset_step,
            "confidence": round(self.confidence, 3), "says": self.says, "evidence": _plain(self.evidence),
            "remedies": [
                {"words": r.words}
                | ({"snippet": r.snippet} if r.snippet else {})
                | ({"change": list(r.change)} if r.change else {})
                for r in self.remedies
            ],
        }  # fmt: skip
        body |= {"of": self.of} if self.of else {}
        body |= {"place": self.place} if self.place else {}
        return body | ({"symptoms": [s.as_dict() for s in self.symptoms]} if self.symptoms else {})

    def _repr_html_(self) -> str:
        import wellfit

        return wellfit.html(self)


@lru_cache(maxsize=1)
def catalogue() -> dict[str, Kind]:
    """All ids, in the order of the families."""
    told = yaml.safe_load(resources.files("wellfit.doctor").joinpath("catalogue.yaml").read_text(encoding="utf-8"))
    return {
        name: Kind(
            name, one["family"], one["severity"], one["what"], one["recognised"],
            tuple(Remedy(r["words"], r.get("snippet", ""), tuple(r.get("change", ()))) for r in one["remedies"]),
        )
        for name, one in told.items()
    }  # fmt: skip


def find(
    name: str, step: int, says: str, evidence: Mapping[str, float | str], *, confidence: float = 1.0, severity: str = "",
    place: str = "", of: str = "",
) -> Finding:  # fmt: skip
    """A finding with what the catalogue knows of its id."""
    known = catalogue()[name]
    return Finding(name, severity or known.severity, step, confidence, says, dict(evidence), known.remedies, of, place)


def ranked(findings: list[Finding], explains: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    """Causes first, the most important first; a symptom stands under the cause that explains it."""
    left = {id(f): f for f in findings}
    under: dict[int, list[Finding]] = {}
    above: dict[int, Finding] = {}
    for symptom in findings:
        causes = [
            c for c in findings if c is not symptom and symptom.id in explains.get(c.id, ()) and _can_cause(c, symptom)
        ]
        causes = [c for c in causes if not _leads(above, c, symptom)]
        if causes:
            best = min(causes, key=_rank)
            above[id(symptom)] = best
            under.setdefault(id(best), []).append(symptom)
            left.pop(id(symptom), None)
    whole: list[Finding] = []

    def below(cause: Finding, depth: int = 0) -> tuple[Finding, ...]:
        found = under.get(id(cause), []) if depth < 4 else []
        return tuple(replace(s, symptoms=below(s, depth + 1)) for s in sorted(found, key=_rank))

    for cause in sorted(left.values(), key=_rank):
        whole.append(replace(cause, symptoms=below(cause)))
    return whole


def _leads(above: Mapping[int, Finding], cause: Finding, symptom: Finding) -> bool:
    """Whether the cause already stands, directly or not, under the symptom."""
    at: Finding | None = cause
    while at is not None:
        if at is symptom:
            return True
        at = above.get(id(at))
    return False


def _can_cause(cause: Finding, symptom: Finding) -> bool:
    return cause.severity != "advice" or symptom.severity == "advice"


def _rank(finding: Finding) -> tuple[int, float, int]:
    return SEVERITIES.index(finding.severity), -round(finding.confidence, 1), finding.onset_step


def _plain(evidence: Mapping[str, float | str]) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in evidence.items()
    }
