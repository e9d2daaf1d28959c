"""Word-level language model over the Python manual's help topics; output matrix tied to the embedding."""
import math
import random
import re
from collections import Counter

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from pydoc_data import topics

torch.set_num_threads(1)
torch.manual_seed(1)

# topics quote one another: keep every paragraph once (and leave out the long tables)
seen, paras = set(), []
for key in sorted(topics.topics):
    for para in topics.topics[key].split("\n\n"):
        words = tuple(re.findall(r"[a-z_]+|[0-9]+|[^\sa-z0-9_]", para.lower()))
        if 12 < len(words) < 300 and words not in seen:
            seen.add(words)
            paras.append(list(words))
random.Random(0).shuffle(paras)
n_val = len(paras) // 8
val_p, train_p = paras[:n_val], paras[n_val:]

counts = Counter(w for p in train_p for w in p)
vocab = ["<unk>", "<p>"] + [w for w, _ in counts.most_common(598)]
stoi = {w: i for i, w in enumerate(vocab)}
encode = lambda ps: torch.tensor([i for p in ps for i in [1] + [stoi.get(w, 0) for w in p]])
train, val = encode(train_p), encode(val_p)
V = len(vocab)
print(f"{len(train)} training tokens, {len(val)} validation tokens, vocabulary {V}")


class TiedLM(nn.Module):
    def __init__(self, vocab_size, dim, p=0.1):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, dim)
        self.rnn = nn.GRU(dim, 80, batch_first=True)
        self.back = nn.Linear(80, dim)
        self.drop = nn.Dropout(p)
        self.lm_head = nn.Linear(dim, vocab_size)
        nn.init.normal_(self.wte.weight, std=0.1)
        self.lm_head.weight = self.wte.weight      # Press & Wolf
        nn.init.zeros_(self.lm_head.bias)

    def forward(self, ids, targets):
        h, _ = self.rnn(self.drop(self.wte(ids)) * math.sqrt(self.wte.embedding_dim))
        logits = self.lm_head(self.drop(self.back(h)))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def batch(data, bs=16, length=24):
    at = torch.randint(0, len(data) - length - 1, (bs,))
    win = data[at[:, None] + torch.arange(length + 1)]
    return win[:, :-1], win[:, 1:]


@torch.no_grad()
def val_nll(model, length=48):
    model.eval()
    n = (len(val) - 1) // length
    out = model(val[: n * length].view(n, length), val[1: n * length + 1].view(n, length))[1].item()
    model.train()
    return out


def ngram_nll():
    uni = np.bincount(train, minlength=V) + 1.0
    uni /= uni.sum()
    bi = np.zeros((V, V))
    np.add.at(bi, (train[:-1].numpy(), train[1:].numpy()), 1)
    smooth = (bi + 10 * uni) / (bi.sum(1, keepdims=True) + 10)
    a, b = val[:-1].numpy(), val[1:].numpy()
    return -np.log(uni[b]).mean(), -np.log(smooth[a, b]).mean()


model = TiedLM(V, 48)
opt = torch.optim.AdamW(model.parameters(), lr=6e-3, betas=(0.9, 0.98), weight_decay=0.01)
STEPS = 360
sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: min(1, (s + 1) / 40) * (0.5 + 0.5 * math.cos(math.pi * s / STEPS)))
losses = []
for step in range(STEPS):
    _, loss = model(*batch(train))
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    sched.step()
    losses.append(loss.item())
    if step % 90 == 89:
        print(f"step {step + 1}: train nll {np.mean(losses[-40:]):.3f}  val nll {val_nll(model):.3f}")
uni, bi = ngram_nll()
print(f"validation perplexity: unigram {math.exp(uni):.1f}  bigram {math.exp(bi):.1f}  tied GRU {math.exp(val_nll(model)):.1f}")
