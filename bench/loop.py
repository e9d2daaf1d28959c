"""The cost of an optimizer step, as a multiple of the tightest hand-written loop, beside other people's loops.

    make peers && python bench/loop.py

MLP 64-128-10 with ReLU, batches of 32 from 4,096 samples in memory, one thread. The floor indexes tensors by a permutation
and steps torch's fused AdamW: no clipping, no metrics. wellfit runs with everything on: clipping, cosine schedule, metrics,
events written to disk, a validation set.

Every contender is timed on the wall clock, as the slope between a short and a long training, each from construction to the
end, so that start-up and the final evaluation cancel and only steps remain. wellfit's report, drawn at the end from every
recorded step, grows with the steps and so counts; the rows "without its report" leave it out and decide nothing. Each
contender lives in a process of its own; the rounds are interleaved in random order, and a ratio is taken to the floor
measured right before and after. Peers that are not installed are said.
Exits with 1 if wellfit misses its bars (1.20 eager, 0.70 compiled; medians).
"""

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

import torch  # noqa: E402 - the environment comes first
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

SAMPLES, BATCH, RATE = 4096, 32, 1e-3
EPOCH = SAMPLES // BATCH  # steps
BARS = {"wellfit": 1.20, "wellfit, compiled": 0.70}
draw = torch.Generator().manual_seed(0)
X = torch.randn(SAMPLES, 64, generator=draw)
Y = torch.randint(0, 10, (SAMPLES,), generator=draw)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


# ---- contenders: take so many steps


def floor(steps: int) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    taken = 0
    while taken < steps:
        order = torch.randperm(SAMPLES)
        for start in range(0, min(SAMPLES, (steps - taken) * BATCH), BATCH):
            chosen = order[start : start + BATCH]
            F.cross_entropy(model(X[chosen]), Y[chosen]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            taken += 1


def floor_gathered(steps: int) -> None:
    """The floor with an epoch's rows put in order at once: cheaper, but it holds a second copy of the data."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    taken = 0
    while taken < steps:
        order = torch.randperm(SAMPLES)
        for x, y in zip(X[order].split(BATCH), Y[order].split(BATCH), strict=True):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            taken += 1
            if taken == steps:
                break


def hand_written(steps: int) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    loader = DataLoader(TensorDataset(X, Y), batch_size=BATCH, shuffle=True)
    taken = 0
    while taken < steps:
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            taken += 1
            if taken == steps:
                break


def functional_compiled(steps: int) -> None:
    """Forward, backward and AdamW as one compiled function: what a compiler can do, with none of a trainer's duties."""
    for p, value in zip(FUNCTIONAL["parameters"], network().parameters(), strict=True):
        p.copy_(value.detach())
    taken = 0
    while taken < steps:
        order = torch.randperm(SAMPLES)
        for start in range(0, min(SAMPLES, (steps - taken) * BATCH), BATCH):
            chosen = order[start : start + BATCH]
            taken += 1
            FUNCTIONAL["step"](X[chosen], Y[chosen], torch.tensor(float(taken)))


FUNCTIONAL: dict[str, Any] = {}


def prepare_functional() -> None:
    shapes = [p.shape for p in network().parameters()]
    parameters, means, squares = ([torch.zeros(s) for s in shapes] for _ in range(3))

    def loss(w1: Any, b1: Any, w2: Any, b2: Any, x: Any, y: Any) -> Any:
        return F.cross_entropy(F.linear(F.relu(F.linear(x, w1, b1)), w2, b2), y)

    @torch.compile
    def step(x: Any, y: Any, count: Any) -> Any:
        gradients, value = torch.func.grad_and_value(loss, argnums=(0, 1, 2, 3))(*parameters, x, y)
        for p, g, m, v in zip(parameters, gradients, means, squares, strict=True):
            m.lerp_(g, 0.1)
            v.lerp_(g * g, 0.001)
            p.mul_(1 - RATE * 0.01)
            p.sub_(RATE * (m / (1 - 0.9**count)) / ((v / (1 - 0.999**count)).sqrt() + 1e-8))
        return value

    FUNCTIONAL.update(parameters=parameters, step=step)


def ours(steps: int, **settings: Any) -> float:
    """Returns the seconds that the run records of itself: its training alone, without the report drawn afterwards."""
    import wellfit

    chosen = {
        "training.steps": steps, "training.batch_size": BATCH, "optimizer.learning_rate": RATE, "evaluation.every": steps,
    } | settings  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = wellfit.fit(
            network(), (X, Y), (X[:256], Y[:256]), loss="cross-entropy", set=chosen, folder=Path(folder) / "run", quiet=True
        )  # fmt: skip
        return float(run.ended().seconds)


def lightning(steps: int) -> None:
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any, _: int) -> Any:
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=RATE)

    trainer = L.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=1.0, barebones=False,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(TensorDataset(X, Y), batch_size=BATCH, shuffle=True))


def hugging_face(steps: int) -> None:
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, x: Any, labels: Any) -> Any:
            logits = self.network(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return SAMPLES

        def __getitem__(self, i: int) -> Any:
            return {"x": X[i], "labels": Y[i]}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=RATE, logging_strategy="no", save_strategy="no",
            report_to=[], use_cpu=True, disable_tqdm=True, max_grad_norm=1.0,
        )  # fmt: skip
        Trainer(Model(), arguments, train_dataset=Rows()).train()


def skorch(steps: int) -> None:
    from skorch import NeuralNetClassifier
    from skorch.callbacks import GradientNormClipping

    net = NeuralNetClassifier(
        network(), criterion=nn.CrossEntropyLoss, optimizer=torch.optim.AdamW, lr=RATE, batch_size=BATCH, train_split=None, verbose=0,
        max_epochs=steps // EPOCH, iterator_train__shuffle=True, callbacks=[GradientNormClipping(1.0)],
    )  # fmt: skip
    net.fit(X, Y)


def ignite(steps: int) -> None:
    from ignite.engine import create_supervised_trainer

    model = network()
    trainer = create_supervised_trainer(model, torch.optim.AdamW(model.parameters(), lr=RATE), F.cross_entropy)
    loader = DataLoader(TensorDataset(X, Y), batch_size=BATCH, shuffle=True)
    trainer.run(loader, max_epochs=steps // EPOCH)


def keras(steps: int) -> None:
    import keras as k

    model = k.Sequential([k.Input((64,)), k.layers.Dense(128, activation="relu"), k.layers.Dense(10)])
    model.compile(k.optimizers.AdamW(RATE, clipnorm=1.0), k.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X.numpy(), Y.numpy(), batch_size=BATCH, epochs=steps // EPOCH, verbose=0)


def whole(steps: int, **settings: Any) -> None:
    ours(steps, **settings)  # on the wall clock, like everybody


# Seconds that a contender returns are taken instead of the wall clock's.
COMPILED = {"hardware.compile": True}
CONTENDERS: dict[str, tuple[Callable[[int], float | None], str | None]] = {
    "floor": (floor, None),
    "floor, rows gathered once an epoch": (floor_gathered, None),
    "wellfit": (whole, None),
    "wellfit, compiled": (lambda steps: whole(steps, **COMPILED), None),
    "wellfit, without its report": (ours, None),
    "wellfit, compiled, without its report": (lambda steps: ours(steps, **COMPILED), None),
    "functional step, compiled": (functional_compiled, None),
    "hand-written with DataLoader, clipping": (hand_written, None),
    "ignite (no clipping)": (ignite, "pytorch-ignite"),
    "skorch, clipping": (skorch, "skorch"),
    "Lightning, options off, clipping": (lightning, "lightning"),
    "Hugging Face Trainer, no logging, no saving": (hugging_face, "transformers"),
    "Keras on torch, clipping": (keras, "keras"),
}
MODULES = {"pytorch-ignite": "ignite"}
SLOW = ("Keras on torch, clipping",)  # fewer steps, for the whole to take minutes


# ---- measuring: each contender in a process of its own, so that one's imports and hooks do not slow another


def serve(name: str, orders: Any) -> None:
    """Runs the contender so many steps whenever told, and answers with the seconds."""
    torch.set_num_threads(1)
    if name == "functional step, compiled":
        prepare_functional()
    work, _ = CONTENDERS[name]
    while steps := orders.recv():
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            own = work(steps)
        orders.send(own or time.perf_counter() - began)


class Contender:
    def __init__(self, name: str):
        context = multiprocessing.get_context("spawn")
        self.orders, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(name, theirs), daemon=True)
        self.process.start()

    def seconds(self, steps: int) -> float:
        self.orders.send(steps)
        return float(self.orders.recv())

    def seconds_per_step(self, short: int, long: int) -> float:
        return (self.seconds(long) - self.seconds(short)) / (long - short)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=16 * EPOCH, help=f"of the long training: a multiple of {EPOCH}")
    parser.add_argument(
        "--epochs",
        dest="steps",
        metavar="EPOCHS",
        type=lambda n: int(n) * EPOCH,
        help=f"the same, in epochs of {EPOCH}",
    )
    parser.add_argument("--only", nargs="*", default=None, help="parts of contenders' names")
    parser.add_argument("--json", type=Path, default=None)
    asked = parser.parse_args()
    if asked.steps % EPOCH or asked.steps < 2 * EPOCH:  # some peers only know whole epochs, and the short one takes one
        parser.error(f"--steps {asked.steps} is not a multiple of {EPOCH} from {2 * EPOCH} on; try {16 * EPOCH}.")
    if asked.rounds < 1:
        parser.error(f"--rounds {asked.rounds} measures nothing; take 1 or more.")
    chosen = ["floor"]
    for name, (_, package) in CONTENDERS.items():
        if name == "floor" or (asked.only is not None and not any(part in name for part in asked.only)):
            continue
        if package is not None and importlib.util.find_spec(MODULES.get(package, package)) is None:
            print(f"{name}: not installed; `make peers` installs it")
        else:
            chosen.append(name)
    versions = {p: version(p) for p in ("torch", *sorted({p for n, (_, p) in CONTENDERS.items() if p and n in chosen}))}
    print(
        f"{processor()}, 1 thread, {asked.rounds} rounds, {asked.steps} steps, "
        f"{', '.join(f'{p} {v}' for p, v in versions.items())}",
        flush=True,
    )
    running = {name: Contender(name) for name in chosen}
    for contender in running.values():  # imports, compilation
        contender.seconds(2 * EPOCH)
    times: dict[str, list[float]] = {name: [] for name in chosen}
    ratios: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(asked.rounds):
        order = chosen[1:]
        random.shuffle(order)
        for name in order:  # the floor right before and right after each, against a drifting machine
            steps = max(3 * EPOCH, asked.steps // 4 // EPOCH * EPOCH) if name in SLOW else asked.steps
            before = running["floor"].seconds_per_step(EPOCH, asked.steps)
            value = running[name].seconds_per_step(EPOCH, steps)
            after = running["floor"].seconds_per_step(EPOCH, asked.steps)
            times["floor"] += [1e6 * before, 1e6 * after]
            times[name].append(1e6 * value)
            ratios[name].append(2 * value / (before + after))
    for contender in running.values():
        contender.orders.send(0)
    ratios["floor"] = [value / statistics.median(times["floor"]) for value in times["floor"]]
    print(f"\n{'loop':46}{'us a step':>10}{'x floor':>9}   min to max")
    for name in sorted(chosen, key=lambda name: statistics.median(ratios[name])):
        print(f"{name:46}{statistics.median(times[name]):10.0f}{statistics.median(ratios[name]):9.2f}   "
              f"{min(ratios[name]):.2f} to {max(ratios[name]):.2f}")  # fmt: skip
    if asked.json:
        conditions = {"processor": processor(), "threads": 1, "rounds": asked.rounds, "steps": asked.steps}
        asked.json.write_text(
            json.dumps(conditions | {"versions": versions, "microseconds": times, "ratios": ratios}, indent=1)
        )
    missed = [name for name, bar in BARS.items() if name in chosen and statistics.median(ratios[name]) > bar]
    for name in missed:
        print(f"{name} misses its bar of {BARS[name]:.2f}")
    sys.exit(1 if missed else 0)


def processor() -> str:
    from wellfit.environment import environment

    return str(environment()["processor"])


if __name__ == "__main__":
    main()
