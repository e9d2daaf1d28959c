"""What models are called with, which of the calls a loss was made from, and what its batch and its graph tell.

A call that a backward pass goes through is a lesson; any other one is an evaluation (`evaluation.py`). A loss's facts
wait in its `Backward` for the step that it belongs to; whatever belongs to no step is told at once.

    >>> lessons.entered(model, args, kwargs); lessons.left(model, output, listen=True)
    >>> call = lessons.learn(loss, back, looking=True, step=3)
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from wellfit.doctor import autopsy, facts, game, masks, measure, places, reading, tuning
from wellfit.doctor.account import Backward, Call, Root
from wellfit.doctor.checks import Checks, time_first
from wellfit.doctor.criterion import Criterion, Target
from wellfit.doctor.evaluation import HeldOut
from wellfit.doctor.graph import Graph, Loss, dropped, through
from wellfit.doctor.roots import Roots
from wellfit.doctor.samples import Samples
from wellfit.events import Vitals

CALLS = 64  # kept until a backward pass shows which of them it went through
LATE = 24  # steps after which a model is tried once more
ASLEEP = 8  # times that training in evaluation mode is told
WATCHED_BYTES = 64 << 20  # an input larger than this is not held for a later look

Emit = Callable[..., None]  # (training or None, about, name, values, words)


class Lessons:
    """The calls since the last backward pass, and what was last learned from."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self.begun = False  # a step was taken; what was called before were looks at shapes
        self.roots = Roots()
        self.calls: list[Call] = []
        self.recent: deque[tuple[int, StorageWeakRef, Root]] = deque(maxlen=8)  # what modules made, while it lives
        self.held_out = HeldOut()
        self.samples = Samples()
        self.criterion = Criterion()
        self.checks = Checks()
        self.last: Call | None = None  # the one that was last learned from
        self.target: Tensor | None = None
        self.taught: Tensor | None = None  # the targets that were last learned from
        self.derived = False  # the target was reckoned from the graph
        self.summed = False  # the target's loss is a mean or sum of all of its places, of this many classes
        self.classes = 0
        self.rewarded = (
            False  # log-probabilities weighed with numbers of both signs: a policy, whose loss need not fall
        )
        self.asleep = 0
        self.time_first: bool | None = None  # sequences come with time along the first dimension; None: not known yet

    # ---- calls

    def entered(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], looking: bool) -> bool:
        """A root is called. Returns whether something may be learned from it."""
        root = self.roots.of(module)
        if root.bare:
            return False
        self.criterion.close()
        given = measure.tensors(args) or measure.tensors(kwargs)
        feeder = None
        for tensor in given[:2]:
            pointer = tensor.data_ptr() if tensor.numel() and tensor.device.type != "meta" else 0
            for made, storage, other in self.recent:
                if made == pointer and other is not root and not storage.expired():  # type: ignore[no-untyped-call]
                    feeder, other.feeds = other, True
        grad = torch.is_grad_enabled()
        mixing = module.training and bool(root.switches) and any(s.training for s in root.switches)
        call = Call(root, places.key(), grad, given, module.training, mixing)
        if looking and grad and self.checks.wanted:
            call.args, call.kwargs = args, kwargs
        call.feeder = feeder
        if len(self.calls) > CALLS:
            self.fold(self.calls[: CALLS // 2])
            self.calls = self.calls[CALLS // 2 :]
        self.calls.append(call)
        return grad

    def left(self, module: nn.Module, output: Any, listen: bool) -> None:
        """The call is over. `listen` asks to hear what a hand-written loss compares its output with."""
        if not self.calls or self.calls[-1].root.module() is not module:
            return
        call = self.calls[-1]
        made = measure.tensors(output)
        call.made = [tensor for tensor in made[:8] if tensor.grad_fn is not None]
        if call.made and listen:
            self.criterion.open(call.made[0], call.inputs)
        call.outputs = [tensor.grad_fn for tensor in made[:8] if tensor.grad_fn is not None]
        if made and made[0].numel() and made[0].device.type != "meta":
            self.recent.append((made[0].data_ptr(), StorageWeakRef(made[0].untyped_storage()), call.root))  # type: ignore[no-untyped-call]
        if not call.grad:
            self.calls.pop()
            self._evaluated(call)

    def masks(self, ignored: Any, smoothing: Any, reduction: Any) -> None:
        """What the loss that comes leaves out of its targets, by how much it smooths them, and how it sums up."""
        self.summed = reduction != "none"
        self.samples.ignored = ignored if isinstance(ignored, int) else -100
        self.samples.smoothed = self.samples.smoothed or bool(smoothing)

    def scored(self, function: str, given: Tensor, target: Tensor, weighted: bool, loss: Any, looking: bool) -> None:
        """One of torch's own losses was computed."""
        if not torch.is_grad_enabled() or (not looking and self._is_evaluation()):
            if self.begun:
                self.held_out.scored(function, given, target, loss, self.taught)
            return
        self.classes = given.shape[1] if function == "cross_entropy" and given.ndim > 1 else 0
        alone = function == "ctc_loss"  # whose targets are of another length than the inputs
        self.target = target if not alone and target.numel() * target.element_size() <= WATCHED_BYTES else None
        if function in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss") and given.shape != target.shape:
            self.emit(None, "broadcast", function, {"given": float(given.numel()), "target": float(target.numel())},
                      {"shapes": f"{list(given.shape)} and {list(target.shape)}", "place": places.place()})  # fmt: skip
        if looking:
            for about, told in (("given", facts.unfit), ("beyond", facts.out_of_range)):
                if says := told(function, given, target):
                    values = {"target_min": float(target.min()), "target_max": float(target.max())}
                    self.emit(None, about, function, values, {"says": says, "place": places.place()})
        if self.samples.open and not alone:
            inputs = self.calls[-1].inputs if self.calls else []
            self.samples.labels(function, given, target, weighted, len(inputs[0]) if inputs and inputs[0].ndim else 0)

    def read(self, value: float) -> None:
        """A number was read off a tensor. It counts where the line that reads it speaks of a loss."""
        line = places.key(1)
        if line and autopsy.LOSS_LIKE.search(places.text(line[0])):
            self.held_out.heard(places.shown(line[0]), value)

    def dropped(self) -> None:
        """`F.dropout` sets outputs to zero while nothing is learned: the model's own mode does not tell of it."""
        if self.calls:
            self.calls[-1].mixing = True

    # ---- a loss

    def learn(self, loss: Tensor, back: Backward, looking: bool, step: int) -> list[Call]:
        """The calls that the loss came from, as far as is known; when `looking`, its facts are put into `back`."""
        graph, heard = None, self.criterion.found(loss)
        self._reward(self.criterion.rewarded)
        heard = heard if self.target is None else None  # torch's own loss was told already
        if looking:
            graph = back.graph = Graph(loss, self.roots.names, [t for call in self.calls for t in call.made])
            if heard is not None:
                _overheard(graph, heard)
            self._recognise(graph, back)
        else:
            for call in self.calls:
                call.learned = call.key in call.root.training_keys
        if heard is not None:
            self._take_labels(heard)
            if looking and sum(call.learned for call in self.calls) == 1 and _whole(heard, back.value):
                share = {"share": measure.agreement(heard.output, heard.target)}
                back.facts.append(Vitals(0, "agreement", heard.kind, share))
        self.samples.step()
        learned = [call for call in self.calls if call.learned]
        rest = [call for call in self.calls if not call.learned]
        feeders = [call.feeder for call in learned if call.feeder is not None]
        kept = [call for call in rest if call.grad and not call.kept and call.root in feeders]
        for call in kept:
            call.kept = True  # its output was given on detached, and a later loss may yet come from it
        if learned:
            self.fold([call for call in rest if call not in kept])
        elif not looking:
            self.fold([call for call in rest if not call.grad])
        self.calls = kept
        for call in learned:
            call.made = []
        if learned:
            call = next((c for c in learned if _is_fed_data(c)), learned[-1])
            self.last = call
            self._asleep(call)
            if self.samples.open:
                self.samples.of = self.samples.of or call.root
                if self.samples.of is call.root:
                    self._count(call.inputs)
            if looking:
                self.read_batch(call, graph, back, step)
            if sum(t.numel() * t.element_size() for t in call.inputs) > WATCHED_BYTES:
                call.inputs = []
        elif graph is not None and self.samples.open:  # a model of bare tensors
            first = [f.inputs for f in graph.layers if f.first and isinstance(f.inputs, Tensor)][:1]
            self.samples.batch(first, self.target)
        return learned

    def learn_from(self, loss: Tensor, back: Backward, call: Call, target: Tensor | None, step: int) -> None:
        """Reads a loss whose batch and model are known."""
        graph = Graph(loss, self.roots.names)
        self.read_graph(graph, back)
        back.roots = [call.root]
        self._read_heads(graph, back)
        self.last, self.target = call, target
        self.read_batch(call, graph, back, step)
        own = graph.losses[0] if len(graph.losses) == 1 else None
        given = own.told("self") if own is not None else None
        if self.samples.open and own is not None and given is not None and target is not None:
            function = "cross_entropy" if own.function == "nll_loss" else own.function
            self.samples.labels(function, given, target, False)
            pixels = [one.float() if one.dtype == torch.uint8 else one for one in call.args[:1]]  # and no tokens
            self.samples.batch(pixels, target)
            self.samples.step()

    def done(self) -> None:
        """The backward pass begins: its targets belong to no later one."""
        self.taught = self.target if self.target is not None else self.taught
        self.target, self.derived = None, False
        self.criterion.forget()

    def read_graph(self, graph: Graph, back: Backward) -> None:
        """The facts of one loss, to be told with the step they belong to."""
        back.reached = graph.parameters
        back.facts = reading.of_graph(graph, back.value, back.place)
        back.unstable = graph.unstable()
        back.divided = graph.divided and not reading.is_mean(graph, back.value)

    @staticmethod
    def _read_heads(graph: Graph, back: Backward) -> None:
        back.heads = tuning.heads(graph, [module for root in back.roots if (module := root.module()) is not None])

    def read_batch(self, call: Call, graph: Graph | None, back: Backward, step: int) -> None:
        """The facts of one batch, and experiments with the model on it."""
        place = places.shown(call.key[0]) if call.key else ""

        def tell(about: str, values: dict[str, float], **words: str) -> None:
            back.facts.append(Vitals(0, about, call.root.name, values, {"place": place} | words))

        if call.mixing:
            norms = [m for m in call.root.switches if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
            if norms and call.inputs and call.inputs[0].ndim > 1:
                spatial = any(not isinstance(m, nn.BatchNorm1d) for m in norms)
                values = {"samples": len(call.inputs[0]), "layers": len(norms), "spatial": spatial}
                tell("batch-norm", {k: float(v) for k, v in values.items()}, kind=type(norms[0]).__name__)
        module = call.root.module()
        for tensor in call.inputs[:1]:
            if tensor.ndim == 2 and not tensor.is_floating_point() and tensor.dtype != torch.bool:
                tell("tokens", facts.tokens(tensor.t() if self.time_first else tensor, _padding(module)))
                if module is not None and not self.time_first:
                    self._read_tokens(call, module, tell)
        floating = call.inputs and call.inputs[0].is_floating_point() and call.inputs[0].numel()
        if floating and graph is not None and not graph.reads_numbers():
            tell("input", measure.inputs(call.inputs[0]), operation="model")
        if call.inputs:
            self.checks.peeking(call.inputs[0], self.target, call.root.name, self.emit)
        if (step in (0, 1, 2, 4) or step >= LATE) and self.checks.wanted and module is not None:
            self.checks.independence(
                module, call.root.name, call.args, call.kwargs, self.target, self.emit, place, step >= LATE
            )

    def _read_tokens(self, call: Call, module: nn.Module, tell: Callable[..., None]) -> None:
        """Padding among the targets, and ids that the vocabulary of the model does not fit."""
        padding, tokens, ids = _padding(module), masks.vocabulary(module), call.inputs[0]
        padding = padding if padding is not None else masks.setting(module, "pad_token_id")
        padding = padding if isinstance(padding, int) else None
        attended = masks.attention(call.kwargs, ids)
        if all(not t.is_floating_point() for t in call.inputs) and tokens:
            found = masks.crowd(ids, attended, padding)
            if found is not None:
                tell("vocabulary", found | {"rows": float(tokens), "known": float(attended is not None)})
        target = self.target
        if target is None or self.derived or not self.classes or not self.summed:
            return
        told, ignored = None, self.samples.ignored
        labels = call.kwargs.get("labels")
        if masks.setting(module, "is_encoder_decoder") and isinstance(labels, Tensor) and labels.ndim == 2:
            if padding is not None:
                told = masks.padded_answers(labels, target, ignored, padding)
        else:
            for given in call.inputs[:4]:
                if told is None and given.ndim == 2 and not given.is_floating_point() and given is not attended:
                    mask = masks.attention(call.kwargs, given)
                    told = masks.padded_targets(given, mask, target, ignored, padding, self.classes, tokens)
        if told is not None:
            tell("padding-targets", told, function="cross_entropy")

    # ---- evaluation

    def fold(self, calls: list[Call]) -> None:
        """Calls that no loss came from: those made where none ever did are evaluations."""
        for call in calls:
            if not call.grad or (call.root.training_keys and call.key not in call.root.training_keys):
                self._evaluated(call)

    def _evaluated(self, call: Call) -> None:
        if self.begun:
            span = self.held_out.called(call, self.last)
            if span is not None and call.inputs:
                self.samples.evaluated(span.place, call.inputs[0])

    def _is_evaluation(self) -> bool:
        """Whether the last call was made where nothing is learned from."""
        call = self.calls[-1] if self.calls else None
        return call is not None and bool(call.root.training_keys) and call.key not in call.root.training_keys

    # ---- parts of learning

    def _recognise(self, graph: Graph, back: Backward) -> None:
        """Which calls a graph came from, and what its losses say."""
        self._reward(any(own.function == "nll_loss" and own.sign == 0 for own in graph.losses))
        for own in graph.losses:
            if own.target is not None:
                self.target, self.derived = own.target, True
                if own.given is not None and own.function == "nll_loss" and self.samples.open:
                    self.samples.labels("cross_entropy", own.given, own.target, False)
        known, drops = graph.parent, any(dropped(node) for node in graph.nodes)
        for call in self.calls:
            if any(node in known for node in call.outputs):
                call.learned = call.root.trained = True
                call.root.training_keys.add(call.key)
                if call.root not in back.roots:
                    back.roots.append(call.root)
                call.root.drops = call.root.drops or (call.training and not call.root.switches and drops)
                if (module := call.root.module()) is not None:
                    back.passed.update(id(p) for p in module.parameters())
        if graph.truncated:
            for call in self.calls[-1:]:
                call.learned = True
                call.root.training_keys.add(call.key)
        self.roots.learn(graph)
        self.read_graph(graph, back)
        self._read_heads(graph, back)
        game.feeding(self.calls, graph, lambda *fact: back.facts.append(Vitals(0, *fact)))

    def _take_labels(self, heard: Target) -> None:
        """The targets of a hand-written loss, for all that is counted over batches."""
        self.target = heard.target
        if not self.samples.open:
            return
        if heard.kind != "numbers":
            function = "cross_entropy" if heard.kind == "classes" else "binary"
            self.samples.labels(function, heard.output, heard.target, False)
        elif heard.target.numel() == len(heard.target):
            self.samples.labels("mse_loss", heard.output, heard.target, False)

    def _count(self, inputs: list[Tensor]) -> None:
        """Counts a batch, with its samples along the first dimension."""
        target = self.target
        if (
            target is not None
            and inputs
            and target.numel() in (inputs[0].numel(), inputs[0].numel() - inputs[0].shape[-1])
        ):
            if self.time_first is None:
                self.time_first = time_first(inputs[0], target)
            if self.time_first and inputs[0].ndim == 2 and target.numel() == inputs[0].numel():
                inputs, target = [inputs[0].t()], target.reshape(inputs[0].shape).t()
        self.samples.batch(inputs, target)

    def _reward(self, seen: bool) -> None:
        """A policy is learned from rewards: labels are actions, and the other losses of the program chase moving targets."""
        if seen:
            self.rewarded = self.samples.weighted = True

    def _asleep(self, call: Call) -> None:
        """Training goes through layers that are in evaluation mode, all of them."""
        root = call.root
        if call.training or self.asleep >= ASLEEP or any(s.training for s in root.switches):
            return
        acting = [s for s in root.switches if facts.acts(s)]
        if acting or root.drops:
            self.asleep += 1
            place = places.shown(call.key[0]) if call.key else ""
            self.emit(None, "mode", root.name, {"training": 0.0, "switches": float(len(acting))},
                      {"place": place, "parts": facts.classes(acting) or "dropout"})  # fmt: skip


def _is_fed_data(call: Call) -> bool:
    """Whether it was given a batch, and not what another model made."""
    return bool(call.inputs) and call.feeder is None and not call.inputs[0].requires_grad


def _whole(heard: Target, loss: float | Tensor) -> bool:
    """Whether the loss counts all numbers of the target: the squared error is not masked, and nothing is added to it."""
    if heard.kind != "numbers" or heard.target.numel() == len(heard.target):
        return True
    if heard.output.shape != heard.target.shape:
        return False
    error = float((heard.output.detach() - heard.target).double().square().mean())
    parts = (1, heard.target[0].numel(), len(heard.target), heard.target.numel())
    return any(math.isclose(float(loss), share * error * times, rel_tol=1e-3) for times in parts for share in (0.5, 1))


def _overheard(graph: Graph, found: Target) -> None:
    """What the graph did not show of a hand-written loss, and was heard of it while it was computed."""
    if graph.losses:
        return
    given, target, node = found.output, found.target, graph.loss.grad_fn
    head = through(found.made)
    if found.function == "cross_entropy":
        given = given.log_softmax(dim=1)
    elif found.function:
        given, target = given.reshape(-1), target.reshape(-1)
    elif found.kind != "numbers" or target.numel() not in (given.numel(), len(target)):
        return
    known = found.function or "l1_loss"
    graph.losses.append(Loss(node, known, int(bool(found.function)), False, head, None, given, target))


def _padding(module: nn.Module | None) -> int | None:
    """The padding index of the first embedding that has one."""
    parts = module.modules() if module is not None else ()
    return next((m.padding_idx for m in parts if isinstance(m, nn.Embedding) and m.padding_idx is not None), None)
