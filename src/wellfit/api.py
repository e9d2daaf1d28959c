"""The public verbs: `fit` your own model, `fit_recipe` a recipe, `resume` a run, `open` one.

Each makes a job (`train/setup.py`), turns it (`train/fit.py`), and finishes it: best weights back, test scores, the
classical yardstick, the report. `import wellfit` gives these names; torch is loaded when one is first used.

    >>> run = wellfit.fit(model, (x, y), (x_valid, y_valid), loss="cross-entropy", set={"training.epochs": 5})
    >>> run.scores()["accuracy"]
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from wellfit import distributed, report
from wellfit.defaults import goes_on
from wellfit.doctor import words
from wellfit.doctor.doctor import Doctor
from wellfit.doctor.probe import Probe
from wellfit.environment import device as device_for
from wellfit.environment import environment
from wellfit.errors import RunError
from wellfit.events import Ended, Evaluated, Started
from wellfit.integrations.trackers import following
from wellfit.recipe import Recipe
from wellfit.report import together
from wellfit.report.notebook import live
from wellfit.run import RECIPE, Run, runs
from wellfit.sharding import is_sharded, mesh_of
from wellfit.tasks import KINDS
from wellfit.train.evaluate import evaluate
from wellfit.train.fit import fit as turn
from wellfit.train.record import Observer, Record
from wellfit.train.recovery import Recovery, explaining
from wellfit.train.review import review
from wellfit.train.setup import Job, from_given, from_recipe
from wellfit.train.switches import torch_settings
from wellfit.trials.find_lr import measured

RUNS = Path("runs")


def fit_recipe(
    recipe: Recipe | str | Path,
    *,
    set: Mapping[str, Any] | None = None,
    root: str | Path = RUNS,
    folder: str | Path | None = None,
    observers: Iterable[Observer] = (),
    quiet: bool = False,
    yardsticks: bool = True,
) -> Run:
    """Trains a recipe, a preset (`"digits"`) or a recipe file, and returns its run, `run.model` included.

    `set` holds dotted overrides. The run is a new folder below `root`, or exactly `folder`. Observers are called with
    every event. `yardsticks`: whether classical models are scored beside the network, where its task has some.

    Raises a WellfitError for whatever does not fit, before the first step.
    """
    chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    chosen = chosen.override(set) if set else chosen
    chosen, told = measured(chosen)
    with _ranks(chosen), torch_settings(chosen):
        job = from_recipe(chosen)
        job.agree()
        job.notes += told
        return _run(job, _created(job, root, folder), observers, quiet, yardsticks)


def fit(
    model: nn.Module,
    train: Any,
    valid: Any = None,
    *,
    loss: Any = None,
    metrics: Mapping[str, Callable[[Any, Any], Any]] | None = None,
    recipe: Recipe | str | Path | None = None,
    set: Mapping[str, Any] | None = None,
    root: str | Path = RUNS,
    folder: str | Path | None = None,
    resume: str | Path | Run | None = None,
    observers: Iterable[Observer] = (),
    quiet: bool = False,
) -> Run:
    """Trains your own model on your own data and returns its run.

    `model`: any `nn.Module`, a Keras 3 model on torch included; it is trained in place and holds the best weights when it
    has finished (the last ones, if it was interrupted). `train` and `valid`: a tuple of tensors or arrays (inputs,
    targets), a `Dataset`, a `DataLoader`, or anything that yields batches (inputs, targets). `loss`: a name
    (`"cross-entropy"`, `"mse"`, ...), a torch loss, or a callable (outputs, targets) -> mean over the batch or one value
    per sample. `metrics`: name -> callable (outputs, targets) -> mean over the batch. `set`: dotted recipe overrides.
    `resume`: a run of the same call to go on with.

    Raises a WellfitError for whatever does not fit, before the first step.
    """
    if resume is not None:
        run = resume if isinstance(resume, Run) else Run.open(resume)
        chosen = run.recipe
        if set or recipe is not None:
            raise RunError(
                "A resumed run keeps its recipe, so `set` and `recipe` cannot be given with `resume`. Start a new run to change it."
            )
    else:
        chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe) if recipe is not None else Recipe()
        chosen = chosen.override(set) if set else chosen
    chosen, told = measured(chosen, model, train, valid, loss=loss)
    with _ranks(chosen), torch_settings(chosen):
        job = from_given(chosen, model, train, valid, loss=loss, metrics=metrics)
        job.agree()
        job.notes += told
        return _run(job, run if resume is not None else _created(job, root, folder), observers, quiet)


def resume(
    path: str | Path, *, observers: Iterable[Observer] = (), quiet: bool = False, yardsticks: bool = True
) -> Run:
    """Goes on with a run from its last good checkpoint, to the same bits as if it had never stopped.

    Raises RunError if there is no run, or if data or model are not what they were.
    """
    run = Run.open(path)
    recipe = run.recipe
    if recipe.task == "given":
        raise RunError(
            f"The run {run.folder} trained a model and data that were passed to `wellfit.fit` in Python, and a run folder holds "
            f"neither. Make the same call again with `resume={str(run.folder)!r}`."
        )
    with _ranks(recipe), torch_settings(recipe):
        job = from_recipe(recipe)
        job.agree()
        return _run(job, run, observers, quiet, yardsticks)


def open(path: str | Path) -> Run:
    """A run that exists: its recipe, events, metrics as a table, scores, best weights. Raises RunError if it is not one."""
    return Run.open(path)


def write_report(path: str | Path) -> Path:
    """Writes `report.html` anew from what a run, or the folder of a comparison, holds, and returns its path."""
    if not (Path(path) / RECIPE).is_file() and (Path(path) / together.COMPARISON).is_file():
        return together.write(Path(path))
    return report.write(Run.open(path))


def trained(
    job: Job,
    *,
    root: str | Path = RUNS,
    folder: str | Path | None = None,
    observers: Iterable[Observer] = (),
    quiet: bool = False,
) -> Run:
    """Trains a job that is made already into a new run, as `fit_recipe` does with the one that it makes."""
    with _ranks(job.recipe), torch_settings(job.recipe):
        job.agree()
        return _run(job, _created(job, root, folder), observers, quiet, yardsticks=False)


def turned(job: Job, run: Run) -> str:
    """Turns a job in a run's folder from its last checkpoint to the end, or to `job.until`: no doctor, no scores, no report.

    Returns why it ended, in the words of `events.Ended`.
    """
    record = _record(job, run, ())
    try:
        _restore(job, record)
        record.emit(started(job))
        reason = turn(job, record)
        record.checkpoints.wait()
        return reason
    finally:
        record.close()


# ---- inside


def _ranks(recipe: Recipe) -> contextlib.AbstractContextManager[None]:
    """The ranks together, if there are several."""
    return distributed.joined(device_for(recipe.hardware.device), recipe.hardware.rank_timeout)


def _record(job: Job, run: Run, observers: Iterable[Observer]) -> Record:
    checkpoints = job.recipe.checkpoints
    return Record(
        run, observers, device=job.device, keep=checkpoints.keep, minutes=checkpoints.minutes,
        batch_size=job.recipe.training.batch_size or 1, mesh=mesh_of(job.model),
    )  # fmt: skip


def _created(job: Job, root: str | Path, folder: str | Path | None) -> Run:
    """The run's folder, made by the first rank; or that of the same launch, whose ranks were started again."""
    made: Any = None
    if distributed.rank() == 0:
        place, launch = Path(folder) if folder is not None else None, distributed.launch()
        made = _of_launch(job, Path(root), place, launch)
        if made is not None:
            job.notes.append(f"The ranks of this launch were started again, so its run, {made}, goes on.")
        else:
            facts = environment() | {"data_fingerprint": job.fingerprint, "launch": launch}
            made = Run.create(Path(root), job.recipe, facts, job.record, place).folder
    return Run(distributed.from_first(made))


def _of_launch(job: Job, root: Path, folder: Path | None, launch: str | None) -> Path | None:
    """The run that this launch began before and has not ended; None where there is none."""
    if launch is None:
        return None
    for run in [Run(folder)] if folder is not None else runs(root):
        if run.environment.get("launch") == launch and run.recipe.flat() == job.recipe.flat() and run.ended() is None:
            return run.folder
    return None


def _run(job: Job, run: Run, observers: Iterable[Observer], quiet: bool, yardsticks: bool = True) -> Run:
    """From the last checkpoint, or the start, to the end, with those who watch."""
    watching: list[Observer] = [*observers] if quiet else [live(), *observers]
    with following(watching, run):
        return _watched(job, run, watching, yardsticks)


def _watched(job: Job, run: Run, watching: Iterable[Observer], yardsticks: bool) -> Run:
    """The training, the scores on data that decided nothing, the findings, the report."""
    record = _record(job, run, watching)
    try:
        _restore(job, record)
        doctor = _attended(job, record)
        record.emit(started(job))
        for text in job.notes:
            record.note(text)
        if job.old is not None and job.standing.step == 0:
            record.emit(Evaluated(0, "old", _of_old_task(job)))
        reason = turn(job, record)
        record.checkpoints.wait()
        spent = time.perf_counter() - record.began
        if reason != "interrupted":
            step = _give_back_best(job, record)
        if reason in ("finished", "early-stopping"):
            if doctor is not None and isinstance(record.probe, Probe):
                for vitals in record.probe.closing(doctor.history("")):
                    record.emit(vitals)
            _score(job, record, step, yardsticks)
            _review(job, record)
            if yardsticks:
                _compare_memory(job, record)
        standing = job.standing
        record.emit(Ended(standing.step, reason, spent, standing.best_step, standing.best_value))
    finally:
        record.close()
    if distributed.rank() == 0:
        if doctor is not None:
            run.keep_findings(finding.as_dict() for finding in doctor.findings())
        report.write(run)
    run.model = None if is_sharded(job.model) else job.model
    return run


def _attended(job: Job, record: Record) -> Doctor | None:
    """The doctor at the run's bedside, if the recipe wants one: it hears every event, and its probe looks at some steps."""
    if not job.recipe.training.doctor:
        return None
    if job.shares:
        record.note(
            "The training is shared out over ranks, so the doctor hears of losses, gradient norms and scores, and sees no layer."
        )
    if not record.first:
        return None
    doctor = Doctor()
    for event in record.run.events():
        doctor.see(event)
    doctor.on_finding = lambda finding: record.note(words.short(finding))
    if not job.recipe.hardware.compile and not job.shares:  # a compiled step has no graph to look at
        tuned = job.recipe.finetune.strategy is not None
        loss = job.recipe.loss
        weighted = loss.class_weights is not None or loss.kind == "focal"
        record.probe = Probe(job.model, job.optimizer, job.standing.step, trained_before=tuned, weighted=weighted)
    record.observers.insert(0, doctor.see)
    return doctor


def _restore(job: Job, record: Record) -> None:
    """Puts the job where its run stopped, if it has a checkpoint; names the damaged ones that were passed over."""
    checkpoints = record.checkpoints
    if record.first:
        checkpoints.clean()
    found = checkpoints.latest()
    if found is not None:
        job.restore(found.weights, found.state)
        record.step = found.step
        if record.first:
            checkpoints.mark_best(job.standing.best_step)
    for damage in checkpoints.damaged:
        instead = (
            f"Going on from step {found.step} instead." if found else "There is no other, so training starts over."
        )
        record.note(f"{damage} {instead}")


def started(job: Job) -> Started:
    """The event with which the training of a job begins, or goes on."""
    training = job.recipe.training
    accumulation = training.gradient_accumulation_steps * job.recovered.finer
    ways = distributed.world() * accumulation
    parameters = [(p.numel(), p.requires_grad) for p in job.model.parameters()]
    return Started(
        step=job.standing.step,
        steps=job.steps,
        steps_per_epoch=job.batches.steps_per_epoch,
        parameters=sum(count for count, _ in parameters),
        trainable=sum(count for count, wanted in parameters if wanted),
        train_samples=job.batches.samples,
        valid_samples=job.valid.samples if job.valid is not None else 0,
        batch_size=training.batch_size or 1,
        micro_batch_size=max(1, (training.batch_size or 1) // ways),
        gradient_accumulation_steps=accumulation,
        world=distributed.world(),
        device=job.device,
        precision=job.recipe.hardware.precision,
        time=time.time(),
        trained_before=goes_on(job.recipe) or job.recipe.finetune.strategy is not None,
    )


def _give_back_best(job: Job, record: Record) -> int:
    """The best weights back into the model, if the recipe says so; returns the step of those that it holds then."""
    step = job.standing.step
    if job.recipe.evaluation.restore_best and job.standing.best_step is not None:
        best = record.checkpoints.best()
        if best is not None and best.step == job.standing.best_step:
            job.put(best.weights)
            step = best.step
        else:
            record.note(
                f"The checkpoint of the best step, {job.standing.best_step}, cannot be read; the model keeps its last weights. "
                + " ".join(record.checkpoints.damaged)
            )
    return step


def _of_old_task(job: Job) -> dict[str, float]:
    assert job.old is not None
    with explaining(job.recipe, "while the old task was scored"), job.precision.autocast():
        return evaluate(job.old.model, job.old.task, job.old.held)


def _score(job: Job, record: Record, step: int, beside: bool) -> None:
    """The scores on data that decided nothing, the model's and the yardsticks', and what is left of an old task."""
    if job.old is not None:
        before = next((e.metrics for e in record.run.events() if isinstance(e, Evaluated) and e.split == "old"), {})
        after = _of_old_task(job)
        record.emit(Evaluated(step, "old", after))
        name = report.words.told(after, job.old.metric)
        if name in before:
            plain = report.words.plain(name)
            then, now = (report.words.amount(name, scores[name]) for scores in (before, after))
            record.note(f"The old task's {plain} was {then} before and is {now} now.")
    if job.test is not None:
        with job.precision.autocast():
            scores = Recovery(job, record).evaluate(job.model, job.task, job.test)
        samples = len(job.loaded.test) if job.loaded is not None and job.loaded.test is not None else 0
        record.emit(Evaluated(step, "test", scores, samples=samples))
        yardsticks = KINDS[job.loaded.task].yardsticks if job.loaded is not None and beside else None
        if job.loaded is not None and yardsticks is not None and record.first:
            for baseline in yardsticks(job.loaded):
                record.emit(Evaluated(step, "test", baseline.scores, of=baseline.name))


def _review(job: Job, record: Record) -> None:
    """What the network gets wrong on data that decided nothing, kept for the report."""
    held = job.test if job.test is not None else job.valid
    if held is None:
        return
    if distributed.world() > 1:
        record.note("What the network gets wrong was not looked at: that is done with one process alone.")
        return
    try:
        with job.precision.autocast():
            found = review(job.model, held, job.record, getattr(job.task, "criterion", None))
    except Exception as error:  # a training that is over must not be undone by a look at it
        record.note(f"What the network gets wrong was not looked at: {type(error).__name__}: {error}")
        return
    if found is not None:
        record.run.keep_review(found | {"split": "test" if job.test is not None else "valid"})


def _compare_memory(job: Job, record: Record) -> None:
    """What a step was to hold, by its plan, beside what was measured, kept for the report.

    Of one process alone; and of recipes, since a network that was given is code of others, which may do more than compute.
    """
    if distributed.world() > 1 or job.recipe.task == "given":
        return
    from wellfit.memory import memory_plan_job

    try:
        kept = memory_plan_job(job, run=record.run).of_a_run()
    except Exception as error:  # as above; some networks cannot be followed without numbers
        kept = {"table": [], "says": [f"What a step holds was not predicted. {error}"]}
    record.run.keep_memory(kept)
