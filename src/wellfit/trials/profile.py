"""Where a step of training goes, and what makes it faster, proven by measuring.

The loop of `train/fit.py` itself turns a job for a few steps, as `find-lr` does: nothing is written, and afterwards model, optimizer, data
and random numbers are what they were. First its verbs are timed (`stopwatch.py`), then torch's profiler looks at a few steps more
(`operators.py`), which slows them and is said. Then changes that apply are tried one by one (`levers.py`), and those that gain are measured
once more, together, in rounds that chose nothing. Nothing is changed by itself.

    >>> print(wellfit.profile("digits"))
    >>> wellfit.profile(model, (x, y), loss="cross-entropy", trace="steps.json").gained
"""

import contextlib
import functools
import gc
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils import flop_counter
from torch.utils.data import DataLoader

from wellfit import distributed
from wellfit.data.batches import FromDataset, FromIterable, InMemory
from wellfit.environment import device as device_for
from wellfit.environment import environment
from wellfit.errors import RecipeError
from wellfit.models.keras import adopted
from wellfit.precision import DTYPES
from wellfit.recipe import Recipe, assignment
from wellfit.report.profile import Lever, Profile
from wellfit.report.words import count
from wellfit.train.setup import Job, from_recipe
from wellfit.train.switches import torch_settings
from wellfit.trials.borrowed import as_in_a_plain_loop, check_data, on_a_copy, untouched
from wellfit.trials.levers import (
    BETTER,
    Candidate,
    Making,
    asked,
    candidates,
    combined,
    compiling_is_late,
    lengths,
    more_workers,
    timed,
    tried,
)  # fmt: skip
from wellfit.trials.operators import Seen, check_trace, kinds_of, layers_named, profiler, read, silent, write_trace
from wellfit.trials.short import ShortTraining
from wellfit.trials.stopwatch import DATA, Stopwatch, Stretch

SECONDS = 2.0  # of timed steps, about, where nobody says how many
FEWEST, MOST = 5, 100
WARM = 3
MINUTES = 5.0  # that trying changes may take
CROWDED = 0.1  # of the time without a processor, which is worth a sentence
PROFILED = 10  # steps, at most: a file of more is slow to open
OF_TOKENS = ("text-generation", "seq-to-seq", "token-classification")  # whose targets are tokens


def profile(
    recipe: Recipe | str | Path | nn.Module,
    train: Any = None,
    *,
    loss: Any = None,
    optimizer: torch.optim.Optimizer | None = None,
    set: Mapping[str, Any] | None = None,
    steps: int | None = None,
    changes: Sequence[str] | None = None,
    minutes: float = MINUTES,
    trace: str | Path | None = None,
    tell: Callable[[str], object] | None = None,
) -> Profile:
    """Measures where a step of training goes: of a recipe, or of any model with its data and loss; and what makes it faster.

    `recipe`: a recipe, a preset's name, a file or a run; or an `nn.Module`, with `train` and `loss` as for `wellfit.fit`. `optimizer`: a
    torch optimizer of a loop of your own. `set`: dotted overrides. `steps`: optimizer steps that are timed to say where they go, at least 1; as many
    as take about two seconds, if nothing is said. `changes`: what is tried, such as "hardware.compile=true" or several joined by commas; what
    applies here, if nothing is said, and nothing for an empty list. `minutes`: that trying may take; what is left then is not tried, and
    told. `trace`: a file, .json or .json.gz, for Perfetto or chrome://tracing. `tell` is called with a line now and then.

    What is timed are the steps themselves: evaluation, checkpoints and the doctor's looks are not in it. Model, optimizer, their state and
    all global random generators are bit for bit as they were afterwards. With several ranks nothing is tried, and each rank tells of itself.

    Raises RecipeError, DataError and ModelError for what cannot be trained, RunError for a trace that cannot be written (both before
    anything is timed), and OutOfMemory.
    """
    if steps is not None and steps < 1:
        raise RecipeError(
            f"`steps` is {steps}; it takes at least 1 to be timed. Leave it out for two seconds' worth of them."
        )
    if not minutes > 0:
        raise RecipeError(
            f"`minutes` is {minutes:g}; trying changes takes more than 0. To try none, name none: `changes=[]`, `--no-changes`."
        )
    if trace is not None:
        check_trace(Path(trace))
    wanted = None if changes is None else [dict(map(assignment, filter(None, one.split(",")))) for one in changes]
    with untouched(train):
        if isinstance(recipe, nn.Module) or not isinstance(recipe, Recipe | str | Path):
            chosen = Recipe().override(set or {})
            check_data(train)
            module = adopted(recipe)
            if optimizer is not None:
                chosen = as_in_a_plain_loop(chosen, module, optimizer)
            name = type(recipe).__name__
        else:
            if train is not None or loss is not None or optimizer is not None:
                raise RecipeError(
                    "A recipe names its own data, loss and optimizer. Change it with `set`, or pass a model instead of a recipe."
                )
            chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
            # A run's recipe is resolved for that run: what was derived is derived anew.
            chosen = chosen.unresolved() if isinstance(recipe, str | Path) and Path(recipe).exists() else chosen
            chosen = chosen.override(set) if set else chosen
            if chosen.task == "given":
                raise RecipeError(
                    "This recipe is of a model and data that were passed to `wellfit.fit` in Python, and a recipe holds neither. Pass "
                    "the model and its data to `wellfit.profile`."
                )
            module, name = None, chosen.name or "recipe"
        with distributed.joined(device_for(chosen.hardware.device)):
            with torch_settings(chosen):
                if module is None:
                    job = from_recipe(chosen)
                    loaded = job.loaded
                    base = ShortTraining(job)
                else:
                    job, twins = on_a_copy(chosen, module, train, None, loss)
                    base = ShortTraining(job, optimizer, twins)

            def making(other: Recipe) -> ShortTraining:
                with torch_settings(other):
                    if module is None:
                        return ShortTraining(from_recipe(other, loaded))
                    made, others = on_a_copy(other, module, train, None, loss)
                    return ShortTraining(made, optimizer, others)

            fixed = type(train) is DataLoader  # which itself says how many processes load
            place = Path(trace) if trace is not None else None
            return _profiled(name, base, making, steps, minutes, wanted, place, fixed, tell or _mute)


# ---- what is measured


def _mute(_: str) -> None: ...


def _profiled(
    name: str,
    base: ShortTraining,
    making: Making,
    steps: int | None,
    minutes: float,
    wanted: list[dict[str, Any]] | None,
    trace: Path | None,
    loader: bool,
    tell: Callable[[str], object],
) -> Profile:
    job = base.job
    chosen = (
        None if wanted is None else [asked(job, one, loader) for one in wanted]
    )  # what cannot be is told before anything is timed
    first = timed(base, 1, 2)
    number = _steps(job, steps, first.seconds)
    tell(f"timing {count(number, 'step')}")
    _, warm = lengths(job, first.seconds)
    stretch = timed(base, number, max(WARM, warm))
    seconds = stretch.seconds
    tell("looking at operators")
    seen, profiled = _seen(base, min(number, PROFILED), max(WARM, warm), trace)
    waits = stretch.mean(DATA) / seconds
    levers: list[tuple[Candidate, Lever]] = []
    left: list[str] = []
    together = None
    if distributed.world() == 1:
        waiting = chosen if chosen is not None else candidates(job, waits, seconds, loader)
        until = time.perf_counter() + 60 * minutes
        levers, left = _levers(base, making, waiting, seconds, chosen is None, until, tell)
        together = _together(base, making, levers, seconds, tell)
    tokens = stretch.weight / seconds if job.recipe.task in OF_TOKENS else None
    flops = _flops(base)
    return Profile(
        name=name, settings=_settings(job), parameters=sum(p.numel() for p in job.model.parameters()), whole=job.steps,
        each=stretch.each, phases={phase: stretch.mean(phase) for phase in stretch.phases},
        samples_per_second=stretch.samples / seconds, profiled=profiled, operators=seen.operators, between=seen.between, layers=seen.layers,
        tokens_per_second=tokens, flops=flops, attainable=_attainable(job) if flops else None, busy=seen.busy, copies=seen.copies,
        ranks=distributed.world(), talks=seen.talks if distributed.world() > 1 else None,
        levers=tuple(lever for _, lever in levers), together=together, loading=_loading(job), workers=getattr(job.batches, "workers", 0),
        notes=tuple(_notes(job, stretch, chosen is None, left, minutes)),
    )  # fmt: skip


def _steps(job: Job, asked: int | None, seconds: float) -> int:
    """How many are timed. Data that comes from a stream may have an end, so of it no more than the training takes."""
    number = asked if asked is not None else max(FEWEST, min(MOST, math.ceil(SECONDS / seconds)))
    if isinstance(job.batches, FromIterable) and job.batches.length is None:
        number = max(1, min(number, job.steps - WARM))
    return number


def _seen(base: ShortTraining, steps: int, warm: int, trace: Path | None) -> tuple[Seen, float]:
    """What the profiler saw of a few steps, and how long one of them took."""
    job = base.job
    seeing = profiler(job.device)
    watch = Stopwatch(job, warm=warm, steps=steps, naming=True, began=seeing.start, ended=seeing.stop)

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        # A compiled network is one graph, in which there are no layers any more.
        with watch.watching(), contextlib.nullcontext() if job.recipe.hardware.compile else layers_named(job.model):
            yield

    with silent(), warnings.catch_warnings(), torch_settings(job.recipe):
        warnings.filterwarnings("ignore", module=r"torch\.(profiler|autograd)")
        base.turn(watch, watch.total, around=around)
        seconds = watch.stretch().seconds
        seen = read(seeing.events(), steps, seconds, kinds_of(job.model))
        if trace is not None and distributed.rank() == 0:
            write_trace(seeing, trace)
    return seen, seconds


def _levers(
    base: ShortTraining,
    making: Making,
    waiting: list[Candidate],
    seconds: float,
    climbing: bool,
    until: float,
    tell: Callable[[str], object],
) -> tuple[list[tuple[Candidate, Lever]], list[str]]:
    """Each candidate measured by itself; of loading processes twice as many again, as long as that helps. And what was left for want
    of time.
    """
    waiting, best = list(waiting), 1.0
    found: list[tuple[Candidate, Lever]] = []
    while waiting and time.perf_counter() < until:
        candidate = waiting.pop(0)
        tell(f"trying {candidate.told}")
        lever = tried(base, candidate, making, seconds, until)
        gc.collect()  # a network that is no longer needed gives its memory back before the next one is made
        found.append((candidate, lever))
        if climbing and candidate.workers is not None and lever.verdict == "faster" and lever.factor > BETTER * best:
            best = lever.factor
            more = more_workers(candidate)
            waiting = [more, *waiting] if more is not None else waiting
    return found, [candidate.told for candidate in waiting]


def _together(
    base: ShortTraining,
    making: Making,
    levers: list[tuple[Candidate, Lever]],
    seconds: float,
    tell: Callable[[str], object],
) -> Lever | None:
    """What gained, all at once, of each kind the best, in rounds of its own: those that chose it flatter it."""
    best: dict[str, tuple[Candidate, Lever]] = {}
    for candidate, lever in sorted(levers, key=lambda pair: pair[1].factor):
        if lever.verdict == "faster" and lever.pays_after(seconds) < base.job.steps:
            best[lever.group] = (candidate, lever)
    chosen = [candidate for candidate, _ in best.values()][::-1]
    if not chosen:
        return None
    both = combined(chosen) if len(chosen) > 1 else chosen[0]
    tell(f"measuring {'all that gained, together' if len(chosen) > 1 else f'{both.told} again'}")
    return tried(base, both, making, seconds)


def _settings(job: Job) -> dict[str, Any]:
    recipe, here = job.recipe, environment()
    device = job.device
    machine = here["accelerators"][torch.device(device).index or 0] if device.startswith("cuda") else here["processor"]
    told = {
        "batch_size": f"batches of {recipe.training.batch_size or 1:,}",
        "precision": f"{recipe.hardware.precision}{', compiled' if recipe.hardware.compile else ''}",
        "device": f"on {device} ({machine}{'' if device != 'cpu' else ', ' + count(torch.get_num_threads(), 'thread')})",
    }
    parts = recipe.training.gradient_accumulation_steps * job.recovered.finer
    if parts > 1:
        told["batch_size"] += f" in {parts} micro-batches"
    if distributed.world() > 1:
        told["ranks"] = f"rank {distributed.rank()} of {distributed.world()}"
    return told


def _loading(job: Job) -> str:
    """How data comes: from "memory", from samples "made" for each batch, loaded "here" or by "workers", or in ready "batches"."""
    batches = job.batches
    if isinstance(batches, FromDataset):
        return "workers" if batches.workers else "here"
    return "batches" if isinstance(batches, FromIterable) else "memory" if isinstance(batches, InMemory) else "made"


def _notes(job: Job, stretch: Stretch, by_itself: bool, left: list[str], minutes: float) -> Iterator[str]:
    yield from stretch.notes
    if stretch.crowded > CROWDED:
        yield (
            f"Other programs had the processor for {stretch.crowded:.0%} of the timed steps; alone a step takes less. Changes are compared "
            "without that time."
        )
    if left:
        yield f"Not tried, because {count(minutes, 'minute')} were over: {', '.join(left)}. `minutes` (`--minutes`) gives it more."
    if job.recovered.finer > 1:
        yield from (note for note in job.notes if note.startswith("Memory ran out"))
    if job.stages is not None and job.stages.moves:
        yield "More of the network learns later in this training; a step then takes longer than what is told here, which is of the first ones."
    if distributed.world() > 1:
        yield "With several ranks nothing is tried; without torchrun, changes are."
    elif by_itself and compiling_is_late(job, stretch.seconds):
        yield (
            "hardware.compile=true was not tried: the compiler takes a minute or more, and this whole training is short beside that. "
            "`--try hardware.compile=true` tries it all the same."
        )


def _flops(base: ShortTraining) -> float | None:
    """Operations of a step's matrix products, convolutions and attention, one multiplication and one addition each counted as two.

    None where torch cannot count them: of recurrent layers' kernels it knows nothing.
    """
    job = base.job
    if distributed.world() > 1 or any(isinstance(part, nn.RNNBase) for part in job.model.modules()):
        return None
    aten = torch.ops.aten
    attention = {  # on a CPU, of which torch's table does not know
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: flop_counter.sdpa_flop_count(q, k, v),  # type: ignore[no-untyped-call]
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: flop_counter.sdpa_backward_flop_count(g, q, k, v),  # type: ignore[no-untyped-call]
    }  # fmt: skip
    counter = flop_counter.FlopCounterMode(display=False, custom_mapping=attention)
    watch, recipe = Stopwatch(job, warm=1, steps=1), job.recipe
    job.recipe = recipe.override({"hardware.compile": False}, why="counted")
    try:
        with torch_settings(job.recipe), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            base.turn(watch, 1, around=lambda: counter)
    except (RuntimeError, TypeError, NotImplementedError):  # an operator that cannot be told to a mode
        return None
    finally:
        job.recipe = recipe
    return float(counter.get_total_flops()) or None


@functools.cache
def _attained(device: str, dtype: torch.dtype) -> float:
    side = 8192 if device.startswith("cuda") else 1024
    one, clock = torch.ones(side, side, dtype=dtype, device=device), time.perf_counter
    spent = []
    for _ in range(7):
        began = clock()
        float((one @ one)[0, 0])  # read, so that it is over
        spent.append(clock() - began)
    return 2 * side**3 / median(spent[2:])


def _attainable(job: Job) -> float:
    """Such operations a second in a product of two large matrices, in the precision of the job: what this device gives at best."""
    return _attained(job.device, DTYPES[job.recipe.hardware.precision] or torch.float32)
