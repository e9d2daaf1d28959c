"""The clinic: programs as people write them, healthy and with faults that people make, and what the doctor says of them.

    python bench/clinic/clinic.py                    # both halves, the score table
    python bench/clinic/clinic.py --half more        # further programs, read before
    python bench/clinic/clinic.py --half seen --only mlp_digits --say

`seen/` and `more/` were used to set thresholds, `unseen/` is only looked at for the score; `more/` is left out of the
timed run unless it is asked for. Each program is a script and a YAML file
with its variants, edits of the text. Each variant runs in a child forked from a warm parent (torch is imported once),
watched exactly as `wellfit doctor SCRIPT` would.
"""

import argparse
import contextlib
import json
import os
import select
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

HERE = Path(__file__).parent
PATIENCE = 150  # seconds for one program
DETERMINISTIC = {
    "gradients-not-cleared", "parameters-not-in-optimizer", "optimizer-holds-stale-parameters", "parameters-without-gradient",
    "weights-not-changing", "training-in-eval-mode", "softmax-before-cross-entropy", "sigmoid-before-bce-with-logits",
    "loss-broadcasts-shapes", "head-loss-mismatch", "loss-not-finite", "gradient-not-finite", "activation-not-finite",
    "inputs-not-finite", "targets-all-ignored", "labels-out-of-range",
}  # fmt: skip

# What the test suite runs: a fault of most families, and healthy programs that tempt naive rules.
QUICK = [
    "mlp_digits/base",
    "mlp_digits/forgot-zero-grad",
    "mlp_digits/lr-of-one",
    "mlp_digits/sorted-by-class-no-shuffle",
    "gan_2d/both-optimizers-on-d",
    "gan_2d/relu-shifted-out-of-reach",
    "multilabel/base",
    "multilabel/train-mode-lost-after-first-validation",
    "manual_sgd/grads-pile-up",
    "manual_sgd/plus-instead-of-minus",
    "tabular_regression/lbfgs-closure",
    "tabular_regression/target-without-column",
    "tabular_regression/log-of-centred-feature",
    "lbfgs_regression/linear-stack",
    "pinn/output-layer-replaced-later",
    "mean_teacher/base",
    "wine_kfold/mc-dropout-evaluation",
]


@dataclass
class Case:
    """One variant of one program."""

    half: str
    program: str
    name: str
    text: str = field(repr=False)
    finding: str = ""  # empty for a healthy one
    also: list[str] = field(default_factory=list)
    onset: int | None = None

    @property
    def label(self) -> str:
        return f"{self.program}/{self.name}"


@dataclass
class Outcome:
    """What was said of it."""

    label: str
    half: str
    finding: str
    also: list[str]
    onset: int | None
    findings: list[dict]
    failures: list[str]
    status: int
    seconds: float
    told_at: dict[str, int]
    published: dict[str, list[str]]
    tail: str

    def ids(self, severities: tuple[str, ...] = ("error", "warning", "advice")) -> list[str]:
        """All ids, causes first, symptoms after their causes."""
        found: list[str] = []

        def add(one: dict) -> None:
            if one["severity"] in severities:
                found.append(one["id"])
            for symptom in one.get("symptoms", ()):
                add(symptom)

        for one in self.findings:
            add(one)
        return found

    @property
    def alarms(self) -> list[str]:
        return [f["id"] for f in self.findings if f["severity"] in ("error", "warning")]

    @property
    def wanted(self) -> set[str]:
        return {self.finding, *self.also}

    @property
    def detected(self) -> bool:
        return bool(self.wanted & set(self.ids()))

    @property
    def right_first(self) -> bool:
        return bool(self.findings) and self.findings[0]["id"] in self.wanted


def cases(half: str | None = None, only: str = "") -> Iterator[Case]:
    """All variants, healthy ones first of each program."""
    for folder in [half] if half else ("seen", "unseen"):
        for path in sorted((HERE / folder).glob("*.yaml")):
            told, text = (
                yaml.safe_load(path.read_text(encoding="utf-8")),
                path.with_suffix(".py").read_text(encoding="utf-8"),
            )
            for kind in ("healthy", "faulty"):
                for one in told.get(kind) or []:
                    case = Case(
                        folder, path.stem, one["name"], edited(text, one.get("edits") or [], f"{path.stem}/{one['name']}"),
                        one.get("finding", "") if kind == "faulty" else "", list(one.get("also") or []), one.get("onset"),
                    )  # fmt: skip
                    if only in case.label or only == case.finding:
                        yield case


def edited(text: str, edits: list[dict], label: str) -> str:
    """The program with its edits. Each must fit exactly once."""
    for edit in edits:
        count = text.count(edit["old"])
        if count != 1:
            raise SystemExit(f"{label}: the edit {edit['old'][:60]!r} fits {count} times, and must fit once.")
        text = text.replace(edit["old"], edit["new"])
    return text


def examined(case: Case, folder: Path) -> Outcome:
    """Runs a case in a child of this process."""
    program = folder / f"{case.program}-{case.name}.py"
    program.write_text(case.text, encoding="utf-8")
    report, log = program.with_suffix(".json"), program.with_suffix(".log")
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        _child(program, report, log)
    status = _wait(child)
    told = (
        json.loads(report.read_text()) if report.exists() else {"findings": [], "failures": ["killed"], "told_at": {}}
    )
    tail = log.read_text(errors="replace")[-600:] if log.exists() else ""
    return Outcome(
        case.label, case.half, case.finding, case.also, case.onset, told["findings"], told.get("failures", []), status,
        time.perf_counter() - began, told.get("told_at", {}), told.get("published", {}), tail,
    )  # fmt: skip


def _child(program: Path, report: Path, log: Path) -> None:
    """In the child: run the program, watched, and leave what was found."""
    status = 70
    try:
        os.setpgid(0, 0)
        out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(program.parent)
        from wellfit.doctor import script
        from wellfit.doctor.doctor import Doctor

        told_at: dict[str, int] = {}

        def found(finding) -> None:
            told_at[finding.id] = doctor.history(finding.of).step
            print(f"[{finding.severity}] {finding.id}: {finding.says}", flush=True)

        doctor = Doctor(found)
        status, error = script.run(str(program), [], doctor)
        if error is not None:
            print(f"{type(error).__name__}: {str(error)[:300]}")
        body = {"findings": [f.as_dict() for f in doctor.findings()], "failures": doctor.failures, "told_at": told_at}
        with contextlib.suppress(ImportError):
            import published

            body["published"] = {name: sorted(rule(doctor.histories)) for name, rule in published.RULES.items()}
        report.write_text(json.dumps(body))
        sys.stdout.flush()
    finally:
        os._exit(status & 0xFF)


def _wait(child: int) -> int:
    try:
        handle = os.pidfd_open(child)
        ready, _, _ = select.select([handle], [], [], PATIENCE)
        os.close(handle)
        if not ready:
            os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def score(outcomes: list[Outcome]) -> str:
    """The table: by half and by id."""
    lines = []
    for half in ("seen", "unseen", "more"):
        mine = [o for o in outcomes if o.half == half]
        sick, well = [o for o in mine if o.finding], [o for o in mine if not o.finding]
        if not mine:
            continue
        alarmed = [o for o in well if o.alarms]
        fixed = [o for o in sick if o.finding in DETERMINISTIC]
        late = [lag(o) for o in fixed if o.detected and lag(o) is not None]
        lines += [
            f"\n## {half}: {len(sick)} faulty and {len(well)} healthy runs",
            f"detected            {share(sum(o.detected for o in sick), len(sick))}",
            f"right cause first   {share(sum(o.right_first for o in sick), len(sick))}",
            f"deterministic       {share(sum(o.detected for o in fixed), len(fixed))} detected, "
            f"{share(sum(x <= 2 for x in late), len(late))} of those with a known onset within 2 steps",
            f"healthy with alarm  {share(len(alarmed), len(well))}  {dict(Counter(i for o in alarmed for i in o.alarms))}",
        ]
        for name in sorted({n for o in mine for n in o.published}):
            flagged = [o for o in sick if o.published.get(name)]
            named = [o for o in sick if o.wanted & set(o.published.get(name, ()))]
            false = [o for o in well if o.published.get(name)]
            lines.append(
                f"  {name:<18} flags {share(len(flagged), len(sick))} of the faulty, names {share(len(named), len(sick))}, "
                f"and flags {share(len(false), len(well))} of the healthy"
            )
    by_id: dict[str, list[Outcome]] = defaultdict(list)
    for o in outcomes:
        if o.finding:
            by_id[o.finding].append(o)
    false = Counter(i for o in outcomes if not o.finding for i in o.alarms)
    lines.append("\n| id | runs | detected | first | steps from onset | false alarms |\n|---|---|---|---|---|---|")
    for name in sorted({*by_id, *false}):
        runs = by_id.get(name, [])
        lags = sorted(x for o in runs if o.detected and (x := lag(o)) is not None)
        middle = str(lags[len(lags) // 2]) if lags else ""
        lines.append(
            f"| {name} | {len(runs)} | {sum(o.detected for o in runs)} | {sum(o.right_first for o in runs)} | {middle} | {false[name]} |"
        )
    return "\n".join(lines)


def lag(o: Outcome) -> int | None:
    """Steps from the onset to the report."""
    told = [o.told_at[i] for i in o.wanted if i in o.told_at]
    return max(0, min(told) - max(o.onset or 1, 1)) if told else None


def share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.1%})" if whole else "none"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--half", choices=("seen", "unseen", "more"))
    arguments.add_argument("--only", default="", help="part of program/variant, or an id")
    arguments.add_argument("--healthy", action="store_true", help="healthy variants alone")
    arguments.add_argument("--quick", action="store_true", help="the slice that the test suite runs")
    arguments.add_argument("--examples", type=Path, help="write an example of each finding here, for its page")
    arguments.add_argument("--say", action="store_true", help="what was said of each, and the end of its output")
    arguments.add_argument("--jobs", type=int, default=2)
    arguments.add_argument("--json", type=Path, help="all outcomes")
    chosen = arguments.parse_args()
    sys.path.insert(0, str(HERE))
    import sklearn.datasets  # noqa: F401 - once, here, for all children
    import torch

    import wellfit.doctor.script  # noqa: F401

    torch.set_num_threads(1)
    wanted = [case for case in cases(chosen.half, chosen.only) if not (chosen.healthy and case.finding)]
    if chosen.quick:
        wanted = [case for case in wanted if case.label in QUICK]
    began, outcomes = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(chosen.jobs) as pool:
        for outcome in pool.map(lambda case: examined(case, Path(folder)), wanted):
            outcomes.append(outcome)
            good = outcome.right_first if outcome.finding else not outcome.alarms
            mark = "ok " if good else "~  " if outcome.finding and outcome.detected else "XX "
            if chosen.say or not good or outcome.failures:
                print(
                    f"{mark}{outcome.label} [{outcome.finding or 'healthy'}] -> {outcome.ids()} {outcome.failures or ''} {outcome.seconds:.1f} s",
                    flush=True,
                )
            if chosen.say:
                print("    " + outcome.tail.replace("\n", "\n    "))
    print(score(outcomes))
    print(f"\n{len(outcomes)} runs in {time.perf_counter() - began:.0f} s")
    if chosen.examples:
        examples = {}
        for o in outcomes:
            if o.finding and o.right_first and o.findings[0]["id"] == o.finding and o.finding not in examples:
                first = o.findings[0]
                program, fault = o.label.split("/")
                examples[o.finding] = {
                    "program": program,
                    "fault": fault,
                    "step": first["onset_step"],
                    "says": first["says"],
                }
        chosen.examples.write_text(
            yaml.safe_dump(dict(sorted(examples.items())), allow_unicode=True, width=120), encoding="utf-8"
        )
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(o) for o in outcomes]))


if __name__ == "__main__":
    main()
