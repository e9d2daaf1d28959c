"""word2vec: skip-gram with negative sampling on the docstrings of the standard library."""
import collections
import importlib
import inspect
import re

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)
rs = np.random.RandomState(1)
torch.manual_seed(1)

MODULES = """argparse ast asyncio base64 calendar codecs collections configparser csv datetime decimal difflib
email.message fractions functools gzip heapq http.client imaplib inspect io itertools json logging mailbox math os
pathlib pickle queue random re sched shutil smtplib socket sqlite3 statistics string subprocess tarfile tempfile
textwrap threading time tokenize turtle typing unittest urllib.request uuid weakref xml.dom.minidom zipfile""".split()


def docs_of(name):
    mod = importlib.import_module(name)
    yield inspect.getdoc(mod) or ""
    for _, obj in sorted(vars(mod).items()):
        if inspect.isclass(obj) or inspect.isroutine(obj):
            if getattr(obj, "__module__", None) == name:
                yield inspect.getdoc(obj) or ""
                if inspect.isclass(obj):
                    for _, m in sorted(vars(obj).items()):
                        if inspect.isroutine(m):
                            yield inspect.getdoc(m) or ""


sentences = []
for name in MODULES:
    for doc in docs_of(name):
        for sent in re.split(r"[.\n]\s*\n|\.\s", doc):
            toks = re.findall(r"[a-z]+", sent.lower())
            if len(toks) >= 4:
                sentences.append(tuple(toks))
sentences = list(dict.fromkeys(sentences))
rs.shuffle(sentences)
cut = int(len(sentences) * 0.9)

counts = collections.Counter(w for s in sentences[:cut] for w in s)
itos = [w for w, c in counts.most_common() if c >= 8]
stoi = {w: i for i, w in enumerate(itos)}
freq = np.array([counts[w] for w in itos], dtype=float)
keep = np.minimum(1.0, np.sqrt(1e-3 / (freq / freq.sum())))      # sub-sampling of frequent words
noise = torch.tensor(freq ** 0.75)


def skipgrams(sents, window=3):
    out = []
    for s in sents:
        ids = [stoi[w] for w in s if w in stoi and rs.rand() < keep[stoi[w]]]
        for i, c in enumerate(ids):
            for o in ids[max(0, i - window):i] + ids[i + 1:i + 1 + window]:
                out.append((c, o))
    return torch.tensor(out)


train, held = skipgrams(sentences[:cut]), skipgrams(sentences[cut:])
print(len(sentences), "sentences,", len(itos), "words,", len(train), "pairs,", len(held), "held out")


class SkipGram(nn.Module):
    def __init__(self, vocab, dim):
        super().__init__()
        self.center = nn.Embedding(vocab, dim)
        self.context = nn.Embedding(vocab, dim)
        nn.init.uniform_(self.center.weight, -0.5 / dim, 0.5 / dim)
        nn.init.zeros_(self.context.weight)            # as in the original C code

    def forward(self, c, o, neg):
        v = self.center(c)
        pos = (v * self.context(o)).sum(-1)
        negs = torch.einsum("bd,bkd->bk", v, self.context(neg))
        return -(F.logsigmoid(pos) + F.logsigmoid(-negs).sum(-1)).mean()


def negatives(n, k=5):
    return torch.multinomial(noise, n * k, replacement=True).view(n, k)


model = SkipGram(len(itos), 32)
optimizer = torch.optim.Adam(model.parameters(), lr=1.2e-2)
held_neg = negatives(len(held))
BATCH = 512
total = 2 * -(-len(train) // BATCH)
decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=total)
step, acc = 0, 0.0
for epoch in range(2):
    for idx in torch.randperm(len(train)).split(BATCH):
        c, o = train[idx].unbind(1)
        loss = model(c, o, negatives(len(idx)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        acc += loss.item()
        step += 1
        if step % 50 == 0:
            with torch.no_grad():
                v = model(held[:, 0], held[:, 1], held_neg).item()
            print(f"step {step}: train {acc / 50:.3f}  held-out {v:.3f}")
            acc = 0.0

# what a model that knows only the word frequencies would reach
p = torch.bincount(train[:, 1], minlength=len(itos)).float() + 1
flat = (p / p.sum()).log() - (5 * noise / noise.sum()).log()
print("frequency-only %.3f" % -(F.logsigmoid(flat[held[:, 1]]) + F.logsigmoid(-flat[held_neg]).sum(-1)).mean())

unit = F.normalize(model.center.weight.detach(), dim=1)
for w in ["file", "true", "string", "class", "error"]:
    if w in stoi:
        near = (unit @ unit[stoi[w]]).topk(6).indices[1:].tolist()
        print(w, "->", " ".join(itos[i] for i in near))
