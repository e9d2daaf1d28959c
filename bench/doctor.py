"""What the doctor costs: the time of a step with it, as a multiple of the same step without.

    python bench/doctor.py
    python bench/doctor.py --device cuda      # on an accelerator

Two doors: a hand-written loop under `wellfit.watch` (as under `wellfit doctor SCRIPT`), and wellfit's own loop. Three models:
the MLP of `bench/loop.py`, a ConvNet and a small Transformer, one thread. Each is timed in turns, with and without, as the
slope between a short and a long training, so that the looks at the first steps, which are dense, are counted once in the
total and not in the ratio; `whole` gives the ratio of the long training with everything in it. Medians over the rounds.
Exits with 1 if a ratio is above its bar: 1.05 for the MLP, 1.02 for the others.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import wellfit

BARS = {"mlp": 1.05, "convnet": 1.02, "transformer": 1.02}
LONG = {"mlp": 6000, "convnet": 500, "transformer": 500}
device = "cpu"
draw = torch.Generator().manual_seed(0)
LABELS = torch.randint(0, 10, (4096,), generator=draw)
INPUTS = {
    "mlp": torch.randn(4096, 64, generator=draw),
    "convnet": torch.randn(1024, 3, 24, 24, generator=draw),
    "transformer": torch.randint(0, 100, (1024, 48), generator=draw),
}


class Reader(nn.Module):
    """Token embeddings, two encoder layers, a mean and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(100, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, 0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.tokens(ids)).mean(1))


def model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    if kind == "convnet":
        parts: list[nn.Module] = []
        for a, b in ((3, 16), (16, 32), (32, 32)):
            parts += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return Reader()


def hand_written(kind: str, steps: int) -> None:
    net, inputs, labels = model(kind).to(device), INPUTS[kind].to(device), LABELS.to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    taken = 0
    while taken < steps:
        order = torch.randperm(len(inputs), device=device)
        for start in range(0, min(len(inputs), (steps - taken) * 32), 32):
            chosen = order[start : start + 32]
            F.cross_entropy(net(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            taken += 1
    if device != "cpu":
        torch.cuda.synchronize()


def watched(kind: str, steps: int) -> None:
    with wellfit.watch(quiet=True):
        hand_written(kind, steps)


def fitted(doctor: bool) -> Callable[[str, int], None]:
    def train(kind: str, steps: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            inputs = INPUTS[kind]
            wellfit.fit(
                model(kind), (inputs, LABELS[: len(inputs)]), loss="cross-entropy", quiet=True, folder=Path(folder) / "run",
                set={"training.steps": steps, "training.batch_size": 32, "training.doctor": doctor, "hardware.device": device},
            )  # fmt: skip

    return train


DOORS = {"a hand-written loop": (hand_written, watched), "wellfit's own loop": (fitted(False), fitted(True))}


def timed(train: Callable[[str, int], None], kind: str, steps: int) -> float:
    began = time.perf_counter()
    train(kind, steps)
    return time.perf_counter() - began


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--only", default="")
    arguments.add_argument("--device", default="cpu")
    global device
    chosen = arguments.parse_args()
    device = chosen.device
    torch.set_num_threads(1)
    missed = 0
    for door, (without, with_it) in DOORS.items():
        for kind, long in LONG.items():
            long = long if device == "cpu" else 6000
            if chosen.only and chosen.only not in (kind, door):
                continue
            slopes, wholes, short = [], [], long // 5
            for train in (without, with_it):
                timed(train, kind, short)
            for _ in range(chosen.rounds):
                a, b = timed(without, kind, short), timed(with_it, kind, short)
                c, d = timed(without, kind, long), timed(with_it, kind, long)
                slopes.append((d - b) / max(c - a, 1e-9))
                wholes.append(d / c)
            ratio = statistics.median(slopes)
            verdict = "ok" if ratio <= BARS[kind] else "MISSED"
            missed += verdict == "MISSED"
            each = ", ".join(f"{s:.3f}" for s in slopes)
            print(
                f"{door:<22} {kind:<12} {ratio:.3f} x per step (bar {BARS[kind]:.2f}: {verdict}; {each}), "
                f"{statistics.median(wholes):.3f} x over all {long} steps",
                flush=True,
            )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
