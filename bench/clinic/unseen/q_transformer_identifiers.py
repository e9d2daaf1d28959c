"""A small decoder Transformer that completes Python identifiers letter by letter (names from the standard library)."""
import math
import os
import random
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(1)

CONFIG = dict(d_model=48, heads=4, layers=2, dropout=0.1, lr=4e-3, weight_decay=0.01, warmup=40, epochs=6, batch_size=64)
MODULES = """argparse ast calendar configparser csv difflib doctest ftplib imaplib inspect locale optparse pdb pickle
platform random shutil smtplib socket ssl statistics subprocess tarfile tempfile threading traceback turtle typing"""
PAD = 0


def load_words(seed=1):
    library = Path(os.__file__).parent
    text = "\n".join((library / f"{name}.py").read_text(encoding="utf-8") for name in MODULES.split())
    words = {w.strip("_") for w in re.findall(r"[a-z_]+", text.lower())}
    words = sorted(w for w in words if 3 <= len(w) <= 16)
    random.Random(seed).shuffle(words)
    words = words[:3000]
    cut = int(0.85 * len(words))
    return words[:cut], words[cut:]


class Vocabulary:
    def __init__(self, words):
        chars = sorted(set("".join(words)))
        self.ids = {c: i for i, c in enumerate(chars, start=1)}  # 0 is the padding
        self.chars = ["."] + chars + ["\n"]
        self.eos = len(chars) + 1

    def __len__(self):
        return len(self.chars)


def make_batch(words, vocab):
    seqs = [[vocab.ids[c] for c in w] + [vocab.eos] for w in words]
    longest = max(len(s) for s in seqs)
    tokens = torch.full((len(seqs), longest), PAD)
    for row, s in zip(tokens, seqs):
        row[:len(s)] = torch.tensor(s)
    x, y = tokens[:, :-1], tokens[:, 1:]
    return x, y


class Block(nn.Module):
    def __init__(self, d, heads, dropout):
        super().__init__()
        self.norm1 = nn.LayerNorm(d)
        self.attn = nn.MultiheadAttention(d, heads, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d), nn.Dropout(dropout))

    def forward(self, x, mask):
        h = self.norm1(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    def __init__(self, vocab_size, d, heads, layers, dropout, max_len=64):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d)
        self.pos = nn.Embedding(max_len, d)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([Block(d, heads, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, vocab_size)

    def forward(self, tokens):
        n = tokens.size(1)
        mask = torch.full((n, n), float("-inf")).triu(1)
        x = self.drop(self.tok(tokens) + self.pos(torch.arange(n)))
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))


def word_loss(logits, y):
    """Mean over the letters of a word, then over the words."""
    ce = F.cross_entropy(logits.transpose(1, 2), y, ignore_index=PAD, reduction="none")
    return (ce.sum(1) / (y != PAD).sum(1)).mean()


def lr_factor(step, warmup, total):
    if step < warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


def evaluate(model, words, vocab, batch_size=256):
    model.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(words), batch_size):
            chunk = words[start:start + batch_size]
            x, y = make_batch(chunk, vocab)
            total += word_loss(model(x), y).item() * len(chunk)
    return total / len(words)


def unigram_loss(train, val, vocab):
    counts = torch.ones(len(vocab))
    for w in train:
        for c in w[1:]:
            counts[vocab.ids[c]] += 1
        counts[vocab.eos] += 1
    logits = (counts / counts.sum()).log()
    x, y = make_batch(val, vocab)
    return word_loss(logits.expand(*y.shape, -1), y).item()


def complete(model, vocab, prefix, max_len=16):
    model.eval()
    ids = [vocab.ids[c] for c in prefix]
    with torch.no_grad():
        while len(ids) < max_len:
            probs = torch.softmax(model(torch.tensor([ids]))[0, -1], dim=-1)
            nxt = torch.multinomial(probs, 1).item()
            if nxt in (vocab.eos, PAD):
                break
            ids.append(nxt)
    return "".join(vocab.chars[i] for i in ids)


def main(cfg=CONFIG):
    torch.manual_seed(0)
    train, val = load_words()
    vocab = Vocabulary(train + val)
    steps_per_epoch = math.ceil(len(train) / cfg["batch_size"])
    total_steps = steps_per_epoch * cfg["epochs"]

    model = Decoder(len(vocab), cfg["d_model"], cfg["heads"], cfg["layers"], cfg["dropout"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg["lr"], weight_decay=cfg["weight_decay"])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: lr_factor(s, cfg["warmup"], total_steps))
    print(f"{len(train)} words to train on, {len(val)} to validate, {len(vocab)} tokens, {total_steps} steps")

    for epoch in range(1, cfg["epochs"] + 1):
        model.train()
        order = torch.randperm(len(train)).tolist()
        running = 0.0
        for start in range(0, len(order), cfg["batch_size"]):
            x, y = make_batch([train[i] for i in order[start:start + cfg["batch_size"]]], vocab)
            optimizer.zero_grad()
            loss = word_loss(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            running += loss.item()
        val_loss = evaluate(model, val, vocab)
        print(f"epoch {epoch} train {running / steps_per_epoch:.3f} val {val_loss:.3f}")

    print(f"validation {val_loss:.3f} nats a letter (letter frequencies alone: {unigram_loss(train, val, vocab):.3f})")
    print(" ".join(complete(model, vocab, p) for p in ("get", "par", "con", "is_")))


if __name__ == "__main__":
    main()
