"""Which targets a hand-written loss compares the outputs with, overheard between the forward pass and `backward`.

torch's own losses are told of by name. Whatever else a program writes is seen here: a torch-function mode, on for no
longer than a loss is computed, notes which tensors that nothing is learned through meet the outputs, and how: as an
index (class numbers), in a difference (numbers), or as a factor beside its complement (yes or no). It hands on every
result untouched.

    >>> criterion.open(output, inputs); loss = ...; criterion.close()
    >>> criterion.found(loss)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from wellfit.doctor import measure

NAMES = ("gather", "__getitem__", "take_along_dim", "index_select", "sub", "__sub__", "__rsub__", "rsub", "subtract", "mul",
         "__mul__", "__rmul__", "multiply", "where", "huber_loss", "mse_loss", "l1_loss")  # fmt: skip
SHAPES = ("view", "reshape", "squeeze", "unsqueeze", "float", "double", "long", "int", "to", "type", "type_as", "flatten",
          "one_hot", "eq", "__eq__", "ne", "__ne__", "__getitem__", "bool", "clone", "contiguous", "expand", "expand_as", "t", "detach",
          "gt", "__gt__", "lt", "__lt__", "ge", "__ge__")  # fmt: skip
MOST = 400  # operations that are listened to, for one loss


class Target(NamedTuple):
    """What the outputs are compared with. `function` is the torch loss that it amounts to, or "" where it is none."""

    output: Tensor
    target: Tensor
    kind: str  # "classes", "numbers" or "binary"
    function: str
    made: Any  # the operation behind the output


class Criterion:
    """Listens to one loss at a time."""

    def __init__(self) -> None:
        self._mode: _Listening | None = None
        self._heard: _Listening | None = None
        self._last: _Listening | None = None
        self.rewarded = False  # the last loss picked entries by index, and weighed them with numbers of both signs

    def open(self, output: Tensor, inputs: list[Tensor]) -> None:
        """The forward pass is over. Nothing is done where another mode is on, whose end could come before ours."""
        self.close()
        self._heard = None
        if torch._C._len_torch_function_stack() or not output.ndim or len(output) < 2:
            return
        self._mode = _Listening(output, inputs)
        self._mode.__enter__()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """No more is listened to: before another forward pass, and before `Tensor.backward`, which a mode would wrap."""
        mode, self._mode = self._mode, None
        if mode is None:
            return
        mode.on, self._heard = False, mode
        if torch._C._len_torch_function_stack() and torch.overrides._get_current_function_mode() is mode:  # type: ignore[no-untyped-call]
            mode.__exit__(None, None, None)

    def spoiled(self) -> str:
        """What the last loss did to its targets that made them NaN or infinite, where they were finite before."""
        for name, given, result in self._last.made if self._last is not None else ():
            if not bool(torch.isfinite(result).all()) and all(bool(torch.isfinite(t).all()) for t in given):
                return f"`{name.strip('_')}` of the targets, which are finite"
        return ""

    def forget(self) -> None:
        """Lets go of all tensors: the backward pass of the loss begins."""
        self._heard = self._last = None

    def found(self, loss: Tensor) -> Target | None:
        """The target of the loss that was heard, with the loss it amounts to by its value. Told once."""
        self.close()
        heard, self._heard = self._heard, None
        self._last = heard
        self.rewarded = heard is not None and heard.signed and bool(heard.indices)
        if heard is None or heard.failed or heard.signed:
            return None
        for kind, candidates in (
            ("classes", heard.indices),
            ("numbers", heard.differences),
            ("binary", heard.complemented()),
        ):
            if candidates:
                target, output = candidates[0].detach(), heard.output
                if kind == "classes" and len(target) != len(output):
                    output = output.reshape(len(target), -1)
                amounts = amounts_to(loss, output, target, kind)
                return Target(output.detach(), target, kind, amounts, heard.output.grad_fn)
        return None


class _Listening(TorchFunctionMode):
    """On while one loss is computed."""

    def __init__(self, output: Tensor, inputs: list[Tensor]):
        super().__init__()
        self.output, self.on, self.failed, self.count = output, True, False, 0
        self.batch, self.rows = len(output), output.numel() // max(1, output.shape[-1])
        self.known = {id(t) for t in inputs}  # tensors that are no targets
        self.origin: dict[
            int, Tensor | None
        ] = {}  # what a tensor made here comes from; None: from nothing, or the outputs
        self.made: list[tuple[str, list[Tensor], Tensor]] = []  # numbers made of constants: operation, of what, result
        self.kept: list[Any] = []  # so that no id is used twice
        self.indices: list[Tensor] = []
        self.differences: list[Tensor] = []
        self.factors: list[tuple[Tensor, bool]] = []  # and whether it was the complement
        self.complements: set[int] = set()
        self.signed = False  # a factor of both signs weighs the log-probabilities: rewards, and no labels

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.on:
            self.count += 1
            self.on = self.count < MOST
            try:
                with torch._C.DisableTorchFunction():
                    self._hear(getattr(func, "__name__", ""), args, kwargs or {}, result)
            except Exception:  # ours, and not the program's: nothing is known of this loss then
                self.on, self.failed = False, True
        return result

    def complemented(self) -> list[Tensor]:
        """Factors of 0 and 1 whose complement is a factor too."""
        straight = {id(t) for t, turned in self.factors if not turned}
        return [t for t, turned in self.factors if turned and id(t) in straight]

    def _hear(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        given = measure.tensors([*args, *kwargs.values()])
        learned = [t for t in given if t.requires_grad]
        rest = [t for t in given if not t.requires_grad]
        if isinstance(result, Tensor) and not result.requires_grad:
            self._make(name, given, rest, result, learned)
            return
        if not learned or not rest or name not in NAMES:
            return
        sizes = (self.batch, self.rows)
        for constant in rest:
            source = self._source(constant)
            if source is None or not source.ndim:
                continue
            whole = not source.is_floating_point() and source.dtype != torch.bool
            index = source if source.numel() in sizes else constant
            if (
                name in ("gather", "__getitem__", "take_along_dim")
                and whole
                and index.numel() in sizes
                and _by_class(name, args)
            ):
                _keep(self.indices, index.reshape(-1))
            elif name in ("mul", "__mul__", "__rmul__", "multiply", "where") and source.numel() in sizes:
                self._factor(name, constant, source)
            elif len(source) != self.batch:
                continue
            elif (
                name in ("sub", "__sub__", "__rsub__", "rsub", "subtract", "mse_loss", "huber_loss", "l1_loss")
                and source.dtype != torch.bool
            ):
                _keep(self.differences, source)

    def _factor(self, name: str, constant: Tensor, source: Tensor) -> None:
        values = source.detach().reshape(-1)
        if name == "where" or bool(((values == 0) | (values == 1)).all()):
            if name == "where" and constant.dtype == torch.bool:
                self.factors += [(source, False), (source, True)]
            else:
                self.factors.append((source, id(constant) in self.complements))
        elif values.is_floating_point() and bool((values < 0).any()) and bool((values > 0).any()):
            self.signed = True

    def _make(self, name: str, given: list[Tensor], rest: list[Tensor], result: Tensor, learned: list[Tensor]) -> None:
        """A tensor without a gradient was made: where it comes from."""
        self.kept.append(result)
        if result.is_floating_point() and not learned:
            self.made.append((name, rest, result))
        if learned or not given:
            self.origin[id(result)] = None
            return
        sources = [self._source(t) for t in rest]
        first = next((s for s in sources if s is not None), None)
        complement = name in ("rsub", "__rsub__", "logical_not", "__invert__", "bitwise_not") and len(rest) == 1
        if name in SHAPES or complement:
            self.origin[id(result)] = first
            if complement or id(rest[0]) in self.complements:
                self.complements.add(id(result))
        elif first is None:
            self.origin[id(result)] = None

    def _source(self, tensor: Tensor) -> Tensor | None:
        if id(tensor) in self.known:
            return None
        return self.origin.get(id(tensor), tensor)


def _by_class(name: str, args: Any) -> bool:
    """Whether an index picks along the classes: `log_p[range(n), y]`, `log_p.gather(1, y)`. Rows may be put in another order too."""
    if name == "__getitem__":
        return isinstance(args[1], tuple) and len(args[1]) > 1
    return bool(args) and isinstance(args[0], Tensor) and args[0].ndim > 1


def _keep(kept: list[Tensor], tensor: Tensor) -> None:
    if not any(tensor is other for other in kept):
        kept.append(tensor)


def amounts_to(loss: Tensor, output: Tensor, target: Tensor, kind: str) -> str:
    """The torch loss of the same value, or "": cross entropy, the binary one with logits, or squared error."""
    if loss.numel() != 1 or not output.is_floating_point():
        return ""
    value = float(loss.detach())
    with torch.no_grad(), torch._C.DisableTorchFunction():
        out, wanted = output.detach(), target
        trials: list[tuple[str, Callable[[], Tensor]]] = []
        if (
            kind == "classes"
            and out.ndim == 2
            and wanted.ndim == 1
            and bool(((wanted >= 0) & (wanted < out.shape[1])).all())
        ):
            trials = [("cross_entropy", lambda: F.cross_entropy(out, wanted.long()))]
        elif out.numel() == wanted.numel():
            flat, other = out.reshape(-1), wanted.reshape(-1).to(out.dtype)
            trials = [("mse_loss", lambda: F.mse_loss(flat, other))]
            if kind == "binary":
                trials = [("binary_cross_entropy_with_logits", lambda: F.binary_cross_entropy_with_logits(flat, other))]
        for name, compute in trials:
            expected = float(compute())
            if math.isfinite(expected) and abs(value - expected) <= 1e-3 * abs(expected) + 1e-7:
                return name
    return ""
