"""Activation checkpointing beside the law of the root: memory predicted and measured, and time, each way in a fresh process.

    python bench/checkpointing.py           # or one of mlp and decoder

Two deep networks. A *block* is a linear layer of 256 with layer norm and GELU, 24 of them, on batches of 8,192 rows; or one of 16 blocks
of a decoder of width 128, on 16 rows of 128 tokens. Two ways to recompute: every n-th block (`hardware.activation_checkpointing=n`), and
segments of s blocks, each recomputed as a whole, which is Chen et al. 2016: of L blocks one keeps L/s inputs and, for the moment, s blocks,
so the least is at s = sqrt(L / c), where a block holds c times its input; with c = 1 that is the root of L.

Counted: what the law says of activations. Predicted: the memory plan's peak (`wellfit.memory`). Measured: the peak of torch's CPU
allocator, by its profiler, while `train/fit.py` turns three steps. Time: what the process took of a processor in the least of four
steps of `wellfit.fit`, on one thread, so that what else runs counts little. Memory is told of activations: a peak less weights,
gradients, averages and data. The weights must come out the same to the last bit, and predictions within 10 %; else it leaves with 1.
"""

import hashlib
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time

import torch
from torch import nn

STEPS, WITHIN = 5, 0.10
EVERY = (0, 1, 2, 4, 6, 8)
SEGMENTS = (2, 3, 4, 6, 8)
BLOCKS = {"mlp": 24, "decoder": 16}
INPUT = {"mlp": 8192 * 256 * 4, "decoder": 16 * 128 * 128 * 4}  # bytes of what goes into a block
FIXED = ("weights", "gradients", "optimizer", "data")


def main() -> None:
    if len(sys.argv) == 4:
        print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
        return
    missed = 0
    for name in sys.argv[1:] or BLOCKS:
        missed += told(name)
    sys.exit(missed > 0)


def told(name: str) -> int:
    """The table of one network. Returns what was missed."""
    blocks = BLOCKS[name]
    print(f"{name}: {blocks} blocks, {torch.get_num_threads()} thread(s), torch {torch.__version__}\n")
    print(
        f"{'recomputed':>22}{'counted x':>11}{'predicted MB':>14}{'x':>6}{'measured MB':>13}{'x':>6}{'off':>7}{'s a step':>10}{'x':>6}"
    )
    base: dict[str, float] = {}
    bits, missed, least = set(), 0, {}
    for how, number in [*(("every", n) for n in EVERY), *(("segments", s) for s in SEGMENTS if s < blocks)]:
        done = subprocess.run(
            [sys.executable, __file__, name, how, str(number)], capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        base = base or found
        bits.add(found["bits"])
        each = base["predicted"] / blocks / INPUT[name]  # c: what a block holds, in inputs
        counted = count(blocks, each, how, number) * INPUT[name] / base["predicted"]
        off = (found["fixed"] + found["predicted"]) / (found["fixed"] + found["measured"]) - 1
        missed += abs(off) > WITHIN
        title = (
            "nothing" if not number else "every block" if (how, number) == ("every", 1) else f"every {number}. block"
        )
        title = title if how == "every" else f"segments of {number}"
        least[title] = found["measured"]
        ratios = [found[what] / base[what] for what in ("predicted", "measured", "seconds")]
        print(
            f"{title:>22}{counted:11.2f}{found['predicted'] / 1e6:14.1f}{ratios[0]:6.2f}{found['measured'] / 1e6:13.1f}{ratios[1]:6.2f}"
            f"{off:7.1%}{found['seconds']:10.3f}{ratios[2]:6.2f}",
            flush=True,
        )
    best = math.sqrt(blocks / each)
    law = 2 * math.sqrt(blocks * each) * INPUT[name]
    print(
        f"\nA block holds {each:.1f} inputs of {INPUT[name] / 1e6:.1f} MB. By the law the least is at segments of sqrt({blocks} / {each:.1f}) = "
        f"{best:.1f} blocks: {law / 1e6:.1f} MB, {law / base['predicted']:.2f} of everything. Measured least: {min(least, key=least.get)}, "
        f"{min(least.values()) / 1e6:.1f} MB, {min(least.values()) / base['measured']:.2f}."
    )
    print(
        f"Weights {'bit-identical' if len(bits) == 1 else 'DIFFER'}; predictions {'within' if not missed else 'NOT within'} {WITHIN:.0%}.\n"
    )
    return missed + (len(bits) != 1)


def count(blocks: int, each: float, how: str, number: int) -> float:
    """Activations by the law, in inputs of a block: what is kept, and what is made again for the moment."""
    if not number:
        return blocks * each
    again = math.ceil(blocks / number)  # blocks, or segments
    if how == "segments":
        return again + number * each
    return (blocks - again) * each + again + each


class Segment(nn.Module):
    """Some blocks after each other, to be recomputed as one."""

    def __init__(self, blocks: list[nn.Module]):
        super().__init__()
        self.inner = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor, **beside: object) -> torch.Tensor:
        for block in self.inner:
            x = block(x, **beside)
        return x


class Deep(nn.Module):
    def __init__(self, blocks: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(256, 256), nn.LayerNorm(256), nn.GELU()) for _ in range(blocks)
        )
        self.head = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Writes(nn.Module):
    """Logits with the classes second, as cross entropy wants them."""

    def __init__(self, blocks: int):
        super().__init__()
        from wellfit.models.transformer import Decoder

        self.decoder = Decoder(256, 128, blocks, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.decoder(ids).transpose(1, 2)


def network(name: str, how: str, number: int) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor], int]:
    """The model, its data, and the setting by which it recomputes."""
    torch.manual_seed(0)
    blocks = BLOCKS[name]
    if name == "mlp":
        model: nn.Module = Deep(blocks)
        holder, data = model, (torch.randn(8192, 256), torch.randint(0, 10, (8192,)))
    else:
        model = Writes(blocks)
        ids = torch.randint(0, 256, (16, 128))
        holder, data = model.decoder.stack, (ids, ids.roll(-1, 1))
    if how == "segments":
        one_by_one = list(holder.blocks)
        holder.blocks = nn.ModuleList(
            Segment(one_by_one[i : i + number]) for i in range(0, len(one_by_one), number)
        )  # fmt: skip
        return model, data, 1
    return model, data, number


def measure(name: str, how: str, number: int) -> dict[str, object]:
    """Predicts, measures and times one way."""
    from torch.profiler import ProfilerActivity, profile

    import wellfit
    from wellfit.events import Stepped
    from wellfit.memory import subject_of
    from wellfit.plan.trace import training
    from wellfit.recipe import Recipe
    from wellfit.train.setup import from_given
    from wellfit.trials.short import ShortTraining

    model, data, setting = network(name, how, number)
    settings = {
        "training.steps": STEPS, "training.batch_size": len(data[0]), "training.log_every": 1, "checkpoints.minutes": None,
        "hardware.activation_checkpointing": setting, "hardware.precision": "fp32", "loss.kind": "cross-entropy",
        "training.doctor": False,
    }  # fmt: skip
    job = from_given(Recipe().override(settings), model, data)
    traced = training(subject_of(job))
    fixed = sum(size for part, size in traced.peak.parts.items() if part in FIXED)
    short = ShortTraining(job)
    rate = job.optimizer.param_groups[0]["peak"]
    job.optimizer, job.batches._ready = None, []  # type: ignore[attr-defined]
    tensors = (*job.model.parameters(), *job.model.buffers(), *data)
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        short.run(rate, 3)
    now = most = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    measured = most + sum(held.values())

    times: list[float] = []

    def watch(event: object) -> None:
        if isinstance(event, Stepped):
            times.append(time.process_time())

    model, data, setting = network(name, how, number)
    with tempfile.TemporaryDirectory() as folder:
        wellfit.fit(model, data, set=settings, root=folder, observers=[watch], quiet=True)
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
    return {
        "predicted": traced.peak.bytes - fixed, "measured": measured - fixed, "fixed": fixed, "bits": digest,
        "seconds": min(b - a for a, b in itertools.pairwise(times)),
    }  # fmt: skip


if __name__ == "__main__":
    main()
