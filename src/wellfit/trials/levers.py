"""What could make a step faster, tried on the step itself.

A candidate is a change of the recipe (or of torch's switches, of the number of loading processes) and what it does to the numbers. Which
apply is a plain function of the job and of where its steps go. Each is tried beside the job as it is, in rounds: a few steps of the
one, then of the other, in turns of who goes first, on the same batches from the same weights. So what disturbs the machine disturbs both, and
what counts is the ratio within a round.

    >>> [candidate.told for candidate in candidates(job, waits=0.8, seconds=0.1)]
    ['data.workers=2']
"""

import contextlib
import functools
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from wellfit.data.batches import Cut, FromDataset
from wellfit.environment import multiplies_bf16
from wellfit.errors import WellfitError
from wellfit.recipe import Recipe
from wellfit.report.profile import Lever
from wellfit.report.words import count
from wellfit.settings.training import Hardware
from wellfit.train.recovery import ran_out
from wellfit.train.setup import Job
from wellfit.train.switches import torch_settings
from wellfit.trials.short import ShortTraining
from wellfit.trials.stopwatch import Stopwatch, Stretch, TooLong

FEWEST_ROUNDS, ROUNDS, MOST_ROUNDS = 3, 5, 9
WORTH_MORE = 1.05  # a gain that is seen and not sure yet is worth more rounds
ROUND = 0.2  # seconds of timed steps in a round, about
MOST = 300  # steps of it
LIMIT = 300.0  # seconds that one short training of a candidate may take
WORTH = 900.0  # seconds of a whole training from which compiling, which takes a minute or three, can pay
WAITS = 0.05  # of a step: with less waiting for data there is nothing to gain from loading it otherwise
BETTER = 1.1  # so much must twice as many loading processes gain for twice as many again to be tried

AUTOCAST = "products in two to three digits, sums in fp32"


@dataclass(frozen=True)
class Candidate:
    """A change. `told`: as it is written. `workers`: loading processes, where the data decides and not the recipe."""

    told: str
    what: str
    bits: str = ""
    change: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "recipe"
    workers: int | None = None
    switch: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    comparable: bool = True  # the same batches, so that losses can be compared


Making = Callable[[Recipe], ShortTraining]


def candidates(job: Job, waits: float, seconds: float, loader: bool = False) -> list[Candidate]:
    """Those that apply to this job, the cheapest to try first. `waits`: share of a step that waits for data; `seconds`: of a step;
    `loader`: the data is a DataLoader, which says itself how many processes load.
    """
    return [*_loading(job, waits, loader), *_memory(job), *_arithmetic(job), *_compiling(job, seconds)]


def asked(job: Job, changes: Mapping[str, Any], loader: bool = False) -> Candidate:
    """One that the user named. Raises RecipeError for a change that a recipe cannot take."""
    job.recipe.override(changes)
    told = ",".join(
        f"{path}={value if isinstance(value, str) else json.dumps(value)}" for path, value in changes.items()
    )
    known = {one.told: one for one in (*_arithmetic(job), *_compiling(job, math.inf), *_memory(job))}
    if told in known:
        return known[told]
    if set(changes) == {"data.workers"} and isinstance(job.batches, FromDataset):
        return _workers(int(changes["data.workers"]), loader)
    same = all(path.startswith(("hardware.", "training.deterministic", "recovery.")) for path in changes)
    bits = "the numbers may change" if same else "another training: what it learns may be something else"
    return Candidate(told, "as asked", bits, changes, comparable=same)


def _loading(job: Job, waits: float, loader: bool) -> list[Candidate]:
    batches = job.batches
    if not isinstance(batches, FromDataset) or waits < WAITS:
        return []
    return [_workers(max(2, 2 * batches.workers), loader)]


def _workers(number: int, loader: bool) -> Candidate:
    what = f"{count(number, 'process', 'processes')} load samples while the network computes"
    if loader:
        return Candidate(f"DataLoader(num_workers={number})", what, kind="code", workers=number)
    return Candidate(f"data.workers={number}", what, change={"data.workers": number}, workers=number)


def more_workers(tried: Candidate) -> Candidate | None:
    """Twice as many loading processes, as long as this machine may bear them."""
    number = 2 * (tried.workers or 1)
    return _workers(number, tried.kind == "code") if number <= max(4, 2 * (os.cpu_count() or 1)) else None


def _memory(job: Job) -> list[Candidate]:
    recipe, found = job.recipe, []
    if recipe.hardware.activation_checkpointing:
        found.append(
            Candidate(
                "hardware.activation_checkpointing=0", "activations are kept, not computed again: more memory", "",
                {"hardware.activation_checkpointing": 0},
            )
        )  # fmt: skip
    parts = recipe.training.gradient_accumulation_steps
    if parts > 1 and isinstance(job.batches, Cut):
        bits = "the same gradient but for rounding"
        if any("BatchNorm" in type(part).__name__ for part in job.model.modules()):
            bits += ", and batch norm takes its statistics from more samples"
        for fewer in sorted({1, parts // 2}):
            if parts % fewer == 0:
                size = count((recipe.training.batch_size or 1) // fewer, "sample")
                change = {"training.gradient_accumulation_steps": fewer}
                found.append(
                    Candidate(
                        f"training.gradient_accumulation_steps={fewer}",
                        f"micro-batches of {size}: more memory",
                        bits,
                        change,
                    )
                )
    return found


def _arithmetic(job: Job) -> list[Candidate]:
    recipe, device = job.recipe, job.device
    found, hardware, cuda = [], recipe.hardware, device.startswith("cuda")
    if hardware.precision == "fp32" and multiplies_bf16(device):
        found.append(Candidate("hardware.precision=bf16", "mixed precision", AUTOCAST, {"hardware.precision": "bf16"}))
    elif hardware.precision == "fp32" and cuda:
        found.append(
            Candidate(
                "hardware.precision=fp16", "mixed precision, loss scaled", AUTOCAST, {"hardware.precision": "fp16"}
            )
        )
    if hardware.precision == "fp32" and cuda and torch.get_float32_matmul_precision() == "highest":
        found.append(
            Candidate(
                'torch.set_float32_matmul_precision("high")', "TensorFloat-32 in products of fp32", "products in three digits",
                kind="code", switch=functools.partial(matmul_precision, "high"),
            )
        )  # fmt: skip
    if (
        "channels_last" in Hardware.model_fields
        and not getattr(hardware, "channels_last", True)
        and _convolves(job.model)
    ):
        found.append(
            Candidate(
                "hardware.channels_last=true", "channels lie next to each other, as convolutions read them", "the same but for rounding",
                {"hardware.channels_last": True},
            )
        )  # fmt: skip
    if recipe.training.deterministic:
        found.append(
            Candidate(
                "training.deterministic=false", "any kernel, the fastest", "the same command may no longer give the same bits",
                {"training.deterministic": False},
            )
        )  # fmt: skip
    if device == "cpu" and torch.get_num_threads() > 1 and "OMP_NUM_THREADS" not in os.environ:
        found.append(
            Candidate(
                "OMP_NUM_THREADS=1", "one thread: small operators gain nothing from sharing", "sums may be rounded in another order",
                kind="environment", switch=functools.partial(threads, 1),
            )
        )  # fmt: skip
    return found


def compiling_is_late(job: Job, seconds: float) -> bool:
    """Whether the compiler is left out, because the whole training is short beside what it takes."""
    return not job.recipe.hardware.compile and job.steps * seconds < WORTH


def _compiling(job: Job, seconds: float) -> list[Candidate]:
    if job.recipe.hardware.compile or compiling_is_late(job, seconds):
        return []
    bits = "the same but for rounding: operators are joined"
    return [Candidate("hardware.compile=true", "operators joined and compiled", bits, {"hardware.compile": True})]


def _convolves(model: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in model.modules())


@contextlib.contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """torch's switch for products of fp32, inside the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """torch computes with so many threads, inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- measuring


def timed(training: ShortTraining, steps: int, warm: int, candidate: Candidate | None = None, **how: Any) -> Stretch:
    """So many steps, timed, behind a warm-up. Raises TooLong where that takes longer than it may."""
    watch = Stopwatch(training.job, warm=warm, steps=steps, **how)
    switch = candidate.switch if candidate is not None else contextlib.nullcontext
    with torch_settings(training.job.recipe), switch(), warnings.catch_warnings():
        # Whether more processes than processors are too many is what is measured.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        training.turn(watch, watch.total, around=watch.watching)
    return watch.stretch()


def lengths(job: Job, seconds: float) -> tuple[int, int]:
    """Timed steps of a round, and steps of its warm-up: enough for loading processes to have settled to their pace."""
    number, workers = min(MOST, math.ceil(ROUND / seconds)), getattr(job.batches, "workers", 0)
    return max(number, 4 * workers), max(1 if seconds > ROUND else 2, 2 * workers)


def tried(
    base: ShortTraining,
    candidate: Candidate,
    making: Making,
    seconds: float,
    until: float = math.inf,
) -> Lever:
    """The candidate measured beside the job as it is. What cannot be trained so is told, and no error.

    `seconds`: of a step as it is. `until`: a time of `time.perf_counter`, after which there are no more rounds than the fewest that can
    tell anything.
    """

    def lever(**found: Any) -> Lever:
        return Lever(candidate.told, candidate.kind, candidate.what, candidate.bits, **found)

    try:
        other = making(base.job.recipe.override(dict(candidate.change), why="tried"))
        if candidate.workers is not None:
            other.job.batches.workers = candidate.workers  # type: ignore[attr-defined]
        (number, warm), (more, longer) = lengths(base.job, seconds), lengths(other.job, seconds)
        number = max(number, more)
        first = timed(other, 1, longer, candidate, limit=LIMIT)
        plain = timed(base, 1, longer)  # as many, so at the same rates
        begins = max(0.0, first.settled - plain.settled)
        differs = apart(plain.losses, first.losses) if candidate.comparable else None
        factors: list[float] = []
        while True:
            pair: dict[bool, Stretch] = {}
            for mine in (True, False) if len(factors) % 2 else (False, True):
                one, run_up, changed = (other, longer, candidate) if mine else (base, warm, None)
                pair[mine] = timed(one, number, run_up, changed, limit=LIMIT, comparing=True)
            factors.append(pair[False].typical / pair[True].typical * pair[True].samples / pair[False].samples)
            found = lever(factors=tuple(factors), differs=differs, begins=begins)
            if decided(found) or (len(factors) >= FEWEST_ROUNDS and time.perf_counter() > until):
                break
        return found
    except TooLong:
        return lever(failed=f"it took more than {LIMIT:.0f} seconds")
    except WellfitError as error:
        return lever(failed=str(error).rstrip("."))
    except Exception as error:  # a missing compiler or kernel, say: whatever it is, the job as it is stands
        return lever(failed="memory ran out" if ran_out(error) else _said(error))


def _said(error: Exception) -> str:
    """What an error says, in a line; what it only announces is followed by what it announced."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return f"{type(error).__name__}: {told}"[:200].rstrip(".: ")


def decided(lever: Lever) -> bool:
    """Whether more rounds would be of no use: what they show is sure, or there is nothing to be seen, or there were many."""
    rounds = len(lever.factors)
    if rounds < FEWEST_ROUNDS:
        return False
    unseen = max(lever.factors) < 1 or (rounds >= ROUNDS and lever.factor < WORTH_MORE)
    return lever.verdict != "nothing" or unseen or rounds >= MOST_ROUNDS


def apart(plain: tuple[float, ...], changed: tuple[float, ...]) -> float:
    """The largest difference of two losses of the same step, relative to the larger."""
    pairs = zip(plain, changed, strict=False)
    return max((abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in pairs if a != b), default=0.0)


def combined(chosen: list[Candidate]) -> Candidate:
    """Several changes as one."""
    change = {path: value for one in chosen for path, value in one.change.items()}

    @contextlib.contextmanager
    def switches() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for one in chosen:
                stack.enter_context(one.switch())
            yield

    told = " ".join(f"--set {one.told}" if one.kind == "recipe" else one.told for one in chosen)
    workers = next((one.workers for one in chosen if one.workers is not None), None)
    bits = "; ".join(dict.fromkeys(one.bits for one in chosen if one.bits))
    return Candidate(
        told, "all that gained", bits, change, "code", workers, switches, all(one.comparable for one in chosen)
    )
