"""Transformer encoder for sequence classification; warmup + cosine, gradient accumulation."""
import math
import random

import torch
import torch.nn as nn
from torch.utils.data import DataLoader

torch.set_num_threads(1)
torch.manual_seed(4)
random.seed(4)

VOCAB, MAX_LEN, CLASSES = 32, 16, 4
ACCUM = 2
EPOCHS = 8
PEAK_LR = 2e-3


def make_example():
    """Class = which of the four marker tokens comes most often."""
    length = random.randint(8, MAX_LEN)
    label = random.randrange(CLASSES)
    tokens = [random.randint(5, VOCAB - 1) for _ in range(length)]
    places = random.sample(range(length), 5)
    for p in places[:3]:
        tokens[p] = 1 + label
    for p in places[3:]:
        tokens[p] = random.randint(1, 4)
    return tokens, label


def collate(batch):
    longest = max(len(t) for t, _ in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, (tokens, _) in enumerate(batch):
        ids[row, :len(tokens)] = torch.tensor(tokens)
    return ids, torch.tensor([label for _, label in batch])


class Classifier(nn.Module):
    def __init__(self, d=32, heads=4, layers=2, dropout=0.1):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, d, padding_idx=0)
        self.pos = nn.Parameter(torch.randn(MAX_LEN, d) * 0.02)
        layer = nn.TransformerEncoderLayer(d, heads, 2 * d, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(d, CLASSES)

    def forward(self, ids):
        pad = ids == 0
        h = self.embed(ids) + self.pos[:ids.size(1)]
        h = self.encoder(h, src_key_padding_mask=pad)
        keep = (~pad).unsqueeze(-1).float()
        pooled = (h * keep).sum(1) / keep.sum(1)
        return self.head(pooled)


examples = [make_example() for _ in range(1300)]
train_data, val_data = examples[:1000], examples[1000:]
train_loader = DataLoader(train_data, batch_size=16, shuffle=True, collate_fn=collate)
val_loader = DataLoader(val_data, batch_size=100, collate_fn=collate)

model = Classifier()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.01)
steps_per_epoch = math.ceil(len(train_loader) / ACCUM)
total_steps = EPOCHS * steps_per_epoch
warmup_steps = total_steps // 10


def lr_factor(step):
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)

for epoch in range(EPOCHS):
    model.train()
    train_loss = 0.0
    optimizer.zero_grad()
    n_batches = len(train_loader)
    for i, (ids, labels) in enumerate(train_loader):
        loss = criterion(model(ids), labels)
        window = min(ACCUM, n_batches - i // ACCUM * ACCUM)
        (loss / window).backward()
        train_loss += loss.item()
        if (i + 1) % ACCUM == 0 or i + 1 == n_batches:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    model.eval()
    val_loss, hits = 0.0, 0
    with torch.no_grad():
        for ids, labels in val_loader:
            out = model(ids)
            val_loss += criterion(out, labels).item()
            hits += (out.argmax(1) == labels).sum().item()
    print(f"epoch {epoch + 1} train {train_loss / n_batches:.4f} val {val_loss / len(val_loader):.4f} "
          f"acc {hits / len(val_data):.3f} lr {scheduler.get_last_lr()[0]:.5f}")
