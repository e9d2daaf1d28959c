"""One-step-ahead forecasting of several seasonal series with a dilated causal convolution network."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(7)
rng = np.random.default_rng(7)

N_SERIES, LENGTH, WINDOW = 6, 900, 64
CHANNELS, LR, EPOCHS, BATCH = 16, 3e-3, 12, 32


def make_series():
    t = np.arange(LENGTH)
    out = []
    for _ in range(N_SERIES):
        period = rng.uniform(10, 40)
        weekly = np.sin(2 * np.pi * t / period + rng.uniform(0, 6.28))
        yearly = 0.6 * np.sin(2 * np.pi * t / (period * 3.7))
        ar = np.zeros(LENGTH)
        for i in range(1, LENGTH):
            ar[i] = 0.7 * ar[i - 1] + rng.normal(0, 0.12)
        out.append(rng.uniform(20, 60) + rng.uniform(5, 15) * (weekly + yearly + ar))
    return np.stack(out).astype(np.float32)


def windows(series, start, stop, stride):
    xs = [s[i:i + WINDOW + 1] for s in series for i in range(start, stop - WINDOW, stride)]
    return torch.tensor(np.stack(xs))


class CausalConv(nn.Module):
    def __init__(self, cin, cout, dilation, kernel=3):
        super().__init__()
        self.pad = (kernel - 1) * dilation
        self.conv = nn.Conv1d(cin, cout, kernel, dilation=dilation)

    def forward(self, x):
        x = F.pad(x, (self.pad, 0))
        return self.conv(x)


class Block(nn.Module):
    def __init__(self, ch, dilation):
        super().__init__()
        self.conv1 = CausalConv(ch, ch, dilation)
        self.conv2 = CausalConv(ch, ch, dilation)
        self.drop = nn.Dropout(0.05)

    def forward(self, x):
        h = self.drop(F.relu(self.conv1(x)))
        h = F.relu(self.conv2(h))
        return x + h


class TCN(nn.Module):
    def __init__(self, ch=CHANNELS, dilations=(1, 2, 4, 8)):
        super().__init__()
        self.inp = nn.Conv1d(1, ch, 1)
        self.blocks = nn.ModuleList([Block(ch, d) for d in dilations])
        self.out = nn.Conv1d(ch, 1, 1)

    def forward(self, x):                       # x: (batch, time)
        h = self.inp(x.unsqueeze(1))
        for block in self.blocks:
            h = block(h)
        return self.out(h).squeeze(1)           # (batch, time)


series = make_series()
split = 700
mu = series[:, :split].mean(1, keepdims=True)
sd = series[:, :split].std(1, keepdims=True)
series = (series - mu) / sd
train = windows(series, 0, split, 6)
valid = windows(series, split, LENGTH, 12)
train_loader = DataLoader(TensorDataset(train[:, :-1], train[:, 1:]), batch_size=BATCH, shuffle=True)
valid_loader = DataLoader(TensorDataset(valid[:, :-1], valid[:, 1:]), batch_size=64)

model = TCN()
criterion = nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=LR)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS * len(train_loader), eta_min=LR / 20)


@torch.no_grad()
def validate():
    model.eval()
    total, n = 0.0, 0
    for x, y in valid_loader:
        total += criterion(model(x), y).item() * len(x)
        n += len(x)
    return total / n


for epoch in range(EPOCHS):
    model.train()
    running = 0.0
    for x, y in train_loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        scheduler.step()
        running += loss.item()
    print(f"epoch {epoch + 1:2d}  train {running / len(train_loader):.4f}  valid {validate():.4f}")

naive = ((valid[:, 1:] - valid[:, :-1]) ** 2).mean().item()
print(f"last-value baseline {naive:.4f}, model {validate():.4f}")
