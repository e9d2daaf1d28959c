"""The cure: what the doctor found in a run is treated with the smallest changes, and kept where trials show that they help.

In rounds: the remedies of what was found, in the order in which an expert would try them (data, loss, loop, structure, numbers,
learning rate, fit), are each trained once, with the run's own seed, data and order. The best are trained with further seeds beside
the recipe that they change; what is better in the paired comparison is adopted, and the next round begins with what the doctor
says of that. It ends where nothing is found any more and nothing helps any more, or the budget is spent.

Trials are runs below the parent's folder, `RUN/cure/`, so a cure that was stopped goes on with the same call. Choices are made
on the validation part; the last comparison, before and after, is scored on the test part where there is one. A run of which the
doctor says nothing is left alone. Data, code and resources are nothing that a recipe can change: what was found of them is told
with what to do.

    >>> found = cure("runs/digits")
    >>> print(found)
    >>> found.recipe.dump()
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from wellfit.doctor.doctor import Doctor
from wellfit.doctor.finding import catalogue
from wellfit.errors import RunError
from wellfit.events import Started
from wellfit.recipe import Change, Origin, Recipe
from wellfit.report.comparison import Comparison
from wellfit.report.words import amount, better, change_told, plain, told
from wellfit.run import Run
from wellfit.trials import remedies
from wellfit.trials.compare import Way, side_by_side
from wellfit.trials.trial import OVER, Trial, finished, mark, outcome

FOLDER, SUMMARY, CURED, PICTURE = "cure", "cure.json", "cured.yaml", "cure.png"
ORDER = ("data", "loss and head", "the loop", "units and structure", "numbers", "learning rate", "fit")
ROUNDS, MOST = 5, 8  # changes kept, remedies tried in a round
FINALISTS, MOST_FINALISTS = 2, 4  # of those with all seeds, and where none of the first is better
QUIETLY = 600.0  # seconds that trials of full length may take unasked
FINER = ("slightly-higher-learning-rate", "slightly-lower-learning-rate")
RATES = (*FINER, "higher-learning-rate", "lower-learning-rate")
WORTH = 0.03  # of a score: what less is gained is not worth further runs
LEAST = 60  # steps of a shortened trial
RUNS = 10  # what trials may cost unasked, in runs, where QUIETLY does not do

Told = Callable[[str], None]


@dataclass(frozen=True)
class Tried:
    """One remedy in one round, judged on the validation part."""

    remedy: str
    finding: str
    changes: tuple[Change, ...]
    before: float | None  # with the run's seed; None where the loss was not finite
    after: float | None
    sentence: str = ""  # the paired verdict, where it was trained with all seeds
    adopted: bool = False


@dataclass(frozen=True)
class Cure:
    """What was treated, with what, and whether it helped. `recipe` is the cured one, None where nothing helped."""

    run: Run
    findings: tuple[Mapping[str, Any], ...]  # causes at the beginning
    tried: tuple[Tried, ...]
    reason: str  # why it ended
    metric: str
    steps: int  # that trials took, and a run takes
    steps_of_a_run: int
    recipe: Recipe | None = None
    comparison: Comparison | None = None  # before and after, at full length, over all seeds
    left: tuple[Mapping[str, Any], ...] = ()  # what the doctor finds now
    file: Path | None = None
    missing: bool = False  # it was stopped before its end

    @property
    def adopted(self) -> tuple[Tried, ...]:
        return tuple(one for one in self.tried if one.adopted)

    @property
    def changes(self) -> tuple[Change, ...]:
        """What is different in the cured recipe."""
        before = self.run.recipe
        return tuple(_differences(before, self.recipe)) if self.recipe is not None else ()

    def __str__(self) -> str:
        lines = [f"{one['id']}: {one['says']}" for one in self.findings] or ["The doctor found nothing."]
        if self.tried:
            lines += ["", f"Tried ({plain(self.metric)} on the validation part, before -> after, with the run's seed):"]
            lines += [f"  {trial_told(one, self.metric)}" for one in self.tried]
        if self.recipe is not None:
            lines += ["", "The smallest change that helps:"]
            lines += [f"  {change_told(change)}" for change in self.changes]
        if self.comparison is not None:
            lines += ["", *self.comparison.says]
        lines += ["", self.reason]
        for one in self.left:
            words = next((remedy["words"] for remedy in one.get("remedies", ())), "")
            lines.append(f"Left: {one['id']}. {one['says']} {words}".rstrip())
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "run": str(self.run.folder), "findings": [one["id"] for one in self.findings], "metric": self.metric,
            "tried": [
                {
                    "remedy": one.remedy, "finding": one.finding, "changes": [list(change) for change in one.changes],
                    "before": one.before, "after": one.after, "verdict": one.sentence, "adopted": one.adopted,
                }
                for one in self.tried
            ],
            "changes": [list(change) for change in self.changes], "reason": self.reason, "steps": self.steps,
            "steps_of_a_run": self.steps_of_a_run, "left": [one["id"] for one in self.left],
            "comparison": self.comparison.as_dict() if self.comparison is not None else None,
            "recipe": str(self.file) if self.file is not None else None,
        }  # fmt: skip


def cure(
    run: Run | str | Path,
    *,
    seeds: int = 3,
    steps: int | None = None,
    minutes: float | None = None,
    quiet: bool = False,
) -> Cure:
    """Treats what the doctor found in a run that is over, and gives back what helped, proven over `seeds` paired runs.

    `steps`, `minutes`: what all trials together may take, in optimizer steps or time; without either, as many runs of full length as
    ten minutes allow, or else shorter ones that cost ten runs. The cured recipe is written to `RUN/cure/cured.yaml`.

    Raises RunError for a run that is not over, has nothing held out, or whose data or model is not in its recipe.
    """
    parent = run if isinstance(run, Run) else Run.open(run)
    patient = _Patient.of(parent, seeds, steps, minutes, (lambda _: None) if quiet else _say)
    return patient.treated()


# ---- the patient


class _Stopped(Exception):
    """Somebody asked to stop while a trial went on."""


@dataclass
class _Patient:
    """A run under treatment: where it stands, and what was spent."""

    parent: Run
    recipe: Recipe  # resolved, as it came
    seeds: list[int]
    validated: int  # samples that decide
    full: int  # steps of a run
    length: int  # steps of a trial
    budget: float  # steps of all trials
    until: float  # time.perf_counter() at which to stop
    metric: str
    tell: Told
    counted: set[Path] = field(default_factory=set)  # folders of trials that were trained
    tried: list[Tried] = field(default_factory=list)

    @classmethod
    def of(cls, parent: Run, seeds: int, steps: int | None, minutes: float | None, tell: Told) -> "_Patient":
        recipe, ended = parent.recipe, parent.ended()
        if seeds < 2:
            raise RunError(f"{seeds} seed was asked for; a cure compares over at least 2, and 3 are usual.")
        if recipe.task == "given":
            raise RunError(
                f"The run {parent.folder} trained a model and data that were passed to `wellfit.fit` in Python, and a run folder holds "
                "neither, so nothing can be tried. `wellfit doctor` says what to do; change it there, and compare."
            )
        if ended is None or ended.reason not in OVER:
            raise RunError(
                f"The run {parent.folder} is not over, so what it would have reached is not known. "
                f"`wellfit resume {parent.folder}` goes on with it."
            )
        started = next(event for event in parent.events() if isinstance(event, Started))
        if not started.valid_samples:
            raise RunError(
                f"Nothing was held out in {parent.folder}, so whether a change helps cannot be measured. Train with "
                "`data.valid_share=0.1`, or name a set with `data.valid=PATH`."
            )
        full = started.steps
        runs = 2 * seeds + ROUNDS * (MOST + FINALISTS * (seeds - 1))
        pace = ended.seconds / max(1, ended.step - started.step)
        unasked = max(RUNS * full, QUIETLY / pace)
        budget = 60 * minutes / pace if minutes is not None else float(steps if steps is not None else unasked)
        share = min(1.0, budget / (runs * full))
        length = full if share > 0.7 else min(full, max(LEAST, math.ceil(full * max(share, 0.1))))
        until = time.perf_counter() + 60 * minutes if minutes is not None else math.inf
        tested = {**parent.scores("valid")} or {"loss": math.nan}
        metric = _judged_by(recipe, [one["id"] for one in _found(parent)], tested)
        numbers = [*range(recipe.training.seed, recipe.training.seed + seeds)]
        return cls(parent, recipe, numbers, started.valid_samples, full, length, budget, until, metric, tell)

    @property
    def place(self) -> Path:
        return self.parent.folder / FOLDER

    @property
    def spent(self) -> int:
        return len(self.counted) * self.length

    @property
    def over(self) -> bool:
        return self.spent >= self.budget or time.perf_counter() >= self.until

    def treated(self) -> Cure:
        causes = [one for one in _found(self.parent) if one["severity"] != "advice"]
        if not causes:
            return self._ended(causes, None, "The doctor found no fault in this run, so there is nothing to cure.")
        try:
            kept, reason = self._course([one for one in causes if catalogue()[one["id"]].family in ORDER])
            return self._ended(causes, kept, reason)
        except _Stopped:
            return self._ended(causes, None, "It was stopped; the same command goes on.", missing=True)

    def _course(self, treatable: Sequence[Mapping[str, Any]]) -> tuple[Way | None, str]:
        """All rounds: what is kept in the end, and why it ended. Raises _Stopped."""
        base = replace(self._way("as-it-is", "as it is", self._shortened(self.recipe)), there=self._parent_there())
        self._train(base, self.seeds[0])
        current = base = replace(base, recipe=self._resolved(base))
        now, reason = treatable, ""
        for number in range(1, ROUNDS + 1):
            candidates = list(self._candidates(current, now, treatable))
            if not candidates:
                reason = (
                    "None of what was found can be mended by a recipe: it is a matter of the data or the code."
                    if current is base
                    else "There is nothing left that a recipe could change."
                )
                break
            chosen = self._round(number, current, candidates, sound=not now)
            if chosen is None:
                spent = self.over
                reason = (
                    "The budget is spent."
                    if spent
                    else f"{'No remedy helped' if current is base else 'No further change helped'}, as far as {len(self.seeds)} seeds can show."
                )
                break
            current = chosen
            now = self._findings_of(current)
            self.tell(f"  kept: {current.about}")
        else:
            reason = f"It ended after {ROUNDS} changes that helped."
        return (None if current is base else current), reason

    # ---- one round

    def _candidates(
        self, current: Way, now: Sequence[Mapping[str, Any]], at_first: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[str, str, Recipe]]:
        """(remedy, finding, recipe) in the order of trying: of what is found now, its symptoms, then what was found at first."""
        seen: list[dict[str, Any]] = [current.recipe.flat()]
        count = 0
        useless = {one.remedy for one in self.tried if not self._gained(one)}
        present = {finding["id"] for finding in _ordered(now)}
        for finding in _ordered([*now, *at_first]):
            names = _changes_of(finding["id"])
            if (
                finding["id"] not in present
            ):  # it is gone: the rate anew, as every change moves the best one, and what helped before
                rates = FINER if self._rate_was_changed else RATES
                names = [*rates, *(n for n in names if n not in useless and not n.endswith("learning-rate"))]
            for name in names:
                changed = remedies.applied(
                    name, current.recipe, f"tried against {finding['id']}: {remedies.about(name)}"
                )
                if (
                    changed is None
                    or changed.flat() in seen
                    or (self.metric == "loss" and _of_the_loss(current.recipe, changed))
                ):
                    continue
                seen.append(changed.flat())
                yield name, finding["id"], changed
                count += 1
                if count >= MOST:
                    return

    def _round(
        self, number: int, current: Way, candidates: Sequence[tuple[str, str, Recipe]], sound: bool
    ) -> Way | None:
        """Each once; the best beside the current recipe over all seeds. What is kept, or None.

        `sound`: nothing is found any more, so only what is worth it is tried further.
        """
        seed = self.seeds[0]
        before = self._score(current, seed)
        sign = 1 if better(self.recipe, self.metric) == "max" else -1
        ranked: list[tuple[float, Way, int]] = []  # score, way, place in `tried`
        known: list[dict[str, Any]] = []  # what was derived may be what another remedy sets
        for name, finding, recipe in candidates:
            if self.over:
                break
            way = self._way(f"{number}-{name}", name, recipe)
            if recipe.flat() in known:
                continue
            self._train(way, seed)
            after = self._score(way, seed)
            known.append(self._resolved(way).flat())
            one = Tried(name, finding, tuple(_differences(current.recipe, self._resolved(way))), before, after)
            self.tell(f"  {trial_told(one, self.metric)}")
            self.tried.append(one)
            if after is not None and self._gained(one, least=WORTH if sound else 0.0):
                ranked.append((sign * after, way, len(self.tried) - 1))
        ranked.sort(key=lambda each: -each[0])
        kept: tuple[float, Way, int] | None = None
        for rank, (_, way, at) in enumerate(ranked[:MOST_FINALISTS], start=1):
            if kept is not None and (self.over or sound or rank > FINALISTS):
                break
            verdict = self._judged(current, way)
            self.tried[at] = replace(self.tried[at], sentence=verdict.sentence(verdict.arms[1]))
            self.tell(f"  {self.tried[at].sentence}")
            mean = sign * verdict.arms[1].mean
            if verdict.verdict(verdict.arms[1]).says == "better" and (kept is None or mean > kept[0]):
                there = {seed: Path(folder) for seed, folder in verdict.arms[1].folders.items()}
                kept = (mean, Way(way.name, way.about, self._resolved(way), there), at)
        if kept is None:
            return None
        _, way, at = kept
        self.tried[at] = replace(self.tried[at], adopted=True)
        return way

    def _judged(self, current: Way, way: Way) -> Comparison:
        """Both over all seeds; over twice as many where it looks better and so few do not show it."""
        numbers = list(self.seeds)
        while True:
            done = side_by_side(
                [current, way],
                numbers,
                self.place,
                name=self.recipe.name,
                metric=self.metric,
                split="valid",
                samples=self.validated,
                quiet=True,
            )
            if done.missing:
                raise _Stopped
            self.counted |= {Path(folder) for arm in done.arms for folder in arm.folders.values()} - {
                self.parent.folder
            }
            found = done.verdict(done.arms[1])
            worth = bool(found.gains) and fmean(found.gains) > WORTH * abs(done.arms[0].mean)
            hopeful = found.says == "level" and worth and all(gain > 0 for gain in found.gains)
            if not hopeful or len(numbers) >= 2 * len(self.seeds) or self.over:
                return done
            numbers = [*range(numbers[0], numbers[0] + 2 * len(self.seeds))]

    def _gained(self, one: Tried, least: float = 0.0) -> bool:
        """Whether it was better than what it changed, by more than `least` of that, with the run's seed."""
        sign = 1 if better(self.recipe, self.metric) == "max" else -1
        if one.after is None or one.before is None:
            return one.after is not None
        return sign * (one.after - one.before) > least * abs(one.before)

    @property
    def _rate_was_changed(self) -> bool:
        return any(one.adopted and any(c.path == "optimizer.learning_rate" for c in one.changes) for one in self.tried)

    # ---- trials

    def _shortened(self, recipe: Recipe) -> Recipe:
        """The recipe over the length of a trial."""
        if self.length == self.full:
            return recipe
        changes: dict[str, Any] = {"training.steps": self.length, "training.epochs": None}
        changes |= {"evaluation.every": None, "checkpoints.every": None}
        warmup = recipe.schedule.warmup_steps
        if warmup is not None and warmup >= 1:
            changes["schedule.warmup_steps"] = max(1.0, float(round(warmup * self.length / self.full)))
        return recipe.override(changes, by="measured", why=f"a trial of {self.length:,} of {self.full:,} steps")

    def _parent_there(self) -> dict[int, Path]:
        return {self.seeds[0]: self.parent.folder} if self.length == self.full else {}

    @staticmethod
    def _way(label: str, about: str, recipe: Recipe) -> Way:
        """Named by its recipe too: another budget, or remedies in another order, make other trials beside those that are there."""
        return Way(f"{label}-{mark(recipe)}", about, recipe)

    def _trial(self, way: Way, seed: int) -> Trial:
        recipe = way.recipe.override({"training.seed": seed}, by="measured", why="a seed of the comparison")
        return Trial(recipe, self.place / f"{way.name}-seed{seed}")

    def _train(self, way: Way, seed: int) -> None:
        if seed in way.there:
            return
        trial = self._trial(way, seed)
        if not finished(trial):
            raise _Stopped
        self.counted.add(trial.folder)

    def _resolved(self, way: Way) -> Recipe:
        """With nothing left open, as its first run has it."""
        return Run(self._folder(way, self.seeds[0])).recipe

    def _folder(self, way: Way, seed: int) -> Path:
        return way.there.get(seed) or self._trial(way, seed).folder

    def _score(self, way: Way, seed: int) -> float | None:
        reached = outcome(self._folder(way, seed), "valid")
        return None if reached is None or reached.failed else reached.scores.get(self.metric)

    def _findings_of(self, way: Way, everything: bool = False) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = [
            one for one in Run(self._folder(way, self.seeds[0])).findings() if one["severity"] != "advice"
        ]
        return found if everything else [one for one in found if catalogue()[one["id"]].family in ORDER]

    # ---- the end

    def _ended(
        self,
        causes: Sequence[Mapping[str, Any]],
        kept: Way | None,
        reason: str,
        missing: bool = False,
    ) -> Cure:
        recipe = comparison = file = None
        left = causes
        if kept is not None:
            recipe, comparison = self._proven(kept)
            left, file = self._findings_of(kept, everything=True), self.place / CURED
        found = Cure(
            self.parent, tuple(causes), tuple(self.tried), reason, self.metric, self.spent, self.full, recipe, comparison,
            tuple(left), file, missing,
        )  # fmt: skip
        if self.tried:
            self._write(found)
        return found

    def _proven(self, kept: Way) -> tuple[Recipe, Comparison]:
        """Before and after at full length, on the test part where there is one; and the cured recipe with its reasons."""
        recipe = self.recipe
        for one in self.tried:
            if one.adopted:
                recipe = remedies.applied(one.remedy, recipe, f"against {one.finding}") or recipe
        after = kept if self.length == self.full else self._way("cured", "cured", recipe)
        after = replace(after, about=", ".join(one.remedy for one in self.tried if one.adopted))
        before = replace(self._way("as-it-is", "as it is", self.recipe), there={self.seeds[0]: self.parent.folder})
        comparison = side_by_side([before, after], self.seeds, self.place, name=self.recipe.name, quiet=True)
        if comparison.missing:
            raise _Stopped
        resolved = Run(self._folder(after, self.seeds[0])).recipe
        proof = comparison.sentence(comparison.arms[1])
        origins = dict(resolved.origins)
        changed = {change.path for change in _differences(self.recipe, resolved)}
        for path, origin in origins.items():
            if path in changed:
                origins[path] = Origin(by="measured", why=f"cured: {proof}")
            elif origin.by == "derived" and not path.startswith("hardware."):
                origins[path] = Origin(by="user", why=f"as in the run that was cured: {origin.why}")
        origins["training.seed"] = self.recipe.origin("training.seed")
        return resolved.model_copy(update={"origins": origins, "name": f"{self.recipe.name}-cured"}), comparison

    def _write(self, found: Cure) -> None:
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            (self.place / SUMMARY).write_text(
                json.dumps(found.as_dict(), indent=1, ensure_ascii=False), encoding="utf-8"
            )
            if found.recipe is not None and found.file is not None:
                found.file.write_text(found.recipe.dump(), encoding="utf-8")
        except OSError as error:
            raise RunError(
                f"{self.place} cannot be written: {error.strerror}. Mend its permissions or the free space there."
            ) from None


# ---- words and choices


def trial_told(one: Tried, metric: str) -> str:
    """`clip-gradients (training.max_grad_norm: not set -> 1): 2.31 -> 0.12`."""
    before, after = ("not finite" if value is None else amount(metric, value) for value in (one.before, one.after))
    return f"{one.remedy} ({', '.join(map(change_told, one.changes))}): {before} -> {after}{', kept' if one.adopted else ''}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _differences(before: Recipe, after: Recipe) -> list[Change]:
    """What counts: neither names nor seeds, nor what is derived anew for a run on a machine."""
    idle = ("name", "training.seed", "hardware.device", "evaluation.batch_size")
    return [change for change in before.diff(after) if change.path not in idle]


def _found(run: Run) -> list[Mapping[str, Any]]:
    """The doctor's findings, read anew from the record where none were kept."""
    kept = run.findings()
    if kept or (run.folder / "findings.jsonl").is_file():
        return list(kept)
    doctor = Doctor()
    for event in run.events():
        doctor.see(event)
    doctor.end()
    read: list[Mapping[str, Any]] = [finding.as_dict() for finding in doctor.findings()]
    return read


def _ordered(findings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each id once, causes in the expert's order, then the symptoms under them."""

    def below(one: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        for symptom in one.get("symptoms", ()):
            yield symptom
            yield from below(symptom)

    def place(one: Mapping[str, Any]) -> int:
        family = catalogue()[one["id"]].family
        return ORDER.index(family) if family in ORDER else len(ORDER)

    causes = sorted(findings, key=place)
    every = [*causes, *(symptom for one in causes for symptom in below(one) if symptom["severity"] != "advice")]
    return list({one["id"]: one for one in reversed(every)}.values())[::-1]


def _changes_of(finding: str) -> list[str]:
    """The names of all its remedies, the first of each sentence first."""
    rows = [remedy.change for remedy in catalogue()[finding].remedies if remedy.change]
    longest = max(map(len, rows), default=0)
    return list(dict.fromkeys(row[i] for i in range(longest) for row in rows if i < len(row)))


def _judged_by(recipe: Recipe, findings: Sequence[str], scores: Mapping[str, float]) -> str:
    """By what trials are compared: what the run was judged by, unless that is a loss which a remedy may change."""
    if "class-imbalance" in findings and "f1" in scores:
        return "f1"
    metric = recipe.evaluation.metric or "loss"
    loss_is_bent = recipe.loss.label_smoothing or recipe.loss.class_weights is not None
    return told(scores, metric) if metric == "loss" and loss_is_bent else metric


def _of_the_loss(before: Recipe, after: Recipe) -> bool:
    return any(change.path.startswith("loss.") for change in before.diff(after))
