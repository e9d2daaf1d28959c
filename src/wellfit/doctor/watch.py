"""Watching any training in this process: what torch is asked to do, in which order, and now and then what it holds.

`Watch` listens (`patches.py`), keeps account of each optimizer's steps (`Training`), and on looked-at steps reads the
graph of the loss (`graph.py`) and the weights around the update. Everything leaves as `Vitals`, `Stepped` and
`Evaluated` for the doctor's rules. It judges nothing, draws no random number, keeps nobody's tensors alive for longer
than a step, and should it fail itself, it says so once and leaves; the training goes on.

    >>> with Watch(doctor):
    ...     train(model)
"""

from __future__ import annotations

import functools
import math
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import Optimizer

from wellfit.doctor import autopsy, facts, game, looks, measure, places, reading, yardstick
from wellfit.doctor.account import Backward, Call, Root, Training, pointer_of
from wellfit.doctor.checks import Checks
from wellfit.doctor.criterion import Criterion, Target
from wellfit.doctor.doctor import Doctor
from wellfit.doctor.evaluation import HeldOut
from wellfit.doctor.graph import Graph, Loss, through
from wellfit.doctor.patches import Calls, installed
from wellfit.doctor.roots import Roots
from wellfit.doctor.samples import Samples
from wellfit.environment import resident_bytes
from wellfit.events import Stepped, Vitals

DENSE = 6  # steps that are all looked at, for each optimizer
SPARSE = 512  # the widest gap between looks
ALERT = 256  # steps before which nothing passes by unread, unless an evaluation was seen
HELD = 20_000_000  # elements of weights that are copied around an update that is looked at
MEASURED = 3  # trainings of one program whose samples a classical model is tried on
LISTENED = 96  # steps in which the targets of a hand-written loss are listened for
WATCHED_BYTES = 64 << 20  # an input larger than this is not held for a later look


_item = torch._C.TensorBase.item  # torch's own, past our replacement


def safely(method: Callable[..., None]) -> Callable[..., None]:
    """Runs a listener's method unless it is off or busy; an error of ours ends the watching and not the program."""

    @functools.wraps(method)
    def safe(self: Watch, *args: Any) -> None:
        if self.off or self.busy:
            return
        self.busy = True
        try:
            method(self, *args)
        except Exception as error:
            self.give_up(error)
        finally:
            self.busy = False

    return safe


class Watch:
    """Watches until closed. Findings are in `doctor`."""

    def __init__(self, doctor: Doctor):
        self.doctor = doctor
        self.off = self.busy = False
        self.trainings: list[Training] = []
        self.roots = Roots()
        self.calls: list[Call] = []
        self.since: list[Backward] = []
        self.held_out = HeldOut()
        self.recent: deque[tuple[int, StorageWeakRef, Root]] = deque(maxlen=8)  # what modules made, while it lives
        self.looking = True
        self.calm = False  # nothing is read but the loss, until the next look
        self.values: list[float] = []  # losses since the last step, while calm
        self.cpu = False
        self.in_step = self.gap_known = False
        self.scaler = False
        self.compiled = False
        self.backwards = self.forwards = 0
        self.training_call: Call | None = None
        self.target: Tensor | None = None
        self.derived = False  # the target was reckoned from the graph
        self.rewarded = (
            False  # log-probabilities weighed with numbers of both signs: policies, whose losses need not fall
        )
        self.samples = Samples()
        self.criterion = Criterion()
        self.checks = Checks()
        self.passes: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # iterator -> steps at its start
        self.waited = self.gap = 0.0
        self.steps = self.slept = self.steps_scaled = 0
        self.dead = False  # a loss that was not finite was looked into
        self.hand: Training | None = None
        self.outer = Calls(self)
        self._patches: Any = None
        self.seconds = 0.0

    @property
    def span(self) -> Any:
        """The evaluation that goes on, or None."""
        return self.held_out.span

    # ---- on and off

    def __enter__(self) -> Watch:
        self._patches = installed(self)
        self._patches.__enter__()
        self.outer.look(True)
        return self

    def __exit__(self, kind_: Any, error: Any, trace: Any) -> None:
        try:
            if error is not None and isinstance(error, Exception) and not self.off:
                self.crashed(error)
            self.close()
        finally:
            self.criterion.close()
            self.outer.close()
            if self._patches is not None:
                self._patches.__exit__(None, None, None)
                self._patches = None

    def close(self) -> None:
        """The training is over: what can only be said of the whole is said."""
        if self.off:
            return
        self.busy = True
        try:
            for training in self.trainings:
                if training.quiet:
                    self._wake(training)
            self._fold([call for call in self.calls if not call.learned])
            if self.hand is not None and self.hand.pending:
                self._hand_step(self.hand)
            self._end_spans()
            self._tell_samples(final=True)
            for training in self.trainings:
                self._finish(training)
        except Exception as error:
            self.give_up(error)
        finally:
            self.off, self.busy = True, False

    def give_up(self, error: BaseException) -> None:
        """An error of the doctor's own: it leaves, and the program goes on."""
        self.off, self.calm, self.values = True, False, []
        self.criterion.close()
        self.outer.look(False)
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        where = (
            f"{frame.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.tb_lineno}" if frame is not None else "?"
        )
        self.doctor.failed(f"{type(error).__name__}: {error} ({where})")

    def register(self, model: nn.Module | None, optimizer: Optimizer | None) -> None:
        """Takes up a model and an optimizer that were made before the watching began."""
        if model is not None:
            self.roots.of(model)
            self.outer.add(model)
        if optimizer is not None:
            self.created(optimizer)

    # ---- what the program does

    @safely
    def created(self, optimizer: Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if isinstance(p, Tensor)]
        known = next((t for t in self.trainings if t.optimizer is not None and t.optimizer() is optimizer), None)
        if known is not None or len(self.trainings) > 256:
            return
        for training in self.trainings:
            training.let_go()
        if any(t.step for t in self.trainings):  # another training begins: another fold, another phase
            for training in self.trainings:
                self._tell_yardstick(training)
            self._tell_samples(final=True)
            self.samples = Samples()
        self.calm = False
        training = Training(f"optimizer {len(self.trainings) + 1}", parameters, optimizer, places.place())
        self.trainings.append(training)
        self._tell(
            training, "optimizer", type(optimizer).__name__, facts.settings(optimizer), {"place": training.place}
        )
        self.look(True)

    @safely
    def scheduled(self, scheduler: Any) -> None:
        optimizer = getattr(scheduler, "optimizer", None)
        for training in self.trainings:
            if training.optimizer is not None and training.optimizer() is optimizer:
                training.scheduler = (weakref.ref(scheduler), type(scheduler).__name__, places.place())

    def compiling(self) -> None:
        self.compiled = True
        self.outer.look(False)

    @safely
    def loading(self, loader: Any) -> None:
        if getattr(loader.sampler, "replacement", False):
            self.samples.replacement = True
        self.checks.loader(loader, self._emit)

    @safely
    def fetched(self, iterator: Any, seconds: float, ended: bool) -> None:
        self.waited += seconds
        if not self.samples.passed:
            if not ended:
                self.passes.setdefault(iterator, self.steps)
            elif self.steps - self.passes.get(iterator, self.steps) >= 2:
                self.samples.end_pass()  # of the loader that is trained on

    @safely
    def permuted(self, count: int) -> None:
        if count > 1.5 * self.samples.batch_size:
            self.samples.end_pass()

    @safely
    def clipped(self, norm: Any, limit: float) -> None:
        if isinstance(norm, Tensor) and norm.device.type == "cpu" and self.trainings:
            value = float(norm)
            for training in self.trainings[-4:]:
                training.clipped.append(value / limit if limit else 0.0)

    @safely
    def scaled(self, scale: float, skipped: bool) -> None:
        self.scaler = True
        training = self.trainings[-1] if self.trainings else None
        skipped = self.steps == self.steps_scaled
        self.steps_scaled = self.steps
        self._tell(training, "scaler", "scaler", {"scale": scale, "skipped": float(skipped)})
        self.doctor.examine(training.name if training is not None else "")

    @safely
    def entered(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.forwards += 1
        root = self.roots.of(module)
        if root.bare:
            return
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
        if self.looking and grad and self.checks.wanted:
            call.args, call.kwargs = args, kwargs
        call.feeder = feeder
        if grad and self.steps and not self.held_out.spans and not self.gap_known:
            self.gap, self.gap_known = time.perf_counter(), True
        if len(self.calls) > 64:
            self._fold(self.calls[:32])
            self.calls = self.calls[32:]
        self.calls.append(call)
        if self.looking and not self.backwards and self.forwards > 512:
            self.look(False)  # a program that only predicts

    @safely
    def left(self, module: nn.Module, output: Any) -> None:
        if not self.calls or self.calls[-1].root.module() is not module:
            return
        call = self.calls[-1]
        made = measure.tensors(output)
        call.made = [tensor for tensor in made[:8] if tensor.grad_fn is not None]
        early = self.cpu and self.samples.open and self.steps < LISTENED  # elsewhere to look at values is to wait
        if call.made and not self.calm and not self.compiled and (self.looking or early):
            self.criterion.open(call.made[0], call.inputs)
        call.outputs = [tensor.grad_fn for tensor in made[:8] if tensor.grad_fn is not None]
        if made and made[0].numel() and made[0].device.type != "meta":
            self.recent.append((made[0].data_ptr(), StorageWeakRef(made[0].untyped_storage()), call.root))  # type: ignore[no-untyped-call]
        if not call.grad:
            self.calls.pop()
            self._evaluated(call)

    @safely
    def scored(self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None:
        given = args[0] if args else kwargs.get("input")
        target = args[1] if len(args) > 1 else kwargs.get("target")
        if not isinstance(given, Tensor) or not isinstance(target, Tensor):
            return
        weighted = kwargs.get("weight") is not None or kwargs.get("pos_weight") is not None or (
            len(args) > 2 and isinstance(args[2], Tensor) and function != "margin_ranking_loss")  # fmt: skip
        if not torch.is_grad_enabled() or self._is_evaluation():
            if self.steps:
                self.held_out.scored(function, given, target, loss)
            return
        self.target = target if target.numel() * target.element_size() <= WATCHED_BYTES else None
        if function in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss") and given.shape != target.shape:
            self._emit(None, "broadcast", function, {"given": float(given.numel()), "target": float(target.numel())},
                       {"shapes": f"{list(given.shape)} and {list(target.shape)}", "place": places.place()})  # fmt: skip
        if self.looking:
            says = facts.unfit(function, given, target)
            if says:
                self._emit(None, "given", function, {"target_min": float(target.min()), "target_max": float(target.max())},
                           {"says": says, "place": places.place()})  # fmt: skip
        if self.samples.open:
            self.samples.labels(function, given, target, weighted)

    @safely
    def read(self, value: float) -> None:
        if torch.is_grad_enabled() or (self.held_out.span is None and not self.calm):
            return
        line = places.key(1)
        if line and autopsy.LOSS_LIKE.search(places.text(line[0])):
            self.held_out.heard(places.shown(line[0]), value)

    def summed_up(self, _: Any) -> None:
        """`Tensor.backward` is about to be called: the loss is whole."""
        self.criterion.close()

    @safely
    def before_backward(self, loss: Any) -> None:
        if not isinstance(loss, Tensor):
            loss = loss[0] if isinstance(loss, list | tuple) and loss else None
        if not isinstance(loss, Tensor) or loss.grad_fn is None:
            return
        self.backwards += 1
        value: float | Tensor = loss.detach()
        if loss.numel() != 1:
            value = loss.detach().float().mean()
        self.cpu = loss.device.type == "cpu"  # elsewhere a loss is read only at a look, as reading waits for the device
        if self.cpu:
            value = float(value)
        back = Backward(places.place(), value, None, inside=self.in_step)
        if self.hand is not None and self.hand.pending:
            self._hand_step(self.hand)
        for training in self.trainings:
            self._watch_gradients(training, back.place)
        self._learn(loss, back)
        if isinstance(value, float) and not math.isfinite(value) and not self.dead:
            self.dead = True
            self._not_finite(loss, back)
        self.target, self.derived = None, False
        self.criterion.forget()
        self.since.append(back)
        for training in self.trainings:
            training.backwards += 1
            if len(training.pending) < 4096:
                training.pending.append(back)
        if len(self.since) > 256:
            del self.since[:128]

    @safely
    def after_backward(self) -> None:
        if not self.since:
            return
        back = self.since[-1]
        if self.looking:
            for training in self.trainings:
                if back.graph is not None and not any(id(p) in training.ids for p in back.graph.parameters):
                    continue
                training.leftover = [
                    (p, pointer_of(g), g._version) for p, _, _ in training.leftover if (g := p.grad) is not None
                ]
                training.gained = [
                    (p, pointer_of(g), g._version) for p in training.parameters[:256] if (g := p.grad) is not None
                ][:8]
        if self.in_step and self.looking:  # `step(closure)`: only now are the gradients there
            for training in self.trainings:
                if training.before:
                    before = training.before
                    self._begin(training)
                    training.before = before
        if back.graph is not None:
            self._by_hand(back)
            back.graph = None
        elif self.hand is not None:
            self.hand.pending, self.hand.before = [back], []

    def passed_by(self, loss: Any) -> bool:
        """A backward pass while calm: its value is kept, and nothing else. False where it deserves more."""
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            return False
        value = _item(loss)
        if math.isfinite(value):
            self.values.append(value)
            if self.held_out.spans:
                self._end_spans()
            return True
        self.calm = False
        return False

    def _calm_step(self, training: Training) -> None:
        """A step while calm. The numbers wait in a list until the next look."""
        values, self.values = self.values, []
        value = sum(values) / len(values) if values else training.level
        training.step += 1
        self.steps += 1
        training.stepped_total = self.steps
        training.backwards += len(values)
        training.gained, training.leftover, training.foreign, training.pending = [], [], [], []
        training.quiet.append((training.step, value, training.rate()))
        away = abs(value - training.level)
        odd = abs(value) > 3 * abs(training.level) + 1e-3 and away > 6 * training.swing
        training.level += 0.1 * (value - training.level)
        training.swing += 0.1 * (away - training.swing)
        if odd or training.step + 1 >= training.next_look or len(training.quiet) > 255:
            self._wake(training)
            if odd:
                self.doctor.odd(training.name, value)

    def _wake(self, training: Training) -> None:
        self.calm = False
        for other in self.trainings:
            quiet, other.quiet = other.quiet, []
            for step, value, rate in quiet:
                self.doctor.stepped(other.name, Stepped(step, value, math.nan, rate), math.nan, 0.0)
            if quiet:
                self.doctor.examine(other.name)
        training.next_look = min(training.next_look, training.step + 1)
        training.stepped_at = 0.0
        self.waited, self.gap_known = 0.0, True
        self.look(True)

    @safely
    def stepping(self, optimizer: Optimizer) -> None:
        if self.calm:
            return
        self.in_step = True
        training = self._training(optimizer) or self._adopted(optimizer)
        if training is not None and self.looking:
            self._begin(training)

    @safely
    def stepped(self, optimizer: Optimizer) -> None:
        self.in_step = False
        training = self._training(optimizer)
        if training is None:
            return
        if self.calm:
            self._calm_step(training)
        else:
            self._end(training)

    # ---- one step

    def look(self, wanted: bool) -> None:
        """Whether the next step is looked at."""
        self.looking = wanted
        self.outer.look(wanted and not self.compiled)

    def _learn(self, loss: Tensor, back: Backward) -> None:
        """Which calls the loss came from; on looked-at steps, what its graph tells."""
        graph, heard = None, self.criterion.found(loss)
        if self.criterion.rewarded:
            self._reward()
        heard = heard if self.target is None else None  # torch's own loss was told already
        if self.looking:
            graph = back.graph = Graph(loss, self.roots.names, [t for call in self.calls for t in call.made])
            if heard is not None:
                self._overheard(graph, heard)
            if any(own.function == "nll_loss" and own.sign == 0 for own in graph.losses):
                self._reward()
            for own in graph.losses:
                if own.target is not None:
                    self.target, self.derived = own.target, True
                    if own.given is not None and own.function == "nll_loss" and self.samples.open:
                        self.samples.labels("cross_entropy", own.given, own.target, False)
            back.reached = graph.parameters
            known = graph.parent
            for call in self.calls:
                if any(node in known for node in call.outputs):
                    call.learned = True
                    call.root.training_keys.add(call.key)
                    call.root.trained = True
                    if len(self.trainings) > 1 and (module := call.root.module()) is not None:
                        back.passed.update(id(p) for p in module.parameters())
            if graph.truncated:
                for call in self.calls[-1:]:
                    call.learned = True
                    call.root.training_keys.add(call.key)
            self.roots.learn(graph)
            self._read_graph(graph, back)
            game.feeding(self.calls, graph, lambda *fact: back.facts.append(Vitals(0, *fact)))
        else:
            for call in self.calls:
                call.learned = call.key in call.root.training_keys
        if heard is not None:
            self._take_labels(heard)
            if self.looking and sum(call.learned for call in self.calls) == 1:
                back.facts.append(
                    Vitals(0, "agreement", heard.kind, {"share": measure.agreement(heard.output, heard.target)})
                )
        self.samples.step()
        learned = [call for call in self.calls if call.learned]
        rest = [call for call in self.calls if not call.learned]
        if learned:
            self._fold(rest)
        elif (
            not self.looking
        ):  # another way of calling it than before: nothing is known of this step, so look at the next
            self._fold([call for call in rest if not call.grad])
            self.look(True)
        self.calls = []
        if self.held_out.spans:
            self._end_spans()
        for call in learned:
            call.made = []
        if learned:
            call = next(
                (c for c in learned if c.inputs and c.feeder is None and not c.inputs[0].requires_grad), learned[-1]
            )
            self.training_call = call
            if self.gap:
                self.gap, began = 0.0, self.gap
                self.doctor.waited(self._current_name(), max(0.0, began - self._stepped_at()))
            asleep = not call.training and call.root.switches and not any(s.training for s in call.root.switches)
            if asleep and self.slept < 8:
                self.slept += 1
                ours = [s for s in call.root.switches if facts.acts(s)]
                if ours:
                    self._emit(None, "mode", call.root.name, {"training": 0.0, "switches": float(len(ours))},
                               {"place": places.shown(call.key[0]) if call.key else "", "parts": facts.classes(ours)})  # fmt: skip
            if self.samples.open:
                self.samples.of = self.samples.of or call.root
                if self.samples.of is call.root:
                    self.samples.batch(call.inputs, self.target)
            if self.looking:
                self._read_batch(call, graph, back)
            size = sum(t.numel() * t.element_size() for t in call.inputs)
            if size > WATCHED_BYTES:
                call.inputs = []

        elif graph is not None and self.samples.open:  # a model of bare tensors
            self.samples.batch(
                [f.inputs for f in graph.layers if f.first and isinstance(f.inputs, Tensor)][:1], self.target
            )

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

    def _reward(self) -> None:
        """A policy is learned from rewards: labels are actions, and the other losses of the program chase moving targets."""
        self.samples.weighted = True
        if not self.rewarded:
            self.rewarded = True
            for training in self.trainings:
                self._tell(training, "rewards", "policy", {}, {})

    def _overheard(self, graph: Graph, found: Target) -> None:
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

    def _learn_from(self, loss: Tensor, back: Backward, call: Call) -> None:
        """Reads the graph of a loss whose batch and model are known."""
        graph = Graph(loss, self.roots.names)
        back.reached = graph.parameters
        self._read_graph(graph, back)
        self.training_call = call
        self._read_batch(call, graph, back)

    def _read_batch(self, call: Call, graph: Graph | None, back: Backward) -> None:
        place = places.shown(call.key[0]) if call.key else ""
        training = self._current()
        step = training.step if training is not None else 0

        def tell(about: str, values: dict[str, float], **words: str) -> None:
            back.facts.append(Vitals(0, about, call.root.name, values, {"place": place} | words))

        if call.mixing:
            norms = [m for m in call.root.switches if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
            if norms and call.inputs and call.inputs[0].ndim > 1:
                spatial = any(not isinstance(m, nn.BatchNorm1d) for m in norms)
                values = {"samples": len(call.inputs[0]), "layers": len(norms), "spatial": spatial}
                tell("batch-norm", {k: float(v) for k, v in values.items()}, kind=type(norms[0]).__name__)
        for tensor in call.inputs[:3]:
            if tensor.ndim == 2 and not tensor.is_floating_point() and tensor.dtype != torch.bool:
                tell("tokens", facts.tokens(tensor, self._padding(call.root)))
        floating = call.inputs and call.inputs[0].is_floating_point() and call.inputs[0].numel()
        if floating and graph is not None and not graph.reads_numbers():
            tell("input", measure.inputs(call.inputs[0]), operation="model")
        if call.inputs:
            self.checks.peeking(call.inputs[0], self.target, call.root.name, self._emit)
        module = call.root.module()
        if step in (0, 1, 2, 4) and self.checks.wanted and module is not None:
            self.checks.independence(
                module, call.root.name, call.args, call.kwargs, self.target, self._emit, place
            )  # fmt: skip

    def _padding(self, root: Root) -> int | None:
        module = root.module()
        if module is None:
            return None
        return next(
            (m.padding_idx for m in module.modules() if isinstance(m, nn.Embedding) and m.padding_idx is not None), None
        )

    def _read_graph(self, graph: Graph, back: Backward) -> None:
        """The facts of one loss, to be told with the step they belong to."""
        back.facts = reading.of_graph(graph, back.value, back.place)
        back.unstable = graph.unstable()
        back.divided = self.scaler or (graph.divided and not reading.is_mean(graph, back.value))

    def _watch_gradients(self, training: Training, place: str) -> None:
        """Gradients that were left from the step before, came with another optimizer's, or are thrown away without a step."""
        if training.foreign:
            training.foreign = [
                (p, pointer, version) for p, pointer, version in training.foreign
                if (g := p.grad) is not None and pointer_of(g) == pointer and g._version == version
            ]  # fmt: skip
            training.added_to = place if training.foreign and place != training.foreign_place else ""
        if training.leftover:
            training.leftover = [
                (p, pointer, version) for p, pointer, version in training.leftover
                if (g := p.grad) is not None and pointer_of(g) == pointer and g._version == version
            ]  # fmt: skip
        if (
            training.gained
            and training.pending
            and not self.in_step
            and (not training.step or self.steps - training.stepped_total <= 8)
        ):
            if all(
                (g := p.grad) is None or (g._version != version and not bool(g.any()))
                for p, _, version in training.gained
            ):
                made = training.pending[-1].place
                training.cleared_in_vain[made] += 1
                if training.cleared_in_vain[made] in (2, 3, 8) and not (self.scaler and not training.step):
                    self._tell(training, "discarded", made, {"times": float(training.cleared_in_vain[made]),
                               "steps": float(training.step), "all_steps": float(self.steps)}, {"place": made, "made": training.place})  # fmt: skip
                if training.step:
                    training.pending = []
                training.gained = []
            elif training.step:
                training.gained = []
        elif not training.step and not training.by_hand and not self.scaler and training.backwards in (32, 256):
            self._tell(
                training,
                "discarded",
                "never stepped",
                {"times": float(training.backwards), "steps": 0.0, "all_steps": float(self.steps)},
                {"made": training.place},
            )

    def _begin(self, training: Training) -> None:
        """The gradients are ready and the weights not yet changed."""
        training.refresh()
        total, training.before, training.grads = 0, [], {}
        grads, positions = [], []
        for position, p in enumerate(training.parameters):
            if p.grad is not None:
                grad = p.grad if not p.grad.is_sparse else p.grad.coalesce().values()
                grads.append(grad)
                positions.append(position)
                if not p.grad.is_sparse and len(training.grads) < measure.LAYERS:
                    training.grads[position] = grad.detach().clone() if training.by_hand else grad
            elif p.requires_grad and training.pending:
                training.without[position] += 1
            if total < HELD:
                total += p.numel()
                training.before.append((position, p.detach().clone()))
        found = measure.norms(grads)
        training.grad_norms = [math.nan] * len(training.parameters)
        for position, norm in zip(positions, found, strict=True):
            training.grad_norms[position] = norm
            if not math.isfinite(norm) and not self.dead:
                self.dead = True
                name = self.roots.called(training.parameters[position])
                why = self.since[-1].unstable if self.since else ""
                told = {"where": name, "why": why, "batch": self._batch()}
                self._tell(training, "not-finite", "gradient", {"step": float(training.step + 1)}, told)
                break
        training.emptied = int(bool(training.gained) and not training.by_hand and all(
            (g := p.grad) is None or (g._version != version and not bool(g.any())) for p, _, version in training.gained
        ))  # fmt: skip

    def _end(self, training: Training) -> None:
        """The weights have changed."""
        now = time.perf_counter()
        training.step += 1
        self.steps += 1
        training.stepped_total = self.steps
        backs = training.own(training.pending[-64:])
        last = backs[-1].place if backs else ""
        mine = [b for b in backs if b.place == last]
        values = [float(b.value) for b in mine]
        loss = sum(values) / len(values) if values else math.nan
        rate = training.rate()
        norm = math.nan
        if self.looking and training.grad_norms:
            norm = math.sqrt(sum(n * n for n in training.grad_norms if not math.isnan(n)))
        spent = now - training.stepped_at if training.stepped_at else math.nan
        if values:
            self.doctor.stepped(training.name, Stepped(training.step, loss, norm, rate), spent, self.waited)
        self.waited, self.gap_known = 0.0, False
        if self.looking:
            self._tell_step(training, mine)
            self._lend(training, backs[-1:])
        training.windows[sum(not b.inside for b in mine)] += 1
        if training.windows.total() in (6, 40, 200) and max(training.windows) > 1:
            self._tell(training, *looks.windows(training))
        training.leftover, training.foreign, training.added_to = [], [], ""
        training.pending = []
        self.since = []
        training.gained = []
        for other in self.trainings[-8:]:
            if other.gained and not other.ids.isdisjoint(training.ids):
                other.gained = []  # another optimizer made use of them
        training.before, training.grad_norms, training.grads, training.last_place = [], [], {}, last
        odd = self.doctor.odd(training.name, loss)
        if training.step <= DENSE or odd:
            training.next_look = training.step + 1
        elif training.step >= training.next_look:
            training.next_look = training.step + max(4, min(SPARSE, training.step // 3))
        active = [t for t in self.trainings[-8:] if t.step]
        wanted = any(t.step + 1 >= t.next_look for t in active) or any(
            not t.step and t.backwards < 64 for t in self.trainings[-4:]
        )
        if wanted and training.step > 4000 and not odd:
            wanted = training.step + 1 >= training.next_look
        if wanted:
            training.leftover = [
                (p, pointer_of(g), g._version) for p in training.parameters[:512]
                if (g := p.grad) is not None and (not training.by_hand or bool(g.any()))
            ][:64]  # fmt: skip
        if wanted != self.looking:
            self.look(wanted)
        if training.step in (64, 256, 1024):
            self._tell_samples()
        training.stepped_at = time.perf_counter()
        if math.isfinite(loss):
            training.swing += 0.1 * (abs(loss - training.level) - training.swing)
            training.level = training.level + 0.1 * (loss - training.level) if training.level else loss
        self.doctor.examine(training.name)
        alone = not any(t is not training and t.step and self.steps - t.stepped_total < 64 for t in self.trainings[-8:])
        settled = alone and not self.samples.open and training.step > 32 and (self.held_out.seen or self.steps > ALERT)
        self.calm = (
            settled and not self.looking and not training.by_hand and not self.scaler and not self.dead and self.cpu
        )

    def _lend(self, training: Training, backs: list[Backward]) -> None:
        """Gradients that the backward pass of this step left in the parameters of other optimizers."""
        reached = {id(p) for back in backs for p in back.reached} - training.ids
        for other in self.trainings[-8:]:
            if other is training or other.by_hand or not other.step or not backs or other.last_place == backs[-1].place:
                continue
            other.foreign = [
                (p, pointer_of(g), g._version) for p in other.parameters[:64]
                if id(p) in reached and (g := p.grad) is not None and bool(g.any())
            ]  # fmt: skip
            other.foreign_place, other.added_to = backs[-1].place, ""

    def _tell_step(self, training: Training, backs: list[Backward]) -> None:
        """All that was measured around a looked-at step."""
        for back in backs[-1:]:
            for fact in back.facts:
                self._tell(training, fact.about, fact.name, dict(fact.values), dict(fact.words))
        told = [
            *looks.layers(training, self.roots),
            looks.loop(training, backs, self.roots),
            *looks.structure(training, self.trainings, self.since, self.roots, self.outer.ran),
        ]
        for one in told:
            self._tell(training, *one)
        self._tell(training, "memory", "process", {"resident": float(resident_bytes()), "steps": float(training.step)})
        if training.scheduler is not None:
            reference, name, place = training.scheduler
            scheduler = reference()
            if scheduler is not None:
                values = {
                    "calls": float(getattr(scheduler, "last_epoch", 0)),
                    "t_max": float(getattr(scheduler, "T_max", 0) or 0),
                }
                self._tell(training, "schedule", name, values, {"place": place})
        if training.clipped:
            over = sum(ratio > 1 for ratio in training.clipped) / len(training.clipped)
            self._tell(training, "clipping", "gradients", {"share": over, "calls": float(len(training.clipped))})

    def _finish(self, training: Training) -> None:
        if training.step == 0 and training.backwards > 2 and not training.by_hand and not self.scaler:
            self._tell(training, "discarded", "never stepped",
                       {"times": float(training.backwards), "steps": 0.0, "all_steps": float(self.steps)},
                       {"place": training.pending[-1].place if training.pending else "", "made": training.place})  # fmt: skip
        if max(training.windows, default=1) > 1:
            self._tell(training, *looks.windows(training))
        self._tell_yardstick(training)
        self.doctor.finished(training.name)

    def _tell_yardstick(self, training: Training) -> None:
        """How a classical model does on the samples seen, where the network did not do well."""
        if training.measured or not training.step or sum(t.measured for t in self.trainings) > MEASURED:
            return
        training.measured = True
        history = self.doctor.history(training.name)
        table = self.samples.gathered_table()
        losses = [
            v.values["mean_loss"]
            for v in history.all("loss")
            if "mean_loss" in v.values and v.step > 0.7 * training.step
        ]
        shares = [(v.step, v.values["share"]) for v in history.all("agreement")]
        if self.samples.weighted:  # a weighted loss is no measure of what is known
            shares, losses = [(v.step, v.values.get("agreement", math.nan)) for v in history.all("loss")], []
        agreed = [share for step, share in shares if step > 0.7 * training.step and not math.isnan(share)]
        if table is None or training.step < 30 or not (losses or agreed) or history.adversarial():
            return
        inputs, targets, classes = table
        told = yardstick.measured(inputs, targets, classes)
        if told is None:
            return
        told["learned"] = sum(agreed) / len(agreed) if agreed else math.nan
        if losses:
            told["learned"] = 1 - sum(losses) / len(losses) / max(told["spread"], 1e-12)
        scores = [v.values for v in history.all("evaluation")]
        if classes:
            held = [x["accuracy"] for x in scores if "accuracy" in x]
        else:
            held = [1 - x["squared_error"] / max(x["target_variance"], 1e-12) for x in scores if "squared_error" in x]
        if held:
            told["held_out"] = max(held)
        if self.samples.tagged and self.samples.tags is not None:
            rates = (self.samples.tags / self.samples.tagged).clamp(1e-9, 1 - 1e-9)
            told["spread"] = float(-(rates * rates.log() + (1 - rates) * (1 - rates).log()).mean())
            told["learned"] = 1 - sum(losses) / len(losses) / told["spread"]
        told["tabular"] = float(self.samples.flat and not self.samples.whole)
        self._tell(training, "yardstick", "classical model", told)

    # ---- loops without an optimizer

    def _by_hand(self, back: Backward) -> None:
        """Parameters that are reached, and that no optimizer holds where there is none at all: somebody updates by hand."""
        assert back.graph is not None
        if any(not t.by_hand for t in self.trainings):
            self.hand = None
            return
        leaves = [p for p in back.graph.parameters if p.grad is not None]
        if not leaves:
            return
        if self.hand is None or {id(p) for p in leaves} - self.hand.ids:
            self.hand = Training("by hand", leaves, None, back.place)
            self.hand.keras = places.keras_optimizer()
            self.trainings = [self.hand]
        self.hand.pending = [back]
        self.hand.backwards += 1
        self._begin(self.hand)

    def _hand_step(self, training: Training) -> None:
        if not training.before or any(
            not torch.equal(old, training.parameters[i].detach()) for i, old in training.before[:8]
        ):
            place = training.pending[-1].place
            self._end(training)
            training.pending = []
            training.place = place
        else:
            training.leftover = []

    # ---- evaluation

    def _is_evaluation(self) -> bool:
        """Whether the last call was made where nothing is learned from."""
        if not self.calls or self.looking:
            return False
        call = self.calls[-1]
        return bool(call.root.training_keys) and call.key not in call.root.training_keys

    def _fold(self, calls: list[Call]) -> None:
        for call in calls:
            if not call.grad or (call.root.training_keys and call.key not in call.root.training_keys):
                self._evaluated(call)

    def _evaluated(self, call: Call) -> None:
        if not self.steps:
            return  # a look at the shapes before training
        span = self.held_out.called(call, self.training_call)
        if span is not None and call.inputs:
            self.samples.evaluated(span.place, call.inputs[0])

    def _end_spans(self) -> None:
        training = self._current()
        for span in self.held_out.ended():
            values, words = span.values() | {"steps": float(self.steps)}, {"place": span.place, "parts": span.parts()}
            self._tell(training, "evaluation", span.place, values, words)
            for stream, loss in span.held_out().items():
                if training is not None:
                    self.doctor.history(training.name).evaluated(stream, training.step, loss)

    # ---- when something breaks

    def _not_finite(self, loss: Tensor, back: Backward) -> None:
        """The first time that a loss is not finite: where it comes from."""
        training = self._current()
        call = self.training_call
        parameters = training.parameters if training is not None else []
        graph = back.graph or Graph(loss, self.roots.names)
        root = call.root.module() if call is not None else None
        told = autopsy.not_finite(
            call.inputs if call is not None else [],
            self.target,
            parameters,
            root,
            graph,
            self.roots.called,
            self.derived,
        )
        spoiled = self.criterion.spoiled() if told["what"] == "inputs" and told.get("where") == "the targets" else ""
        if spoiled:
            told = {"what": "loss", "why": spoiled}
        step = training.step + 1 if training is not None else 1
        self._tell(training, "not-finite", told["what"], {"step": float(step), "loss": float(back.value)},
                   {"where": told.get("where", ""), "why": told.get("why", ""), "batch": self._batch(), "place": back.place})  # fmt: skip
        self.doctor.examine(training.name if training is not None else "")

    def crashed(self, error: BaseException) -> None:
        """The program's own error, read for what the doctor knows."""
        self.busy = True
        try:
            told = autopsy.crash(error)
            if told is not None:
                self._emit(None, "crash", told.pop("what"), {}, told)
        except Exception as ours:
            self.give_up(ours)
        finally:
            self.busy = False

    # ---- small things

    def _batch(self) -> str:
        call = self.training_call
        if call is None or not call.inputs:
            return ""
        return f"step {self.steps + 1}: " + ", ".join(str(list(t.shape)) for t in call.inputs[:3])

    def _training(self, optimizer: Optimizer) -> Training | None:
        for training in reversed(self.trainings):
            if training.optimizer is not None and training.optimizer() is optimizer:
                return training
        return None

    def _adopted(self, optimizer: Optimizer) -> Training:
        """An optimizer that steps and was made before the watching began, or inside of one that wraps it."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if isinstance(p, Tensor)]
        ids = {id(p) for p in parameters}
        for training in self.trainings:
            if training.ids == ids and not training.step:
                training.optimizer = weakref.ref(optimizer)
                return training
        training = Training(f"optimizer {len(self.trainings) + 1}", parameters, optimizer, "")
        self.trainings.append(training)
        return training

    def _current(self) -> Training | None:
        """The training that stepped last."""
        moving = [t for t in self.trainings if t.step]
        return max(moving, key=lambda t: t.stepped_at, default=self.trainings[-1] if self.trainings else None)

    def _current_name(self) -> str:
        training = self._current()
        return training.name if training is not None else ""

    def _stepped_at(self) -> float:
        training = self._current()
        return training.stepped_at if training is not None else 0.0

    def _tell_samples(self, final: bool = False) -> None:
        self.samples.tell(self._emit, final)
        self.doctor.examine(self._current_name())

    def _emit(
        self,
        training: Training | None,
        about: str,
        name: str,
        values: dict[str, float],
        words: dict[str, str] | None = None,
    ) -> None:
        self._tell(training if training is not None else self._current(), about, name, values, words)

    def _tell(
        self,
        training: Training | None,
        about: str,
        name: str,
        values: dict[str, float],
        words: dict[str, str] | None = None,
    ) -> None:
        of = training.name if training is not None else ""
        step = training.step if training is not None else 0
        self.doctor.see(Vitals(step, about, name, values, words or {}, of), of)
