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
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wellfit.doctor import autopsy, facts, looks, measure, places, yardstick
from wellfit.doctor.account import Backward, Training
from wellfit.doctor.calm import Calm
from wellfit.doctor.doctor import Doctor
from wellfit.doctor.graph import Graph
from wellfit.doctor.lessons import Lessons
from wellfit.doctor.origins import Origins
from wellfit.doctor.patches import Calls, installed
from wellfit.doctor.samples import Samples
from wellfit.doctor.stores import Stores
from wellfit.doctor.tuning import Tuning, new_layers, switched_off
from wellfit.environment import queued_seconds, resident_bytes, utilization
from wellfit.events import Stepped, Vitals

DENSE = 6  # steps that are all looked at, for each optimizer
SPARSE, SPARSEST = 512, 8192  # the widest gap between looks, in steps; and where steps are so quick
APART = 10.0  # that more than so many seconds pass between looks even then
ALERT = 256  # steps before which nothing passes by unread, unless an evaluation was seen
HELD = 20_000_000  # elements of weights that are copied around an update that is looked at
MEASURED = 3  # trainings of one program whose samples a classical model is tried on
FILLINGS = 4  # times that one model's loading is heard of: a copy that follows another is filled again and again
LISTENED = 96  # steps in which the targets of a hand-written loss are listened for


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
        self.since: list[Backward] = []
        self.lessons = Lessons(self._emit)
        self.stores = Stores()
        self.origins = Origins()
        self.fillings: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
        self.looking = True
        self.calm = False  # nothing is read but the loss, until the next look
        self.resting: Calm | None = None  # what waits meanwhile
        self.cpu = self.cuda = False
        self.in_step = self.gap_known = False
        self.scaler = False
        self.compiled = False
        self.backwards = self.forwards = 0
        self.passes: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # iterator -> steps at its start
        self.waited = self.gap = 0.0
        self.steps = self.steps_scaled = 0
        self.dead = False  # a loss that was not finite was looked into
        self.hand: Training | None = None
        self.outer = Calls(self)
        self._patches: Any = None
        self.began, self.queued = time.perf_counter(), queued_seconds()

    @property
    def span(self) -> Any:
        """The evaluation that goes on, or None."""
        return self.lessons.held_out.span

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
            self.lessons.criterion.close()
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
            self._rouse()
            for training in self.trainings:
                self._collect(training, wait=True)
            self.lessons.fold([call for call in self.lessons.calls if not call.learned])
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
        self.off, self.calm, self.resting = True, False, None
        self.lessons.criterion.close()
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
            self.lessons.roots.of(model)
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
            if training.step and not training.by_hand:
                self.origins.trained(p for p in training.parameters if p.requires_grad)
            training.let_go()
        if any(t.step for t in self.trainings):  # another training begins: another fold, another phase
            for training in self.trainings:
                self._tell_yardstick(training)
            self._tell_samples(final=True)
            self.lessons.samples, self.stores = Samples(), Stores()
        self._rouse()
        training = Training(f"optimizer {len(self.trainings) + 1}", parameters, optimizer, places.place())
        self.trainings.append(training)
        self._tell(training, "optimizer", facts.rule(optimizer), facts.settings(optimizer), {"place": training.place})
        self.look(True)

    @safely
    def loaded(self, module: nn.Module, state: Any) -> None:
        self.fillings[module] = self.fillings.get(module, 0) + 1
        if self.fillings[module] > FILLINGS:
            return
        for training in self.trainings:
            if training.step:  # then it puts back what this program has made: the best weights, another network's
                self.origins.trained(p for p in training.parameters if p.requires_grad)
        self.origins.loaded(module, state)

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
        samplers = [s for s in (loader.sampler, loader.batch_sampler) if s is not None]
        own = any(not type(s).__module__.startswith("torch.") for s in samplers)  # it may draw a sample several times
        if own or getattr(loader.sampler, "replacement", False):
            self.lessons.samples.replacement = True
        self.stores.opened(loader, self._emit)
        self.lessons.checks.loader(loader, self._emit)

    @safely
    def fetched(self, iterator: Any, seconds: float, ended: bool) -> None:
        self.waited += seconds
        if not ended:
            self.passes.setdefault(iterator, self.steps)
            return
        steps = self.steps - self.passes.pop(iterator, self.steps)  # workers that persist use it again
        self.stores.passed(getattr(iterator, "_dataset", None), steps)
        if steps >= 2:
            self.lessons.samples.end_pass()  # of the loader that is trained on

    @safely
    def permuted(self, count: int) -> None:
        if count > 1.5 * self.lessons.samples.batch_size:
            self.lessons.samples.end_pass()

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
        grad = self.lessons.entered(module, args, kwargs, self.looking)
        if grad and self.steps and not self.lessons.held_out.spans and not self.gap_known:
            self.gap, self.gap_known = time.perf_counter(), True
        if self.looking and not self.backwards and self.forwards > 512:
            self.look(False)  # a program that only predicts

    @safely
    def left(self, module: nn.Module, output: Any) -> None:
        early = (
            self.cpu and self.lessons.samples.open and self.steps < LISTENED
        )  # elsewhere to look at values is to wait
        self.lessons.left(module, output, not self.calm and not self.compiled and (self.looking or early))

    @safely
    def scored(self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None:
        given = args[0] if args else kwargs.get("input", kwargs.get("log_probs"))
        target = args[1] if len(args) > 1 else kwargs.get("target", kwargs.get("targets"))
        if not isinstance(given, Tensor) or not isinstance(target, Tensor):
            return
        weighted = kwargs.get("weight") is not None or kwargs.get("pos_weight") is not None or (
            len(args) > 2 and isinstance(args[2], Tensor) and function != "margin_ranking_loss")  # fmt: skip
        if function == "cross_entropy":
            ignored = args[4] if len(args) > 4 else kwargs.get("ignore_index")
            self.lessons.masks(ignored, kwargs.get("label_smoothing"), kwargs.get("reduction", "mean"))
        self.lessons.scored(function, given, target, weighted, loss, self.looking)

    @safely
    def dropped(self) -> None:
        self.lessons.dropped()

    @safely
    def read(self, value: float) -> None:
        if self.lessons.held_out.span is None and not self.calm:
            return
        self.lessons.read(value)

    def summed_up(self, _: Any) -> None:
        """`Tensor.backward` is about to be called: the loss is whole."""
        self.lessons.criterion.close()

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
        self.cpu, self.cuda = loss.device.type == "cpu", loss.is_cuda
        if not self.cuda or self.looking:  # elsewhere it is read when it has arrived, as reading waits for the device
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
        self.lessons.done()
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
                training.slots.arrived(training.parameters)
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
        if self.lessons.held_out.spans:
            self._evaluated()
        if self.resting is None or not self.resting.takes(loss):
            self._wake()
        return self.calm

    def stepped_calmly(self, optimizer: Optimizer) -> bool:
        """A step while calm. False where it is another optimizer's."""
        rest = self.resting
        if rest is None or rest.training.optimizer is None or rest.training.optimizer() is not optimizer:
            self._wake()
            return False
        self.steps += 1
        told = rest.waiting()
        if told:
            self.doctor.passed(rest.training.name, told)
        if rest.steps() or (rest.training.late and self._collect(rest.training)):
            self._wake()
        return True

    def _collect(self, training: Training, wait: bool = False) -> bool:
        """Tells the steps whose losses have arrived from the accelerator. Returns whether one of them deserves a look."""
        odd = False
        for owed in training.late.arrived(wait):
            loss = owed.value()
            self.doctor.stepped(training.name, Stepped(owed.step, loss, math.nan, owed.rate), owed.seconds, owed.waited)
            odd = self.doctor.odd(training.name, loss) or odd
            broken = owed.broken_input() if not math.isfinite(loss) and not self.dead else None
            if broken is not None:
                self.dead = True
                words = {
                    "where": f"input {broken}",
                    "why": "some of its values are NaN or infinite",
                    "batch": f"step {owed.step}",
                }
                values = {"step": float(owed.step), "loss": loss}
                self._tell(training, "not-finite", "inputs", values, words | {"place": training.last_place})
        return odd

    @safely
    def _wake(self) -> None:
        self._rouse()

    def _rouse(self) -> None:
        """Calm is over: what waited is told, and the next step is looked at."""
        rest, self.resting, self.calm = self.resting, None, False
        if rest is None:
            return
        training = rest.training
        self.doctor.passed(training.name, rest.quiet)
        if rest.odd is not None:
            self.doctor.odd(training.name, rest.odd)
        self._collect(training, wait=True)
        self.doctor.examine(training.name)
        training.stepped_total, training.stepped_at = self.steps, 0.0
        training.next_look = min(training.next_look, training.step + 1)
        self.waited, self.gap_known = 0.0, True
        self.look(True)

    @safely
    def stepping(self, optimizer: Optimizer) -> None:
        self.in_step = True
        training = self._training(optimizer) or self._adopted(optimizer)
        if training is not None and self.looking:
            self._begin(training)

    @safely
    def stepped(self, optimizer: Optimizer) -> None:
        self.in_step = False
        training = self._training(optimizer)
        if training is not None:
            self._end(training)

    # ---- one step

    def look(self, wanted: bool) -> None:
        """Whether the next step is looked at."""
        self.looking = wanted
        self.outer.look(wanted and not self.compiled)

    def _learn(self, loss: Tensor, back: Backward) -> None:
        """What the loss came from, and on looked-at steps what it tells."""
        current, rewarded = self._current(), self.lessons.rewarded
        learned = self.lessons.learn(loss, back, self.looking, current.step if current is not None else 0)
        back.divided = back.divided or self.scaler
        if self.lessons.rewarded and not rewarded:
            for training in self.trainings:
                self._tell(training, "rewards", "policy", {}, {})
        if self.lessons.held_out.spans:
            self._end_spans()
        if not learned and not self.looking:
            self.look(
                True
            )  # it was called in another way than before: nothing is known of this step, so look at the next
        if learned and self.gap:
            self.gap, began = 0.0, self.gap
            self.doctor.waited(self._current_name(), max(0.0, began - self._stepped_at()))

    def _watch_gradients(self, training: Training, place: str) -> None:
        """Gradients that were left from the step before, came with another optimizer's, or are thrown away without a step."""
        slots, recent = training.slots, not training.step or self.steps - training.stepped_total <= 8
        slots.arriving(place)
        if slots.gained and training.pending and not self.in_step and recent:
            made = training.pending[-1].place
            times = slots.thrown_away(made)
            if times in (2, 3, 8) and not (self.scaler and not training.step):
                self._tell_discarded(training, made, times, made)
            if times and training.step:
                training.pending = []
            if times or training.step:
                slots.gained = []
        elif not training.step and not training.by_hand and not self.scaler and training.backwards in (32, 256):
            self._tell_discarded(training, "never stepped", training.backwards)

    def _tell_discarded(self, training: Training, name: str, times: int, place: str = "") -> None:
        """Gradients that no step used."""
        values = {"times": float(times), "steps": float(training.step), "all_steps": float(self.steps)}
        self._tell(training, "discarded", name, values, {"place": place, "made": training.place})

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
                name = self.lessons.roots.called(training.parameters[position])
                why = self.since[-1].unstable if self.since else ""
                told = {"where": name, "why": why, "batch": self._batch()}
                self._tell(training, "not-finite", "gradient", {"step": float(training.step + 1)}, told)
                break
        training.slots.stepping()
        backs = training.own(training.pending[-64:])[-1:]
        if training.tuning is None and backs and backs[0].roots and not training.by_hand:
            modules = [module for root in backs[0].roots if (module := root.module()) is not None]
            training.tuning = Tuning(self.origins, training, modules)
        if training.tuning is not None:
            training.tuning.before(training)

    def _end(self, training: Training) -> None:
        """The weights have changed."""
        now = time.perf_counter()
        training.step += 1
        self.steps += 1
        self.lessons.begun = True
        training.stepped_total = self.steps
        backs = training.own(training.pending[-64:])
        last = backs[-1].place if backs else ""
        mine = [b for b in backs if b.place == last]
        late = [b.value for b in mine if isinstance(b.value, Tensor)] if not self.looking else []
        values = [float(b.value) for b in mine] if not late else []
        loss = sum(values) / len(values) if values else math.nan
        rate = training.rate()
        norm = math.nan
        if self.looking and training.grad_norms:
            norm = math.sqrt(sum(n * n for n in training.grad_norms if not math.isnan(n)))
        spent = now - training.stepped_at if training.stepped_at else math.nan
        if late:
            call = self.lessons.last
            training.late.put(training.step, late, rate, spent, self.waited, call.inputs if call is not None else [])
        odd = self._collect(training, wait=self.looking)
        if values:
            self.doctor.stepped(training.name, Stepped(training.step, loss, norm, rate), spent, self.waited)
        self.waited, self.gap_known = 0.0, False
        if self.looking:
            self._tell_step(training, mine)
            self._lend(training, backs[-1:])
        training.windows[sum(not b.inside for b in mine)] += 1
        if training.windows.total() in (6, 40, 200) and max(training.windows) > 1:
            self._tell(training, *looks.windows(training))
        training.slots.stepped()
        training.pending, self.since = [], []
        for other in self.trainings[-8:]:
            if other.slots.gained and not other.ids.isdisjoint(training.ids):
                other.slots.gained = []  # another optimizer made use of them
        training.before, training.grad_norms, training.grads, training.last_place = [], [], {}, last
        odd = odd or (not late and self.doctor.odd(training.name, loss))
        odd = odd or (self.looking and training.tuning is not None and training.tuning.eager > 0)
        if training.step <= DENSE or odd:
            training.next_look = training.step + 1
        elif training.step >= training.next_look:
            training.next_look = training.step + self._gap(training.step)
        active = [t for t in self.trainings[-8:] if t.step]
        wanted = any(t.step + 1 >= t.next_look for t in active) or any(
            not t.step and t.backwards < 64 for t in self.trainings[-4:]
        )
        if wanted and training.step > 4000 and not odd:
            wanted = training.step + 1 >= training.next_look
        if wanted:
            training.slots.keep(training.parameters, holding=training.by_hand)
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
        settled = (
            alone
            and not self.lessons.samples.open
            and training.step > 32
            and (self.lessons.held_out.seen or self.steps > ALERT)
        )
        self.calm = (
            settled
            and not self.looking
            and not training.by_hand
            and not self.scaler
            and not self.dead
            and (self.cpu or self.cuda)
        )
        self.resting = Calm(training) if self.calm else None

    def _gap(self, step: int) -> int:
        """Steps until the next look: a third of those taken, and where they take microseconds as many again."""
        quick = int(APART * self.steps / max(1e-9, time.perf_counter() - self.began))
        return max(4, min(step // 3, SPARSE), min(step, quick, SPARSEST) if step > SPARSE else 0)

    def _lend(self, training: Training, backs: list[Backward]) -> None:
        """Gradients that the backward pass of this step left in the parameters of other optimizers."""
        reached = {id(p) for back in backs for p in back.reached} - training.ids
        for other in self.trainings[-8:]:
            if other is training or other.by_hand or not other.step or not backs or other.last_place == backs[-1].place:
                continue
            other.slots.lend(other.parameters, reached, backs[-1].place)

    def _tell_step(self, training: Training, backs: list[Backward]) -> None:
        """All that was measured around a looked-at step."""
        for back in backs[-1:]:
            for fact in back.facts:
                self._tell(training, fact.about, fact.name, dict(fact.values), dict(fact.words))
        told = [
            *looks.layers(training, self.lessons.roots),
            looks.loop(training, backs, self.lessons.roots),
            *looks.structure(training, self.trainings, self.since, self.lessons.roots, self.outer.ran),
        ]
        if training.tuning is not None:
            heads = [head for back in backs[-1:] for head in back.heads]
            told += training.tuning.after(training, self.trainings, self.lessons.roots, heads)
        for one in told:
            self._tell(training, *one)
        crowded = (queued_seconds() - self.queued) / max(1e-9, time.perf_counter() - self.began)
        process = {"resident": float(resident_bytes()), "steps": float(training.step), "crowded": crowded}
        self._tell(training, "memory", "process", process)
        device = training.parameters[0].device if training.parameters else torch.device("cpu")
        busy = utilization(str(device)) if training.step > DENSE else None
        if busy is not None:
            self._tell(training, "accelerator", str(device), {"utilization": busy})
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
            place = training.pending[-1].place if training.pending else ""
            self._tell_discarded(training, "never stepped", training.backwards, place)
        if max(training.windows, default=1) > 1:
            self._tell(training, *looks.windows(training))
        self._tell_yardstick(training)
        self.doctor.finished(training.name)

    def _tell_yardstick(self, training: Training) -> None:
        """How a classical model does on the samples seen, where the network did not do well."""
        if training.measured or not training.step or sum(t.measured for t in self.trainings) > MEASURED:
            return
        training.measured = True
        told = yardstick.compared(self.lessons.samples, self.doctor.history(training.name), training.step)
        if told is not None:
            self._tell(training, "yardstick", "classical model", told)
        counted = yardstick.bigrams(self.lessons.samples, self.doctor.history(training.name), training.step)
        if counted is not None:
            self._tell(training, "bigrams", "tokens", counted)

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
            training.slots.left = []

    # ---- evaluation

    @safely
    def _evaluated(self) -> None:
        self._end_spans()

    def _end_spans(self) -> None:
        training = self._current()
        for span in self.lessons.held_out.ended():
            values, words = span.values() | {"steps": float(self.steps)}, {"place": span.place, "parts": span.parts()}
            self._tell(training, "evaluation", span.place, values, words)
            for stream, loss in span.held_out().items():
                if training is not None:
                    self.doctor.history(training.name).evaluated(stream, training.step, loss)

    # ---- when something breaks

    def _not_finite(self, loss: Tensor, back: Backward) -> None:
        """The first time that a loss is not finite: where it comes from."""
        training = self._current()
        call = self.lessons.last
        parameters = training.parameters if training is not None else []
        graph = back.graph or Graph(loss, self.lessons.roots.names)
        root = call.root.module() if call is not None else None
        told = autopsy.not_finite(
            call.inputs if call is not None else [],
            self.lessons.target,
            parameters,
            root,
            graph,
            self.lessons.roots.called,
            self.lessons.derived,
        )
        spoiled = (
            self.lessons.criterion.spoiled() if told["what"] == "inputs" and told.get("where") == "the targets" else ""
        )
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
                told |= self._why_detached() if told["what"] == "detached" else {}
                self._emit(None, "crash", told.pop("what"), {}, told)
        except Exception as ours:
            self.give_up(ours)
        finally:
            self.busy = False

    def _why_detached(self) -> dict[str, str]:
        """Why nothing is learned through a model all of which is frozen: its new layers are too, or its adapters are off."""
        call = self.lessons.calls[-1] if self.lessons.calls else None
        module = call.root.module() if call is not None else None
        off = "; ".join(switched_off([module])) if module is not None else ""
        if module is None or off or any(p.requires_grad for p in module.parameters()):
            return {"adapters": off} if off else {}
        new = new_layers(module, self.origins)
        if new and self.origins.share(module) >= 0.5:
            return {"new": facts.listed(new)}
        return {}

    # ---- small things

    def _batch(self) -> str:
        call = self.lessons.last
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
                training.optimizer, training.by_hand, self.hand = weakref.ref(optimizer), False, None
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
        self.lessons.samples.tell(self._emit, final)
        if final:
            self.stores.tell(self._emit)
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
