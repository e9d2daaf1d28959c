"""Fine-tuning as a looked-at step shows it: what was known before, what of it trains, and what moves that should not.

One `Tuning` belongs to one training. It begins at the first look, before the update, and remembers a sample of the
weights and of the frozen batch norms' statistics as they were; each later look is measured against these.

    >>> tuning = Tuning(origins, training, modules)
    >>> tuning.before(training); ...; list(tuning.after(training, others, roots, heads))
"""

from __future__ import annotations

import re
import statistics
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from wellfit.doctor import facts, measure
from wellfit.doctor.account import Head, Training
from wellfit.doctor.graph import LINEAR, Graph, kind, parameter, saved, some, through
from wellfit.doctor.looks import Told
from wellfit.doctor.origins import Origins, drawn, experience
from wellfit.doctor.roots import Roots
from wellfit.doctor.slots import Mark, marks

ANCHORS = 8  # weight matrices whose way from the start is measured
EAGER = 6  # steps that are looked at one after another while a frozen weight has a gradient
LAST = re.compile(r"(^|[._])(lorab|b|up|up_proj)([._]|$)", re.IGNORECASE)  # of a name from "lora" on


class Norm:
    """A frozen batch norm in training mode, with its statistics at the first look."""

    def __init__(self, module: nn.modules.batchnorm._BatchNorm):
        assert module.running_mean is not None
        assert module.running_var is not None
        self.module = weakref.ref(module)
        self.mean, self.var = module.running_mean.detach().clone(), module.running_var.detach().clone()

    def moved(self) -> float | None:
        """How far the mean is from where it was, in standard deviations; the root mean square over the channels.

        None where the module is gone, in evaluation mode or trained by now.
        """
        module = self.module()
        if module is None or not still_drifts(module) or module.running_mean is None:
            return None
        gap = (module.running_mean.detach().to(self.mean) - self.mean) / (self.var + module.eps).sqrt()
        return float(gap.double().square().mean().sqrt())


class Tuning:
    """What one training does to models that may have known something before."""

    def __init__(self, origins: Origins, training: Training, modules: Sequence[nn.Module]):
        self.origins = origins
        self.models = [weakref.ref(module) for module in modules]
        every = {id(p): p for module in modules for p in module.parameters()}
        known = {key: p for key, p in every.items() if origins.known(p)}
        read = sum(p.numel() for p in known.values() if origins.read(p))
        total, size = (sum(p.numel() for p in some_.values()) for some_ in (every, known))
        trained = [p for p in training.parameters if p.requires_grad and id(p) in known]
        self.known, self.loaded = size / max(1, total), read / max(1, total)
        self.tuned = sum(p.numel() for p in trained) / max(1, size)
        self.experience = max((experience(module) for module in modules), default=0.0) if size else 0.0
        optimizer = training.optimizer() if training.optimizer is not None else None
        self.resumed = optimizer is not None and bool(optimizer.state)
        self.trained = {id(p) for p in trained}
        self.peak = 0.0  # the highest rate that known weights were trained at
        matrices = [p for p in trained if p.ndim > 1 and p.is_floating_point()]
        self.anchors = [
            (p, some(p.detach()).clone()) for p in matrices[:: len(matrices) // ANCHORS + 1]
        ]  # fmt: skip
        self.norms: list[Norm] | None = None
        self.adapters = [
            name for module in modules for name, _ in module.named_parameters() if facts.ADAPTER.search(name)
        ]
        self.frozen: list[int] = []  # positions of frozen parameters with a gradient from before
        self.marks: dict[int, Mark] = {}  # the gradients of frozen parameters as the last step left them
        self.eager = 0
        self.looks = 0

    # ---- around the update

    def before(self, training: Training) -> None:
        """The gradients are there, the weights not yet changed."""
        self.frozen = []
        if self.looks == 0:
            modules = self._modules()
            self.norms = [Norm(m) for module in modules for m in module.modules() if self._drifts(m)]
        for position, p in enumerate(training.parameters):
            if p.requires_grad or p.grad is None or p.grad.is_sparse:
                continue
            mark = self.marks.get(position)
            if (mark is not None and mark.same()) or not bool(p.grad.any()):
                self.frozen.append(position)

    def after(
        self, training: Training, others: Sequence[Training], roots: Roots, heads: Sequence[Head]
    ) -> Iterator[Told]:  # fmt: skip
        """What the step did."""
        self.looks += 1
        moved = self._moved(training, roots)
        self.marks = {
            position: found[0] for position, p in enumerate(training.parameters)
            if not p.requires_grad and p.grad is not None and (found := marks([p]))
        }  # fmt: skip
        if moved is not None:
            yield moved
        misspelt = list(self._misspelt(training)) if self.looks in (1, 4) else []
        if misspelt:
            yield Told("misspelt", "attribute", {"parameters": float(sum(n for _, n in misspelt))},
                       {"which": facts.listed([name for name, _ in misspelt])})  # fmt: skip
        optimizer = training.optimizer() if training.optimizer is not None else None
        self.peak = max(self.peak, *self._rates(optimizer))
        told = {
            "known": self.known, "loaded": self.loaded, "tuned": self.tuned, "experience": self.experience, "resumed": float(self.resumed),
            "adaptive": float(optimizer is not None and _adaptive(optimizer)), "peak": self.peak,
            "distance": self._distance(),
        }  # fmt: skip
        if self.known:
            yield Told("tuning", "weights", told)
        held = {key for other in others if other is not training for key in other.ids}
        yield from self._heads(training, held, heads, roots)
        yield from self._statistics(held, roots)
        yield from self._adapters(training)

    # ---- parts

    def _modules(self) -> list[nn.Module]:
        return [module for reference in self.models if (module := reference()) is not None]

    def _rates(self, optimizer: torch.optim.Optimizer | None) -> list[float]:
        """The rates of the groups that hold known weights."""
        groups = optimizer.param_groups if optimizer is not None else []
        own = [
            g
            for g in groups
            if isinstance(g.get("lr"), int | float) and any(id(p) in self.trained for p in g["params"])
        ]
        return [0.0, *(float(group["lr"]) for group in own)]

    def _distance(self) -> float:
        """The median over the anchors of |weights - weights at the start| / |weights at the start|."""
        found = []
        for p, start in self.anchors:
            now = some(p.detach())
            if now.shape == start.shape:
                found.append((now - start, start))
        away, length = measure.norms(a for a, _ in found), measure.norms(b for _, b in found)
        return statistics.median(a / max(b, 1e-12) for a, b in zip(away, length, strict=True)) if found else 0.0

    def _moved(self, training: Training, roots: Roots) -> Told | None:
        """Frozen weights that this very step changed, by a gradient left over from before they were frozen."""
        self.eager = max(0, self.eager - 1)
        waiting = any(not p.requires_grad and p.grad is not None for p in training.parameters)
        if waiting and not self.marks:
            self.eager = EAGER
        old = dict(training.before) if self.frozen else {}
        names = [
            roots.called(training.parameters[i]) for i in self.frozen
            if i in old and not torch.equal(old[i], training.parameters[i].detach())
        ]  # fmt: skip
        if not names or not any(p.requires_grad and p.grad is not None for p in training.parameters):
            return None
        zero = not any(bool(training.parameters[i].grad.any()) for i in self.frozen)  # type: ignore[union-attr]
        return Told("frozen", "moved", {"parameters": float(len(names)), "zero": float(zero)},
                    {"which": facts.listed(names)})  # fmt: skip

    def _misspelt(self, training: Training) -> Iterator[tuple[str, int]]:
        """Modules and parameters at which something like `requires_grad = False` was set that torch does not read."""
        done: set[int] = set()
        for module in self._modules():
            for name, part in module.named_modules():
                key = next((k for k, v in vars(part).items() if _freezes(k, v)), None)
                own = list(part.parameters()) if key is not None and id(part) not in done else []
                trained = [p for p in own if p.requires_grad and id(p) in training.ids]
                if own and len(trained) == len(own):
                    done.update(id(inner) for inner in part.modules())
                    yield f"{name or type(module).__name__}.{key}", len(own)
            for name, p in module.named_parameters():
                key = next((k for k, v in vars(p).items() if _freezes(k, v) or k == "requires_grad_"), None)
                if key is not None and p.requires_grad and id(p) in training.ids:
                    yield f"{name}.{key}", 1

    def _heads(self, training: Training, held: set[int], heads: Sequence[Head], roots: Roots) -> Iterator[Told]:
        """Last layers that are new and do not train, in front of a model that knew something."""
        for head in heads:
            module = head.module()
            if module is None or not isinstance(module.weight, Tensor) or self.origins.known(module.weight):
                continue
            weight = module.weight
            if weight.requires_grad or id(weight) in held or not drawn(module):
                continue
            others = sum(p.requires_grad for p in training.parameters)
            yield Told("head", roots.called(weight), {
                "known": self.known, "classes": float(weight.shape[0]), "others": float(others),
                "held": float(id(weight) in training.ids),
            }, {"layer": roots.called(weight).removesuffix(".weight")})  # fmt: skip

    def _drifts(self, module: nn.Module) -> TypeGuard[nn.modules.batchnorm._BatchNorm]:
        return still_drifts(module) and self.origins.known(module.weight)

    def _statistics(self, held: set[int], roots: Roots) -> Iterator[Told]:
        """Statistics of frozen batch norms that move, in models none of whose batch norms are trained."""
        if not self.norms:
            return
        free = [
            m for module in self._modules() for m in module.modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training and m.weight is not None
            and (m.weight.requires_grad or id(m.weight) in held) and self.origins.known(m.weight)
        ]  # fmt: skip
        moved = [way for norm in self.norms if (way := norm.moved()) is not None]
        if free or not moved:
            return
        worst = max(self.norms, key=lambda norm: norm.moved() or 0.0).module()
        name = roots.called(worst.weight).removesuffix(".weight") if worst is not None else ""
        yield Told("statistics", "frozen batch norms", {
            "layers": float(len(moved)), "moved": statistics.median(moved), "most": max(moved),
            "experience": self.experience, "known": self.known,
        }, {"worst": name})  # fmt: skip

    def _adapters(self, training: Training) -> Iterator[Told]:
        """Adapters whose last matrix is still zero, so that they add nothing."""
        if not self.adapters:
            return
        names, zero, total, frozen, without = [], 0, 0, 0, 0
        for module in self._modules():
            active = active_adapters(module)
            for name, p in module.named_parameters():
                place = facts.ADAPTER.search(name)
                if p.ndim < 2 or place is None or not LAST.search(name[place.start() :]):
                    continue
                if active is not None and not any(f".{one}." in f".{name}." for one in active):
                    continue
                total += 1
                if not bool(p.detach().any()):
                    zero += 1
                    frozen += not p.requires_grad
                    without += p.requires_grad and (p.grad is None or not bool(p.grad.any()))
                    names.append(name)
        if total and not zero:
            self.adapters = []  # they work, and need no other look
        elif total:
            why = "; ".join(switched_off(self._modules()))
            yield Told("adapter", "low rank", {
                "matrices": float(total), "zero": float(zero), "frozen": float(frozen), "without": float(without),
                "rate": training.rate(),
            }, {"which": facts.listed(names), "why": why})  # fmt: skip


def still_drifts(module: nn.Module) -> TypeGuard[nn.modules.batchnorm._BatchNorm]:
    """Whether it is a frozen batch norm in training mode that keeps statistics."""
    return (
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.training
        and module.track_running_stats
        and module.running_mean is not None
        and module.weight is not None
        and not any(p.requires_grad for p in module.parameters(recurse=False))
    )


def active_adapters(module: nn.Module) -> list[str] | None:
    """The names of the adapters that PEFT has switched on, or None where there is no PEFT."""
    for part in module.modules():
        names: Any = getattr(part, "active_adapters", None) if hasattr(part, "lora_B") else None
        if names is not None:
            return [str(name) for name in names]
    return None


def switched_off(modules: Sequence[nn.Module]) -> list[str]:
    """Why PEFT's adapters add nothing: they are disabled, merged, or scaled by zero."""
    parts = [part for module in modules for part in module.modules() if hasattr(part, "lora_B")]
    if not parts:
        return []
    said = []
    if all(getattr(part, "disable_adapters", False) is True for part in parts):
        said.append("the adapters are disabled")
    elif all(getattr(part, "merged_adapters", None) for part in parts):
        said.append("the adapters are merged into the base weights")

    def scales(part: Any) -> list[float]:
        scaling = getattr(part, "scaling", None)
        found = list(scaling.values()) if isinstance(scaling, dict) else [scaling]
        return [float(s) for s in found if isinstance(s, int | float)]

    if all(scales(part) and not any(scales(part)) for part in parts):
        said.append("their scaling (lora_alpha / r) is 0")
    return said


def heads(graph: Graph, modules: Sequence[nn.Module]) -> list[Head]:
    """The linear layers and convolutions whose output a loss is given, trained or not."""
    found: list[Head] = []
    for loss in graph.losses[:8]:
        node = loss.head
        if node is not None and kind(node) in ("LogSoftmax", "Softmax"):
            node = through(next((below for below, _ in node.next_functions if below is not None), None))
        if node is None or kind(node) not in LINEAR:
            continue
        own = [parameter(below) for below, _ in node.next_functions]
        held = [t for t in (*own, *(saved(node, key) for key in ("mat2", "weight"))) if isinstance(t, Tensor)]
        places = {t.data_ptr() for t in held if t.ndim > 1}
        for module in modules:
            for part in module.modules():
                weight = part.weight if isinstance(part, nn.Linear | nn.modules.conv._ConvNd) else None
                if isinstance(weight, Tensor) and weight.numel() and weight.data_ptr() in places:
                    found.append(Head(weakref.ref(part)))
    return found


def new_layers(module: nn.Module, origins: Origins) -> list[str]:
    """The linear layers and convolutions of a model that are as they were drawn and were never loaded."""
    return [
        name for name, part in module.named_modules()
        if drawn(part) and isinstance(part.weight, Tensor) and not origins.known(part.weight)
    ]  # fmt: skip


def _freezes(key: str, value: object) -> bool:
    """`requires_grad`, `require_grad`, `requires_grads`: set to False where torch has no such attribute."""
    return value is False and re.fullmatch(r"requires?_?grads?_?", key) is not None


def _adaptive(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its steps have the size of the learning rate, whatever the gradient is: Adam and its kin."""
    return any("betas" in group or "beta2_decay" in group for group in optimizer.param_groups) or (
        "adam" in type(optimizer).__name__.lower()
    )
