"""Translation on real data, multi30k from English to German, beside torch's own `nn.Transformer` of the same size and steps.

    python bench/translation.py                        # 4 epochs of each, some minutes a network on one core
    python bench/translation.py --epochs 1 --seed 1

The yardstick is a plain loop around `nn.Transformer`: sinusoidal positions, one table of embeddings for source, target and output
(Vaswani et al. 2017, 3.4), Xavier's initialisation as in torch's tutorial on translation. It has the same byte pairs, the same
batches in the same order, and the same optimizer, rate, warmup, cosine, clipping and label smoothing as ours; its blocks are
normalised afterwards, as torch has it by default, or before with `--pre`. Both write out the same test sentences greedily. Prints
BLEU, chrF, perplexity, parameters and seconds of the processor; exits with 1 if our BLEU is lower.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wellfit import api
from wellfit.data.batches import OfSamples, Order, seed_everything
from wellfit.data.source import load
from wellfit.data.tokens import END, PAD, START, Tokens
from wellfit.losses import IGNORED
from wellfit.models.positions import sinusoidal
from wellfit.recipe import Recipe
from wellfit.tasks.seq_to_seq import compared

DATA = Path(os.environ.get("WELLFIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
WIDTH, LAYERS, HEADS, DROPOUT, SMOOTHING = 128, 2, 4, 0.1, 0.1
BATCH, RATE, WARMUP, DECAY, CLIP = 128, 1e-3, 0.1, 0.01, 1.0
CHANGES = {
    "data.source": str(DATA / "multi30k_en_de"), "data.text": "en", "data.target": "de", "task": "seq-to-seq",
    "data.vocabulary": 2000,
    "model": {"kind": "encoder-decoder", "width": WIDTH, "layers": LAYERS, "heads": HEADS, "dropout": DROPOUT},
    "loss.label_smoothing": SMOOTHING, "training.batch_size": BATCH, "optimizer.learning_rate": RATE,
    "optimizer.weight_decay": DECAY, "schedule.warmup_steps": WARMUP, "schedule.final_share": 0.0, "training.max_grad_norm": CLIP,
    "hardware.device": "cpu",
}  # fmt: skip


class Yardstick(nn.Module):
    """Source [B, S], target so far [B, T] -> logits [B, T, V]."""

    def __init__(self, vocabulary: int, pre: bool):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.transformer = nn.Transformer(
            WIDTH, HEADS, LAYERS, LAYERS, 4 * WIDTH, DROPOUT, batch_first=True, norm_first=pre
        )
        for weight in self.transformer.parameters():
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)
        nn.init.normal_(self.embedding.weight, std=WIDTH**-0.5)

    def placed(self, tokens_BT: Tensor) -> Tensor:
        places = sinusoidal(torch.arange(tokens_BT.shape[1])[None], WIDTH)
        return self.dropout(self.embedding(tokens_BT) * math.sqrt(WIDTH) + places)

    def encode(self, source_BS: Tensor) -> Tensor:
        out: Tensor = self.transformer.encoder(self.placed(source_BS), src_key_padding_mask=source_BS == PAD)
        return out

    def decode(self, target_BT: Tensor, memory_BSD: Tensor, source_BS: Tensor) -> Tensor:
        T = target_BT.shape[1]
        later = torch.ones(T, T, dtype=torch.bool).triu(1)
        states = self.transformer.decoder(
            self.placed(target_BT), memory_BSD, tgt_mask=later, memory_key_padding_mask=source_BS == PAD, tgt_is_causal=True
        )  # fmt: skip
        return nn.functional.linear(states, self.embedding.weight)

    def forward(self, source_BS: Tensor, target_BT: Tensor) -> Tensor:
        return self.decode(target_BT, self.encode(source_BS), source_BS)


@torch.no_grad()
def written(model: Yardstick, source_BS: Tensor, longest: int) -> list[list[int]]:
    """The likeliest token each time, until all have ended."""
    memory = model.encode(source_BS)
    said = torch.full((len(source_BS), 1), START)
    for _ in range(longest):
        said = torch.cat([said, model.decode(said, memory, source_BS)[:, -1].argmax(-1, keepdim=True)], 1)
        if bool((said == END).any(1).all()):
            break
    rows = [row[1:] for row in said.tolist()]
    return [row[: row.index(END)] if END in row else row for row in rows]


def reference(chosen: Recipe, epochs: float, pre: bool) -> tuple[dict[str, float], int, float]:
    """Scores on the test pairs, parameters and seconds of the plain loop."""
    loaded = load(chosen.data, chosen.task)
    tokens, seed = Tokens.of(loaded.columns["tokens"]), chosen.training.seed
    seed_everything(seed)
    model = Yardstick(len(tokens), pre).train()
    batches = OfSamples(loaded.train, Order(len(loaded.train), BATCH, seed, lengths=loaded.train.lengths()))
    total = math.ceil(epochs * batches.steps_per_epoch)
    warmup = round(WARMUP * total)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    criterion = nn.CrossEntropyLoss(ignore_index=IGNORED, label_smoothing=SMOOTHING)
    began = time.process_time()
    for step in range(total):
        share = min(1.0, (step + 1) / warmup)
        if step >= warmup:
            share = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
        optimizer.param_groups[0]["lr"] = RATE * share
        [batch] = batches.take()
        loss = criterion(model(batch["source"], batch["target"]).flatten(0, 1), batch["labels"].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    spent = time.process_time() - began
    return scored(model.eval(), loaded, tokens), sum(p.numel() for p in model.parameters()), spent


@torch.no_grad()
def scored(model: Yardstick, loaded: Any, tokens: Tokens) -> dict[str, float]:
    nats = counted = 0.0
    texts: list[str] = []
    references: list[str] = []
    for samples in torch.arange(len(loaded.test)).split(BATCH):
        batch = loaded.test.batch(samples)
        logits, labels = model(batch["source"], batch["target"]).flatten(0, 1), batch["labels"].flatten()
        nats += float(nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
        counted += float((labels != IGNORED).sum())
        asked = [i for i, text in enumerate(batch["references"]) if text is not None]
        if asked:
            texts += [tokens.decode(row) for row in written(model, batch["source"][asked], loaded.columns["longest"])]
            references += [batch["references"][i] for i in asked]
    return {"perplexity": math.exp(nats / counted), **compared(texts, references, False)}


def ours(chosen: Recipe, epochs: float) -> tuple[dict[str, float], int, float]:
    """Scores on the test pairs, parameters and seconds; the evaluations on the way are in them."""
    with tempfile.TemporaryDirectory() as root:
        began = time.process_time()
        run = api.fit_recipe(chosen, set={"training.epochs": epochs, "evaluation.every": 0.5}, root=root, quiet=True)
        spent = time.process_time() - began
        return run.scores("test"), sum(value.numel() for value in run.best_weights().values()), spent


def told(scores: dict[str, float], parameters: int, spent: float) -> str:
    numbers = ", ".join(f"{name} {scores[name]:.2f}" for name in ("bleu", "chrf", "perplexity"))
    return f"{numbers}, {parameters:,} parameters, {spent:.0f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pre", action="store_true", help="the yardstick normalises before each branch")
    parser.add_argument("--only", choices=("ours", "reference"))
    options = parser.parse_args()
    if not (DATA / "multi30k_en_de").is_dir():
        print(f"skipped: there is no {DATA / 'multi30k_en_de'}; set WELLFIT_DATA")
        return 0
    torch.set_num_threads(1)
    chosen = Recipe().override({**CHANGES, "training.seed": options.seed})
    theirs: dict[str, float] = {"bleu": 0.0}
    if options.only != "ours":
        theirs, parameters, spent = reference(chosen, options.epochs, options.pre)
        print(f"nn.Transformer: {told(theirs, parameters, spent)}", flush=True)
    if options.only == "reference":
        return 0
    scores, parameters, spent = ours(chosen, options.epochs)
    print(f"wellfit:        {told(scores, parameters, spent)}")
    met = scores["bleu"] >= theirs["bleu"]
    print("met" if met else "MISSED")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
