"""Activation checkpointing: what it saves and what it costs, each setting in a fresh process.

    python bench/checkpointing.py

A deep MLP (24 blocks of 256 units, layer norm and GELU, batches of 8,192 rows) trains 6 steps. Memory is the growth of the
process's peak resident set over what it had before the first step, less gradients and AdamW's state; time is that of
steps 2 to 6. The weights must come out the same to the last bit.
"""

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import torch
from torch import nn

import wellfit
from wellfit.events import Stepped

WIDTH, DEPTH, BATCH, STEPS = 256, 24, 8192, 6


def main() -> None:
    if len(sys.argv) == 2:
        print(json.dumps(measure(int(sys.argv[1]))))
        return
    print(
        f"{WIDTH} units x {DEPTH} blocks, batches of {BATCH}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print(f"{'recomputed':>16}{'activations MiB':>17}{'x':>7}{'s a step':>10}{'x':>7}")
    base: dict[str, float] = {}
    bits = set()
    for every, name in ((0, "nothing"), (4, "every 4th block"), (2, "every 2nd block"), (1, "every block")):
        # Large tensors straight from the system and back to it, so that the resident set is what is in use.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        done = subprocess.run(
            [sys.executable, __file__, str(every)], capture_output=True, text=True, check=True, env=environment
        )
        found = json.loads(done.stdout.splitlines()[-1])
        base = base or found
        bits.add(found["bits"])
        print(
            f"{name:>16}{found['mib']:17.0f}{found['mib'] / base['mib']:7.2f}{found['seconds']:10.2f}{found['seconds'] / base['seconds']:7.2f}"
        )
    print(f"\nweights {'bit-identical' if len(bits) == 1 else 'DIFFER'}")
    sys.exit(len(bits) != 1)


def measure(every: int) -> dict[str, object]:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.blocks = nn.Sequential(
        *(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()) for _ in range(DEPTH))
    )
    model.head = nn.Linear(WIDTH, 10)
    x, y = torch.randn(BATCH, WIDTH), torch.randint(0, 10, (BATCH,))
    with tempfile.TemporaryDirectory() as folder:  # a small training first: whatever is loaded once is loaded now
        small = nn.Sequential(nn.Sequential(nn.Linear(WIDTH, 10)), nn.Sequential(nn.ReLU()))
        settings = {"training.steps": 1, "training.batch_size": 8, "hardware.activation_checkpointing": 1}
        wellfit.fit(small, (x[:8], y[:8]), loss="cross-entropy", set=settings, root=folder, quiet=True)
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    settings = {
        "training.steps": STEPS, "training.batch_size": BATCH, "training.log_every": 1, "checkpoints.minutes": None,
        "hardware.activation_checkpointing": every,
    }  # fmt: skip

    def watch(event: object) -> None:
        if isinstance(event, Stepped):
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        wellfit.fit(model, (x, y), loss="cross-entropy", set=settings, root=folder, observers=[watch], quiet=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    state = (
        5 * sum(p.numel() * 4 for p in model.parameters()) / 1024
    )  # gradients, two averages, the checkpoint's copy, its bytes
    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in model.state_dict().values())).hexdigest()
    return {"mib": (peak - state) / 1024, "seconds": (times[-1] - times[0]) / (STEPS - 1), "bits": digest}


if __name__ == "__main__":
    main()
