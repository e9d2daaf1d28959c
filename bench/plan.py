"""The memory plan beside what is measured: models, optimizers, precisions and checkpointing, each in a fresh process.

    python bench/plan.py            # or with numbers of rows: python bench/plan.py 0 3

Predicted: `wellfit.memory` traces the steps without numbers. Measured: the real loop of `train/fit.py` turns three steps of the same
job and one evaluation, while torch's profiler records every allocation and release of its CPU allocator; the peak of their running
sum, and what model and data held before. On a GPU the same loop is measured by `torch.cuda.max_memory_allocated`. The bar is 10 % for
each. Leaves with 1 if one is missed.
"""

import json
import subprocess
import sys

import torch
from torch import nn

WITHIN = 0.10
ROWS: list[tuple[str, dict[str, object]]] = [
    ("mlp", {"optimizer.kind": "sgd", "optimizer.momentum": 0.0}),
    ("mlp", {"optimizer.kind": "adamw"}),
    ("mlp", {"optimizer.kind": "lion", "hardware.precision": "bf16"}),
    ("mlp", {"optimizer.kind": "adafactor", "hardware.activation_checkpointing": 1}),
    ("mlp", {"optimizer.kind": "adamw", "hardware.activation_checkpointing": 1, "hardware.precision": "bf16"}),
    ("mlp", {"optimizer.kind": "muon", "training.gradient_accumulation_steps": 4}),
    ("resnet", {"optimizer.kind": "sgd"}),
    ("resnet", {"optimizer.kind": "adamw", "hardware.precision": "bf16"}),
    ("decoder", {"optimizer.kind": "adamw"}),
    ("decoder", {"optimizer.kind": "adamw", "hardware.precision": "bf16"}),
    ("decoder", {"optimizer.kind": "adamw", "hardware.activation_checkpointing": 1}),
    ("decoder", {"optimizer.kind": "lion", "training.gradient_accumulation_steps": 2}),
    ("digits", {}),
    ("vit", {"optimizer.kind": "adamw"}),
    ("llama", {"optimizer.kind": "adamw"}),
    ("llama", {"optimizer.kind": "adamw", "hardware.activation_checkpointing": 1, "hardware.precision": "bf16"}),
    ("large", {"optimizer.kind": "adamw"}),
]  # fmt: skip


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--one":
        print(json.dumps(one(*ROWS[int(sys.argv[2])])))
        return
    chosen = [int(number) for number in sys.argv[1:]] or list(range(len(ROWS)))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print(f"{'':<76}{'predicted MB':>14}{'measured MB':>13}{'off':>8}  at the peak")
    missed = 0
    for number in chosen:
        name, settings = ROWS[number]
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(number)], capture_output=True, text=True, check=False
        )
        told = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in settings.items())
        if done.returncode:
            print(f"{name + ': ' + told:<76}  failed: {done.stderr.strip().splitlines()[-1]}")
            missed += 1
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        off = found["predicted"] / found["measured"] - 1
        missed += abs(off) > WITHIN
        mark = "" if abs(off) <= WITHIN else "  MISSED"
        print(
            f"{name + ': ' + told:<76}{found['predicted'] / 1e6:14.1f}{found['measured'] / 1e6:13.1f}{off:8.1%}  {found['phase']}{mark}",
            flush=True,
        )
    print(f"\n{len(chosen) - missed} of {len(chosen)} within {WITHIN:.0%}")
    sys.exit(missed > 0)


def job(name: str, settings: dict[str, object]):
    """A job whose training takes some hundred megabytes."""
    from wellfit.recipe import Recipe
    from wellfit.train.setup import from_given, from_recipe

    torch.manual_seed(0)
    given: dict[str, object] = {"training.steps": 3, "training.doctor": False, "hardware.precision": "fp32"}
    if name == "mlp":
        blocks = nn.ModuleList(nn.Sequential(nn.Linear(512, 512), nn.LayerNorm(512), nn.GELU()) for _ in range(12))
        model = _Blocks(blocks, nn.Linear(512, 10))
        data = torch.randn(4096, 512), torch.randint(0, 10, (4096,))
        given |= {"training.batch_size": 2048, "loss.kind": "cross-entropy"}
    elif name == "large":  # beyond the flat buffer of gradients
        model = nn.Sequential(
            nn.Linear(1024, 6144),
            nn.ReLU(),
            nn.Linear(6144, 6144),
            nn.ReLU(),
            nn.Linear(6144, 1024),
            nn.Linear(1024, 10),
        )
        model[2] = nn.Sequential(model[2], nn.ReLU(), nn.Linear(6144, 1024), nn.Linear(1024, 6144))
        data = torch.randn(512, 1024), torch.randint(0, 10, (512,))
        given |= {"training.batch_size": 256, "loss.kind": "cross-entropy"}
    elif name == "llama":
        from transformers import AutoModelForCausalLM, LlamaConfig

        config = LlamaConfig(
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=6,
            num_attention_heads=4,
            vocab_size=8000,
            use_cache=False,
        )
        model = _Writes(AutoModelForCausalLM.from_config(config))
        ids = torch.randint(0, 8000, (16, 128))
        data = ids, ids
        given |= {"training.batch_size": 4, "loss.kind": "cross-entropy"}
    else:
        presets: dict[str, dict[str, object]] = {
            "digits": {
                "data.source": "digits",
                "training.batch_size": 256,
                "model.kind": "convnet",
                "model.channels": [64, 128],
            },
            "resnet": {"data.source": "digits", "training.batch_size": 128, "model.kind": "resnet"},
            "vit": {"data.source": "digits", "training.batch_size": 256, "model.kind": "vit"},
            "decoder": {
                "data.source": "stdlib",
                "data.valid_share": 0.05,
                "model.kind": "decoder",
                "model.width": 128,
                "model.layers": 4,
                "training.batch_size": 8,
            },
        }
        return from_recipe(Recipe().override({**given, **presets[name], **settings}))
    return from_given(Recipe().override({**given, **settings}), model, data, (data[0][:64], data[1][:64]))


class _Blocks(nn.Module):
    def __init__(self, blocks: nn.ModuleList, head: nn.Module):
        super().__init__()
        self.blocks, self.head = blocks, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class _Writes(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids).logits.transpose(1, 2)


def one(name: str, settings: dict[str, object]) -> dict[str, object]:
    """Predicts, then measures, one job."""
    from torch.profiler import ProfilerActivity, profile

    from wellfit.memory import subject_of
    from wellfit.plan.trace import training
    from wellfit.trials.short import ShortTraining

    made = job(name, settings)
    traced = training(subject_of(made))
    short = ShortTraining(made)
    rate = made.optimizer.param_groups[0]["peak"]
    made.optimizer, made.batches._ready = None, []
    data = getattr(made.batches, "tensors", ())
    held = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in (*made.model.parameters(), *made.model.buffers(), *data)
    }
    if made.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() - sum(held.values())
        short.run(rate, 3, evaluations=1)
        measured = torch.cuda.max_memory_allocated() - before
    else:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            short.run(rate, 3, evaluations=1)
        events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
        now = most = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            now += event.nbytes()
            most = max(most, now)
        measured = most + sum(held.values())
    return {
        "predicted": traced.peak.bytes,
        "measured": measured,
        "phase": traced.peak.phase,
        "parts": dict(traced.peak.parts),
        "notes": traced.notes,
    }


if __name__ == "__main__":
    main()
