"""The cure: what the doctor found in a run is treated with small changes of its recipe, and what is kept is proven.

In rounds. *Screen*: a few remedies of the first cause, in the order in which an expert would try them (`candidates.py`), are trained
once each, with the run's own seed, data and order. *Judge*: the best is trained beside the recipe that it changes over seeds that
screened nothing, and kept if it is better in the paired comparison; else the next best, then the next few. One that halves the loss and
after which the doctor finds nothing of that kind is kept as it is, and nothing beside it is tried: the proof judges it. What the doctor says of
what was kept opens the next round. Where a change was kept, the learning rate is measured anew once nothing is found any more, because
every change moves the best one. *Prove*: the run's recipe and the changed one at full length, over seeds that decided nothing, scored on
the test part where there is one. Only what is better there is a cure.

Trials are runs below the parent's folder, `RUN/cure/`, so a cure that was stopped goes on with the same call. A run of which the
doctor says nothing is left alone. Data, code and resources are nothing that a recipe can change: what was found of them is told
with what to do.

    >>> found = cure("runs/digits")
    >>> print(found)
    >>> found.recipe.dump()
"""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wellfit import distributed, whole
from wellfit.doctor.doctor import Doctor
from wellfit.doctor.finding import catalogue
from wellfit.errors import RunError, WellfitError
from wellfit.events import Started
from wellfit.recipe import Origin, Recipe
from wellfit.report.comparison import Comparison
from wellfit.report.together import CURE, TREATMENT
from wellfit.report.treatment import Cure, Tried, differences
from wellfit.report.words import better, change_told, last, told
from wellfit.run import Run
from wellfit.trials import candidates, remedies
from wellfit.trials.budget import Budget
from wellfit.trials.candidates import MEASURED, USUAL, Candidate
from wellfit.trials.compare import Way, side_by_side
from wellfit.trials.find_lr import find_lr
from wellfit.trials.trial import OVER, Trial, finished, mark, outcome

CURED, PICTURE, RATES = "cured.yaml", "cure.png", "rates.json"
ROUNDS = 4  # changes that are kept for what is found
CLOSELY = 2  # of a few, how many are judged
WORTH = 0.03  # of a score: what gains less is not worth a change
PLAIN = 0.5  # of a score: what gains as much, and leaves nothing of its kind to find, needs no judging before the proof
AS_GOOD = 0.9  # of the largest gain: as good, so what leaves nothing for the doctor to find comes first
MEASURING = 1000  # steps that measuring a learning rate may well take; with less of the budget left it is passed over
MEND = "Mend its permissions or the free space there."
OF_LENGTH = (
    "training.epochs",
    "evaluation.every",
    "checkpoints.every",
)  # not carried from a short trial to a whole run

Finding = Mapping[str, Any]


def cure(
    run: Run | str | Path,
    *,
    seeds: int = 3,
    steps: int | None = None,
    minutes: float | None = None,
    quiet: bool = False,
) -> Cure:
    """Treats what the doctor found in a run that is over, and gives back what is proven to help over `seeds` paired runs.

    `steps`, `minutes`: what everything together may take, in optimizer steps or time; without either, as many runs of full length as ten
    minutes allow, or else shorter ones that cost ten runs, and the proof. The cured recipe is written to `RUN/cure/cured.yaml`.

    Ctrl-C and SIGTERM save the trial that is going on; the cure is then `missing`, and the same call goes on.
    Raises RunError for a run that is not over, has nothing held out, or whose data or model is not in its recipe, and for a budget of
    nothing; RecipeError under torchrun.
    """
    parent = run if isinstance(run, Run) else Run.open(run)
    course = _Course.of(parent, seeds, steps, minutes, (lambda _: None) if quiet else _say)
    return course.taken()


def plan(run: Run | str | Path) -> list[Candidate]:
    """What a cure of this run would try first, cause by cause; nothing is trained. Raises as `cure` does."""
    parent = run if isinstance(run, Run) else Run.open(run)
    course = _Course.of(parent, 3, None, None, _say)
    found = candidates.treatable(_found(parent))
    return [one for few in candidates.groups(found, parent.recipe, same_loss=course.metric == "loss") for one in few]


class _Stopped(Exception):
    """Somebody asked to stop while a trial went on."""


class _OtherData(RunError):
    """No matter of one remedy: the cure ends."""


@dataclass
class _Course:
    """A cure that is going on: what it is of, what it may cost, and what was tried so far."""

    parent: Run
    seeds: int
    samples: int  # of the validation part
    budget: Budget
    metric: str
    tell: Callable[[str], None]
    tried: list[Tried] = field(default_factory=list)
    _rate_is_settled: bool = False  # the usual one was chosen beside a measured one

    @classmethod
    def of(
        cls, parent: Run, seeds: int, steps: int | None, minutes: float | None, tell: Callable[[str], None]
    ) -> "_Course":
        distributed.alone("A cure")
        recipe, ended = parent.recipe, parent.ended()
        if seeds < 2:
            raise RunError(f"{seeds} seeds were asked for; a cure compares over at least 2, and 3 are usual.")
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
        started = last(parent.events(), Started)
        if started is None:
            raise RunError(
                f"The record of {parent.folder} does not say how it began, so it is damaged and cannot be cured."
            )
        if not started.valid_samples:
            raise RunError(
                f"Nothing was held out in {parent.folder}, so whether a change helps cannot be measured. Train with "
                "`data.valid_share=0.1`, or name a set with `data.valid=PATH`."
            )
        budget = Budget.of(parent, seeds=seeds, steps=steps, minutes=minutes)
        metric = judged_by(recipe, [one["id"] for one in _found(parent)], parent.scores("valid"))
        return cls(parent, seeds, started.valid_samples, budget, metric, tell)

    # ---- the course, on one page

    def taken(self) -> Cure:
        causes = [one for one in _found(self.parent) if one["severity"] != "advice"]
        if not causes:
            return self._ended(causes, "The doctor found no fault in this run, so there is nothing to cure.")
        try:
            base = self._begun()
            kept, reason = self._rounds(base, candidates.treatable(causes))
            if kept is base:
                return self._ended(causes, reason)
            self.tell(f"  proving it over seeds {_listed(self._proving)}")
            return self._proven(causes, kept, reason)
        except _Stopped:
            return self._ended(causes, "It was stopped; the same command goes on.", missing=True)

    def _rounds(self, base: Way, found: Sequence[Finding]) -> tuple[Way, str]:
        """What is kept in the end, and why it ended."""
        current, now = base, list(found)
        while now and len(self._adopted) < ROUNDS and not self.budget.is_spent:
            better_one = self._round(current, now)
            if better_one is None:
                break
            current, now = better_one, candidates.treatable(self._findings_of(better_one))
        at_first = current is base
        if not at_first and self._rate_is_old() and not self.budget.is_spent:
            rate = remedies.applied(MEASURED, current.recipe, "measured anew, as every change moves the best rate")
            if rate is not None:
                current = self._closely(current, [Candidate(MEASURED, self._adopted[-1].finding, rate)]) or current
        if self.budget.is_spent:
            return current, "The budget is spent."
        if not self.tried:
            return (
                current,
                "None of what was found can be mended by a recipe: it is a matter of the data, the code or the machine.",
            )
        if at_first:
            judged = any(one.sentence and one.trained for one in self.tried)
            seen = (
                f"over {self.seeds} seeds" if judged else "with the run's own seed, so none was looked at more closely"
            )
            return (
                current,
                f"No remedy was better by more than {WORTH:.0%}, {seen}.{self._short}",
            )
        if now and len(self._adopted) >= ROUNDS:
            return current, f"It ended after {ROUNDS} changes that helped."
        return current, "The doctor finds nothing any more." if not now else "No further change helped."

    def _round(self, current: Way, found: Sequence[Finding]) -> Way | None:
        """The first change that helps; None if none does."""
        for few in candidates.groups(found, current.recipe, same_loss=self.metric == "loss"):
            if self.budget.is_spent:
                return None
            kept = self._closely(current, few)
            if kept is not None:
                return kept
        return None

    def _closely(self, current: Way, few: Sequence[Candidate]) -> Way | None:
        """Screens a few, and judges the best of them over further seeds. The first that is better, None if none is."""
        screened = []
        for candidate in few:
            one = self._screened(current, candidate)
            if one is not None and self._is_plain(current, one, candidate.finding):
                return self._kept_as_plain(self._or_the_usual_rate(current, one, candidate, few))
            screened += [one] if one is not None else []
        most = max((gain for gain, _, _ in screened), default=0.0)

        def first(one: tuple[float, Way, int]) -> tuple[bool, float]:
            gain, way, _ = one
            return gain >= AS_GOOD * most and not candidates.treatable(self._findings_of(way)), gain

        for _, way, at in sorted(screened, key=first, reverse=True)[:CLOSELY]:
            verdict = self._judged(current, way)
            arm = verdict.arms[1]
            helps = verdict.verdict(arm).says == "better"
            self.tried[at] = replace(self.tried[at], sentence=verdict.sentence(arm), adopted=helps)
            self.tell(f"    {self.tried[at].sentence}")
            if helps:
                return replace(way, there={**way.there, **{seed: Path(folder) for seed, folder in arm.folders.items()}})
        return None

    def _is_plain(self, current: Way, one: tuple[float, Way, int], finding: str) -> bool:
        """Whether so much is gained that luck is no explanation, and what is found now is of a kind that comes later."""
        gain, way, _ = one
        before = self._score(current)
        much = before is None or gain >= PLAIN * abs(before)
        return much and all(
            candidates.comes_after(left["id"], finding) for left in candidates.treatable(self._findings_of(way))
        )

    def _or_the_usual_rate(
        self, current: Way, measured: tuple[float, Way, int], candidate: Candidate, few: Sequence[Candidate]
    ) -> tuple[float, Way, int]:
        """Of a measured learning rate and the usual one, the usual, unless it is worse by more than a standard error.

        The rule of one standard error (Breiman et al. 1984, 3.4.3): few held-out samples cannot tell the two apart.
        """
        other = next((one for one in few if one.remedy == USUAL), None)
        if candidate.remedy != MEASURED or other is None:
            return measured
        self._rate_is_settled = True
        usual = self._screened(current, other)
        if usual is None or not self._is_plain(current, usual, other.finding):
            return measured
        return measured if measured[0] - usual[0] > self._least(usual[1], MEASURED) else usual

    def _kept_as_plain(self, one: tuple[float, Way, int]) -> Way:
        _, way, at = one
        sentence = "So much, and what was found is gone: kept, for the proof to judge."
        self.tried[at] = replace(self.tried[at], sentence=sentence, adopted=True)
        self.tell(f"    {sentence}")
        return way

    # ---- screen, judge, prove

    def _screened(self, current: Way, candidate: Candidate) -> tuple[float, Way, int] | None:
        """Its gain with the run's own seed, its way and its place in `tried`; None where that is not worth a closer look."""
        if self.budget.is_spent:
            return None
        if candidate.remedy == MEASURED and self.budget.limit - self.budget.steps < MEASURING:
            return None
        before, remedy = self._score(current), candidate.remedy
        changes = differences(current.recipe, candidate.recipe)
        self.tell(f"  {remedy} ({', '.join(map(change_told, changes))})")
        try:
            way = self._trained(self._way(remedy, self._with_rate(candidate.recipe)))
        except _OtherData:
            raise
        except WellfitError as error:
            self.tried.append(Tried(remedy, candidate.finding, changes, before, None, str(error), trained=False))
            self.tell(f"    not trained. {error}")
            return None
        after = self._score(way)
        one = Tried(remedy, candidate.finding, differences(current.recipe, way.recipe), before, after)
        self.tried.append(one)
        self.tell(f"    {one.told(self.metric).rpartition('): ')[2]}")
        if after is None or (before is not None and not self._gain(before, after) > self._least(current, remedy)):
            return None
        return self._gain(before, after) if before is not None else math.inf, way, len(self.tried) - 1

    def _judged(self, current: Way, way: Way) -> Comparison:
        """Both over seeds that screened nothing, on the validation part."""
        return self._compared([current, way], self._judging, split="valid", samples=self.samples)

    def _proven(self, causes: Sequence[Finding], kept: Way, reason: str) -> Cure:
        """Before and after at full length, over seeds that decided nothing, on the test part where there is one."""
        names = ", ".join(one.remedy for one in self._adopted)
        before = replace(self._way("as it is", self.parent.recipe), there={self._own: self.parent.folder})
        after = self._way("cured", self._at_full_length(kept))
        comparison = self._compared([before, replace(after, about=names)], self._proving)
        arm = comparison.arms[1]
        usual = told(Run(Path(arm.folders[self._proving[0]])).scores(comparison.split), comparison.metric)
        others = (
            [self._compared([before, replace(after, about=names)], self._proving, metric=usual)]
            if usual != self.metric
            else []
        )
        if comparison.verdict(arm).says != "better":
            reason = f"{reason} What helped in the trials is not confirmed by the proof, so nothing is called a cure."
            return self._ended(causes, reason, comparison=comparison, others=others)
        first = Run(Path(arm.folders[self._proving[0]]))
        recipe = self._with_reasons(first.recipe, comparison.sentence(arm))
        left = [one for one in _found(first) if one["severity"] != "advice"]
        return self._ended(causes, reason, recipe=recipe, comparison=comparison, others=others, left=left)

    def _compared(self, ways: Sequence[Way], seeds: Sequence[int], metric: str = "", **how: Any) -> Comparison:
        name, chosen = self.parent.recipe.name, metric or self.metric
        done = side_by_side(ways, seeds, self.place, name=name, metric=chosen, quiet=True, **how)
        for arm in done.arms:
            for folder in arm.folders.values():
                self._count(Path(folder))
        if done.missing:
            raise _Stopped
        return done

    # ---- seeds: none that chose is asked to judge, none that judged is asked to prove

    @property
    def _own(self) -> int:
        return self.parent.recipe.training.seed

    @property
    def _judging(self) -> list[int]:
        return [*range(self._own + 1, self._own + 1 + self.seeds)]

    @property
    def _proving(self) -> list[int]:
        return [*range(self._own + 1 + self.seeds, self._own + 1 + 2 * self.seeds)]

    # ---- trials

    @property
    def place(self) -> Path:
        return self.parent.folder / TREATMENT

    @staticmethod
    def _way(about: str, recipe: Recipe) -> Way:
        """Named by its recipe too: another budget, or another order of remedies, makes other trials beside those that are there."""
        return Way(f"{about.replace(' ', '-')}-{mark(recipe)}", about, recipe)

    def _begun(self) -> Way:
        """The run's recipe over the length of a trial, trained with its own seed: mostly that is the run itself."""
        recipe = self.parent.recipe
        if self.budget.length == self.budget.full:
            return replace(self._way("as it is", recipe), there={self._own: self.parent.folder})
        changes: dict[str, Any] = {"training.steps": self.budget.length} | dict.fromkeys(OF_LENGTH)
        share = self.budget.length / self.budget.full
        if recipe.schedule.warmup_steps is not None and recipe.schedule.warmup_steps >= 1:
            changes["schedule.warmup_steps"] = max(1.0, float(round(recipe.schedule.warmup_steps * share)))
        if recipe.finetune.strategy == "recipe":
            changes["finetune.head_epochs"] = recipe.finetune.head_epochs * share
        why = f"a trial of {self.budget.length:,} of {self.budget.full:,} steps"
        return self._trained(self._way("as it is", recipe.override(changes, by="measured", why=why)))

    def _trained(self, way: Way) -> Way:
        """The way with its run of the run's own seed, and the recipe with nothing left open, as that has it."""
        folder = self.place / f"{way.name}-seed{self._own}"
        if not finished(Trial(way.recipe, folder)):
            raise _Stopped
        self._of_the_same_data(folder)
        self._count(folder)
        return replace(way, recipe=Run(folder).recipe, there={self._own: folder})

    def _of_the_same_data(self, folder: Path) -> None:
        """Raises RunError for a trial on data that is not the run's: what differs would not be the remedy's doing."""
        run = Run(folder)
        shared = not any(change.path.startswith("data.") for change in self.parent.recipe.diff(run.recipe))
        then, now = (one.environment.get("data_fingerprint") for one in (self.parent, run))
        if shared and then and now and then != now:
            raise _OtherData(
                f"The training data is not what it was when {self.parent.folder} was trained, so trials cannot be compared with it. Train the run "
                "again on the data as it is, and cure that."
            )

    def _count(self, folder: Path) -> None:
        if folder != self.parent.folder:
            self.budget.count(folder)

    def _with_rate(self, recipe: Recipe) -> Recipe:
        """With the learning rate measured, if that is asked for; measured once, and kept. Raises RunError where there is none."""
        if recipe.optimizer.learning_rate != "auto":
            return recipe
        file, name = self.place / RATES, mark(recipe)
        known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if name not in known:
            found = find_lr(recipe)
            known[name] = {"rate": found.suggestion, "steps": found.taken, "reason": found.reason}
            whole.write(file, json.dumps(known, indent=1), MEND, folder_too=True)
        self.budget.spent[f"{RATES}: {name}"] = known[name]["steps"]
        rate, reason = known[name]["rate"], known[name]["reason"]
        if rate is None:
            raise RunError(f"There is no stable answer: {reason}")
        return recipe.override({"optimizer.learning_rate": rate}, by="measured", why=reason)

    def _at_full_length(self, kept: Way) -> Recipe:
        """What was kept in short trials, in the recipe of the run."""
        if self.budget.length == self.budget.full:
            return kept.recipe
        changes = {
            change.path: change.after
            for change in differences(self._begun().recipe, kept.recipe)
            if change.path not in OF_LENGTH and not change.path.startswith("hardware.")
        }
        if "training.steps" in changes:  # larger batches over as many epochs
            changes["training.steps"] = round(changes["training.steps"] * self.budget.full / self.budget.length)
            changes |= dict.fromkeys(OF_LENGTH)
        return self.parent.recipe.override(changes, by="measured", why="kept in the trials of the cure")

    def _score(self, way: Way) -> float | None:
        reached = outcome(way.there[self._own], "valid")
        return None if reached is None or reached.failed else reached.scores.get(self.metric)

    def _least(self, way: Way, remedy: str) -> float:
        """What a remedy has to gain over a way to be worth a closer look.

        A measured rate was chosen by the held-out samples that score it now, so it has to gain a standard error of theirs.
        """
        score = self._score(way)
        least = 0.0 if score is None else WORTH * abs(score)
        return max(least, self._error(way)) if remedy == MEASURED else least

    def _error(self, way: Way) -> float:
        """The standard error of a score that so many held-out samples leave; 0 where there is no score.

        The loss of a classifier is mostly that of the samples which it gets wrong, so these count; of n squared errors it is sqrt(2 / n).
        """
        reached, score = outcome(way.there[self._own], "valid"), self._score(way)
        if reached is None or score is None or not math.isfinite(score):
            return 0.0
        right = reached.scores.get("accuracy")
        if self.metric == "loss" and right is not None and (self.parent.recipe.task or "").endswith("-classification"):
            return abs(score) / math.sqrt(max(1.0, self.samples * (1 - right)))
        if better(self.parent.recipe, self.metric) == "max":
            return math.sqrt(max(0.0, score * (1 - score)) / self.samples)
        return abs(score) * math.sqrt(2 / self.samples)

    def _gain(self, before: float, after: float) -> float:
        return after - before if better(self.parent.recipe, self.metric) == "max" else before - after

    def _findings_of(self, way: Way) -> list[Finding]:
        return _found(Run(way.there[self._own]))

    @property
    def _short(self) -> str:
        """What is to be known of short trials."""
        if self.budget.length == self.budget.full:
            return ""
        return f" Trials had {self.budget.length:,} of {self.budget.full:,} steps, and what shows later they do not show; `--minutes` gives them more."

    @property
    def _adopted(self) -> list[Tried]:
        return [one for one in self.tried if one.adopted]

    def _rate_is_old(self) -> bool:
        """Whether something was changed since the learning rate was measured."""
        settled = (MEASURED, USUAL) if self._rate_is_settled else (MEASURED,)
        return all(one.remedy not in settled for one in self._adopted[-1:])

    # ---- the end

    def _with_reasons(self, recipe: Recipe, proof: str) -> Recipe:
        """The cured recipe: what was changed is measured; what was derived for the run is as it was there."""
        origins = dict(recipe.origins)
        changed = {change.path for change in differences(self.parent.recipe, recipe)}
        for path, origin in origins.items():
            if path in changed:
                origins[path] = Origin(by="measured", why=f"cured: {proof}")
            elif origin.by == "derived" and not path.startswith("hardware."):
                origins[path] = Origin(by="user", why=f"as in the run that was cured: {origin.why}")
        named = recipe.model_copy(update={"origins": origins, "name": f"{self.parent.recipe.name}-cured"})
        seed = self.parent.recipe.origin("training.seed")
        return named.override({"training.seed": self._own}, by=seed.by, why=seed.why)

    def _ended(
        self,
        causes: Sequence[Finding],
        reason: str,
        *,
        recipe: Recipe | None = None,
        comparison: Comparison | None = None,
        others: Sequence[Comparison] = (),
        left: Sequence[Finding] | None = None,
        missing: bool = False,
    ) -> Cure:
        file = self.place / CURED
        found = Cure(
            self.parent, tuple(causes), tuple(self.tried), reason, self.metric, comparison.split if comparison else "valid",
            self.budget.steps, self.budget.full, recipe, comparison, tuple(others), tuple(causes if left is None else left),
            file if recipe is not None else None, missing,
        )  # fmt: skip
        if self.tried and not missing:
            text = json.dumps(found.as_dict(), indent=1, ensure_ascii=False)
            whole.write(self.place / CURE, text, MEND, folder_too=True)
            if recipe is not None:
                whole.write(file, recipe.dump(), MEND)
            else:
                for stale in (file, self.place / PICTURE):
                    stale.unlink(missing_ok=True)
        return found


# ---- what is read and written


def judged_by(recipe: Recipe, findings: Sequence[str], scores: Mapping[str, float]) -> str:
    """By what trials are compared: what the run was judged by, unless that is a loss which a remedy may change."""
    if "class-imbalance" in findings and "f1" in scores:
        return "f1"
    metric = recipe.evaluation.metric or "loss"
    loss_is_bent = recipe.loss.label_smoothing or recipe.loss.class_weights is not None
    return told(scores, metric) if metric == "loss" and loss_is_bent and scores else metric


def _found(run: Run) -> list[Finding]:
    """The doctor's findings, read anew from the record where none were kept."""
    kept = [one for one in run.findings() if one["id"] in catalogue()]
    if kept or (run.folder / "findings.jsonl").is_file():
        return list(kept)
    doctor = Doctor()
    for event in run.events():
        doctor.see(event)
    doctor.end()
    return [finding.as_dict() for finding in doctor.findings()]


def _listed(seeds: Sequence[int]) -> str:
    return f"{', '.join(map(str, seeds[:-1]))} and {seeds[-1]}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
