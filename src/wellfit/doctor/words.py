"""Findings in words, for a terminal: a line at the onset, and the list at the end.

>>> print(listed(doctor.findings()))
"""

import textwrap
from collections.abc import Sequence
from typing import Any

from wellfit.doctor.finding import Finding
from wellfit.events import DOCTOR

WIDTH = 100
MARKS = {"passed": "ok  ", "failed": "FAIL", "not applicable": "n/a "}  # of a check's outcome


def line(finding: Finding) -> str:
    """One line, when something is found."""
    return f"wellfit: {finding.severity} at step {finding.onset_step}: {finding.id}. {finding.says}"


def short(finding: Finding) -> str:
    """The same, as a note of a run."""
    return f"{DOCTOR}{finding.severity} from step {finding.onset_step}: {finding.id}. {finding.says}"


def headline(findings: Sequence[Finding]) -> str:
    """What there is, in one sentence."""
    counts = [(sum(f.severity == s for f in findings), s) for s in ("error", "warning")]
    told = [f"{n} {s}{'s' if n > 1 else ''}" for n, s in counts if n]
    advice = sum(f.severity == "advice" for f in findings)
    if not told:
        return "Nothing is wrong, as far as can be seen." + (
            f" {advice} thing{'s' if advice > 1 else ''} could be better:" if advice else ""
        )
    return f"Found {' and '.join(told)}" + (
        f", and {advice} piece{'s' if advice > 1 else ''} of advice:" if advice else ":"
    )


def listed(findings: Sequence[Finding]) -> str:
    """All findings with what to do, causes first."""
    parts = [headline(findings)]
    for finding in findings:
        where = f" ({finding.place})" if finding.place else ""
        sure = "" if finding.confidence >= 0.9 else f", {finding.confidence:.0%} sure"
        parts.append(f"\n{finding.severity}: {finding.id}, from step {finding.onset_step}{sure}{where}")
        parts.append(_wrapped(finding.says, "  "))
        for symptom in _below(finding):
            parts.append(_wrapped(f"explains {symptom.id}: {symptom.says}", "  - "))
        for remedy in finding.remedies[:2]:
            parts.append(_wrapped(f"> {remedy.words}", "  "))
            if remedy.snippet:
                parts.append(textwrap.indent(remedy.snippet, "      "))
    return "\n".join(parts)


def checked(checks: Sequence[Any]) -> str:
    """The checks of a pre-flight as a list, with what to do about those that failed."""
    outcomes = [check.outcome for check in checks]
    counts = [f"{outcomes.count(kind)} {kind}" for kind in MARKS if outcomes.count(kind)]
    parts = [f"{len(outcomes)} checks: {', '.join(counts)}."]
    for check in checks:
        lead = f"{MARKS[check.outcome]}  {check.name:<15}  "
        parts.append(
            textwrap.fill(
                check.says[:1].upper() + check.says[1:],
                WIDTH,
                initial_indent=lead,
                subsequent_indent=" " * len(lead),
                break_on_hyphens=False,
            )
        )
        for finding in check.findings:
            parts.append(_wrapped(f"> {finding.id}: {finding.remedies[0].words}", " " * len(lead)))
    return "\n".join(parts)


def said(error: Exception) -> str:
    """An error's kind and its first line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__


def _below(finding: Finding) -> list[Finding]:
    return [inner for symptom in finding.symptoms for inner in (symptom, *_below(symptom))]


def _wrapped(text: str, lead: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=lead, subsequent_indent=" " * (len(lead) + 2), break_on_hyphens=False
    )
