"""A step on a GPU beside the plain loop: time, images or tokens a second, share of the device's peak, memory.

    python bench/gpu.py                     # a ResNet-18 for 32x32 images, a decoder of GPT-2's small size
    python bench/gpu.py decoder --no-compile

Both loops train the same network in bf16 on the same random data, which lies in main memory; AdamW, clipped gradients. The plain
loop is what one would write: pinned tensors, a permutation, autocast, torch's fused optimizer. Beside wellfit as it comes stands
wellfit without its insistence on deterministic kernels, which the plain loop does not have either. Each way runs in a process of
its own; its time is the slope between a short and a long training, so start-up does not count. The share of the peak (model FLOPs
utilization, Chowdhery et al. 2022) takes torch's count of the forward and backward pass's FLOPs, recomputation left out, over the
time and over the vendor's dense bf16 peak. Says so and exits with 0 where there is no GPU; exits with 1 if wellfit, with the plain
loop's kernels, takes more than 1.05 times the plain loop's time.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BAR = 1.05
PEAK = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L4": 121e12,
    "4090": 165e12,
}  # dense bf16 FLOP/s, vendor's datasheets
RATE = 1e-3


@dataclass(frozen=True)
class Work:
    """A network, a batch's size, what is counted a sample, and the steps between which the slope is taken."""

    model: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]]
    batch: int
    unit: str
    per_sample: int
    steps: tuple[int, int]


def convnet() -> nn.Module:
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()  # type: ignore[assignment]
    return model


def decoder() -> nn.Module:
    from wellfit.models.transformer import Decoder

    return Decoder(50_257, 768, 12, 12, positions="learned", max_length=1024)


def images() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(8192, 3, 32, 32, generator=draw), torch.randint(0, 10, (8192,), generator=draw)


def tokens() -> tuple[Tensor, Tensor]:
    text = torch.randint(0, 50_257, (512, 1025), generator=torch.Generator().manual_seed(0))
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()


WORK = {
    "convnet": Work(convnet, images, 512, "images", 1, (30, 130)),
    "decoder": Work(decoder, tokens, 16, "tokens", 1024, (10, 50)),
}


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


# ---- the ways; each returns seconds a step and the peak of memory in bytes


def plain(work: Work, compiled: bool) -> tuple[float, int]:
    x, y = (part.pin_memory() for part in work.data())
    torch.manual_seed(0)
    model = work.model().cuda()
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)

    def steps(count: int) -> float:
        began = time.perf_counter()
        order = torch.randperm(len(x))
        for step in range(count):
            start = step * work.batch % (len(x) - work.batch + 1)
            chosen = order[start : start + work.batch]
            inputs = x[chosen].pin_memory().cuda(non_blocking=True)
            targets = y[chosen].pin_memory().cuda(non_blocking=True)
            with torch.autocast("cuda", torch.bfloat16):
                loss = cross_entropy(forward(inputs), targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    short, long = work.steps
    steps(short)
    times = [(steps(long) - steps(short)) / (long - short) for _ in range(3)]
    return statistics.median(times), torch.cuda.max_memory_allocated()


def ours(work: Work, compiled: bool, deterministic: bool) -> tuple[float, int]:
    import wellfit
    from wellfit.events import Stepped

    data = work.data()
    short, long = work.steps
    read: list[tuple[int, float]] = []

    def clock(event: object) -> None:
        """Numbers are read in blocks of `short` steps, when the device has done them."""
        if isinstance(event, Stepped) and event.step % short == 0:
            read.append((event.step, time.perf_counter()))

    settings = {
        "training.steps": short * (1 + 3 * ((long - 1) // short + 1)), "training.batch_size": work.batch, "optimizer.learning_rate": RATE,
        "training.log_every": short, "evaluation.every": 10**6, "checkpoints.every": 10**6, "hardware.precision": "bf16",
        "hardware.compile": compiled, "training.deterministic": deterministic,
    }  # fmt: skip
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        wellfit.fit(
            work.model(), data, loss=cross_entropy, set=settings, folder=Path(folder) / "run", observers=[clock], quiet=True
        )  # fmt: skip
    blocks = [(b - a) / (after - before) for (before, a), (after, b) in itertools.pairwise(read[1:])]
    return statistics.median(blocks), torch.cuda.max_memory_allocated()


WAYS: dict[str, Callable[[Work], tuple[float, int]]] = {
    "plain": lambda work: plain(work, compiled=False),
    "wellfit, free kernels": lambda work: ours(work, compiled=False, deterministic=False),
    "wellfit": lambda work: ours(work, compiled=False, deterministic=True),
    "plain, compiled": lambda work: plain(work, compiled=True),
    "wellfit, free, compiled": lambda work: ours(work, compiled=True, deterministic=False),
}


def flops(work: Work) -> int:
    """Of the forward and backward pass of one batch, as torch counts them on tensors that hold nothing."""
    from torch.utils.flop_counter import FlopCounterMode

    x, y = work.data()
    with torch.device("cuda"):
        model, inputs, targets = work.model(), x[:2].cuda(), y[:2].cuda()
    with FlopCounterMode(display=False) as counted, torch.autocast("cuda", torch.bfloat16):
        cross_entropy(model(inputs), targets).backward()
    return counted.get_total_flops() * work.batch // 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="*", help=f"{' or '.join(WORK)}; both, if none is named")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out the ways that compile, which takes a minute each"
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if unknown := [name for name in asked.work if name not in WORK]:
        parser.error(f"there is no work {unknown[0]!r}; there is {' and '.join(WORK)}")
    if not torch.cuda.is_available():
        print("No CUDA device here, so nothing is measured.")
        return 0
    if asked.child:
        name, way = asked.child
        seconds, memory = WAYS[way](WORK[name])
        print(json.dumps({"seconds": seconds, "memory": memory}))
        return 0
    device = torch.cuda.get_device_name()
    peak = next((rate for name, rate in PEAK.items() if name in device), None)
    print(
        f"{device}, torch {torch.__version__}, bf16; peak {'unknown' if peak is None else f'{peak / 1e12:.0f} TFLOP/s'}\n",
        flush=True,
    )
    missed = 0
    for name in asked.work or WORK:
        work, found = WORK[name], {}
        counted = flops(work)
        print(f"{name}: batches of {work.batch}, {counted / 1e12:.2f} TFLOP a step", flush=True)
        for way in WAYS:
            if asked.no_compile and "compiled" in way:
                continue
            done = subprocess.run(
                [sys.executable, __file__, "--child", name, way], capture_output=True, text=True, check=False
            )
            if done.returncode:
                print(
                    f"  {way:25} failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}",
                    flush=True,
                )
                continue
            told = json.loads(done.stdout.splitlines()[-1])
            found[way] = seconds = told["seconds"]
            share = "" if peak is None else f", {counted / seconds / peak:6.1%} of the peak"
            beside = found.get("plain, compiled" if "compiled" in way else "plain")
            ratio = f", {seconds / beside:.3f} of the plain loop" if beside and "plain" not in way else ""
            rate = work.batch * work.per_sample / seconds
            print(
                f"  {way:25} {1e3 * seconds:7.2f} ms, {rate:9,.0f} {work.unit}/s{share}, {told['memory'] / 2**30:5.2f} GiB{ratio}",
                flush=True,
            )
        over = not all(way in found for way in ("plain", "wellfit, free kernels")) or (
            found["wellfit, free kernels"] > BAR * found["plain"]
        )
        missed += over
        print(
            f"  {'MISSED' if over else 'ok'}: with the plain loop's kernels at most {BAR} times its time\n", flush=True
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
