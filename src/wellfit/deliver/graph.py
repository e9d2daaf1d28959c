"""A run's network as a graph of tensors that other programs compute: ONNX, or PyTorch's own exported program.

What is written is one pass of the network, from named inputs to named outputs, for any number of samples. What goes round it
is not: reading pictures and texts, and the loop in which a text is written token by token. `facts` says of both what a
program has to know. Whether the written graph computes what the run's network does is measured, never assumed: on samples
of the run's own data where that can be read again, at sizes of which all but one were never traced.

    >>> graph = Graph.of(Predictor.of("runs/2026-11-22-1015-digits-convnet"))
    >>> graph.inputs[0].name, graph.inputs[0].shape
    ('images', ('batch', 1, 8, 8))
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wellfit.data.batches import untouched_randomness
from wellfit.data.source import load
from wellfit.data.tokens import PAD, SPECIAL, Tokens
from wellfit.deliver.predict import Predictor
from wellfit.errors import MissingExtra, RunError, WellfitError
from wellfit.finetune import adapters, prompts
from wellfit.run import Run

TRACED = 2  # samples in the pass that is written down
SIZES = (1, 2, 5, 32)  # samples in those that are compared
BAR = 1e-4  # how far apart an export may be
MOST = 2**26  # numbers in the outputs of one comparison
SHORTEST, LENGTH = 2, 12  # places of a text that a graph takes at least, and that are traced
WHOLE = 1_500_000_000  # bytes of weights that one file of ONNX holds; protobuf ends at 2 GiB

Inputs = tuple[Tensor, ...]


class Part(NamedTuple):
    """An input or an output. A side that is a word may have any length, within `Graph.most`."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    what: str

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), "what": self.what}


@dataclass(frozen=True)
class Graph:
    """A network that takes tensors by position and gives one, with what they are called."""

    module: nn.Module
    inputs: tuple[Part, ...]
    outputs: tuple[Part, ...]
    given: Callable[[Any], Inputs]  # the inputs among a batch of the run's data
    drawn: Callable[[int, torch.Generator], Inputs]  # so many samples that look like them
    most: Mapping[str, int] = field(default_factory=dict)  # the longest that a side of inputs may be, the shortest is 2

    @classmethod
    def of(cls, predictor: Predictor) -> "Graph":
        """Raises RunError for a network that is no graph of tensors, with what works instead."""
        if predictor.task not in GRAPHS:
            raise RunError(NOT_A_GRAPH[predictor.task])
        if prompts.prompted(predictor.model) is not None:
            raise RunError(
                "Vectors that were learnt before frozen weights are laid into the library's own model while it runs, which cannot be "
                "written down as a graph. Use the format peft."
            )
        return GRAPHS[predictor.task](adapters.merge(predictor.model).eval(), predictor.record)


# ---- what each task's network takes and gives


class Alone(nn.Module):
    """The vectors of single texts [B, T], of a network that is trained on pairs of them."""

    def __init__(self, pairs: Any):
        super().__init__()
        self.pairs = pairs

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.pairs.vectors(tokens)
        return out


class Next(nn.Module):
    """What comes next at each place of a text [B, T]; padding stands behind it, where no place looks."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.model(tokens)
        return out


class Rewritten(nn.Module):
    """What comes next at each place of a target [B, T], given its source [B, S], padded with 0."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        out: Tensor = self.model(source, target, source != PAD)
        return out


def _logits(classes: int) -> Part:
    return Part(
        "logits", "float32", ("batch", classes), "softmax over the last axis gives the probability of each class"
    )


def _images(model: nn.Module, record: Mapping[str, Any]) -> Graph:
    shape, classes = tuple(record["input"]), len(record["classes"])
    return Graph(
        model,
        (Part("images", "uint8", ("batch", *shape), "pixels as the training set's: [batch, channel, height, width]"),),
        (_logits(classes),),
        lambda batch: (batch[0],),
        lambda n, draw: (torch.randint(0, 256, (n, *shape), generator=draw, dtype=torch.uint8),),
    )


def _rows(model: nn.Module, record: Mapping[str, Any]) -> Graph:
    numbers, categories = record["columns"]["numeric"], record["columns"].get("categories", {})
    features = len(numbers) + sum(map(len, categories.values()))
    classes = record.get("classes") or []
    told = "softmax over the last axis gives the probability of each class"
    logits = Part("logits", "float32", ("batch", len(classes)), told)
    value = Part("value", "float32", ("batch",), "the target, in its own unit")
    made = "the numeric columns in their order, then for each category a 1 at the value that the row has and 0 at the others"
    return Graph(
        model,
        (Part("rows", "float32", ("batch", features), made),),
        (logits if classes else value,),
        lambda batch: (batch[0],),
        lambda n, draw: (_drawn_rows(n, model, draw),),
    )


def _drawn_rows(n: int, model: Any, draw: torch.Generator) -> Tensor:
    """Around the training rows' means, as far as they spread."""
    mean, std = model.standardize.mean, model.standardize.std
    out: Tensor = mean + std * torch.randn(n, mean.shape[1], generator=draw)
    return out


def _text_classes(model: nn.Module, record: Mapping[str, Any]) -> Graph:
    classes = len(record["classes"])
    return Graph(
        model,
        (_tokens("tokens"),),
        (_logits(classes),),
        lambda batch: (batch[0],),
        lambda n, draw: (_drawn_tokens(n, record, draw),),
        {"length": record["context"]},
    )


def _tags(model: nn.Module, record: Mapping[str, Any]) -> Graph:
    classes, words = len(record["classes"]), len(SPECIAL) + len(record["words"])
    return Graph(
        model,
        (_tokens("words"),),
        (Part("logits", "float32", ("batch", "length", classes), "of each word; the largest is its tag"),),
        lambda batch: (batch[0],),
        lambda n, draw: (_padded(torch.randint(1, words, (n, LENGTH), generator=draw)),),
        {"length": record["context"]},
    )


def _vectors(model: nn.Module, record: Mapping[str, Any]) -> Graph:
    width = int(model.encoder.width)  # type: ignore[union-attr, arg-type]
    return Graph(
        Alone(model),
        (_tokens("tokens"),),
        (Part("vectors", "float32", ("batch", width), "of length 1; the product of two is their similarity"),),
        lambda batch: (batch[0],),
        lambda n, draw: (_drawn_tokens(n, record, draw),),
        {"length": record["context"]},
    )


def _continued(model: nn.Module, record: Mapping[str, Any]) -> Graph:
    vocabulary = int(getattr(model, "vocabulary", 0)) or len(Tokens.of(record["tokens"]))
    what = "of the token that follows each place; take the last place of the text, and pad behind it"
    return Graph(
        Next(model),
        (_tokens("tokens"),),
        (Part("logits", "float32", ("batch", "length", vocabulary), what),),
        lambda batch: (next(iter(batch.values())) if isinstance(batch, Mapping) else batch[0],),
        lambda n, draw: (_drawn_tokens(n, record, draw),),
        {"length": record["context"]},
    )


def _rewritten(model: nn.Module, record: Mapping[str, Any]) -> Graph:
    vocabulary = len(Tokens.of(record["tokens"]))
    target = Part("target", "int64", ("batch", "written"), f"what is written so far, {SPECIAL[2]} first, padded with 0")
    return Graph(
        Rewritten(model),
        (_tokens("source"), target),
        (Part("logits", "float32", ("batch", "written", vocabulary), "of the token that follows each place"),),
        lambda batch: (batch["source"], batch["target"]),
        lambda n, draw: (_drawn_tokens(n, record, draw), _drawn_tokens(n, record, draw)[:, :-2].contiguous()),
        {"length": record["context"], "written": record["context"]},
    )


def _forecast(model: nn.Module, record: Mapping[str, Any]) -> Graph:
    history, channels, horizon = record["history"], len(record["names"]), record["horizon"]
    columns = channels + 2 * len(record["cycles"])
    with torch.no_grad():
        quantiles = model(torch.zeros(1, history, columns)).shape[3:]
    shape = ("batch", horizon, channels, *quantiles)
    return Graph(
        model,
        (Part("past", "float32", ("batch", history, columns), "standardised columns, then the calendar's"),),
        (Part("future", "float32", shape, "the columns as the model says they go on, standardised"),),
        lambda batch: (batch[0],),
        lambda n, draw: (torch.randn(n, history, columns, generator=draw),),
    )


def _tokens(name: str) -> Part:
    return Part(name, "int64", ("batch", "length"), "numbers of tokens, each text padded behind with 0")


def _drawn_tokens(n: int, record: Mapping[str, Any], draw: torch.Generator) -> Tensor:
    count = len(Tokens.of(record["tokens"]))
    length = min(LENGTH, int(record["context"]))
    return _padded(torch.randint(min(len(SPECIAL), count - 1), count, (n, length), generator=draw))


def _padded(tokens: Tensor) -> Tensor:
    """With the last sample shorter than the others."""
    if len(tokens) > 1:
        tokens[-1, tokens.shape[1] // 2 :] = PAD
    return tokens


GRAPHS: dict[str, Callable[[nn.Module, Mapping[str, Any]], Graph]] = {
    "image-classification": _images,
    "tabular-classification": _rows,
    "tabular-regression": _rows,
    "text-classification": _text_classes,
    "text-generation": _continued,
    "seq-to-seq": _rewritten,
    "sentence-embeddings": _vectors,
    "token-classification": _tags,
    "forecasting": _forecast,
}
NOT_A_GRAPH = {
    "object-detection": "A detector takes pictures of any size, chooses among its boxes, and looks at those again, as many as there are: "
    "that is a program with loops and no graph of tensors. The format safetensors has its weights, and `wellfit predict` and "
    "`wellfit serve` run it.",
}


# ---- samples to compare on


@dataclass(frozen=True)
class Measured:
    """How far an export is from the run's network: the largest difference of a number, relative to those that are above 1."""

    apart: float
    sizes: tuple[int, ...]  # of the batches
    on: str  # samples of what


class Samples:
    """Batches of any size to compare on: of the run's data where it can be read again, else drawn to look like it."""

    def __init__(self, run: Run, graph: Graph):
        self.graph, self.held, self.on = graph, None, "inputs drawn at random in the shape of the run's data"
        self.why = ""
        recipe = run.recipe
        try:
            with untouched_randomness(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loaded = load(recipe.data, recipe.task)
        except (WellfitError, OSError) as error:
            self.why = f"The run's data cannot be read again ({str(error).rstrip('.')}), so they were drawn at random."
            return
        part = next(name for name in ("test", "valid", "train") if getattr(loaded, name) is not None)
        known = run.environment.get("data_fingerprint")
        changed = known is not None and known != loaded.fingerprint
        self.held = getattr(loaded, part)
        words = {"test": "test", "valid": "validation", "train": "training"}
        self.on = f"{words[part]} samples of the run's data" + (", which has changed since" if changed else "")

    def take(self, n: int, seed: int) -> Inputs:
        """`n` samples, int64 texts with at least the places that a graph takes."""
        draw = torch.Generator().manual_seed(seed)
        if self.held is None:
            found = self.graph.drawn(n, draw)
        else:
            order = torch.randperm(len(self.held), generator=draw)
            found = self.graph.given(self.held.batch(order.repeat(-(-n // len(order)))[:n], None))
        return tuple(_at_least(one, part) for one, part in zip(found, self.graph.inputs, strict=True))


def _at_least(inputs: Tensor, part: Part) -> Tensor:
    """Texts with `SHORTEST` places or more; the others as they are."""
    if part.dtype == "int64" and inputs.shape[1] < SHORTEST:
        return nn.functional.pad(inputs, (0, SHORTEST - inputs.shape[1]), value=PAD)
    return inputs.contiguous()


@torch.no_grad()
def measure(graph: Graph, samples: Samples, again: Callable[[Inputs], Sequence[Any]]) -> Measured:
    """Compares what was written, called by `again`, with the network, batch by batch."""
    apart, sizes, each = 0.0, [], 0
    for size in SIZES:
        if each * size > MOST:
            continue
        inputs = samples.take(size, seed=size)
        ours = graph.module(*inputs)
        theirs = torch.as_tensor(again(inputs)[0])
        each = ours.numel() // size
        sizes.append(size)
        if theirs.shape != ours.shape or not torch.equal(theirs.isnan(), ours.isnan()):
            return Measured(float("inf"), tuple(sizes), samples.on)
        far = (theirs.double() - ours.double()).abs() / ours.double().abs().clamp_min(1.0)
        far = far[(theirs != ours) & ~ours.isnan()]
        apart = max(apart, float(far.max()) if far.numel() else 0.0)
    return Measured(apart, tuple(sizes), samples.on)


# ---- the two forms


def onnx(graph: Graph, samples: Samples, folder: Path) -> Measured:
    """Writes `model.onnx`. Raises MissingExtra without the packages, RunError for what the exporter cannot write."""
    runtime = _needed("onnxruntime", "Comparing an ONNX file with the run")
    checker = _needed("onnx", "Writing ONNX")
    _needed("onnxscript", "Writing ONNX")
    path = folder / "model.onnx"
    large = sum(value.numel() * value.element_size() for value in graph.module.state_dict().values()) > WHOLE
    with _quietly(), _explained("ONNX"):
        # Exported here, for left to itself the exporter tries other ways, of which one fixes the number of samples.
        traced = _traced(graph)
        program = torch.onnx.export(
            traced, dynamo=True, verbose=False,
            input_names=[part.name for part in graph.inputs], output_names=[part.name for part in graph.outputs],
        )  # fmt: skip
        assert program is not None
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()
        program.save(path, external_data=large)
        checker.checker.check_model(str(path))
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [part.name for part in graph.inputs]

    def again(inputs: Inputs) -> Sequence[Any]:
        found: Sequence[Any] = session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})
        return found

    return measure(graph, samples, again)


def torch_export(graph: Graph, samples: Samples, folder: Path) -> Measured:
    """Writes `model.pt2`, which `torch.export.load` reads. Raises RunError for what cannot be exported."""
    path = folder / "model.pt2"
    with _quietly(), _explained("torch.export"):
        torch.export.save(_traced(graph), path)
        module = torch.export.load(path).module()
        return measure(graph, samples, lambda inputs: (module(*inputs),))


def _traced(graph: Graph) -> Any:
    """The network as PyTorch's exported program, without the places on this machine at which its code lies.

    Inputs that are drawn lead through it, for the program keeps them, and no sample of the run's data is to leave with it.
    """
    inputs = graph.drawn(TRACED, torch.Generator().manual_seed(0))
    program = torch.export.export(graph.module, inputs, dynamic_shapes=_dynamic(graph))
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            for name in ("stack_trace", "from_node"):
                node.meta.pop(name, None)
    return program


def _dynamic(graph: Graph) -> tuple[dict[int, Any], ...]:
    """Which sides of the inputs may have any length."""
    sides: dict[str, Any] = {"batch": torch.export.Dim("batch", min=1)}
    sides |= {name: torch.export.Dim(name, min=SHORTEST, max=most) for name, most in graph.most.items()}
    return tuple(
        {i: sides[side] for i, side in enumerate(part.shape) if isinstance(side, str)} for part in graph.inputs
    )


def _needed(package: str, what: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingExtra(package, "onnx", what) from None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what exporters print, log and warn of on their way."""
    before = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except WellfitError:
        raise
    except Exception as error:  # exporters raise many kinds, about many operators
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        told = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise RunError(
            f"{what} cannot write this network down ({type(cause).__name__}: {told[:240].rstrip('.')}). The format safetensors has its "
            "weights, and `wellfit predict` and `wellfit serve` run it."
        ) from None
