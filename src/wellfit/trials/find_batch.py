"""The largest micro-batch that fits, for the batch that a training has.

The batch of a step stays as it is: micro-batch x accumulation x ranks. Only its divisors are tried, so each cut is even, and the
gradient is the same but for the order in which numbers are summed. On an accelerator the sizes are tried with real steps, forward,
backward and update, growing twofold until memory runs out, then halving what is left between; a tenth of the free memory is kept
from them, for fragmentation. For a CPU, which would swap or be killed, and for a GPU that is elsewhere, the memory plan says what fits
(`plan/trace.py`). Where sizes can be timed cheaply they are, because the largest is not always the fastest.

Everything is tried on a job of its own, and nothing is changed: the result proposes.

    >>> found = wellfit.find_batch("digits", gpu="RTX 4090")
    >>> found.largest.samples, found.change
"""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wellfit import optim
from wellfit.data.batches import Batch, Cut, untouched_randomness
from wellfit.defaults import evaluated_at_once
from wellfit.distributed import alone
from wellfit.doctor.copies import copied
from wellfit.errors import DataError, ModelError, OutOfMemory, RecipeError
from wellfit.memory import largest, subject_of, ways_to_fit
from wellfit.models.keras import adopted
from wellfit.optim.gradients import Gradients
from wellfit.optim.optimizers import update
from wellfit.plan.hardware import Gpu, bytes_called, free_memory_bytes, gpu_called
from wellfit.plan.trace import training
from wellfit.recipe import Recipe
from wellfit.report.memory import CONTEXT, MARGIN, Way, needed, size
from wellfit.report.micro_batches import BatchSearch, Timed, Tried
from wellfit.train.recovery import least_samples, let_go, ran_out
from wellfit.train.setup import Job, from_given, from_recipe, with_rates
from wellfit.train.switches import torch_settings

TIMED = 5  # sizes at most, the largest and halves of it
ROUNDS = 3  # in which each is timed; the least counts
CHEAP = 4.0  # seconds that a size may take to be timed


def find_batch(
    recipe: Recipe | str | Path | nn.Module,
    train: Any = None,
    valid: Any = None,
    *,
    loss: Any = None,
    set: Mapping[str, Any] | None = None,
    memory: int | str | None = None,
    gpu: str | None = None,
    ranks: int = 1,
) -> BatchSearch:
    """Finds the largest micro-batch that fits, of a recipe or of any model with its data and loss.

    `recipe`: a recipe, a preset's name, a file or a run's folder; or an `nn.Module`, with `train`, `valid` and `loss` as for `wellfit.fit`.
    It is copied, and takes its room twice where it lies on the GPU already. `set`: dotted overrides. `memory`: of the GPU on which it has to
    fit, in bytes or as "24 GB"; or `gpu`: its name in the table of `wellfit.plan.hardware`. Without either it is the recipe's own device.
    `ranks`: processes that share the batch as DDP does, each with the whole model.

    The recipe, the model and all global random generators stay as they are. Where not one sample fits, `largest` is None, and `ways` rank
    what to change, as `wellfit plan` does.

    Raises RecipeError, DataError, ModelError and HardwareError for what cannot be trained, cut or planned at all.
    """
    if memory is not None and gpu is not None:
        raise RecipeError("Both a memory and a GPU were named; its memory is known from its name, so name one of them.")
    if ranks < 1:
        raise RecipeError(f"`ranks` is {ranks}; it must be at least 1.")
    alone("Finding a batch", "Say how many ranks there will be with `--ranks`.")
    card = gpu_called(gpu) if gpu is not None else None
    room = card.bytes if card is not None else bytes_called(memory) if memory is not None else None
    with untouched_randomness():
        if isinstance(recipe, Recipe | str | Path):
            if train is not None or valid is not None or loss is not None:
                raise RecipeError(
                    "A recipe names its own data and loss. Change it with `set`, or pass a model instead of a recipe."
                )
            name, chosen, make = _of_recipe(recipe, set or {})
        else:
            name, chosen = type(recipe).__name__, Recipe().override(set or {})
            make = _of_model(recipe, train, valid, loss)
        if room is not None:  # elsewhere: nothing is done here but the plan, in the precision that it would have there
            chosen = chosen.override({"hardware.device": "cpu"}, why="it is only planned")
            if card is not None and card.bf16 and chosen.hardware.precision == "auto":
                why = f"the {card.name} multiplies it in hardware"
                chosen = chosen.override({"hardware.precision": "bf16"}, by="derived", why=why)
        with torch_settings(chosen):
            return _found(name, chosen, make, room, card, ranks)


Make = Callable[[Recipe], Job]


def _of_recipe(recipe: Recipe | str | Path, changes: Mapping[str, Any]) -> tuple[str, Recipe, Make]:
    chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    # A run's recipe is resolved for that run: what was derived is derived anew.
    chosen = chosen.unresolved() if isinstance(recipe, str | Path) and Path(recipe).exists() else chosen
    if chosen.task == "given":
        raise RecipeError(
            "This recipe is of a model and data that were passed to `wellfit.fit` in Python, and a recipe holds neither. Pass the "
            "model and its data to `wellfit.find_batch`."
        )
    return chosen.name or "recipe", chosen.override(changes) if changes else chosen, from_recipe


def _of_model(model: Any, train: Any, valid: Any, loss: Any) -> Make:
    if train is None:
        raise DataError(
            "A model was passed without data. Pass what it learns from as `train`: (inputs, targets), a DataLoader ..."
        )
    module = adopted(model)
    return lambda asked: from_given(asked, copied(module)[0], train, valid, loss=loss)


# ---- the search


def _found(name: str, recipe: Recipe, make: Make, room: int | None, card: Gpu | None, ranks: int) -> BatchSearch:
    failed = False
    try:
        job = _made_small(recipe, make)
    except OutOfMemory:
        failed = True
    if failed:  # the model alone, or its first look at the smallest micro-batch, is too much for the device
        let_go()
        job = _made_small(recipe.override({"hardware.device": "cpu"}, why="it does not fit on the device"), make)
    cuts = _Cuts.of(job, recipe, ranks)
    here = room is None and not failed
    really = here and on_an_accelerator(job.device)
    on, total = _place(job, room, card, failed)
    notes = [f"It is planned in {job.recipe.hardware.precision}."] if not really else []
    if job.recipe.hardware.compile:
        notes.append("It was tried without the compiler, which mostly needs less.")
    look = _really(cuts) if really else _planned(cuts, total, cuda=not here or job.device != "cpu")
    tried: dict[int, Tried] = {}

    def fits(samples: int) -> bool:
        if samples not in tried:
            peak, fitting = look(samples)
            tried[samples] = Tried(samples, cuts.share // samples, peak, fitting)
        return tried[samples].fits

    best = None if failed else _largest(cuts.sizes, fits, whole_first=not really)
    if failed:
        tried[cuts.sizes[0]] = Tried(cuts.sizes[0], cuts.share // cuts.sizes[0], None, False)
    ways: tuple[tuple[Way, ...], tuple[Way, ...]] = ((), ())
    timed: tuple[Timed, ...] = ()
    if best is None:
        cuts.cut(cuts.sizes[0])
        try:
            ways = ways_to_fit(_subject(cuts, cuda=True), Gpu(on, total / 1e9, 0))
        except ModelError as error:
            notes.append(f"What would make it fit is not known: {error}")
    elif here:
        timed = _timed(cuts, [samples for samples in cuts.sizes if samples <= best])
        if timed[-1].samples < best:
            notes.append(f"Micro-batches of more than {timed[-1].samples} take too long to be timed in passing.")
    else:
        notes.append("It was not timed: how fast it is there shows only there.")
    largest_one = tried[best] if best is not None else None
    return BatchSearch(
        name=name, batch=cuts.batch, ranks=ranks, present=cuts.present, on=on, room=total,
        tried=tuple(tried[samples] for samples in sorted(tried)), timed=timed, largest=largest_one, really=really,
        change=cuts.change(recipe, best), ways=ways[0], together=ways[1], exact=least_samples(job.model) == 1,
        better=_better(cuts, best), notes=tuple(notes),
    )  # fmt: skip


def _largest(sizes: list[int], fits: Callable[[int], bool], whole_first: bool) -> int | None:
    """The largest of the rising sizes that fits: twofold growth until one does not, then bisection between the last two.

    With `whole_first` the largest is looked at before all, where a look costs no memory; else at the end where nothing fits, because
    a batch that is not cut holds no second gradient beside the sum of those before.
    """
    low, high = -1, len(sizes)  # places: the last that fits, the first that does not
    if whole_first:
        if fits(sizes[-1]):
            return sizes[-1]
        high -= 1
    while low + 1 < high:
        most = 2 * sizes[low] if low >= 0 else 0
        place = max((i for i in range(low + 1, high) if sizes[i] <= most), default=low + 1)
        if not fits(sizes[place]):
            high = place
            break
        low = place
    while high - low > 1:
        middle = (low + high) // 2
        if fits(sizes[middle]):
            low = middle
        else:
            high = middle
    if low < 0 and not whole_first and len(sizes) > 1 and fits(sizes[-1]):
        return sizes[-1]
    return sizes[low] if low >= 0 else None


@dataclass
class _Cuts:
    """A job whose batch can be cut anew. `share`: samples of a batch on each rank; `sizes`: what it can be cut into, rising."""

    job: Job
    batch: int
    ranks: int
    present: int
    sizes: list[int]
    own_evaluation: bool  # the size of held-out batches is derived, and so follows the micro-batch

    @classmethod
    def of(cls, job: Job, recipe: Recipe, ranks: int) -> "_Cuts":
        batches, criterion = job.batches, getattr(job.task, "criterion", None)
        if not isinstance(batches, Cut):
            raise RecipeError(
                "Batches that come ready-made, or with rehearsed samples beside them, cannot be cut anew. Pass tensors, a Dataset or a plain "
                "DataLoader, or make the batches smaller yourself."
            )
        if getattr(criterion, "together", False):
            raise RecipeError(
                "This loss tells each sample from the others of its micro-batch, so smaller ones would learn something else. Ask "
                "`wellfit plan` with `--batch` for several sizes."
            )
        batch = batches.order.batch_size
        if batch % ranks:
            near = sorted({max(ranks, batch // ranks * ranks), (batch // ranks + 1) * ranks})
            raise RecipeError(
                f"`training.batch_size` is {batch}, which {ranks} ranks cannot share evenly; try {' or '.join(map(str, near))}."
            )
        share = batch // ranks
        least = least_samples(job.model)
        sizes = [n for n in range(1, share + 1) if share % n == 0 and (n >= least or n == share)]
        present = max(1, share // recipe.training.gradient_accumulation_steps)
        if job.stages is not None:
            job.stages.at(job.steps - 1)  # when everything learns that ever does
        held = job.valid.batch_size if job.valid is not None else None
        own = job.recipe.origin("evaluation.batch_size").by == "derived" and held == job.recipe.evaluation.batch_size
        return cls(job, batch, ranks, present, sizes, own)

    @property
    def share(self) -> int:
        return self.batch // self.ranks

    @property
    def exchanged(self) -> int:
        """Bytes of the buckets in which DDP exchanges gradients, as large as these."""
        learns = (p for p in self.job.model.parameters() if p.requires_grad)
        return sum(p.numel() * p.element_size() for p in learns) if self.ranks > 1 else 0

    def cut(self, samples: int) -> None:
        """From here on micro-batches have so many samples; held-out ones as many as the recipe then says."""
        job = self.job
        assert isinstance(job.batches, Cut)
        job.batches.order = replace(job.batches.order, accumulation=self.batch // samples)
        job.batches.load_state_dict(job.batches.state_dict())
        if job.valid is not None and self.own_evaluation:
            job.valid.batch_size = evaluated_at_once(job.recipe, job.recipe.task, samples)

    def change(self, recipe: Recipe, samples: int | None) -> dict[str, Any]:
        """What to set so that micro-batches have so many samples and the batch stays."""
        if samples is None or samples == self.present:
            return {}
        kept = {"training.batch_size": self.batch} if recipe.training.batch_size is None else {}
        return {**kept, "training.gradient_accumulation_steps": self.share // samples}


def _made_small(recipe: Recipe, make: Make) -> Job:
    """The job, in micro-batches as small as can be where its batch is known, because its first look takes one for real."""
    batch = recipe.training.batch_size
    if batch is not None and batch > 1 and not batch % recipe.training.gradient_accumulation_steps:
        least = next(n for n in range(2, batch + 1) if batch % n == 0)
        recipe = recipe.override(
            {"training.gradient_accumulation_steps": batch // least}, why="the smallest for a first look"
        )
    recipe = recipe.override({"recovery.out_of_memory": False}, why="sizes are what is looked for")
    return make(recipe)


def _place(job: Job, room: int | None, card: Gpu | None, failed: bool) -> tuple[str, int]:
    """Where it has to fit, in words, and the bytes there, CUDA's own included."""
    if card is not None:
        return f"the {card.name} ({size(card.bytes)})", card.bytes
    if room is not None:
        return f"a GPU of {size(room)}", room
    if torch.cuda.is_available() and (failed or on_an_accelerator(job.device)):
        free, _ = torch.cuda.mem_get_info()
        return f"the {torch.cuda.get_device_name()} here ({size(free)} free)", free + CONTEXT
    free = free_memory_bytes() or 0
    if not free:
        raise RecipeError(
            "This machine does not tell how much memory is free. Say how much there is: `--memory '16 GB'`."
        )
    return f"this machine ({size(free)} of memory free)", free + CONTEXT


def on_an_accelerator(device: str) -> bool:
    """Whether sizes are tried for real there: memory that runs out is an error there, and on a CPU the end of the process."""
    return device.startswith("cuda")


def _better(cuts: _Cuts, best: int | None) -> tuple[int, ...]:
    """Batches near this one that can be halved again and again, where the next cut is more than twice the one that fits."""
    next_one = next((n for n in cuts.sizes if best is not None and n > best), None)
    if best is None or next_one is None or next_one <= 2 * best or cuts.share < 8:
        return ()
    step = 2 ** (cuts.share.bit_length() // 2 + 1)  # about twice the root of the share
    near = {cuts.share // step * step, -(-cuts.share // step) * step} - {0, cuts.share}
    return tuple(sorted(n * cuts.ranks for n in near if n * cuts.ranks <= cuts.job.batches.samples))


# ---- does it fit?


def _planned(cuts: _Cuts, room: int, cuda: bool) -> Callable[[int], tuple[int | None, bool]]:
    """By the memory plan: nothing is computed."""

    def look(samples: int) -> tuple[int | None, bool]:
        cuts.cut(samples)
        peak = training(_subject(cuts, cuda, cuts.share // samples)).peak.bytes + cuts.exchanged
        return peak, needed(peak) <= room

    return look


def _subject(cuts: _Cuts, cuda: bool, micro_batches: int | None = None) -> Any:
    """What the plan traces. A GPU holds no more of the data than a batch; on a CPU all of it lies in the same memory."""
    subject = subject_of(cuts.job)
    count = micro_batches if micro_batches is not None else cuts.share // cuts.sizes[0]
    return replace(subject, micro_batches=count, data=None if cuda else subject.data)


def _really(cuts: _Cuts) -> Callable[[int], tuple[int | None, bool]]:
    """By two real steps and an evaluation, with a tenth of the free memory kept back."""

    def look(samples: int) -> tuple[int | None, bool]:
        device = cuts.job.device
        cuts.cut(samples)
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(device)
        with _keeping_back(device):
            fits = _stands(cuts, cuts.share // samples)
        peak = int(torch.cuda.max_memory_allocated(device)) if fits and device.startswith("cuda") else None
        _start_over(cuts.job)
        if not fits:
            let_go()
        return peak, fits

    return look


def _stands(cuts: _Cuts, micro_batches: int) -> bool:
    """Whether two steps of so many micro-batches come to their end. Only behind the `except` has a failed one's graph gone."""
    job, device = cuts.job, cuts.job.device
    try:
        buckets = torch.empty(cuts.exchanged, dtype=torch.uint8, device=device)
        batch = largest(job.batches)
        for _ in range(2):  # the second backward pass finds the optimizer's state in place
            for _ in range(min(2, micro_batches)):
                _backward(job, batch)
            _update(job)
        _evaluate(job)
        del buckets
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        return False
    return True


def _backward(job: Job, batch: Batch) -> None:
    with job.precision.autocast():
        loss = job.task.loss(job.model, batch)
    job.precision.backward(loss, torch.tensor(1.0 / (job.recipe.training.batch_size or 1), device=job.device))


def _update(job: Job) -> None:
    """Clip, update, clear, at a rate of 0, so that what is timed later is still this network."""
    training_settings = job.recipe.training
    job.precision.unscale(job.optimizer)
    job.gradients.clip(training_settings.max_grad_norm, training_settings.max_grad_value)
    for group in job.optimizer.param_groups:
        group["lr"] = 0.0
    update(job.optimizer)  # past the loss scale, which would leave out a first step that overflows
    job.precision.skip()
    job.gradients.clear()


def _evaluate(job: Job) -> None:
    held = next(iter(job.valid), None) if job.valid is not None else None
    if held is None:
        return
    modes = [(module, module.training) for module in job.model.modules()]
    job.model.eval()
    try:
        with torch.no_grad(), job.precision.autocast():
            job.task.measure(job.model, held)
    finally:
        for module, mode in modes:
            module.training = mode


def _start_over(job: Job) -> None:
    """Without gradients and optimizer state, as a training begins."""
    for parameter in job.model.parameters():
        parameter.grad = None
    job.optimizer = optim.build(job.model, with_rates(job.recipe, job.stages))
    job.gradients = Gradients(job.model)


@contextlib.contextmanager
def _keeping_back(device: str) -> Iterator[None]:
    """Inside, torch may take all but a tenth of what is free there, and of what it has already."""
    if not device.startswith("cuda"):
        yield
        return
    before = torch.cuda.get_per_process_memory_fraction(device)
    free, total = torch.cuda.mem_get_info(device)
    allowed = (free + torch.cuda.memory_reserved(device)) * (1 - MARGIN) / total
    torch.cuda.set_per_process_memory_fraction(min(allowed, before * (1 - MARGIN)), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)


# ---- how fast?


def _timed(cuts: _Cuts, sizes: list[int]) -> tuple[Timed, ...]:
    """Seconds a sample of a whole step, at the largest size and halves of it, as far as they are cheap to time."""
    chosen = [sizes[-1]]
    while len(chosen) < TIMED and (smaller := [n for n in sizes if n <= chosen[-1] // 2]):
        chosen.append(smaller[-1])
    job = cuts.job
    _start_over(job)
    first: dict[int, Batch] = {}
    seconds: dict[int, list[float]] = {}
    updates: list[float] = []
    for samples in reversed(chosen):  # rising
        cuts.cut(samples)
        batch = job.batches.peek()
        spent = _seconds(job, functools.partial(_backward, job, batch))  # and warms up
        _update(job)
        first[samples], seconds[samples] = batch, []
        if ROUNDS * 2 * spent > CHEAP:  # the next one, twice as large
            break
    for _, (samples, batch) in itertools.product(range(ROUNDS), first.items()):
        seconds[samples].append(_seconds(job, functools.partial(_backward, job, batch)))
        updates.append(_seconds(job, functools.partial(_update, job)))
    once = min(updates)
    _start_over(job)
    return tuple(
        Timed(n, cuts.share // n, (cuts.share // n * min(spent) + once) / cuts.share)
        for n, spent in sorted(seconds.items())
    )


def _seconds(job: Job, work: Callable[[], None]) -> float:
    _wait(job.device)
    began = time.perf_counter()
    work()
    _wait(job.device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
