"""What a run does by itself where memory runs out or numbers break, if its recipe asks for it (`recovery`), and always says.

Out of memory: what the failed attempt left is taken back (gradients, random draws, running statistics), each micro-batch is
cut in two, and the same batch comes again. Batch, order and gradient stay; `docs/design/0008-recovery.md` says why, and where
not. Not finite: the step is skipped. After so many in a row, or half of the last hundred, the run goes back to its last good
checkpoint and goes on from there with lower rates, on the data that comes after what broke it (Chowdhery et al. 2022, section
5.1). That happens a few times at most.

What it has come to is `Recovered`, a part of every checkpoint, so a run that is killed and resumed goes the same way.
Deliberately not here: a cause. The doctor looks for that.

    >>> recovery = ready(job, record)
    >>> with recovery.attempt(): loss.backward()
"""

import contextlib
import dataclasses
import gc
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wellfit import sharding
from wellfit.data.batches import Batches, Cut, Held, untouched_randomness
from wellfit.distributed import any_rank, from_first, gathered, world
from wellfit.errors import CheckpointError, OutOfMemory, RecipeError, WellfitError
from wellfit.events import Noted
from wellfit.recipe import Recipe
from wellfit.tasks import Task
from wellfit.train.evaluate import evaluate

if TYPE_CHECKING:
    from wellfit.checkpoint import Checkpoint
    from wellfit.train.record import Recorder
    from wellfit.train.setup import Job

T = TypeVar("T")
NOTHING = contextlib.nullcontext()
WINDOW = 100  # steps, of which half may not be skipped
SAYS = (  # what an allocator says that has no error class of its own: of a CPU, of MPS, of cuBLAS and cuDNN
    "out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "status_alloc_failed",
)  # fmt: skip


# ---- what it has come to


@dataclass
class Recovered:
    """What recovery has come to in a run. Nothing of it moves unless the recipe asks for recovery."""

    finer: int = 1  # each micro-batch of the recipe is cut into so many
    held_parts: int = 1  # each held-out batch, too
    skipped: int = 0  # steps, in all
    in_a_row: int = 0  # of them the last ones
    lately: list[int] = field(default_factory=list)  # those among the last `window` steps, since the last rollback
    rollbacks: int = 0
    factor: float = 1.0  # of all learning rates
    good: int | None = None  # the step of the checkpoint that a rollback goes to
    best: int | None = None  # the best step when that was saved
    gone_back_to: int | None = None  # where the last rollback went
    told: list[str] = field(default_factory=list)  # a sentence for each rollback

    def saving(self, job: "Job", improved: bool) -> frozenset[int]:
        """Called before a checkpoint is written, which becomes the good one if it deserves it. Returns those to be kept.

        Those that the clock or an interruption made never do: where a run goes back to must not depend on them. The first
        one does in any case, which `ready` makes.
        """
        step = job.standing.step
        regular = step % job.save_every == 0 or improved or self.good is None
        if job.recipe.recovery.not_finite and regular and not self.in_a_row and _is_finite(job):
            self.good, self.best = step, job.standing.best_step
        return frozenset(step for step in (self.good, self.best) if step is not None)

    def state_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, list(value) if isinstance(value, list) else value)

    def copy(self) -> "Recovered":
        return dataclasses.replace(self, told=[*self.told], lately=[*self.lately])


def _is_finite(job: "Job") -> bool:
    """Whether weights, running statistics and the optimizer's averages are. Reads them: for checkpoints, not for steps.

    They may lie on several devices: most of torch's optimizers count their steps on the CPU.
    """
    states = [value for state in job.optimizer.state.values() for value in state.values()]
    found: dict[torch.device, list[Tensor]] = {}
    for value in (*job.model.state_dict().values(), *states):
        if isinstance(value, Tensor) and value.is_floating_point():
            found.setdefault(value.device, []).append(sharding.local(value).isfinite().all())
    return not any_rank(not all(bool(torch.stack(flags).all()) for flags in found.values()))[0]


# ---- before the first step


def check(recipe: Recipe, task: Task, batches: Batches) -> None:
    """Raises RecipeError where recovery is asked for and cannot keep its word."""
    if not recipe.recovery.out_of_memory:
        return
    asked = "`recovery.out_of_memory` is on, "
    if world() > 1:
        raise RecipeError(
            f"{asked}but with {world()} ranks the one that runs out of memory leaves the others waiting for its gradients. "
            "Turn it off and raise `training.gradient_accumulation_steps`, or train with one rank."
        )
    if not isinstance(batches, Cut):
        raise RecipeError(
            f"{asked}but batches that come ready-made, or with rehearsed samples beside them, cannot be cut smaller. Turn it "
            "off and make them smaller yourself, or pass tensors, a Dataset or a plain DataLoader."
        )
    if getattr(getattr(task, "criterion", None), "together", False):
        raise RecipeError(
            f"{asked}but this loss tells each sample from the others of its micro-batch, so smaller ones would learn something "
            "else. Turn it off and lower `training.batch_size`."
        )


@contextlib.contextmanager
def explaining(recipe: Recipe, when: str, smaller: str = "") -> Iterator[None]:
    """Around what may need more memory than there is: that becomes an error which says what to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise OutOfMemory(explained(recipe, when, first_line(error), smaller)) from error


def until_it_fits(
    look: Callable[[Task, nn.Module, Batches], T],
    task: Task,
    model: nn.Module,
    batches: Batches,
    recipe: Recipe,
    state: Recovered,
    note: Callable[[str], None],
) -> T:
    """The first look at a batch: at smaller and smaller micro-batches, where memory runs out and recovery is on."""
    when = "with the first batch"
    while True:
        try:
            return look(task, model, batches)
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error):
                raise
            said = first_line(error)
            if not recipe.recovery.out_of_memory or not isinstance(batches, Cut):
                raise OutOfMemory(explained(recipe, when, said, smaller(recipe, task, batches))) from error
        _halve(batches, state, recipe, model, said, when, note)
        let_go()


def ready(job: "Job", record: "Recorder") -> "Recovery":
    """Recovery for the loop, from what it had come to on. A rollback needs somewhere to go to, so that is saved first."""
    state, kept = job.recovered, record.checkpoints
    cut_as_recovered(job)
    if job.recipe.recovery.not_finite:
        record.tolerant = True
        if state.good is None and kept is not None and from_first(kept.has(job.standing.step)):
            state.good, state.best = job.standing.step, job.standing.best_step
        elif state.good is None:
            record.save(job, best=False)
    return Recovery(job, record)


def cut_as_recovered(job: "Job") -> None:
    """Cuts micro-batches and held-out batches as `job.recovered` says, and no smaller."""
    state = job.recovered
    if isinstance(job.batches, Cut) and job.batches.order.finer != state.finer:
        job.batches.cut(state.finer, least_samples(job.model))
    for held in (job.valid, job.test):
        if held is not None:
            held.cut(state.held_parts)


# ---- in the loop


class Recovery:
    """The loop's verbs. Each costs a look at a flag where its setting is off.

    Where one is on, each step copies the model's buffers and notes the random generators, and `not_finite` reads the loss,
    for which an accelerator must finish the step.
    """

    def __init__(self, job: "Job", record: "Recorder"):
        self.job, self.record, self.state, self.settings = job, record, job.recovered, job.recipe.recovery
        self.held = [held for held in (job.valid, job.test) if held is not None]
        self.window = max(WINDOW, 2 * self.settings.not_finite)  # so that a row is noticed first
        self.on = self.settings.out_of_memory or self.settings.not_finite > 0
        self.again = False  # memory ran out, and the same step must be taken again
        self.at_its_end = False  # there is nothing left to try
        self.before = Before(job.model)

    # ---- memory

    def attempt(self) -> contextlib.AbstractContextManager[Any]:
        """Around the forward and backward passes of a step. Where memory runs out in it, `again` is set and nothing remains."""
        return self if self.on else NOTHING

    def __enter__(self) -> None:
        if self.again:
            let_go()  # only now has the failed attempt's graph gone, with its traceback
        self.again = False
        self.before.keep()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        job, batches = self.job, self.job.batches
        if error is None or not self.settings.out_of_memory or not ran_out(error) or not isinstance(batches, Cut):
            return False
        job.gradients.drop()
        self.before.put_back(draws=True)
        when = f"in step {job.standing.step + 1:,}"
        _halve(batches, self.state, job.recipe, job.model, first_line(error), when, self.record.note)
        batches.load_state_dict({"position": batches.position - 1})
        self.again = True
        return True

    def evaluate(self, model: nn.Module, task: Task, held: Held) -> dict[str, float]:
        """`evaluate`, in smaller batches where memory runs out."""
        while True:
            draws = untouched_randomness()
            draws.__enter__()
            try:
                return evaluate(model, task, held)
            except (MemoryError, RuntimeError) as error:
                if not ran_out(error):
                    raise
                said, size = first_line(error), held.batch_size
                when = "while evaluating" + (f", in batches of {size:,}" if size else "")
                if not self.settings.out_of_memory or size <= 1:
                    less = {0: "smaller held-out batches", 1: ""}.get(size, f"`evaluation.batch_size={size // 2}`")
                    raise OutOfMemory(explained(self.job.recipe, when, said, less)) from error
            draws.__exit__()
            self.state.held_parts *= 2
            for part in (*self.held, held):
                part.cut(self.state.held_parts)
            let_go()
            self.record.note(
                f"Memory ran out {when} ({said}); held-out batches now have {_samples(held.batch_size)}. Scores are sums, "
                "so they stay the same but for rounding."
            )

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Around the loop: memory that ran out becomes an error that says what to change, and what was saved."""
        job = self.job
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, OutOfMemory):  # told, but for the last sentence
                raise OutOfMemory(str(error) + self._saved()) from error.__cause__
            if not ran_out(error):
                raise
            when = f"in step {job.standing.step + 1:,}"
            if isinstance(job.batches, Cut):
                when += f", with micro-batches of {job.batches.micro_batch_size:,}"
            told = explained(job.recipe, when, first_line(error), smaller(job.recipe, job.task, job.batches))
            raise OutOfMemory(told + self._saved()) from error

    def _saved(self) -> str:
        kept = self.record.checkpoints
        if kept is None:
            return ""
        with contextlib.suppress(CheckpointError):  # which closing the record will raise
            kept.wait()
        names = kept.names()
        if not names:
            return ""
        step, folder = int(names[0].removeprefix("step-")), kept.folder.parent
        told = f" What was saved of step {step:,} is untouched"
        if self.settings.out_of_memory or world() > 1 or not isinstance(self.job.batches, Cut):
            return f"{told} ({folder})."
        return f"{told}: with `recovery: out_of_memory: true` in {folder / 'recipe.yaml'}, the run can be resumed."

    # ---- numbers

    def allows(self, losses: list[Tensor], grad_norm: Tensor) -> bool:
        """Whether the update may be made: on every rank, loss and gradient are finite, or fp16's scale is to blame.

        If not, the step leaves no trace in weights, running statistics and the optimizer. Synchronises.
        """
        if not self.settings.not_finite:
            return True
        state, precision = self.state, self.job.precision
        *read, norm = torch.stack([value.detach().float() for value in (*losses, grad_norm)]).tolist()
        sound = all(map(math.isfinite, read)) and (math.isfinite(norm) or precision.may_overflow)
        if not any_rank(not sound)[0]:
            state.in_a_row = 0
            return True
        precision.skip()
        self.before.put_back()
        step = self.job.standing.step + 1
        state.in_a_row += 1
        state.skipped += 1
        state.lately = [one for one in state.lately if one > step - self.window] + [step]
        if state.skipped == 1:
            what = "gradient" if all(map(math.isfinite, read)) else "loss"
            self._tell(
                f"Step {step:,} was skipped, because its {what} is not finite; weights and optimizer stay as "
                "they are. More such steps are counted, and not told one by one."
            )
        return False

    def rolled_back(self) -> bool:
        """Goes back, if too many steps in a row were skipped, or half of the last hundred, and says so.

        False where there is nothing to do, or left to try.
        """
        state, settings, record = self.state, self.settings, self.record
        if not settings.not_finite or not state.in_a_row or self.at_its_end:
            return False
        step, row = self.job.standing.step, state.in_a_row
        ruined = step == self.job.steps and not _is_finite(self.job)  # nothing comes after it that would tell
        often = 2 * len(state.lately) >= self.window
        if row < settings.not_finite and not ruined and not often:
            return False
        steps = f"Steps {step - row + 1:,} to {step:,} were" if row > 1 else f"Step {step:,} was"
        if often and row < settings.not_finite:
            steps = f"{len(state.lately)} of the last {min(self.window, step - (state.gone_back_to or 0)):,} steps were"
        found = self._checkpoint() if state.rollbacks < settings.rollbacks else None
        if found is None:
            self.at_its_end, record.finite = True, False
            times = "once" if state.rollbacks == 1 else f"{state.rollbacks} times"
            left = f"the run has gone back {times}" if state.rollbacks else "the run does not go back"
            self._tell(f"{steps} skipped as not finite, and {left}, so training ends.")
            return False
        now = state.copy()
        self.job.restore(found.weights, found.state, besides=("batches",))
        state.load_state_dict({**now.state_dict(), "in_a_row": 0, "lately": []})
        state.rollbacks, state.factor = now.rollbacks + 1, now.factor * settings.rate_factor
        state.good = state.gone_back_to = found.step
        state.best = self.job.standing.best_step
        state.told.append(
            f"{steps} skipped as not finite, so the run went back to step {found.step:,} ({state.rollbacks} of at most "
            f"{settings.rollbacks} times). From there on rates are {state.factor:g} of what the recipe says, on the data that comes next."
        )
        gathered(None)  # nobody removes what another rank still reads
        record.back_to(found.step, self.job.standing.best_step)
        for text in state.told:  # those of later steps went with these steps
            record.note(text)
        return True

    def _checkpoint(self) -> "Checkpoint | None":
        """Where to go back to: the last good one; the best before it, if the last rollback went there and was no help."""
        state, checkpoints = self.state, self.record.checkpoints
        if checkpoints is None:
            return None
        if self.record.first:
            checkpoints.wait()
        gathered(None)  # it is on disk for all ranks
        wanted = [state.good, state.best]
        for step in reversed(wanted) if state.good == state.gone_back_to else wanted:
            if step is not None and checkpoints.has(step):
                try:
                    return checkpoints.at(step)
                except CheckpointError as error:
                    self._tell(str(error))
        return None

    def _tell(self, text: str) -> None:
        self.record.emit(Noted(self.job.standing.step, text))


class Before:
    """A model's buffers (running statistics) and the random generators, as they were before a step."""

    def __init__(self, model: nn.Module):
        self.places = [(part._buffers, name) for part in model.modules() for name in part._buffers]
        self.copies: list[Tensor | None] = []
        self.draws = untouched_randomness()

    @torch.no_grad()
    def keep(self) -> None:
        self.draws.__enter__()
        now = [buffers[name] for buffers, name in self.places]
        if len(self.copies) != len(now) or not all(map(_alike, self.copies, now)):
            self.copies = [None if buffer is None else buffer.clone() for buffer in now]
        elif present := [buffer for buffer in now if buffer is not None]:
            torch._foreach_copy_([copy for copy in self.copies if copy is not None], present)

    @torch.no_grad()
    def put_back(self, draws: bool = False) -> None:
        """The buffers as they were; with `draws`, what is drawn next, too."""
        for (buffers, name), copy in zip(self.places, self.copies, strict=True):
            buffer = buffers[name]
            if copy is not None and buffer is not None and _alike(copy, buffer):
                buffer.copy_(copy)
            else:
                buffers[name] = None if copy is None else copy.clone()
        if draws:
            self.draws.__exit__()


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and one.dtype == other.dtype and one.device == other.device


# ---- memory that ran out


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of whichever device."""
    if isinstance(error, WellfitError):
        return False
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in SAYS)


def first_line(error: BaseException) -> str:
    """What the allocator said, without its whereabouts and its advice."""
    sentences = (next(iter(str(error).strip().splitlines()), "") or type(error).__name__).split(". ")
    telling = [one for one in sentences if any(words in one.lower() for words in (*SAYS, "allocate"))]
    return ". ".join((telling or sentences)[:2])[:200].rstrip(". ")


def smaller(recipe: Recipe, task: Task, batches: Batches) -> str:
    """How micro-batches are made smaller by hand; nothing, where they have one sample."""
    training, ways = recipe.training, world()
    if not isinstance(batches, Cut):
        return "smaller batches, and more of them in a step (`training.gradient_accumulation_steps`)"
    if batches.micro_batch_size <= 1:
        return ""
    if getattr(getattr(task, "criterion", None), "together", False):
        return f"`training.batch_size={max(2, (training.batch_size or 1) // 2)}`"
    share = (training.batch_size or 1) // ways
    parts = next((n for n in range(2 * training.gradient_accumulation_steps, share) if share % n == 0), share)
    by_itself = "" if ways > 1 else "; `recovery.out_of_memory=true` does it by itself"
    return f"`training.gradient_accumulation_steps={parts}` (the same gradient, with fewer activations at a time{by_itself})"


def explained(recipe: Recipe, when: str, said: str, smaller: str = "") -> str:
    """What to change where memory ran out: first what changes the result least. `smaller`: how the batch is cut there."""
    hardware, optimizer, tuning = recipe.hardware, recipe.optimizer, recipe.finetune
    ways = [
        smaller,
        "`hardware.precision=bf16`" if hardware.precision == "fp32" else "",
        "" if hardware.activation_checkpointing else "`hardware.activation_checkpointing=1`",
        "`optimizer.kind=adamw8bit`, `lion` or `adafactor` (less beside each weight)"
        if optimizer.kind in ("adam", "adamw")
        else "",
        "`finetune.strategy=lora`" if tuning.strategy in ("full", "differential", "progressive", "recipe") else "",
        "`finetune.strategy=qlora` (weights of four bits)" if tuning.strategy == "lora" else "",
        "smaller inputs or a smaller model",
        "weights cut over several devices (`hardware.parallel=fsdp` with `wellfit train --gpus N`)"
        if hardware.parallel == "ddp" or world() == 1
        else ""
        if hardware.offload
        else "`hardware.offload=true`",
    ]
    told = "; ".join(f"({number}) {way}" for number, way in enumerate(filter(None, ways), start=1))
    return f"Memory ran out {when}: {said}. What to change, in this order: {told}."


def _halve(
    batches: Cut, state: Recovered, recipe: Recipe, model: nn.Module, said: str, when: str, note: Callable[[str], None]
) -> None:
    """Cuts micro-batches in two from here on, and says so. Raises OutOfMemory where they are as small as can be."""
    least, sizes, finer = least_samples(model), [], 1
    while finer <= 2 * state.finer:
        batches.cut(finer, least)
        sizes.append(batches.micro_batch_size)
        finer *= 2
    *tried, smaller = sizes
    size = tried[-1]
    if smaller == size:
        batches.cut(state.finer, least)
        all_of_them = ", ".join(f"{n:,}" for n in tried)
        raise OutOfMemory(
            explained(recipe, f"{when}, with micro-batches of {all_of_them}, and they cannot be cut any smaller", said)
        )
    state.finer *= 2
    same = "The batch stays the same, and so does its gradient, where a model computes each sample by itself."
    if any(isinstance(part, _BatchNorm) for part in model.modules()):
        same = (
            "The batch stays the same. Batch norm takes its statistics from each micro-batch, so these are noisier from here on, and the "
            "gradient is a little different."
        )
    note(
        f"Memory ran out {when}, with micro-batches of {size:,} ({said}); micro-batches now have {_samples(batches.micro_batch_size)}, "
        f"{recipe.training.gradient_accumulation_steps * state.finer} of them per step. {same}"
    )


def _samples(number: int) -> str:
    return f"{number:,} sample{'' if number == 1 else 's'}"


def least_samples(model: nn.Module) -> int:
    """Samples that a micro-batch must have: batch norm takes no variance of one."""
    return 2 if any(isinstance(part, _BatchNorm) for part in model.modules()) else 1


def let_go() -> None:
    """Gives back what a failed attempt held. To be called behind its `except`, whose error holds the attempt's graph."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
