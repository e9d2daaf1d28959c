"""What autograd's graph tells of one training step, read just before its backward pass, while nothing is freed.

The graph of the loss names every operation between the parameters and the number that is minimised, whoever wrote the
model and however: modules, functions, bare tensors. So one reader serves every program, without hooks. It changes
nothing: it looks at saved tensors under `no_grad`, at no more than `NODES` operations and `ELEMENTS` numbers of each.

    >>> graph = Graph(loss, names)  # names: id(parameter) -> "conv1.weight"
    >>> graph.losses[0].function, graph.layers[0].name
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

NODES = 4000
ELEMENTS = 65_536

# Operations that hand values on as they are, in another shape or order.
SHAPING = (
    "View", "UnsafeView", "ReshapeAlias", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Permute", "T", "Clone", "Select",
    "Slice", "Alias", "ToCopy", "Expand", "Unbind", "Split", "Index", "Narrow", "Detach", "Movedim", "Contiguous", "AsStrided",
    "UnsafeSplit", "Chunk", "Cat", "Stack",
)  # fmt: skip
LINEAR = ("Addmm", "Mm", "Linear", "Convolution", "MkldnnConvolution", "Addbmm", "Baddbmm")
LOSSES = {
    "NllLoss": "nll_loss", "NllLoss2D": "nll_loss", "MseLoss": "mse_loss", "SmoothL1Loss": "smooth_l1_loss",
    "HuberLoss": "huber_loss", "BinaryCrossEntropy": "binary_cross_entropy",
    "BinaryCrossEntropyWithLogits": "binary_cross_entropy_with_logits", "SoftMarginLoss": "soft_margin_loss",
}  # fmt: skip
# Operations through which a loss's sign can be followed.
PASSING = (
    "Div", "Mul", "Neg", "Add", "Sub", "Rsub", "Mean", "Sum", "Select", "Squeeze", "Unsqueeze", "View", "Stack", "ToCopy", "Clone", "Cat",
    "Where", "MaskedSelect", "Index", "Nansum", "Expand", "Gather", "Reshape", "ReshapeAlias", "UnsafeView", "Diagonal",
)  # fmt: skip
ACTIVATIONS = (
    "Relu",
    "Sigmoid",
    "Tanh",
    "Gelu",
    "Silu",
    "LeakyRelu",
    "Elu",
    "Softplus",
    "Hardtanh",
    "Hardswish",
    "Threshold",
)
BOUNDED = ("Sigmoid", "Tanh", "Softmax", "SafeSoftmax", "Relu", "Softplus", "Hardtanh", "LogSigmoid", "Threshold")


def kind(node: Any) -> str:
    """`AddmmBackward0` -> `Addmm`, `torch::autograd::AccumulateGrad` -> `AccumulateGrad`."""
    name: str = node.name().rsplit("::", 1)[-1].removesuffix("_copy")
    return name.rstrip("0123456789").removesuffix("Backward")


def shape(node: Any) -> tuple[int, ...]:
    """The shape of what the operation made."""
    try:
        return tuple(node._input_metadata[0].shape)
    except (AttributeError, IndexError, RuntimeError, TypeError):
        return ()


def saved(node: Any, name: str) -> Any:
    """A saved value of the operation, or None where it has none or gave it up (freed, or overwritten in place).

    What is packed away, by activation checkpointing or offloading, is left packed: to unpack it would compute it anew.
    """
    if getattr(getattr(node, f"_raw_saved_{name}", None), "unpack_hook", None) is not None:
        return None
    try:
        value = getattr(node, f"_saved_{name}", None)
    except RuntimeError:
        return None
    return value.detach() if isinstance(value, Tensor) else value


def some(values: Tensor, limit: int = ELEMENTS) -> Tensor:
    """At most `limit` of the numbers, evenly spaced, as one dimension."""
    flat = values.reshape(-1)
    return flat if flat.numel() <= limit else flat[:: flat.numel() // limit + 1]


@dataclass
class Loss:
    """One loss in the graph, with what it was given."""

    node: Any
    function: str
    sign: int  # -1 where it is maximised
    scaled: bool  # divided or multiplied by a constant on the way to what `backward` was called on
    head: Any  # the operation that made its input, reshapes passed over
    difference: Tensor | None = None  # of a hand-written squared error: output minus target
    given: Tensor | None = None  # its output and target, where they could be told apart
    target: Tensor | None = None

    def told(self, name: str) -> Any:
        """What the loss was given ("self"), or its "target"."""
        own = self.given if name == "self" else self.target
        return own if own is not None else saved(self.node, name)


@dataclass
class Layer:
    """A linear map or convolution, or another operation that holds parameters."""

    node: Any
    name: str
    op: str
    weight: Any = None  # the parameter, where it is trained
    inputs: Any = None  # the tensor it read, where autograd keeps it
    first: bool = False  # reads the data itself
    order: int = 0  # distance from the data; the last is nearest to the loss
    fed_by: Layer | None = None  # the linear layer before it, where nothing bends in between


@dataclass
class Graph:
    """The operations behind a loss."""

    loss: Tensor
    names: Mapping[int, str]
    outputs: list[Tensor] = field(default_factory=list)  # what the program's modules gave
    nodes: list[Any] = field(default_factory=list)  # from the loss to the data
    truncated: bool = False
    parameters: list[Tensor] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)  # from the data to the loss
    likelihoods: list[int] = field(default_factory=list)  # the signs with which log-probabilities enter
    hinges: list[int] = field(default_factory=list)  # the signs with which margins, cut off at zero, enter
    masked: str = ""  # how all of the loss is masked away
    doubled: Any = None  # a softmax whose output goes into a log-softmax
    divided: bool = False
    negated: bool = False
    parent: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        root = self.loss.grad_fn
        if root is None:
            return
        self._collect(root)
        self._scale(root)
        self._find_layers()

    # ---- building

    def _collect(self, root: Any) -> None:
        seen, queue = {root}, [root]
        self._uses: Counter[Any] = Counter()
        self.parent[root] = None
        for node in queue:
            if len(seen) > NODES:
                self.truncated = True
                break
            for below, _ in node.next_functions:
                self._uses[below] += 1
                if below is not None and below not in seen:
                    seen.add(below)
                    self.parent[below] = node
                    queue.append(below)
        self.nodes = queue
        for node in queue:
            if kind(node) == "AccumulateGrad":
                self.parameters.append(node.variable)

    def _scale(self, root: Any) -> None:
        """Signs and constants from the root through what is linear in the loss."""
        sign, scaled, queue = {root: 1}, {root: False}, [root]
        for node in queue:
            op = kind(node)
            found = LOSSES.get(op)
            if found:
                below = node.next_functions[0][0]
                self.losses.append(Loss(node, found, sign[node], scaled[node], through(below)))
                continue
            if op in ("LogSoftmax", "LogSigmoid") and sign[node]:
                self.likelihoods.append(sign[node])
                continue
            if op in ("Index", "Gather") and self._picked(node, sign[node], scaled[node]):
                continue
            if op in ("Pow", "Abs"):
                self._by_hand(node, sign[node], scaled[node])
                continue
            if op in ("Relu", "ClampMin") and self._margin(node):
                self.hinges.append(sign[node])
                continue
            self.masked = self.masked or _masked(node)
            if op == "Mul" and self._one_hot(node, sign[node], scaled[node]):
                continue
            if op not in PASSING:
                continue
            factor, constant = 1.0, False
            if op == "Neg":
                factor = -1.0
            elif op in ("Mul", "Div"):
                factor, constant = _factor(node)
            for position, (below, _) in enumerate(node.next_functions):
                if below is None or below in sign or len(sign) > 200:
                    continue
                flipped = factor < 0 or (op == "Sub" and position == 1) or (op == "Rsub" and position == 0)
                sign[below] = 0 if factor == 0 else -sign[node] if flipped else sign[node]
                scaled[below] = scaled[node] or constant or op == "Sum"
                queue.append(below)
        if not self.losses:
            self.divided = any(kind(node) in ("Div", "Mul") and _factor(node)[1] for node in queue[:4])
            signs = [-sign for sign in self.likelihoods] + self.hinges
            self.negated = bool(signs) and all(sign < 0 for sign in signs)
        else:
            self.divided = all(loss.scaled for loss in self.losses)
            self.negated = all(loss.sign < 0 for loss in self.losses)
        self._doubled()

    def _doubled(self) -> None:
        """Log-probabilities of what is a probability already, outside of torch's own losses."""
        known = {id(loss.head) for loss in self.losses}
        for node in self.nodes[:400]:
            if kind(node) in ("LogSoftmax", "Logsumexp") and id(node) not in known:
                head = through(next((below for below, _ in node.next_functions if below is not None), None))
                if head is not None and is_soft(head):
                    self.doubled = head
                    return

    def _picked(self, node: Any, sign: int, scaled: bool) -> bool:
        """A hand-written negative log-likelihood: the log-probabilities of the targets, picked by index."""
        head = through(node.next_functions[0][0])
        if head is None or kind(head) != "LogSoftmax":
            return False
        index = saved(node, "indices") if kind(node) == "Index" else saved(node, "index")
        index = index[-1] if isinstance(index, tuple | list) and index else index
        logs = saved(head, "result")
        self.likelihoods.append(sign)
        if isinstance(index, Tensor) and isinstance(logs, Tensor) and logs.ndim == 2 and index.numel() == len(logs):
            target = index.detach().reshape(-1)
            if not target.is_floating_point() and bool((target < logs.shape[1]).all()):
                self.losses.append(Loss(node, "nll_loss", -sign, scaled, head, None, logs, target))
        return True

    def _one_hot(self, node: Any, sign: int, scaled: bool) -> bool:
        """A hand-written negative log-likelihood: log-probabilities times one-hot targets, or those of a teacher."""
        operands = [below for below, _ in node.next_functions]
        if len(operands) != 2 or sum(below is not None for below in operands) != 1:
            return False
        head = through(operands[0] or operands[1])
        target = saved(node, "other") if operands[0] is not None else saved(node, "self")
        logs = saved(head, "result") if head is not None and kind(head) == "LogSoftmax" else None
        if (
            not isinstance(logs, Tensor)
            or not isinstance(target, Tensor)
            or logs.ndim != 2
            or target.shape != logs.shape
        ):
            return False
        if bool((target < 0).any()) or not torch.allclose(target.sum(dim=1), torch.ones(()).to(target), atol=1e-3):
            return False
        self.likelihoods.append(sign)
        hard = bool(((target == 0) | (target == 1)).all())
        function, target = ("nll_loss", target.argmax(dim=1)) if hard else ("kl_div", target)
        self.losses.append(Loss(node, function, -sign, scaled, head, None, logs, target))
        return True

    @staticmethod
    def _margin(node: Any) -> bool:
        """Whether a cut-off at zero is of a margin: 1 - x, 1 + x, or a difference of two distances."""
        below = node.next_functions[0][0]
        return below is not None and kind(below) in ("Rsub", "Sub", "Add")

    def _by_hand(self, node: Any, sign: int, scaled: bool) -> None:
        """A squared or absolute difference between something that is learned and something that is not."""
        difference = node.next_functions[0][0]
        if difference is not None and kind(difference) in ("Relu", "ClampMin") and self._margin(difference):
            self.hinges.append(sign)
            return
        if difference is None or kind(difference) != "Sub" or (kind(node) == "Pow" and saved(node, "exponent") != 2):
            return
        operands = [below for below, _ in difference.next_functions]
        if len(operands) != 2 or sum(below is not None for below in operands) != 1:
            return
        first = operands[0] is not None
        predicted = operands[0] if first else operands[1]
        gap = saved(node, "self")
        if not isinstance(gap, Tensor):
            return
        gap = gap if first else -gap
        head = through(predicted)
        loss = Loss(node, "mse_loss" if kind(node) == "Pow" else "l1_loss", sign, scaled, head, gap)
        made = saved(head, "result") if head is not None and kind(head) in BOUNDED else None
        if made is None:
            made = next((t for t in self.outputs if t.grad_fn is not None and through(t.grad_fn) is head), None)
        if isinstance(made, Tensor) and made.numel() == gap.numel():
            loss.given = made.detach().reshape(gap.shape)
            loss.target = loss.given - gap
        self.losses.append(loss)

    def _find_layers(self) -> None:
        made: dict[Any, Layer] = {}
        for node in reversed(self.nodes):
            layer = self._layer(node)
            if layer is not None:
                made[node] = layer
        self.layers = list(made.values())
        for order, layer in enumerate(self.layers):
            layer.order = order
            if layer.op in LINEAR:
                below = bent(self._data(layer.node))
                if below in made and made[below].op in LINEAR and self._used_once(self._data(layer.node), below):
                    layer.fed_by = made[below]

    def _used_once(self, node: Any, end: Any) -> bool:
        """Whether nothing else reads what lies between two operations: no skip connection, no second head."""
        for _ in range(16):
            if node is None or self._uses[node] > 1:
                return False
            if node is end:
                return True
            node = self._data(node)
        return False

    def _layer(self, node: Any) -> Layer | None:
        op = kind(node)
        weights = [variable for below, _ in node.next_functions if (variable := parameter(below)) is not None]
        if not weights and op not in LINEAR:
            return None
        if not weights and self._data(node) is None:
            return None
        if op in ("Add", "Mul", "Sub", "Div", "Pow", "Expand", "Exp", "Sum", "Mean", *SHAPING):
            return None
        weight = max(weights, key=lambda w: (w.ndim, w.numel()), default=None)
        if op.endswith("RnnLayer"):
            weight = weights[0]  # the one that reads the inputs, not the state
        name = self.names.get(id(weight), "") if weight is not None else ""
        inputs = next(
            (t for key in ("mat1", "input", "self", "indices") if isinstance(t := saved(node, key), Tensor)), None
        )
        first = inputs is not None and self._data(node) is None
        return Layer(node, short(name), op, weight, inputs, first)

    def _data(self, node: Any) -> Any:
        """What feeds the operation, its parameters left aside."""
        for below, _ in node.next_functions:
            if below is not None and parameter(below) is None:
                return below
        return None

    # ---- reading

    def activations(self) -> Iterator[tuple[str, str, Tensor, bool]]:
        """(layer that it follows, operation, what it made, whether a trained layer still follows), from the loss to the data.

        What was made has its units along the last dimension, or is [samples, channels, height, width].
        """
        after: dict[Any, bool] = {}
        for node in self.nodes:
            op = kind(node)
            above = self.parent[node]
            after[node] = above is not None and (
                after.get(above, False) or kind(above) in LINEAR or "Rnn" in kind(above)
            )
            if op in ACTIVATIONS:
                made = saved(node, "result")
                if not isinstance(made, Tensor):
                    made = saved(node, "self")
                if isinstance(made, Tensor) and made.is_floating_point() and made.ndim:
                    layer = self._layer_before(node)
                    channels = layer is not None and (layer.op.startswith("Convolution") or "BatchNorm" in layer.op)
                    made = made.transpose(1, 2) if channels and made.ndim == 3 else made
                    yield layer.name if layer is not None else "", op, made, after[node]

    def before(self, node: Any) -> str:
        """The name of the nearest layer with parameters on the way from the node to the data."""
        layer = self._layer_before(node)
        return layer.name if layer is not None else ""

    def _layer_before(self, node: Any) -> Layer | None:
        known = {layer.node: layer for layer in self.layers if layer.name}
        at = node
        for _ in range(12):
            at = next((b for b, _ in at.next_functions if b is not None), None)
            if at is None or at in known:
                return known.get(at)
        return None

    def reads_numbers(self) -> bool:
        """Whether a layer reads the data itself, and these are no token ids."""
        return any(f.first and isinstance(f.inputs, Tensor) and f.inputs.is_floating_point() for f in self.layers)

    def made_by(self) -> str:
        """The operation behind a loss that is not finite: the first one, from the data on, fed with what it cannot take."""
        for node in reversed(self.nodes):
            op = kind(node)
            before, after = saved(node, "self"), saved(node, "result")
            if op in ("Log", "Log2", "Log10", "Log1P") and isinstance(before, Tensor):
                least = float(some(before, 1 << 22).min()) if before.numel() else 1.0
                if least <= (-1.0 if op == "Log1P" else 0.0):
                    return f"a logarithm of {least:.3g}"
            if op == "Exp" and isinstance(after, Tensor) and not bool(torch.isfinite(after).all()):
                return "an exponential that overflowed"
            if op == "Div":
                other = saved(node, "other")
                if isinstance(other, Tensor) and other.numel() and bool((other == 0).any()):
                    return "a division by zero"
            if op == "Sqrt" and isinstance(after, Tensor) and bool(torch.isnan(after).any()):
                return "a square root of a negative number"
            if op == "Pow" and isinstance(before, Tensor) and bool((before == 0).any()):
                power = saved(node, "exponent")
                if isinstance(power, int | float) and power < 0:
                    return "a negative power of zero"
        return ""

    def unstable(self) -> str:
        """An operation whose value is finite and whose gradient is not: the root or norm of zero."""
        for node in reversed(self.nodes):
            op = kind(node)
            if op == "Sqrt" and isinstance(after := saved(node, "result"), Tensor) and bool((after == 0).any()):
                return "the square root of zero, whose slope is infinite"
            if op == "Pow" and isinstance(power := saved(node, "exponent"), float) and 0 < power < 1:
                before = saved(node, "self")
                if isinstance(before, Tensor) and bool((before == 0).any()):
                    return f"zero to the power {power:g}, whose slope is infinite"
            if (
                op in ("Acos", "Asin")
                and isinstance(before := saved(node, "self"), Tensor)
                and bool((before.abs() >= 1).any())
            ):
                return f"{op.lower()} of 1, whose slope is infinite"
        return ""

    def broadcast(self) -> str:
        """A prediction of n values that a hand-written loss blew up to n x n, as "[32, 1] to [32, 32]"; else nothing."""
        for node in self.nodes[:40]:
            if kind(node) not in ("Sub", "Mul", "Add", "Div"):
                continue
            made = shape(node)
            below = [b for b, _ in node.next_functions]
            if len(made) != 2 or made[0] != made[1] or made[0] < 2 or sum(b is not None for b in below) != 1:
                continue
            given = shape(next(b for b in below if b is not None))
            if given in ((made[0], 1), (made[0],)):
                return f"{list(given)} to {list(made)}"
        return ""


def parameter(node: Any) -> Tensor | None:
    """The leaf behind a node, a transpose passed over; None where the node is no leaf."""
    for _ in range(3):
        if node is None:
            return None
        op = kind(node)
        if op == "AccumulateGrad":
            variable: Tensor = node.variable
            return variable
        if op not in ("T", "Transpose", "ToCopy"):
            return None
        node = node.next_functions[0][0]
    return None


def through(node: Any, limit: int = 16) -> Any:
    """The first operation that is more than a change of shape."""
    for _ in range(limit):
        if node is None or kind(node) not in SHAPING:
            return node
        node = next((below for below, _ in node.next_functions if below is not None), None)
    return node


def is_soft(node: Any) -> bool:
    """Whether the operation gives probabilities: a softmax, or the exponential of a log-softmax."""
    below = node.next_functions[0][0] if node.next_functions else None
    return kind(node) in ("Softmax", "SafeSoftmax") or (
        kind(node) == "Exp" and below is not None and kind(through(below)) == "LogSoftmax"
    )


def bent(node: Any, limit: int = 16) -> Any:
    """The first operation that is not linear in its input: shapes, dropout, batch norm and constants are passed over."""
    for _ in range(limit):
        if node is None or kind(node) in ("Cat", "Stack"):
            return node
        op = kind(node)
        if op == "Add":  # of a bias
            below = [b for b, _ in node.next_functions if b is not None]
            rest = [b for b in below if (own := parameter(b)) is None or own.ndim > 1]
            if len(below) == 2 and len(rest) == 1:
                node = rest[0]
                continue
            return node
        if (
            op in SHAPING
            or op in ("NativeBatchNorm", "CudnnBatchNorm", "NativeDropout", "ConstantPadNd", "Pad")
            or (op == "Mul" and _is_mask(node))
        ):
            node = next((below for below, _ in node.next_functions if below is not None), None)
        else:
            return node
    return node


def dropped(node: Any) -> bool:
    """Whether the operation is a dropout."""
    return node is not None and (kind(node) == "NativeDropout" or (kind(node) == "Mul" and _is_mask(node)))


def short(name: str) -> str:
    """`encoder.0.weight` -> `encoder.0`."""
    for tail in (".weight", ".bias", ".in_proj_weight"):
        name = name.removesuffix(tail)
    return name


def _is_mask(node: Any) -> bool:
    """A product with a constant of the same shape that holds zero and one other value: dropout on a CPU."""
    if sum(below is not None for below, _ in node.next_functions) != 1:
        return False
    mask = saved(node, "other") if node.next_functions[0][0] is not None else saved(node, "self")
    if (
        not isinstance(mask, Tensor)
        or not mask.is_floating_point()
        or tuple(mask.shape) != shape(node)
        or mask.numel() < 2
    ):
        return False
    part = some(mask, 4096)
    top = part.max()
    return bool(top >= 1) and bool(((part == 0) | (part == top)).all())


def _masked(node: Any) -> str:
    """Whether a mask leaves nothing of what passes here."""
    op = kind(node)
    if op in ("Index", "MaskedSelect") and 0 in shape(node):
        return "the mask selects nothing"
    if op == "Mul" and sum(below is not None for below, _ in node.next_functions) == 1:
        mask = saved(node, "other") if node.next_functions[0][0] is not None else saved(node, "self")
        if isinstance(mask, Tensor) and mask.numel() > 1 and not bool(mask.any()):
            return "what it is multiplied with is zero everywhere"
    return ""


def _factor(node: Any) -> tuple[float, bool]:
    """The constant that a product or quotient multiplies by (0 where its sign is not known), and whether it is one number."""
    operands = [below for below, _ in node.next_functions]
    if len(operands) == 2 and all(below is not None for below in operands):
        return 0.0, False
    other = saved(node, "other") if operands and operands[0] is not None else saved(node, "self")
    if isinstance(other, Tensor):
        if other.numel() == 1:
            return float(other), True
        return (1.0 if bool((other >= 0).all()) else 0.0), False
    return (float(other), True) if isinstance(other, int | float) else (1.0, True)
