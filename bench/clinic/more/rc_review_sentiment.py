#!/usr/bin/env python
# coding: utf-8

# # Review sentiment with a small transformer
# 
# A hotel review has one to three clauses, each praising or damning one aspect (sometimes by negation).
# Overall: negative, mixed or positive.  Batches are padded, attention and pooling are masked.

# In[1]:

import math
import random
from collections import Counter

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader

random.seed(7)
torch.manual_seed(7)

# In[2]:

ASPECTS = {
    "room": ["room", "bed", "bathroom", "view"],
    "staff": ["staff", "receptionist", "concierge", "porter"],
    "food": ["food", "breakfast", "dinner", "coffee"],
    "location": ["location", "street", "neighbourhood", "area"],
    "price": ["price", "bill", "rate", "deposit"],
}
GOOD = "great lovely excellent pleasant wonderful fine decent superb perfect charming".split()
BAD = "awful terrible poor unpleasant horrible mediocre dreadful disappointing dire shabby".split()
ADVERBS = "really very quite rather truly somewhat".split()
LINKS = [",", "and", "but", ";", "while"]
OPENERS = [[], ["honestly", ","], ["overall", ","], ["we", "stayed", "two", "nights", "."], ["to", "be", "fair", ","]]
NEGATIVE, MIXED, POSITIVE = 0, 1, 2


def clause(aspect):
    liked = random.random() < 0.5
    negated = random.random() < 0.15
    word = random.choice(GOOD if liked != negated else BAD)
    noun = random.choice(ASPECTS[aspect])
    adverb = [random.choice(ADVERBS)] if random.random() < 0.4 else []
    form = random.randrange(4)
    if form == 0:
        out = ["the", noun, "was"] + (["not"] if negated else []) + adverb + [word]
    elif form == 1:
        out = ["we"] + (["never"] if negated else []) + ["found", "the", noun] + adverb + [word]
    elif form == 2:
        out = adverb + [word, noun]
        if negated:
            out = ["hardly", "a"] + out
    else:
        out = ["i", "would"] + (["not"] if negated else []) + ["call", "the", noun] + adverb + [word]
    return out, liked


def review():
    said = random.sample(list(ASPECTS), random.choice([1, 2, 2, 3]))
    text, balance = list(random.choice(OPENERS)), 0
    for i, a in enumerate(said):
        words, liked = clause(a)
        text += ([random.choice(LINKS)] if i else []) + words
        balance += 1 if liked else -1
    return tuple(text), POSITIVE if balance > 0 else NEGATIVE if balance < 0 else MIXED


seen, data = set(), []
while len(data) < 10000:
    text, y = review()
    if text not in seen:
        seen.add(text)
        data.append((text, y))
train, val, test = data[:8500], data[8500:9000], data[9000:]
print(Counter(y for _, y in train), "longest", max(len(t) for t, _ in data))
print(*train[0])

# In[3]:

vocab = {"<pad>": 0, "<unk>": 1}
for text, _ in train:
    for w in text:
        vocab.setdefault(w, len(vocab))


def collate(batch):
    ids = torch.zeros(len(batch), max(len(t) for t, _ in batch), dtype=torch.long)
    for i, (text, _) in enumerate(batch):
        ids[i, :len(text)] = torch.tensor([vocab.get(w, 1) for w in text])
    return ids, torch.tensor([y for _, y in batch])


train_dl = DataLoader(train, batch_size=40, shuffle=True, collate_fn=collate, drop_last=True)
val_dl = DataLoader(val, batch_size=250, collate_fn=collate)
test_dl = DataLoader(test, batch_size=250, collate_fn=collate)

# In[4]:


class Classifier(nn.Module):
    def __init__(self, n_vocab, n_class=3, d=48, heads=4, layers=1, p=0.05, max_len=64):
        super().__init__()
        self.emb = nn.Embedding(n_vocab, d, padding_idx=0)
        pos = torch.arange(max_len)[:, None]
        div = torch.exp(torch.arange(0, d, 2) * (-math.log(1000.0) / d))
        pe = torch.zeros(max_len, d)
        pe[:, 0::2], pe[:, 1::2] = torch.sin(pos * div), torch.cos(pos * div)
        self.register_buffer("pe", 0.5 * pe)
        self.local = nn.Conv1d(d, d, 7, padding=3)      # neighbouring words first
        layer = nn.TransformerEncoderLayer(d, heads, 2 * d, p, batch_first=True, norm_first=True)
        self.enc = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(d)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(d, n_class)

    def forward(self, ids):
        pad = ids == 0
        h = self.emb(ids)                               # padding rows are zero
        h = h + F.gelu(self.local(h.transpose(1, 2))).transpose(1, 2) + self.pe[:ids.size(1)]
        h = self.enc(h, src_key_padding_mask=pad)
        keep = (~pad).unsqueeze(-1)
        pooled = (self.norm(h) * keep).sum(1) / keep.sum(1)
        return self.out(self.drop(pooled))


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    loss = hit = n = 0
    for ids, y in loader:
        logits = model(ids)
        loss += F.cross_entropy(logits, y, reduction="sum").item()
        hit += (logits.argmax(1) == y).sum().item()
        n += len(y)
    return loss / n, hit / n


# In[5]:

EPOCHS = 2
model = Classifier(len(vocab))
opt = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
sched = torch.optim.lr_scheduler.OneCycleLR(opt, 4e-3, total_steps=EPOCHS * len(train_dl), pct_start=0.15)
step = 0
for epoch in range(EPOCHS):
    running = 0.0
    model.train()
    for ids, y in train_dl:
        opt.zero_grad()
        loss = F.cross_entropy(model(ids), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        sched.step()
        running += loss.item()
        step += 1
        if step % 53 == 0:
            vl, va = evaluate(model, val_dl)
            model.train()
            print(f"step {step:4d}  train {running / 53:.3f}  val {vl:.3f}  acc {va:.3f}")
            running = 0.0

# In[6]:

tl, ta = evaluate(model, test_dl)
common = Counter(y for _, y in train).most_common(1)[0][0]
print(f"test accuracy {ta:.3f}   (commonest class {sum(y == common for _, y in test) / len(test):.3f})")
