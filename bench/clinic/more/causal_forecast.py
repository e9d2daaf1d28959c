"""Next-value forecasting of noisy seasonal series with a causal transformer."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(21)

SEQ_LEN = 24
D_MODEL = 32
BATCH = 32
EPOCHS = 14
LR = 3e-3


def make_series(n):
    t = torch.arange(SEQ_LEN + 1).float()
    period = 6 + 6 * torch.rand(n, 1)
    phase = 2 * math.pi * torch.rand(n, 1)
    amp = 2 + 3 * torch.rand(n, 1)
    level = 20 + 1.0 * torch.randn(n, 1)
    wave = amp * torch.sin(2 * math.pi * t / period + phase)
    return level + wave + 0.3 * torch.randn(n, SEQ_LEN + 1)


class Block(nn.Module):
    def __init__(self, dim, heads, dropout):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        q, k, v = (z.view(b, t, self.heads, d // self.heads).transpose(1, 2) for z in (q, k, v))
        scores = q @ k.transpose(-2, -1) / math.sqrt(d // self.heads)
        mask = torch.triu(torch.ones(t, t, dtype=torch.bool), diagonal=1)
        scores = scores.masked_fill(mask, float("-inf"))
        out = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, t, d)
        x = x + self.drop(self.proj(out))
        return x + self.drop(self.mlp(self.norm2(x)))


class Forecaster(nn.Module):
    def __init__(self, dropout=0.05):
        super().__init__()
        self.inp = nn.Linear(1, D_MODEL)
        self.pos = nn.Embedding(SEQ_LEN, D_MODEL)
        self.blocks = nn.ModuleList([Block(D_MODEL, 4, dropout) for _ in range(2)])
        self.norm = nn.LayerNorm(D_MODEL)
        self.out = nn.Linear(D_MODEL, 1)

    def forward(self, x):
        h = self.inp(x.unsqueeze(-1)) + self.pos(torch.arange(x.size(1)))
        for block in self.blocks:
            h = block(h)
        return self.out(self.norm(h)).squeeze(-1)


series = make_series(896)
train, valid = series[:640], series[640:]
mu, sigma = train.mean(), train.std()
train, valid = (train - mu) / sigma, (valid - mu) / sigma

model = Forecaster()
optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01)


def evaluate():
    model.eval()
    with torch.no_grad():
        return F.mse_loss(model(valid[:, :-1]), valid[:, 1:]).item()


naive = F.mse_loss(valid[:, :-1], valid[:, 1:]).item()
print(f"repeat-last-value baseline: {naive:.4f}")

for epoch in range(EPOCHS):
    model.train()
    running, n = 0.0, 0
    for idx in torch.randperm(len(train)).split(BATCH):
        batch = train[idx]
        x, y = batch[:, :-1], batch[:, 1:]
        pred = model(x)
        loss = F.mse_loss(pred, y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running += loss.item()
        n += 1
    print(f"epoch {epoch + 1:2d}: train mse {running / n:.4f}, valid mse {evaluate():.4f}")
