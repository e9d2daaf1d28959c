# Which standard-library package does a stretch of code come from?
# Bag of words on raw token counts -> EmbeddingBag (mean of word vectors, weighted by log counts).
# Files are split into train / valid / test, never chunks of one file across splits.
import math, pathlib, random, re, sysconfig
from collections import Counter

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.feature_extraction import DictVectorizer
from sklearn.naive_bayes import MultinomialNB

torch.set_num_threads(1)
random.seed(3); torch.manual_seed(3)

root = pathlib.Path(sysconfig.get_paths()["stdlib"])
topics = ["asyncio", "email", "json", "xml", "unittest", "tkinter", "multiprocessing", "importlib", "http", "logging",
          "encodings", "distutils", "concurrent", "sqlite3", "ctypes", "curses", "urllib", "html", "idlelib"]
WORD = re.compile(r"[a-z]{3,}")

docs = {"train": [], "valid": [], "test": []}
names = [t for t in topics if (root / t).is_dir() and len(list((root / t).rglob("*.py"))) >= 9]
for label, topic in enumerate(names):
    files = sorted(f for f in (root / topic).rglob("*.py") if f.stat().st_size > 1500)
    random.shuffle(files)
    for k, f in enumerate(files[:40]):
        part = "valid" if k % 5 == 3 else "test" if k % 5 == 4 else "train"
        tokens = WORD.findall(f.read_text(errors="ignore").lower())
        for s in range(0, min(len(tokens), 2400) - 60, 120):
            docs[part].append((Counter(tokens[s:s + 120]), label))

df = Counter(w for c, _ in docs["train"] for w in c)
vocab = {w: i for i, w in enumerate(w for w, n in df.most_common(3000) if n >= 4)}
print(names, {k: len(v) for k, v in docs.items()}, "vocab", len(vocab))


def to_bag(batch):
    """counts -> (flat word ids, offsets, flat weights, labels)"""
    ids, offs, wts = [], [], []
    for counts, _ in batch:
        offs.append(len(ids))
        inside = [(vocab[w], n) for w, n in counts.items() if w in vocab]
        norm = sum(1 + math.log(n) for _, n in inside) ** 0.5 or 1.0
        for i, n in inside:
            ids.append(i)
            wts.append((1 + math.log(n)) / norm)
    y = torch.tensor([l for _, l in batch])
    return torch.tensor(ids), torch.tensor(offs), torch.tensor(wts), y


class BagClassifier(nn.Module):
    def __init__(self, n_words, n_out, width=64):
        super().__init__()
        self.bag = nn.EmbeddingBag(n_words, width, mode="sum")
        nn.init.normal_(self.bag.weight, std=0.1)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Dropout(0.5), nn.Linear(width, n_out))

    def forward(self, ids, offs, wts):
        return self.out(self.bag(ids, offs, per_sample_weights=wts))


model = BagClassifier(len(vocab), len(names))
opt = torch.optim.Adam(model.parameters(), lr=4e-3)
sched = torch.optim.lr_scheduler.ExponentialLR(opt, gamma=0.75)
freq = torch.bincount(torch.tensor([l for _, l in docs["train"]]), minlength=len(names)).float()
weight = (freq.mean() / freq).sqrt()
valid, test = to_bag(docs["valid"]), to_bag(docs["test"])


def score(bag):
    model.eval()
    with torch.no_grad():
        out = model(*bag[:3])
    model.train()
    return F.cross_entropy(out, bag[3]).item(), (out.argmax(1) == bag[3]).float().mean().item()


for epoch in range(6):
    random.shuffle(docs["train"])
    running = 0.0
    for n, i in enumerate(range(0, len(docs["train"]), 48), 1):
        *bag, y = to_bag(docs["train"][i:i + 48])
        loss = F.cross_entropy(model(*bag), y, weight=weight, label_smoothing=0.05)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        running += loss.item()
    sched.step()
    print(f"{epoch}: train {running / n:.3f}  valid loss %.3f acc %.3f" % score(valid))

dv = DictVectorizer()
keep = lambda part: [{w: n for w, n in c.items() if w in vocab} for c, _ in docs[part]]
lab = lambda part: [l for _, l in docs[part]]
nb = MultinomialNB(alpha=0.1).fit(dv.fit_transform(keep("train")), lab("train"))
majority = Counter(lab("train")).most_common(1)[0][0]
print(f"test acc: net {score(test)[1]:.3f}  naive Bayes {nb.score(dv.transform(keep('test')), lab('test')):.3f}"
      f"  majority {sum(l == majority for l in lab('test')) / len(lab('test')):.3f}")
