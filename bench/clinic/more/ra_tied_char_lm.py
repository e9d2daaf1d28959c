"""Character-level GRU language model on Python source, input and output embeddings tied."""
import math
import pathlib
import random
import sysconfig
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

cfg = dict(seq=64, batch=32, dim=80, lr=6e-3, seed=2)
torch.manual_seed(cfg["seed"])
random.seed(cfg["seed"])
torch.set_num_threads(1)

lib = pathlib.Path(sysconfig.get_paths()["stdlib"])
names = ["argparse", "ast", "bdb", "calendar", "codecs", "configparser", "contextlib", "copy", "csv", "dataclasses",
         "difflib", "dis", "enum", "fractions", "ftplib", "functools", "gettext", "glob", "heapq", "inspect",
         "ipaddress", "mailbox", "pdb", "pickle", "shutil", "tarfile", "threading", "zipfile"]
texts = {n: (lib / f"{n}.py").read_text(encoding="utf-8") for n in names if (lib / f"{n}.py").exists()}
files = sorted(texts)
random.shuffle(files)
test_files, val_files, train_files = files[:4], files[4:7], files[7:]
train_text = "".join(texts[f] for f in train_files)

chars = sorted(set(train_text))
stoi = {c: i + 1 for i, c in enumerate(chars)}   # 0 is for characters never seen in training
V = len(chars) + 1


seen = set()


def encode(fs):
    """Cut every file into non-overlapping windows of seq+1 characters, each kept once overall."""
    L = cfg["seq"] + 1
    rows = []
    for f in fs:
        for s in range(0, len(texts[f]) - L + 1, L):
            w = texts[f][s:s + L]
            if w not in seen:
                seen.add(w)
                rows.append([stoi.get(c, 0) for c in w])
    return torch.tensor(rows)


train, val, test = encode(train_files), encode(val_files), encode(test_files)
print(f"windows: train {len(train)} val {len(val)} test {len(test)}; vocabulary {V}")


class TiedLM(nn.Module):
    def __init__(self, vocab, dim):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.proj = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, vocab)
        nn.init.normal_(self.emb.weight, std=dim ** -0.5)
        self.out.weight = self.emb.weight
        nn.init.zeros_(self.out.bias)

    def forward(self, x):
        h, _ = self.rnn(self.emb(x))
        return self.out(self.proj(h))


def bits(model, data):
    model.eval()
    s = n = 0
    with torch.no_grad():
        for b in data.split(256):
            s += F.cross_entropy(model(b[:, :-1]).flatten(0, 1), b[:, 1:].flatten(), reduction="sum").item()
            n += b[:, 1:].numel()
    return s / n / math.log(2)


model = TiedLM(V, cfg["dim"])
print("parameters:", sum(p.numel() for p in model.parameters()))   # shared tensor counted once
optimizer = torch.optim.AdamW(model.parameters(), lr=cfg["lr"], weight_decay=0.01)
MAX_STEPS = 260
val_small = val[torch.randperm(len(val))[:200]]

step, t0 = 0, time.time()
done = False
while not done:
    for idx in torch.randperm(len(train)).split(cfg["batch"]):
        model.train()
        for g in optimizer.param_groups:      # cosine decay to 10 %
            g["lr"] = cfg["lr"] * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / MAX_STEPS)))
        b = train[idx]
        logits = model(b[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), b[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 65 == 0:
            print(f"step {step} train {loss.item() / math.log(2):.3f} bits  val {bits(model, val_small):.3f} bits  ({time.time() - t0:.1f}s)")
        if step == MAX_STEPS:
            done = True
            break

# bigram baseline with add-0.1 smoothing
counts = torch.full((V, V), 0.1)
counts.index_put_((train[:, :-1].flatten(), train[:, 1:].flatten()), torch.ones(train[:, 1:].numel()), accumulate=True)
bigram = -(counts / counts.sum(1, keepdim=True)).log2()
uni = counts.sum(0)
unigram = -(uni / uni.sum()).log2()
print(f"TEST bits/char: GRU {bits(model, test):.3f} | bigram {bigram[test[:, :-1], test[:, 1:]].mean():.3f} | unigram {unigram[test[:, 1:]].mean():.3f}")
