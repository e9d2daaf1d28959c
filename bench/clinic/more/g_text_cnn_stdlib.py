"""Code, prose or string literal?  A character CNN that sorts snippets cut from the standard library's own source."""
import ast
import importlib
import inspect
import io
import random
import tokenize
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

torch.set_num_threads(1)

MODULES = ["argparse", "ast", "configparser", "dataclasses", "datetime", "difflib", "doctest", "enum", "inspect",
           "optparse", "pickle", "shutil", "statistics", "subprocess", "tarfile", "threading", "typing", "zipfile"]
KINDS = ["code", "prose", "literal"]


@dataclass
class Config:
    per_class: int = 720
    max_chars: int = 48
    embed: int = 24
    filters: int = 32
    batch: int = 64
    epochs: int = 10
    lr: float = 4e-3
    weight_decay: float = 1e-2
    dropout: float = 0.3
    seed: int = 11


cfg = Config()
random.seed(cfg.seed)
torch.manual_seed(cfg.seed)


def harvest(name):
    """Yield (text, kind) from the source of one module."""
    source = inspect.getsource(importlib.import_module(name))
    doc_lines = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            first = node.body[0]
            doc_lines.update(range(first.lineno, first.end_lineno + 1))
    busy = set()
    for tok in tokenize.generate_tokens(io.StringIO(source).readline):
        row = tok.start[0]
        if tok.type == tokenize.COMMENT:
            busy.add(row)
            yield tok.string.lstrip("#! "), "prose"
        elif tok.type == tokenize.STRING and row not in doc_lines:
            busy.update(range(row, tok.end[0] + 1))
            yield " ".join(tok.string.strip("rbfuRBFU").strip("\"'").split()), "literal"
    for number, line in enumerate(source.splitlines(), start=1):
        if number in doc_lines:
            yield line.strip().strip('"'), "prose"
        elif number not in busy:
            yield line.strip(), "code"


def build_corpus():
    pools = {kind: {} for kind in KINDS}
    for name in MODULES:
        for text, kind in harvest(name):
            if len(text) >= 12:
                pools[kind][text[:cfg.max_chars]] = None  # dict keys: every line once, in order
    seen = Counter(text for pool in pools.values() for text in pool)
    samples = []
    for label, kind in enumerate(KINDS):
        lines = [text for text in pools[kind] if seen[text] == 1]
        samples += [(text, label) for text in random.sample(lines, cfg.per_class)]
    random.shuffle(samples)
    return samples


samples = build_corpus()
cut = int(0.8 * len(samples))
train_samples, valid_samples = samples[:cut], samples[cut:]

# 0 is padding, 1 is any character that the training lines do not have
alphabet = {ch: i for i, ch in enumerate(sorted({c for text, _ in train_samples for c in text}), start=2)}
encode = lambda text: torch.tensor([alphabet.get(ch, 1) for ch in text])


def collate(batch):
    texts, labels = zip(*batch)
    ids = nn.utils.rnn.pad_sequence([encode(t) for t in texts], batch_first=True, padding_value=0)
    return ids, torch.tensor(labels)


class LineCNN(nn.Module):
    def __init__(self, vocab, cfg):
        super().__init__()
        self.embed = nn.Embedding(vocab, cfg.embed, padding_idx=0)
        self.convs = nn.ModuleList([nn.Conv1d(cfg.embed, cfg.filters, k, padding=k // 2) for k in (2, 3, 5)])
        self.drop = nn.Dropout(cfg.dropout)
        self.hidden = nn.Linear(3 * cfg.filters, 48)
        self.out = nn.Linear(48, len(KINDS))

    def forward(self, ids):
        x = self.embed(ids).transpose(1, 2)
        pooled = [F.relu(conv(x)).amax(dim=2) for conv in self.convs]
        h = F.relu(self.hidden(self.drop(torch.cat(pooled, dim=1))))
        return self.out(h)


train_loader = DataLoader(train_samples, batch_size=cfg.batch, shuffle=True, collate_fn=collate)
valid_loader = DataLoader(valid_samples, batch_size=128, collate_fn=collate)

model = LineCNN(len(alphabet) + 2, cfg)
loss_fn = nn.CrossEntropyLoss()
opt = torch.optim.AdamW(model.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, cfg.epochs)

for epoch in range(cfg.epochs):
    model.train()
    train_loss = 0.0
    for ids, labels in train_loader:
        logits = model(ids)
        loss = loss_fn(logits, labels)
        opt.zero_grad()
        loss.backward()
        opt.step()
        train_loss += loss.item() / len(train_loader)
    sched.step()

    model.eval()
    hits, valid_loss = Counter(), 0.0
    with torch.no_grad():
        for ids, labels in valid_loader:
            logits = model(ids)
            valid_loss += F.cross_entropy(logits, labels, reduction="sum").item() / len(valid_samples)
            hits.update(labels[logits.argmax(1) == labels].tolist())
    totals = Counter(label for _, label in valid_samples)
    recall = "  ".join(f"{KINDS[k]} {hits[k] / max(totals[k], 1):.2f}" for k in range(len(KINDS)))
    print(f"[{epoch + 1:2d}] train {train_loss:.3f}  valid {valid_loss:.3f}  "
          f"accuracy {sum(hits.values()) / len(valid_samples):.3f}   ({recall})")
