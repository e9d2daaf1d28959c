"""BiLSTM sequence tagger on a synthetic language.

Words fall into groups; the tag of a word depends on its own group and on the
groups of its left and right neighbours, so context is needed in both directions.
"""
import random

import torch
import torch.nn as nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader

torch.set_num_threads(1)
random.seed(0)
torch.manual_seed(0)

VOCAB = 40          # word ids 1..39, 0 is padding
PAD_WORD, PAD_TAG = 0, -100
NUM_TAGS = 5
EPOCHS = 10
BATCH_SIZE = 32


def group(word):
    return word % 3


def make_sentence():
    length = random.randint(6, 14)
    words = [random.randint(1, VOCAB - 1) for _ in range(length)]
    tags = []
    for i, w in enumerate(words):
        left = group(words[i - 1]) if i > 0 else 0
        right = group(words[i + 1]) if i + 1 < length else 0
        if group(w) == 0:
            tags.append(0 if left == 1 else 1)
        elif group(w) == 1:
            tags.append(2 if right == 2 else 3)
        else:
            tags.append(4)
    return words, tags


def collate(batch):
    max_len = max(len(w) for w, _ in batch)
    words = torch.full((len(batch), max_len), PAD_WORD, dtype=torch.long)
    tags = torch.full((len(batch), max_len), PAD_TAG, dtype=torch.long)
    lengths = torch.tensor([len(w) for w, _ in batch])
    for i, (w, t) in enumerate(batch):
        words[i, : len(w)] = torch.tensor(w)
        tags[i, : len(t)] = torch.tensor(t)
    return words, tags, lengths


class Tagger(nn.Module):
    def __init__(self, emb_dim=24, hidden=32, num_tags=NUM_TAGS):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, emb_dim, padding_idx=PAD_WORD)
        self.dropout = nn.Dropout(0.1)
        self.lstm = nn.LSTM(emb_dim, hidden, bidirectional=True)
        self.out = nn.Linear(2 * hidden, num_tags)

    def forward(self, words, lengths):
        B, T = words.shape
        x = self.dropout(self.embed(words)).transpose(0, 1)          # time first
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        h, _ = pad_packed_sequence(self.lstm(packed)[0], total_length=T)
        return self.out(self.dropout(h)).transpose(0, 1)             # (B, T, tags)


def tag_loss(logits, tags):
    return criterion(logits.reshape(-1, logits.size(-1)), tags.reshape(-1))


def evaluate(model, loader):
    model.eval()
    total, correct, count, batches = 0.0, 0, 0, 0
    with torch.no_grad():
        for words, tags, lengths in loader:
            logits = model(words, lengths)
            total += tag_loss(logits, tags).item()
            mask = tags != PAD_TAG
            correct += (logits.argmax(-1)[mask] == tags[mask]).sum().item()
            count += mask.sum().item()
            batches += 1
    return total / batches, correct / max(count, 1)


train_set = [make_sentence() for _ in range(1000)]
val_set = [make_sentence() for _ in range(200)]
train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True, collate_fn=collate)
val_loader = DataLoader(val_set, batch_size=100, collate_fn=collate)

criterion = nn.CrossEntropyLoss(ignore_index=PAD_TAG)
model = Tagger()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

for epoch in range(1, EPOCHS + 1):
    model.train()
    train_loss = 0.0
    for i, (words, tags, lengths) in enumerate(train_loader):
        logits = model(words, lengths)
        loss = tag_loss(logits, tags)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        train_loss += loss.item()
    val_loss, val_acc = evaluate(model, val_loader)
    print(f"epoch {epoch:2d} | train loss {train_loss / len(train_loader):.4f} | val loss {val_loss:.4f} | val acc {val_acc:.3f}")
