"""A little BERT: masked-token prediction on strings of a toy language (first-order chains with noise)."""
import math

import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(11)

PAD, MASK, FIRST = 0, 1, 2
VOCAB = 18
LENGTH = 16
STEPS = 320
WARMUP = 40
BATCH = 48

follow = torch.randperm(VOCAB - FIRST) + FIRST  # which token follows which


def sample_text(n):
    rows = [torch.randint(FIRST, VOCAB, (n,))]
    for _ in range(LENGTH - 1):
        nxt = follow[rows[-1] - FIRST]
        noise = torch.randint(FIRST, VOCAB, (n,))
        rows.append(torch.where(torch.rand(n) < 0.05, noise, nxt))
    return torch.stack(rows, dim=1)


def mask_tokens(tokens, p=0.2):
    labels = tokens.clone()
    chosen = torch.rand(tokens.shape) < p
    labels[~chosen] = -100
    inputs = tokens.clone()
    inputs[chosen] = MASK
    return inputs, labels


class Encoder(nn.Module):
    def __init__(self, dim=32, heads=2, layers=2, dropout=0.05):
        super().__init__()
        self.tok = nn.Embedding(VOCAB, dim)
        self.pos = nn.Embedding(LENGTH, dim)
        layer = nn.TransformerEncoderLayer(dim, heads, 4 * dim, dropout, batch_first=True)
        self.body = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(dim, VOCAB)
        nn.init.normal_(self.tok.weight, std=0.7)
        nn.init.normal_(self.pos.weight, std=0.7)

    def forward(self, ids):
        pos = torch.arange(ids.size(1))
        h = self.tok(ids) + self.pos(pos)
        h = self.body(h)
        return self.head(h)


def mlm_loss(logits, labels):
    return F.cross_entropy(logits.view(-1, VOCAB), labels.view(-1), ignore_index=-100)


def lr_factor(step):
    if step < WARMUP:
        return (step + 1) / WARMUP
    return max(0.0, (STEPS - step) / (STEPS - WARMUP))


train_text = sample_text(3000)
val_inputs, val_labels = mask_tokens(sample_text(300))

model = Encoder()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)

model.train()
history = []
for step in range(STEPS):
    batch = train_text[torch.randint(0, len(train_text), (BATCH,))]
    inputs, labels = mask_tokens(batch)
    loss = mlm_loss(model(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    scheduler.step()
    history.append(loss.item())

    if (step + 1) % 40 == 0:
        model.eval()
        with torch.no_grad():
            logits = model(val_inputs)
            val_loss = mlm_loss(logits, val_labels).item()
            seen = val_labels != -100
            acc = (logits.argmax(-1)[seen] == val_labels[seen]).float().mean().item()
        model.train()
        print(f"{step + 1:4d} train {sum(history[-40:]) / 40:.4f} val {val_loss:.4f} masked acc {acc:.3f} (chance loss {math.log(VOCAB):.2f})")
