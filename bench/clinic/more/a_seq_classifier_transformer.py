import math

import torch
import torch.nn as nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)
torch.manual_seed(42)

VOCAB, PAD, CLASSES = 30, 0, 3
D_MODEL, HEADS, LAYERS = 32, 4, 2
BATCH, EPOCHS, LR, WARMUP, CLIP = 32, 6, 2e-3, 30, 1.0


def make_sequence(gen):
    """The class is the kind of token (A, B or C) that occurs most often."""
    length = int(torch.randint(8, 21, (1,), generator=gen))
    label = int(torch.randint(0, CLASSES, (1,), generator=gen))
    tokens = torch.randint(4, VOCAB, (length,), generator=gen)
    spots = torch.randperm(length, generator=gen)[:7]
    tokens[spots[:3]] = 1 + label
    tokens[spots[3:5]] = 1 + (label + 1) % CLASSES
    tokens[spots[5:]] = 1 + (label + 2) % CLASSES
    return tokens, label


class Sequences(Dataset):
    def __init__(self, n, seed):
        gen = torch.Generator().manual_seed(seed)
        self.items = [make_sequence(gen) for _ in range(n)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def collate(items):
    tokens, labels = zip(*items)
    return pad_sequence(tokens, batch_first=True, padding_value=PAD), torch.tensor(labels)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, D_MODEL, padding_idx=PAD)
        position = torch.arange(64).unsqueeze(1)
        div = torch.exp(torch.arange(0, D_MODEL, 2) * (-math.log(10000.0) / D_MODEL))
        pe = torch.zeros(64, D_MODEL)
        pe[:, 0::2], pe[:, 1::2] = torch.sin(position * div), torch.cos(position * div)
        self.register_buffer("pe", 0.3 * pe)
        layer = nn.TransformerEncoderLayer(D_MODEL, HEADS, 64, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(D_MODEL)
        self.fc = nn.Linear(D_MODEL, CLASSES)

    def forward(self, tokens):
        mask = tokens == PAD
        h = self.embed(tokens) + self.pe[:tokens.size(1)]
        h = self.encoder(h, src_key_padding_mask=mask)
        keep = (~mask).unsqueeze(-1).float()
        pooled = (h * keep).sum(1) / keep.sum(1)
        return self.fc(self.norm(pooled))


train_set, valid_set = Sequences(1280, seed=1), Sequences(300, seed=2)
train_loader = DataLoader(train_set, batch_size=BATCH, shuffle=True, collate_fn=collate)
valid_loader = DataLoader(valid_set, batch_size=100, collate_fn=collate)
total_steps = EPOCHS * len(train_loader)

model = Classifier()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01)
schedule = torch.optim.lr_scheduler.LambdaLR(
    optimizer,
    lambda s: min((s + 1) / WARMUP, max(0.05, (total_steps - s) / (total_steps - WARMUP))),
)


def evaluate():
    model.eval()
    loss, right = 0.0, 0
    with torch.no_grad():
        for tokens, labels in valid_loader:
            logits = model(tokens)
            loss += criterion(logits, labels).item() * len(labels)
            right += (logits.argmax(1) == labels).sum().item()
    return loss / len(valid_set), right / len(valid_set)


step, recent = 0, []
for epoch in range(EPOCHS):
    for tokens, labels in train_loader:
        model.train()
        logits = model(tokens)
        loss = criterion(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        step += 1
        recent.append(loss.item())
        if step % 25 == 0:
            vl, acc = evaluate()
            print(f"step {step:4d} lr {schedule.get_last_lr()[0]:.2e} "
                  f"train {sum(recent) / len(recent):.4f} valid {vl:.4f} acc {acc:.3f}")
            recent = []

print("final accuracy %.3f" % evaluate()[1])
