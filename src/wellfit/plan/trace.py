"""Two steps of training, or a prompt to be answered, under fake tensors, with a meter beside.

What is traced is what trains: the model, its loss, autocast, the flat buffer of gradients, clipping, the optimizer's own update.
The second step is there because its backward pass finds the optimizer's state in place. The kernels are those of the device that
the tensors say they are on; without an accelerator that is the CPU, whose kernels keep about the same for the backward pass.

    >>> traced = training(Subject(model, loss, batch, optimizer=build))
    >>> traced.peak.bytes, traced.peak.parts
"""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensor, FakeTensorMode

from wellfit.data.batches import untouched_randomness
from wellfit.errors import ModelError, OutOfMemory, WellfitError
from wellfit.models.recompute import recompute
from wellfit.optim.gradients import LARGEST, Gradients
from wellfit.optim.optimizers import update
from wellfit.plan.meter import Meter, Peak, leaves
from wellfit.plan.packed import numel
from wellfit.precision import Precision

# What the parts of a peak are, in the order in which they are told.
PARTS = {
    "weights": "weights",
    "copies": "weights in half precision",
    "gradients": "gradients",
    "optimizer": "optimizer's state",
    "activations": "activations",
    "logits": "outputs and loss",
    "cache": "keys and values",
    "data": "data",
    "temporary": "temporary",
}

BACKWARD = (
    "in the backward pass",
    "in the backward pass, behind the last block",
    "in the backward pass, in its second half",
    "in the backward pass, before the first block",
)


@dataclass(frozen=True)
class Subject:
    """What is to be trained: a real or fake model, which stays as it is, and one micro-batch of its data."""

    model: nn.Module
    loss: Callable[[nn.Module, Any], Tensor]  # (model, batch) -> scalar
    batch: Any
    optimizer: Callable[[nn.Module], Any]
    precision: str = "fp32"
    micro_batches: int = 1  # in a step
    max_grad_norm: float | None = 1.0
    checkpointing: int = 0  # every so many blocks, to be made to recompute
    recomputing: bool = False  # the model does already
    data: Any = None  # tensors that lie on the device all the time
    evaluated: Callable[[nn.Module, Any], Any] | None = None  # (model, batch) -> anything, without gradients
    valid: Any = None  # one batch of that


@dataclass(frozen=True)
class Traced:
    """What a trace found. `parameters` and `trainable` count numbers; `notes` say what is not exact."""

    peak: Peak
    parameters: int
    trainable: int
    largest: int = 0  # numbers of the largest part that a sharded model fetches at once
    notes: tuple[str, ...] = ()
    phases: Mapping[str, Peak] = field(default_factory=dict)  # the peak of each part of a step


@contextlib.contextmanager
def faked() -> Iterator[FakeTensorMode]:
    """Tensors made inside have no numbers. What is not fake already becomes so when it is used."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a step says of values, of which there are none
        yield mode


def training(subject: Subject, mode: FakeTensorMode | None = None) -> Traced:
    """Traces two steps. `mode` is the one in which a model is fake already.

    Raises ModelError where the model cannot run without numbers.
    """
    mode = mode or FakeTensorMode(allow_non_fake_inputs=True)
    with untouched_randomness(), explained("trained"):
        with FakeCopyMode(mode):
            model, loss, evaluated = copy.deepcopy((subject.model, subject.loss, subject.evaluated))
            if any(tensor.device.type == "meta" for tensor in (*model.parameters(), *model.buffers())):
                on_a_device(model, mode, "cpu")
            if subject.checkpointing:
                recompute(model, subject.checkpointing)
        batch, data, valid = (_without_numbers(mode, part) for part in (subject.batch, subject.data, subject.valid))
        device = next((p.device.type for p in model.parameters()), "cpu")
        precision = Precision(subject.precision, device)
        meter, notes = Meter(), []
        with mode, warnings.catch_warnings(), meter:
            warnings.simplefilter("ignore")
            model.train()
            meter.hold((list(model.parameters()), list(model.buffers())), "weights")
            meter.hold((batch, data, valid), "data")
            optimizer, gradients = subject.optimizer(model), _Gradients(model)
            watching = [
                p.register_post_accumulate_grad_hook(lambda p: meter.hold(p.grad, "gradients"))  # type: ignore[no-untyped-call]
                for p in model.parameters() if p.requires_grad
            ]  # fmt: skip
            learning, ahead = list(gradients.parameters.values()), []
            steps = 2
            if numel(model) > LARGEST:
                # The state of the first step is made without its gradients being computed, which saves half of the time.
                for p in learning:
                    p.grad = torch.empty_like(p)
                meter.hold([p.grad for p in learning], "gradients")
                _update(meter, optimizer, gradients, subject.max_grad_norm)
                steps, ahead = 1, [(p, optimizer.state[p]) for p in learning if p in optimizer.state]
            for _ in range(steps):
                for _ in range(min(2, subject.micro_batches)):
                    _gradient(meter, precision, model, loss, batch)
                for p, state in ahead:
                    if p.grad is None:  # no loss reaches it, so it never has a state
                        meter.forget(state)
                _update(meter, optimizer, gradients, subject.max_grad_norm)
            if evaluated is not None and valid is not None:
                notes += _evaluation(meter, precision, model, evaluated, valid)
            for hook in watching:
                hook.remove()
        if meter.asked:
            notes.append(
                f"The step asks {'once' if meter.asked == 1 else f'{meter.asked} times'} for values, which a plan does not have: whatever is chosen by "
                "them, as by a mask, is counted as if all of it were."
            )
        return Traced(
            meter.peak(),
            numel(model),
            sum(p.numel() for p in model.parameters() if p.requires_grad),
            largest_part(model),
            tuple(notes),
            meter.peaks(),
        )


def serving(make: Callable[[], tuple[nn.Module, Callable[[], Any]]], mode: FakeTensorMode) -> Traced:
    """Traces one reading of a prompt: `make` gives the model and a call that reads, and returns the cache that it fills."""
    with untouched_randomness(), explained("served"):
        meter = Meter()
        with mode, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            model, read = make()
            model.eval()
            with meter:
                meter.hold((list(model.parameters()), list(model.buffers())), "weights")
                meter.phase("while the prompt is read")
                kept = read()
                meter.hold(kept, "cache")
        return Traced(meter.peak(), numel(model), 0)


def on_a_device(model: nn.Module, mode: FakeTensorMode, device: str) -> nn.Module:
    """A model that was made on torch's meta device, with fake tensors of that device in place; ties stay ties."""
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            with mode:
                empty = torch.empty_like(tensor, device=device)
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
        return made[id(tensor)]

    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None and (tensor.device.type == "meta" or not isinstance(tensor, FakeTensor)):
                    store[name] = fake(tensor)  # type: ignore[assignment]
    return model


def largest_part(model: nn.Module) -> int:
    """Numbers of the largest part that a sharded model fetches at once: an element of a list of blocks, or a layer beside them."""
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList | nn.Sequential)]
    outside = [part for part in model.modules() if isinstance(part, nn.Embedding | nn.Linear)]
    parts = [block for part in lists for block in part] + outside
    return max((sum(p.numel() for p in part.parameters()) for part in parts), default=0)


def _update(meter: Meter, optimizer: Any, gradients: Gradients, max_grad_norm: float | None) -> None:
    """What follows the gradients: clip, update, clear."""
    meter.phase("while gradients are clipped")
    gradients.clip(max_grad_norm)
    meter.hold([p.grad for p in gradients.parameters.values()], "gradients")
    meter.phase("in the update")
    since = meter.now
    update(optimizer)
    meter.hold(list(optimizer.state.values()), "optimizer")
    meter.settle("optimizer", since)
    gradients.clear()


def _gradient(meter: Meter, precision: Precision, model: nn.Module, loss: Any, batch: Any) -> None:
    """One micro-batch, forward and backward."""
    since, after = meter.now, []

    def outputs_are_there(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
        meter.hold([out for out in leaves(outputs) if meter.part_of(out) != "data"], "logits")
        after.append(meter.now)

    hooks = [model.register_forward_hook(outputs_are_there), *_marked(meter, repeated(model)[1])]
    meter.phase("in the forward pass")
    with precision.autocast():
        value = loss(model, batch)
    for hook in hooks:
        hook.remove()
    if after:
        meter.settle("logits", after[-1] + 1)
    meter.settle("activations", since)
    meter.phase(BACKWARD[0])
    value.sum().backward()


def _marked(meter: Meter, blocks: list[nn.Module]) -> list[Any]:
    """Tells the meter where in the backward pass it is: before the blocks, in their later or their earlier half, or behind them."""

    def when_its_gradient_comes(values: Any, phase: str) -> None:
        tensor = next((one for one in leaves(values) if one.requires_grad), None)
        if tensor is not None:
            tensor.register_hook(lambda _gradient: meter.phase(phase))  # type: ignore[no-untyped-call]

    if len(blocks) < 2:
        return []
    return [
        blocks[-1].register_forward_hook(lambda _m, _i, out: when_its_gradient_comes(out, BACKWARD[1])),
        blocks[(len(blocks) - 1) // 2].register_forward_hook(
            lambda _m, _i, out: when_its_gradient_comes(out, BACKWARD[2])
        ),
        blocks[0].register_forward_pre_hook(lambda _m, given: when_its_gradient_comes(given, BACKWARD[3])),
    ]


def repeated(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """The longest list of blocks that are all alike, and its name; ("", []) where there is none."""
    best: tuple[str, list[nn.Module]] = ("", [])
    for name, part in model.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) > len(best[1]):
            made = {
                str([(n, tuple(p.shape), p.dtype, p.requires_grad) for n, p in block.named_parameters()])
                for block in part
            }
            if len(made) == 1 and len({type(block) for block in part}) == 1:
                best = (name, list(part))
    return best


def deeper(fewer: Traced, more: Traced, blocks: tuple[int, int, int]) -> Traced:
    """What a model of `blocks[2]` blocks would hold, from the same model with `blocks[0]` and `blocks[1]` of them.

    Blocks that are all alike hold alike, so what is held at each place of a step is linear in their number, and so is the most within
    each phase, since the phases end where the slope changes. The peak is the largest of theirs.
    """
    few, many, wanted = blocks
    reach = (wanted - few) / (many - few)
    peaks = {}
    for phase in more.phases:
        low, high = fewer.phases[phase].parts, more.phases[phase].parts
        parts = {p: round(low.get(p, 0) + reach * (high.get(p, 0) - low.get(p, 0))) for p in {*low, *high}}
        parts = {part: size for part, size in parts.items() if size > 0}
        peaks[phase] = Peak(sum(parts.values()), parts, phase)
    return replace(
        more,
        peak=max(peaks.values(), key=lambda peak: peak.bytes),
        parameters=round(fewer.parameters + reach * (more.parameters - fewer.parameters)),
        trainable=round(fewer.trainable + reach * (more.trainable - fewer.trainable)),
        phases=peaks,
    )


def _evaluation(meter: Meter, precision: Precision, model: nn.Module, measure: Any, batch: Any) -> list[str]:
    """One held-out batch, scored. Returns what is to be told."""
    model.eval()
    meter.phase("in an evaluation")
    try:
        with torch.no_grad(), precision.autocast():
            measure(model, batch)
    except WellfitError:
        raise
    except (
        Exception
    ):  # anybody's metric, which may ask for numbers in any way; it is told, and training is planned all the same
        return ["Evaluation cannot be traced without numbers, so only training is counted."]
    return []


class _Gradients(Gradients):
    """The flat buffer, which otherwise is for plain tensors alone."""

    @staticmethod
    def _flat_is_possible(parameters: list[nn.Parameter]) -> bool:
        kinds = {(p.dtype, p.device, p.grad.layout if p.grad is not None else None) for p in parameters}
        dense = all(p.grad is not None and p.grad.layout is torch.strided for p in parameters)
        return len(kinds) == 1 and dense and sum(p.numel() for p in parameters) <= LARGEST


def _without_numbers(mode: FakeTensorMode, value: Any) -> Any:
    if isinstance(value, FakeTensor):
        return value
    if isinstance(value, Tensor):
        return mode.from_tensor(value.detach())
    if isinstance(value, dict):
        return {name: _without_numbers(mode, one) for name, one in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_without_numbers(mode, one) for one in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_without_numbers(mode, one) for one in value)
    with FakeCopyMode(mode):
        return copy.deepcopy(value)


@contextlib.contextmanager
def explained(done: str) -> Iterator[None]:
    """What a model does not stand becomes one sentence."""
    try:
        yield
    except WellfitError:
        raise
    except MemoryError as error:
        raise OutOfMemory("This machine has not enough memory to look at the model.") from error
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ModelError(
            f"The model cannot be {done} on tensors without numbers, by which memory is planned: {first}. What asks for values, turns "
            "tensors into NumPy, or is compiled cannot be traced; measure it with a short run, whose report tells its peak memory."
        ) from error
