"""Which standard-library package does a snippet of code come from?

Small transformer encoder, linear warmup then linear decay to zero.
Files (not snippets) are split into train / val / test.
"""
import pathlib
import random
import re
import sysconfig
from collections import Counter

import torch
import torch.nn as nn

PACKAGES = ["asyncio", "email", "multiprocessing", "idlelib"]
LEN = 48
TOKEN = re.compile(r"[A-Za-z_]+|\d+|[^\sA-Za-z_\d]")
random.seed(0)
torch.manual_seed(0)
torch.set_num_threads(1)     # tiny model, threads only get in the way

# ---------------------------------------------------------------- data
lib = pathlib.Path(sysconfig.get_paths()["stdlib"])
splits = {"train": [], "val": [], "test": []}
seen = set()
for label, pkg in enumerate(PACKAGES):
    files = sorted(p for p in (lib / pkg).glob("*.py") if p.stat().st_size > 1500)
    random.shuffle(files)
    n_hold = max(2, len(files) // 6)
    parts = {"test": files[:n_hold], "val": files[n_hold:2 * n_hold], "train": files[2 * n_hold:]}
    caps = {"train": 900, "val": 150, "test": 220}
    for name, fs in parts.items():
        got = []
        for f in fs:
            toks = TOKEN.findall(f.read_text(encoding="utf-8", errors="ignore"))
            for s in range(0, len(toks) - LEN + 1, LEN):
                chunk = tuple(toks[s:s + LEN])
                if chunk not in seen:          # licence headers and the like
                    seen.add(chunk)
                    got.append((chunk, label))
        random.shuffle(got)
        splits[name] += got[:caps[name]]

counts = Counter(t for c, _ in splits["train"] for t in c)
vocab = {t: i + 1 for i, (t, n) in enumerate(counts.most_common(1500)) if n > 1}   # 0 = unknown


def encode(rows):
    x = torch.tensor([[vocab.get(t, 0) for t in c] for c, _ in rows])
    return x, torch.tensor([l for _, l in rows])


x_tr, y_tr = encode(splits["train"])
x_va, y_va = encode(splits["val"])
x_te, y_te = encode(splits["test"])
print("snippets:", len(x_tr), len(x_va), len(x_te), "vocab:", len(vocab), "classes:", y_tr.bincount().tolist())


# ---------------------------------------------------------------- model
class Classifier(nn.Module):
    def __init__(self, n_vocab, d=32):
        super().__init__()
        self.tok = nn.Embedding(n_vocab, d)
        self.pos = nn.Parameter(torch.randn(1, LEN, d) * 0.02)
        layer = nn.TransformerEncoderLayer(d, 4, 64, dropout=0.1, batch_first=True, norm_first=True)
        self.enc = nn.TransformerEncoder(layer, 1, norm=nn.LayerNorm(d), enable_nested_tensor=False)
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(d, len(PACKAGES))
        nn.init.normal_(self.tok.weight, std=0.1)

    def forward(self, x):
        h = self.enc(self.drop(self.tok(x)) + self.pos)
        return self.out(self.drop(h.mean(1)))


model = Classifier(len(vocab) + 1)
loss_fn = nn.CrossEntropyLoss()
opt = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)

BATCH, EPOCHS = 64, 3
steps_per_epoch = -(-len(x_tr) // BATCH)
total = EPOCHS * steps_per_epoch
warmup = total // 10


def lr_lambda(step):
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (total - step) / (total - warmup))


sched = torch.optim.lr_scheduler.LambdaLR(opt, lr_lambda)


@torch.no_grad()
def evaluate(x, y):
    model.eval()
    logits = torch.cat([model(b) for b in x.split(256)])
    return loss_fn(logits, y).item(), (logits.argmax(1) == y).float().mean().item()


# ---------------------------------------------------------------- training
for epoch in range(EPOCHS):
    model.train()
    running = 0.0
    for idx in torch.randperm(len(x_tr)).split(BATCH):
        xb = x_tr[idx]
        xb = xb.masked_fill(torch.rand(xb.shape) < 0.2, 0)      # word dropout
        loss = loss_fn(model(xb), y_tr[idx])
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        sched.step()
        running += loss.item() * len(idx)
    v_loss, v_acc = evaluate(x_va, y_va)
    print(f"epoch {epoch}: train {running / len(x_tr):.3f}  val {v_loss:.3f}  val acc {v_acc:.3f}  lr {sched.get_last_lr()[0]:.2e}")

t_loss, t_acc = evaluate(x_te, y_te)
print(f"TEST acc {t_acc:.3f}  majority {y_te.bincount().max().item() / len(y_te):.3f}")
