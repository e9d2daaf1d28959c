"""From which package of the standard library does a function come? An LSTM reads its words."""
import ast
import glob
import os
import random
import re
from collections import Counter

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

torch.set_num_threads(1)
torch.manual_seed(0)
random.seed(0)

PACKAGES = ["asyncio", "email", "unittest", "multiprocessing"]
LABELS = {name: i for i, name in enumerate(PACKAGES)}
COMMON = {"def", "self", "return", "if", "else", "not", "none", "for", "in", "is", "and", "or"}
PAD, UNK = 0, 1
MAX_LEN = 30
BATCH_SIZE = 32
EPOCHS = 5
LR = 3e-3


def functions_of(path):
    with open(path, encoding="utf-8", errors="ignore") as f:
        source = f.read()
    lines = source.splitlines()
    nodes = list(ast.parse(source).body)
    for node in list(nodes):
        if isinstance(node, ast.ClassDef):
            nodes.extend(node.body)
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield "\n".join(lines[node.lineno - 1:node.end_lineno])


def load_functions():
    root = os.path.dirname(os.__file__)
    seen, data = set(), []
    for package in PACKAGES:
        for path in sorted(glob.glob(os.path.join(root, package, "*.py"))):
            for text in functions_of(path):
                words = [w for w in re.findall(r"[a-z]+", text.lower()) if w not in COMMON]
                words = words[:MAX_LEN]
                if len(words) < 6 or tuple(words) in seen:
                    continue
                seen.add(tuple(words))
                data.append((words, LABELS[package]))
    random.shuffle(data)
    return data


def build_vocab(data, size=1500):
    counts = Counter(w for words, _ in data for w in words)
    return {w: i + 2 for i, (w, _) in enumerate(counts.most_common(size))}


def encode(data, vocab):
    out = []
    for words, label in data:
        ids = [vocab.get(w, UNK) for w in words]
        out.append((torch.tensor(ids, dtype=torch.long), label))
    return out


def collate(batch):
    lengths = torch.tensor([len(ids) for ids, _ in batch])
    tokens = pad_sequence([ids for ids, _ in batch], batch_first=True, padding_value=PAD)
    labels = torch.tensor([label for _, label in batch])
    return tokens, lengths, labels


class Reader(nn.Module):
    def __init__(self, n_words, n_classes, dim=48, hidden=64):
        super().__init__()
        self.embed = nn.Embedding(n_words, dim, padding_idx=PAD)
        self.lstm = nn.LSTM(dim, hidden, batch_first=True)
        self.drop = nn.Dropout(0.4)
        self.fc = nn.Linear(hidden, n_classes)

    def forward(self, tokens, lengths):
        states, _ = self.lstm(self.embed(tokens))
        mask = (tokens != PAD).unsqueeze(2)
        pooled = (states * mask).sum(1) / lengths.unsqueeze(1)
        return self.fc(self.drop(pooled))


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    loss, hits, n = 0.0, 0, 0
    for tokens, lengths, labels in loader:
        logits = model(tokens, lengths)
        loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        hits += (logits.argmax(1) == labels).sum().item()
        n += len(labels)
    return loss / n, hits / n


def main():
    data = load_functions()
    cut = int(0.75 * len(data))
    vocab = build_vocab(data[:cut])
    train_set, val_set = encode(data[:cut], vocab), encode(data[cut:], vocab)
    train_loader = DataLoader(train_set, BATCH_SIZE, shuffle=True, collate_fn=collate)
    val_loader = DataLoader(val_set, 128, collate_fn=collate)

    model = Reader(len(vocab) + 2, len(PACKAGES))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)

    for epoch in range(EPOCHS):
        model.train()
        total = 0.0
        for tokens, lengths, labels in train_loader:
            optimizer.zero_grad()
            logits = model(tokens, lengths)
            loss = criterion(logits, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
        val_loss, val_acc = evaluate(model, val_loader)
        print(f"epoch {epoch + 1}  train {total / len(train_loader):.3f}  "
              f"val {val_loss:.3f}  acc {val_acc:.3f}")


if __name__ == "__main__":
    main()
