"""What the graph of one loss tells the rules: the loss and what it was given, the layers, activations and dropouts.

One function from a graph to `Vitals`. Two of them come later: how much gradient arrives at the ends of a recurrent
layer is known after the backward pass only, and is appended to the list then.
"""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from wellfit.doctor import autopsy, facts, measure
from wellfit.doctor.graph import Graph, dropped, kind, shape
from wellfit.events import Vitals

STRONG = 0.8  # a dropout weaker than this is not told


def is_mean(graph: Graph, value: float | Tensor) -> bool:
    """Whether the loss is the mean over its own batch, however it was come by: then it was not divided for accumulation."""
    if len(graph.losses) != 1 or not isinstance(value, float):
        return False
    mean = facts.loss(graph.losses[0])[0].get("mean_loss", math.nan)
    return abs(value - mean) <= 1e-4 * abs(mean)


def _narrowest(graph: Graph) -> int:
    """The fewest numbers that a sample is made of after any layer; 0 where there is none."""
    sizes = [shape(layer.node) for layer in graph.layers]
    return min((math.prod(size[1:]) for size in sizes if len(size) > 1), default=0)


def of_graph(graph: Graph, value: float | Tensor, place: str) -> list[Vitals]:
    """The facts of one loss, `value`, whose `backward` is called at `place`. Their step is filled in by who tells them."""
    found: list[Vitals] = []

    def tell(about: str, name: str, values: dict[str, float], words: dict[str, str] | None = None) -> None:
        found.append(Vitals(0, about, name, values, words or {}))

    if graph.masked and isinstance(value, float) and (value == 0 or math.isnan(value)):
        tell("masked", "loss", {"ignored": 1.0}, {"how": graph.masked, "place": place})
    blown = graph.broadcast()
    if blown:
        tell("broadcast", "hand-written", {"given": 1.0, "target": 0.0}, {"shapes": blown, "place": place})
    if graph.doubled is not None:
        values = {"sign": 1.0, "scaled": 0.0, "classes": float((shape(graph.doubled) or (2,))[-1])}
        tell(
            "loss",
            "hand-written",
            values,
            {"function": "cross_entropy", "head": "Softmax", "place": place, "shapes": ""},
        )
    for i, loss in enumerate(graph.losses[:8]):
        values, words = facts.loss(loss)
        tell("loss", f"{loss.function} {i}" if i else loss.function, values, words | {"place": place})
    root = graph.loss.grad_fn
    tell("root", "loss", {"divided": float(graph.divided), "negated": float(graph.negated),
         "losses": float(len(graph.losses)), "operations": float(len(graph.nodes)), "narrowest": float(_narrowest(graph))},
         {"operation": kind(root) if root is not None else "", "place": place})  # fmt: skip
    names: set[str] = set()
    for layer in graph.layers[: measure.LAYERS]:
        broken = isinstance(value, float) and not math.isfinite(value)  # then the autopsy says more
        if layer.first and isinstance(layer.inputs, Tensor) and layer.inputs.numel() and not broken:
            tell(
                "input",
                layer.name or layer.op,
                measure.inputs(layer.inputs),
                {"operation": layer.op, "place": place},
            )
        if layer.fed_by is not None and layer.name and layer.name not in names:
            names.add(layer.name)
            a, b = layer.fed_by, layer
            tell("linear-pair", layer.name, {"in": facts.width(a, 1), "between": float(shape(a.node)[-1] if a.op != "Convolution" else
                 shape(a.node)[1]), "out": facts.width(b, 0), "convolution": float(a.op == "Convolution"),
                 "kernel": min(float(x.weight.shape[-1]) if x.weight is not None and x.weight.ndim > 2 else 1.0 for x in (a, b)),
                 "last": float(layer is graph.layers[-1])},
                 {"after": a.name, "into": facts.into(graph, layer.node), "same_kind": str(facts.same_kind(a.op, b.op))})  # fmt: skip
    times: Counter[str] = Counter()
    for name, op, made, followed in list(graph.activations())[:64]:
        label = f"{op.lower()} after {name or '?'}"
        times[label] += 1
        tell(
            "activation",
            f"{label} ({times[label]})" if times[label] > 1 else label,
            measure.activation(op, made) | {"followed": float(followed)},
        )
    for node in graph.nodes:
        if dropped(node):
            p = facts.dropout_share(node)
            if p >= STRONG:
                tell("dropout", graph.before(node) or "the inputs", {"p": p}, {})
    if torch.is_grad_enabled():
        autopsy.through_time(graph, tell)
    return found
