"""Activation checkpointing beside the law of the root: memory predicted and measured, and time, each way in a fresh process.

    python bench/checkpointing.py           # or one of mlp and decoder

Two deep networks. A *block* is a linear layer of 256 with layer norm and GELU, 24 of them, on batches of 8,192 rows; or one of 16 blocks
of a decoder of width 128, on 16 rows of 128 tokens. Two ways to recompute: every n-th block (`hardware.activation_checkpointing=n`), and
segments of s blocks, each recomputed as a whole, which is Chen et al. 2016: of L blocks one keeps L/s inputs and, for the moment, s blocks,
so the least is at s = sqrt(L / c), where a block holds c times its input; with c = 1 that is the root of L.

Counted: what the law says of activations. Predicted: the memory plan's peak (`wellfit.memory`). Measured: the peak of torch's CPU
allocator, by its profiler, while `train/fit.py` turns three steps. Time: what the process took of a processor in the least of eight
steps of `wellfit.fit`, four in each of two rounds over all ways, on one thread, so that what else runs counts little. Memory is told
of activations: a peak less weights, gradients, averages and data. The weights must come out the same to the last bit, and predictions
within 10 %; else it leaves with 1.
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

STEPS, ROUNDS, WITHIN = 5, 2, 0.10
EVERY = (0, 1, 2, 4, 6, 8)
SEGMENTS = (2, 3, 4, 6, 8)
BLOCKS = {"mlp": 24, "decoder": 16}
INPUT = {"mlp": 8192 * 256 * 4, "decoder": 16 * 128 * 128 * 4}  # bytes of what goes into a block
TITLES = {0: "nothing", 1: "every block", 2: "every 2nd block"}
FIXED = ("weights", "gradients", "optimizer", "data")


def main() -> None:
    if len(sys.argv) == 5:
        _, what, name, how, number = sys.argv
        print(json.dumps({"memory": memory, "time": seconds}[what](name, how, int(number))))
        return
    missed = 0
    for name in sys.argv[1:] or BLOCKS:
        missed += told(name)
    sys.exit(missed > 0)


def child(what: str, name: str, how: str, number: int) -> dict[str, float]:
    """One way in a process of its own."""
    command = [sys.executable, __file__, what, name, how, str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[2:]} left with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def told(name: str) -> int:
    """The table of one network. Returns how many of its promises were missed."""
    blocks = BLOCKS[name]
    ways = [*(("every", n) for n in EVERY), *(("segments", s) for s in SEGMENTS)]
    found = {way: child("memory", name, *way) for way in ways}
    rounds = [{way: child("time", name, *way) for way in ways} for _ in range(ROUNDS)]
    spent = {way: min(each[way]["seconds"] for each in rounds) for way in ways}
    bits = {each[way]["bits"] for each in rounds for way in ways}
    base = found["every", 0]
    each = base["predicted"] / blocks / INPUT[name]  # c: what a block holds, in inputs
    missed = 0
    print(f"{name}: {blocks} blocks, {torch.get_num_threads()} thread(s), torch {torch.__version__}\n")
    print(
        f"{'recomputed':>16}{'counted x':>11}{'predicted MB':>14}{'x':>6}{'measured MB':>13}{'x':>6}{'off':>7}{'s a step':>10}{'x':>6}"
    )
    for (how, number), one in found.items():
        title = f"segments of {number}" if how == "segments" else TITLES.get(number, f"every {number}th block")
        counted = count(blocks, each, how, number) * INPUT[name] / base["predicted"]
        off = (one["fixed"] + one["predicted"]) / (one["fixed"] + one["measured"]) - 1
        missed += abs(off) > WITHIN
        print(
            f"{title:>16}{counted:11.2f}{one['predicted'] / 1e6:14.1f}{one['predicted'] / base['predicted']:6.2f}{one['measured'] / 1e6:13.1f}"
            f"{one['measured'] / base['measured']:6.2f}{off:7.1%}{spent[how, number]:10.3f}{spent[how, number] / spent['every', 0]:6.2f}"
        )
    least = min(found, key=lambda way: found[way]["measured"])
    law = 2 * math.sqrt(blocks * each) * INPUT[name]
    print(
        f"\nA block holds {each:.1f} inputs of {INPUT[name] / 1e6:.1f} MB. By the law the least is at segments of sqrt({blocks} / {each:.1f}) = "
        f"{math.sqrt(blocks / each):.1f} blocks: {law / 1e6:.1f} MB, {law / base['predicted']:.2f} of everything. Measured least: {least[0]} "
        f"{least[1]}, {found[least]['measured'] / 1e6:.1f} MB, {found[least]['measured'] / base['measured']:.2f}."
    )
    same, near = len(bits) == 1, not missed
    print(
        f"Weights {'bit-identical' if same else 'DIFFER'}; predictions {'within' if near else 'NOT within'} {WITHIN:.0%}.\n",
        flush=True,
    )
    return missed + (not same)


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


def settings(model_recomputes: int, rows: int) -> dict[str, object]:
    return {
        "training.steps": STEPS, "training.batch_size": rows, "training.log_every": 1, "checkpoints.minutes": None,
        "hardware.activation_checkpointing": model_recomputes, "hardware.precision": "fp32", "loss.kind": "cross-entropy",
        "training.doctor": False,
    }  # fmt: skip


def memory(name: str, how: str, number: int) -> dict[str, object]:
    """Predicts and measures the peak of one way."""
    from torch.profiler import ProfilerActivity, profile

    from wellfit.memory import subject_of
    from wellfit.plan.trace import training
    from wellfit.recipe import Recipe
    from wellfit.train.setup import from_given
    from wellfit.trials.short import ShortTraining

    model, data, setting = network(name, how, number)
    job = from_given(Recipe().override(settings(setting, len(data[0]))), model, data)
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
    return {"predicted": traced.peak.bytes - fixed, "measured": most + sum(held.values()) - fixed, "fixed": fixed}


def seconds(name: str, how: str, number: int) -> dict[str, object]:
    """Times the steps of one way, and says to which weights they came."""
    import wellfit
    from wellfit.events import Stepped

    times: list[float] = []

    def watch(event: object) -> None:
        if isinstance(event, Stepped):
            times.append(time.process_time())

    model, data, setting = network(name, how, number)
    with tempfile.TemporaryDirectory() as folder:
        wellfit.fit(model, data, set=settings(setting, len(data[0])), root=folder, observers=[watch], quiet=True)
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
    return {"seconds": min(b - a for a, b in itertools.pairwise(times)), "bits": digest}


if __name__ == "__main__":
    main()
