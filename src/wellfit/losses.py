"""Losses as a sum over the targets beside a weight, so that a batch gives the same gradient however it is cut.

`loss(outputs, targets)` is a sum, a scalar tensor. `loss.weight(targets)` is how much that sum counts: the number of
targets that are not ignored, or the total of their class weights. Sums divided by weights, each added up over all
micro-batches and ranks first, are exactly torch's mean over the whole batch; a mean of means would not be where parts
differ in size or in ignored targets. What a loss means for a model is the task's affair, not this file's.

Shapes: N samples, C classes, `...` any further dimensions. Class dimension 1, as in torch.

    >>> loss = CrossEntropy()
    >>> (loss(logits_NC, labels_N) / loss.weight(labels_N)).backward()
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellfit import recipe
from wellfit.errors import ModelError, RecipeError

IGNORED = -100  # the label that torch and Hugging Face leave out of the loss
HALF = (torch.float16, torch.bfloat16)


class Loss(Protocol):
    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """The loss summed over the targets: a scalar tensor."""

    def weight(self, targets: Any) -> float | Tensor:
        """What the sum counts: a number, or a scalar tensor where finding it needs the device."""

    def check(self, outputs: Any, targets: Any) -> None:
        """Raises ModelError if the two do not fit. Looks at values, so it is for one batch, not for every step."""


# ---- classes


@dataclass(frozen=True, eq=False, kw_only=True)
class OfClasses:
    """What all losses of logits [N, C, ...] and integer labels [N, ...] share.

    Labels equal to `ignore_index` count neither in the sum nor in the weight. State `masked=False` where there are
    none: the weight is then a plain number. With `class_weights` [C] the weight is the total of the labels' weights.
    """

    class_weights: Tensor | None = None
    masked: bool = True
    ignore_index: int = IGNORED
    copies: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)

    def weight(self, targets: Tensor) -> float | Tensor:
        if targets.is_floating_point() and targets.ndim > 1:  # probabilities: torch's mean counts samples, of any class
            return targets.numel() // targets.shape[1]
        if self.class_weights is None:
            return (targets != self.ignore_index).sum() if self.masked else targets.numel()
        ignored = targets == self.ignore_index
        weights = _beside(self.class_weights, targets.device, torch.float32, self.copies)
        return weights[targets.masked_fill(ignored, 0)].masked_fill(ignored, 0).sum()

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        _tensors(outputs, targets)
        logits, labels = self._flat(outputs, targets)
        classes = logits.shape[1]
        if classes == 1:
            raise ModelError(
                "The model has one output, and over a single class this loss is always 0. Give it one output per "
                "class, or use `bce-with-logits` for a yes or no and `mse` for a number."
            )
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ModelError(
                f"There are {len(self.class_weights)} class weights, but the model has {classes} outputs; "
                "give one weight for each."
            )
        counted = labels[labels != self.ignore_index] if self.masked else labels
        outside = counted[(counted < 0) | (counted >= classes)]
        if len(outside):
            raise ModelError(
                f"A target is the class {int(outside[0])}, but the model has {classes} outputs, for the classes 0 to "
                f"{classes - 1}. Number the classes from 0 and give the model one output for each"
                + (
                    f"; {self.ignore_index} is ignored."
                    if self.masked
                    else "; this loss was told that none is ignored."
                )
            )

    def _flat(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [M, C], in fp32 at least, and labels [M]."""
        if outputs.ndim < 2 or outputs.shape[:1] + outputs.shape[2:] != targets.shape:
            raise _misfit_of_classes(outputs, targets)
        if targets.dtype is not torch.int64:
            targets = _labels(targets)
        if outputs.ndim > 2:  # torch's loss over further dimensions (nll_loss2d) is not deterministic on CUDA
            outputs, targets = outputs.movedim(1, -1).flatten(0, -2), targets.flatten()
        return _wide(outputs), targets

    def _weights(self, logits: Tensor) -> Tensor | None:
        if self.class_weights is None:
            return None
        return _beside(self.class_weights, logits.device, logits.dtype, self.copies)


@dataclass(frozen=True, eq=False, kw_only=True)
class CrossEntropy(OfClasses):
    """-log softmax(logits)[label]. `label_smoothing` spreads that share of the target evenly (Szegedy et al. 2016).

    Targets may also be the probabilities of all classes, in the outputs' shape, as MixUp makes them: the loss is then
    -sum_c p_c log softmax(logits)_c, the sum of the labels' losses weighted by their shares. The weight is the number of
    samples, as in torch's mean.
    """

    label_smoothing: float = 0.0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if _are_probabilities(outputs, targets):
            logits, shares = _wide(outputs), targets
            if outputs.ndim > 2:
                logits, shares = (part.movedim(1, -1).flatten(0, -2) for part in (logits, shares))
            return F.cross_entropy(
                logits,
                shares.to(logits.dtype),
                self._weights(logits),
                reduction="sum",
                label_smoothing=self.label_smoothing,
            )
        logits, labels = self._flat(outputs, targets)
        return F.cross_entropy(
            logits,
            labels,
            self._weights(logits),
            ignore_index=self.ignore_index,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        _tensors(outputs, targets)
        if not _are_probabilities(outputs, targets):
            super().check(outputs, targets)
            return
        super().check(outputs, targets.argmax(1))
        totals = targets.sum(1)
        if not bool((targets >= 0).all() and (totals - 1).abs().max() < 1e-2):
            raise ModelError(
                f"The targets are numbers of the outputs' shape, {list(targets.shape)}, and as probabilities of classes they must be "
                f"0 or more and add up to 1; those of one sample add up to {float(totals.flatten()[0]):g}. For a yes or no to each "
                "class by itself use `bce-with-logits`, and for numbers `mse`."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class Focal(OfClasses):
    """-(1 - p)^gamma log p, with p the label's softmax probability: easy samples count less (Lin et al. 2017, eq. 5).

    At `gamma=0` it is cross entropy. The class weights are the paper's alpha.
    """

    gamma: float = 2.0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits, labels = self._flat(outputs, targets)
        surprise = F.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="none")  # -log p
        # 1 - p without cancellation; kept off 0, where the slope of a power below 1 is infinite.
        doubt = (-torch.expm1(-surprise)).clamp(min=1e-12)
        terms = doubt**self.gamma * surprise
        weights = self._weights(logits)
        if weights is not None:
            terms = terms * weights[labels.masked_fill(labels == self.ignore_index, 0)]  # an ignored term is 0 already
        return terms.sum()


@dataclass(frozen=True, eq=False, kw_only=True)
class NLL(OfClasses):
    """-outputs[label], for a model whose outputs [N, C, ...] are log-probabilities already."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        log_p, labels = self._flat(outputs, targets)
        return F.nll_loss(log_p, labels, self._weights(log_p), ignore_index=self.ignore_index, reduction="sum")


# ---- numbers


class OfNumbers:
    """What all losses share whose targets are numbers of the outputs' shape; the weight is how many there are."""

    def weight(self, targets: Tensor) -> float | Tensor:
        return targets.numel()

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        _tensors(outputs, targets)
        _alike(outputs, targets)


@dataclass(frozen=True)
class MSE(OfNumbers):
    """(output - target)^2."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(*_alike(outputs, targets), reduction="sum")


@dataclass(frozen=True)
class L1(OfNumbers):
    """|output - target|."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.l1_loss(*_alike(outputs, targets), reduction="sum")


@dataclass(frozen=True)
class Huber(OfNumbers):
    """Half the square up to an error of `delta`, a line of slope `delta` beyond (Huber 1964)."""

    delta: float = 1.0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.huber_loss(*_alike(outputs, targets), reduction="sum", delta=self.delta)


@dataclass(frozen=True)
class SmoothL1(OfNumbers):
    """Huber's loss divided by `beta`: slope 1 beyond an error of `beta` (Girshick 2015)."""

    beta: float = 1.0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.smooth_l1_loss(*_alike(outputs, targets), reduction="sum", beta=self.beta)


@dataclass(frozen=True)
class Quantile(OfNumbers):
    """max(q e, (q - 1) e) of the error e = target - output, summed over quantiles: outputs [..., Q], targets [...].

    Least where a share q of the targets lies below the output (Koenker & Bassett 1978). The weight is the number of targets.
    """

    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self._fits(outputs, targets)
        outputs = _wide(outputs)
        levels = torch.tensor(self.quantiles, device=outputs.device, dtype=outputs.dtype)
        error = targets[..., None].to(outputs.dtype) - outputs
        return torch.maximum(levels * error, (levels - 1) * error).sum()

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        _tensors(outputs, targets)
        self._fits(outputs, targets)

    def _fits(self, outputs: Tensor, targets: Tensor) -> None:
        if outputs.shape != (*targets.shape, len(self.quantiles)):
            raise ModelError(
                f"The model's outputs have the shape {list(outputs.shape)} and the targets {list(targets.shape)}, but the loss "
                f"`quantile` takes one output for each of {list(self.quantiles)}: {[*targets.shape, len(self.quantiles)]}."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class BCEWithLogits(OfNumbers):
    """Binary cross entropy of logits and targets from 0 to 1, each output a question of its own (multi-label).

    `class_weights` multiply a class's terms, `pos_weights` only its positive ones; both must broadcast to the outputs
    from the last dimension. As in torch's mean, the weight stays the number of targets.
    """

    class_weights: Tensor | None = None
    pos_weights: Tensor | None = None
    copies: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits, targets = _alike(outputs, targets)
        weights = [
            None if values is None else _beside(values, logits.device, logits.dtype, self.copies)
            for values in (self.class_weights, self.pos_weights)
        ]
        return F.binary_cross_entropy_with_logits(logits, targets, weights[0], pos_weight=weights[1], reduction="sum")

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        super().check(outputs, targets)
        outside = targets[(targets < 0) | (targets > 1)]
        if len(outside):
            raise ModelError(
                f"A target of `bce-with-logits` is {outside[0].item():g}, but each must be from 0 (no) to 1 (yes). "
                "For class numbers use `cross-entropy`."
            )


# ---- from a recipe, or from the caller

FOR_CLASSES: dict[str, Callable[[recipe.Loss, Tensor | None, bool], Loss]] = {
    "cross-entropy": lambda s, w, m: CrossEntropy(label_smoothing=s.label_smoothing, class_weights=w, masked=m),
    "focal": lambda s, w, m: Focal(gamma=s.gamma, class_weights=w, masked=m),
}
FOR_NUMBERS: dict[str, Callable[[recipe.Loss, Tensor | None], Loss]] = {
    "mse": lambda _s, _w: MSE(),
    "huber": lambda s, _w: Huber(s.delta),
    "smooth-l1": lambda s, _w: SmoothL1(s.delta),
    "quantile": lambda s, _w: Quantile(s.quantiles),
    "bce-with-logits": lambda _s, w: BCEWithLogits(class_weights=w),
}
WEIGHTED = ("cross-entropy", "focal", "bce-with-logits")


def build(settings: recipe.Loss, classes: int | None = None, counts: Tensor | Sequence[int] | None = None) -> Loss:
    """The loss of a recipe.

    `classes`: how many there are, for a task of classes. `counts` [classes]: the training labels of each; given, it
    also states that no label is ignored. Raises RecipeError for settings that contradict each other or the task.
    """
    kind = settings.kind
    if kind is None or kind == "given":
        raise _no_loss()
    if classes is not None and kind not in FOR_CLASSES:
        raise RecipeError(
            f"`loss.kind` is {kind!r}, but the targets are {classes} classes; it can be {', '.join(FOR_CLASSES)}."
        )
    if settings.label_smoothing and kind != "cross-entropy":
        raise RecipeError(
            f"`loss.label_smoothing` is {settings.label_smoothing:g}, but only cross-entropy smooths labels and "
            f"`loss.kind` is {kind!r}. Set it to 0, or choose cross-entropy."
        )
    if settings.class_weights is not None and kind not in WEIGHTED:
        raise RecipeError(
            f"`loss.class_weights` is set, but {kind!r} has no classes. Set it to null, or choose one of "
            f"{', '.join(WEIGHTED)}."
        )
    weights = _class_weights(settings.class_weights, classes, counts)
    if kind in FOR_CLASSES:
        return FOR_CLASSES[kind](settings, weights, counts is None)
    return FOR_NUMBERS[kind](settings, weights)


@dataclass(frozen=True)
class Given:
    """A caller's function (outputs, targets), made a sum.

    A scalar is taken as the mean over the samples of the batch (exact if every sample has as many targets), a vector
    [N] as one value per sample. With `summed`, a scalar is a sum already. The weight is the number of samples, so the
    gradient is that of the mean per sample.
    """

    function: Callable[[Any, Any], Tensor]
    summed: bool = False

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        value, samples = self.function(outputs, targets), _samples(targets)
        if not isinstance(value, Tensor):
            raise ModelError(
                f"The loss returned {type(value).__name__}; it must return a tensor, for gradients to flow "
                "through. Leave out `.item()`, `float(...)` and NumPy."
            )
        if value.numel() == 1:
            return value.sum() if self.summed else value.sum() * samples
        if value.shape != (samples,):
            raise ModelError(
                f"The loss returned the shape {list(value.shape)} for {samples} samples; it must be one number, the "
                f"mean over the batch, or one per sample, [{samples}]. Take the mean over the other dimensions."
            )
        return value.sum()

    def weight(self, targets: Any) -> float | Tensor:
        return _samples(targets)

    def check(self, outputs: Any, targets: Any) -> None:
        inner: Any = self.function
        if isinstance(inner, OfClasses | OfNumbers):
            inner.check(outputs, targets)
        self(outputs, targets)


# torch's own means, exactly: with their ignored labels and class weights. Exact types: a subclass may do anything.
MODULES: dict[type, Callable[[Any], Loss]] = {
    nn.CrossEntropyLoss: lambda m: CrossEntropy(
        class_weights=m.weight, ignore_index=m.ignore_index, label_smoothing=m.label_smoothing
    ),
    nn.NLLLoss: lambda m: NLL(class_weights=m.weight, ignore_index=m.ignore_index),
    nn.MSELoss: lambda _: MSE(),
    nn.L1Loss: lambda _: L1(),
    nn.HuberLoss: lambda m: Huber(m.delta),
    nn.SmoothL1Loss: lambda m: SmoothL1(m.beta),
    nn.BCEWithLogitsLoss: lambda m: BCEWithLogits(class_weights=m.weight, pos_weights=m.pos_weight),
}
FUNCTIONS: tuple[tuple[Callable[..., Tensor], type[Loss]], ...] = (
    (F.cross_entropy, CrossEntropy),
    (F.nll_loss, NLL),
    (F.mse_loss, MSE),
    (F.l1_loss, L1),
    (F.huber_loss, Huber),
    (F.smooth_l1_loss, SmoothL1),
    (F.binary_cross_entropy_with_logits, BCEWithLogits),
)


def adapt(loss: Any) -> Loss:
    """What a caller passes as a loss, as a `Loss`.

    A name (`"cross-entropy"`, `"mse"`, ...); a torch loss, as a module or as the function of `torch.nn.functional`; a
    `Loss`; or any callable (outputs, targets), see `Given`. A torch module with `reduction="sum"` keeps its sum and
    gets the number of samples as its weight: the gradient is that of the sum divided by the batch size, so that the
    learning rate does not depend on the batch size. `reduction="none"` of the torch losses in `MODULES` is taken as the
    mean. Raises RecipeError for anything else.
    """
    if loss is None:
        raise _no_loss()
    if isinstance(loss, str):
        names = [*FOR_CLASSES, *FOR_NUMBERS]
        if loss not in names:
            raise RecipeError(f"The loss is {loss!r}; it can be {', '.join(names)}.{recipe.nearest(loss, names)}")
        return build(recipe.Loss(kind=loss))  # type: ignore[arg-type]
    if isinstance(loss, type):
        raise RecipeError(f"The loss is the class {loss.__name__} itself; pass one of it: `{loss.__name__}()`.")
    if all(callable(getattr(loss, verb, None)) for verb in ("__call__", "weight", "check")):
        ours: Loss = loss
        return ours
    if isinstance(loss, nn.Module):
        return _adapt_module(loss)
    for function, kind in FUNCTIONS:
        if loss is function:
            return kind()
    if not callable(loss):
        raise RecipeError(
            f"The loss is {loss!r}, which cannot be called; pass a name such as 'cross-entropy', a torch loss, or a "
            "function (outputs, targets)."
        )
    if str(getattr(loss, "__module__", "")).split(".")[0] == "keras":
        raise RecipeError(
            "A Keras loss takes (targets, outputs), the other way round than torch. Pass "
            "`lambda outputs, targets: loss(targets, outputs)`, or a name such as 'cross-entropy'."
        )
    return Given(loss)


def check(loss: Loss, outputs: Any, targets: Any) -> None:
    """Raises ModelError, with the mend, if the outputs and targets of a batch do not fit the loss.

    Shapes that would broadcast, labels without an output, numbers where classes belong. It reads values, and so waits
    for the device: once per run. The shapes are compared again at every call.
    """
    loss.check(outputs, targets)


# ---- inside


def _adapt_module(loss: nn.Module) -> Loss:
    if any(parameter.requires_grad for parameter in loss.parameters()):
        raise RecipeError(
            f"The loss {type(loss).__name__} has trainable parameters, which the optimizer would not see. Make it a "
            "part of the model, or freeze them with `requires_grad_(False)`."
        )
    known = MODULES.get(type(loss))
    if getattr(loss, "reduction", "mean") == "sum":
        return Given(known(loss) if known else loss, summed=True)
    return known(loss) if known else Given(loss)


def _class_weights(
    chosen: str | tuple[float, ...] | None, classes: int | None, counts: Tensor | Sequence[int] | None
) -> Tensor | None:
    """One weight a class; `balanced` is n / (classes x count), as in King & Zeng 2001 and scikit-learn."""
    if chosen is None:
        return None
    if chosen == "balanced":
        if counts is None:
            raise RecipeError(
                "`loss.class_weights` is 'balanced', but the label counts of this data are not known; give one "
                "number a class."
            )
        count = torch.as_tensor(counts, dtype=torch.float64)
        if not count.all():
            raise RecipeError(
                f"`loss.class_weights` is 'balanced', but the class {int(count.argmin())} has no training sample to "
                "balance. Give one number a class, or add samples of it."
            )
        return (count.sum() / (len(count) * count)).to(torch.float32)
    weights = torch.tensor(chosen, dtype=torch.float32)
    if classes is not None and len(weights) != classes:
        raise RecipeError(
            f"`loss.class_weights` has {len(weights)} numbers for {classes} classes; give one for each class."
        )
    if not (weights.isfinite().all() and (weights >= 0).all() and weights.any()):
        raise RecipeError(f"`loss.class_weights` is {chosen}; the weights must be finite, 0 or more, and not all 0.")
    return weights


def _beside(values: Tensor, device: torch.device, dtype: torch.dtype, copies: dict[Any, Tensor]) -> Tensor:
    """The values on that device. Copied there once: copying from the host at every step would wait for the device."""
    if values.device == device and values.dtype == dtype:
        return values
    key = (id(values), device, dtype)
    if key not in copies:
        copies[key] = values.to(device, dtype)
    return copies[key]


def _wide(outputs: Tensor) -> Tensor:
    """In fp32 at least: a sum over a batch in bf16 keeps three digits, and in fp16 it overflows at 65,504."""
    return outputs.float() if outputs.dtype in HALF else outputs


def _alike(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both of one shape, which is asserted, and of one dtype."""
    if outputs.shape != targets.shape:
        raise _misfit_of_numbers(outputs, targets)
    outputs = _wide(outputs)
    return outputs, targets.to(outputs.dtype)


def _are_probabilities(outputs: Tensor, targets: Tensor) -> bool:
    return targets.is_floating_point() and outputs.ndim > 1 and targets.shape == outputs.shape


def _labels(targets: Tensor) -> Tensor:
    if targets.is_floating_point() or targets.is_complex():
        raise ModelError(
            f"The targets are {targets.dtype}, but this loss takes the numbers of classes, as integers. Convert them "
            "with `targets.long()`; for targets that are numbers use `mse`, and for probabilities of every class pass "
            "a function such as `lambda outputs, targets: F.cross_entropy(outputs, targets)`."
        )
    return targets.long()


def _samples(targets: Any) -> int:
    """How many samples the targets are of: the length of the first tensor in them."""
    if isinstance(targets, Tensor):
        return len(targets) if targets.ndim else 1
    if isinstance(targets, Mapping | tuple | list) and targets:
        return _samples(next(iter(targets.values() if isinstance(targets, Mapping) else targets)))
    raise ModelError(f"The targets are {type(targets).__name__}; they must be tensors, or a tuple or mapping of them.")


def _tensors(outputs: Any, targets: Any) -> None:
    for what, thing in (("The model returned", outputs), ("The targets are", targets)):
        if not isinstance(thing, Tensor):
            raise ModelError(
                f"{what} {type(thing).__name__}, but this loss takes a tensor. Return or pick the tensor that counts, "
                "or pass a function (outputs, targets) as the loss that does."
            )
    if not outputs.is_floating_point():
        raise ModelError(
            f"The model's outputs are {outputs.dtype}; a loss needs floating-point numbers, which gradients can flow "
            "through. Return the logits or predictions themselves, not `argmax` or counts of them."
        )


def _misfit_of_classes(outputs: Tensor, targets: Tensor) -> ModelError:
    o, t = outputs.shape, targets.shape
    if len(o) < 2:
        mend = "Make the model return one logit for each class, [N, C]."
    elif len(t) > 1 and t[1] == 1 and o[:1] + o[2:] == t[:1] + t[2:]:
        mend = "Take out the dimension of size 1: `targets.squeeze(1)`."
    elif len(o) > 2 and o[:-1] == t:
        mend = "The classes come last here; move them to dimension 1: `outputs.movedim(-1, 1)`."
    elif o == t:
        mend = (
            "If the targets are one-hot, make them class numbers: `targets.argmax(1)`; if each is a yes or no of its "
            "own, use `bce-with-logits`."
        )
    else:
        mend = f"For these outputs the targets must be {[*o[:1], *o[2:]]}."
    return ModelError(
        f"The model's outputs have the shape {list(o)} and the targets {list(t)}, but this loss takes outputs "
        f"[N, C, ...] and class numbers [N, ...]. {mend}"
    )


def _misfit_of_numbers(outputs: Tensor, targets: Tensor) -> ModelError:
    o, t = outputs.shape, targets.shape
    try:
        shape = list(torch.broadcast_shapes(o, t))  # type: ignore[no-untyped-call]
        result = f"they would be broadcast to {shape}, which pairs outputs with the targets of other samples"
    except RuntimeError:
        result = "they cannot be compared element by element"
    if o == (*t, 1):
        mend = (
            "Give the targets that dimension, `targets.unsqueeze(-1)`, or take it out of the outputs, `.squeeze(-1)`."
        )
    elif t == (*o, 1):
        mend = "Take the last dimension out of the targets: `targets.squeeze(-1)`."
    else:
        mend = "Make the model return one number for each target, in the targets' shape."
    return ModelError(f"The model's outputs have the shape {list(o)} and the targets {list(t)}; {result}. {mend}")


def _no_loss() -> RecipeError:
    return RecipeError(
        "There is no loss. Pass `loss='cross-entropy'` for classes or `loss='mse'` for numbers, a torch loss, or a "
        "function (outputs, targets) -> mean over the batch; or set `loss.kind` in the recipe."
    )
