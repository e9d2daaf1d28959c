"""Classify noisy waveforms with a 1-D CNN, bfloat16 autocast on the CPU."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

CLASSES = ["sine", "square", "sawtooth", "chirp"]


def make_waves(n, length=96, noise=0.4, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, len(CLASSES), (n,), generator=g)
    t = torch.linspace(0, 1, length).expand(n, length)
    freq = 3 + 3 * torch.rand(n, 1, generator=g)
    phase = torch.rand(n, 1, generator=g)
    amp = 0.7 + 0.6 * torch.rand(n, 1, generator=g)
    cyc = freq * t + phase
    shapes = torch.stack([
        torch.sin(2 * math.pi * cyc),
        torch.sign(torch.sin(2 * math.pi * cyc)),
        2 * (cyc % 1) - 1,
        torch.sin(2 * math.pi * (freq * t * (0.5 + 1.5 * t) + phase)),
    ])
    x = amp * shapes[y, torch.arange(n)] + noise * torch.randn(n, length, generator=g)
    return TensorDataset(x.unsqueeze(1), y)


class WaveNet1d(nn.Module):
    def __init__(self, ch=24):
        super().__init__()
        self.conv1 = nn.Conv1d(1, ch, 7, padding=3)
        self.conv2 = nn.Conv1d(ch, 2 * ch, 5, padding=2, stride=2)
        self.conv3 = nn.Conv1d(2 * ch, 2 * ch, 5, padding=2, stride=2)
        self.bn1 = nn.BatchNorm1d(ch)
        self.bn2 = nn.BatchNorm1d(2 * ch)
        self.bn3 = nn.BatchNorm1d(2 * ch)
        self.fc = nn.Linear(2 * ch, len(CLASSES))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        return self.fc(x.mean(dim=2))


@torch.no_grad()
def test(model, loader):
    model.eval()
    correct, n = 0, 0
    for x, y in loader:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(x)
        correct += (out.float().argmax(1) == y).sum().item()
        n += len(y)
    return correct / n


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--epochs", type=int, default=6)
    ap.add_argument("--bs", type=int, default=48)
    ap.add_argument("--max-lr", type=float, default=6e-3)
    args = ap.parse_args()

    torch.manual_seed(0)
    train_set = make_waves(2400, seed=1)
    val_set = make_waves(500, seed=2)
    test_set = make_waves(800, seed=3)
    train_loader = DataLoader(train_set, batch_size=args.bs, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=250)
    test_loader = DataLoader(test_set, batch_size=250)

    model = WaveNet1d()
    opt = torch.optim.AdamW(model.parameters(), lr=args.max_lr, weight_decay=1e-2)
    sched = torch.optim.lr_scheduler.OneCycleLR(
        opt, max_lr=args.max_lr, total_steps=args.epochs * len(train_loader))

    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        for x, y in train_loader:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = model(x)
            loss = F.cross_entropy(out.float(), y)   # the loss itself in fp32
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
            sched.step()
            total += loss.item() * len(y)
        print(f"epoch {epoch + 1} train loss {total / len(train_set):.4f} val acc {test(model, val_loader):.4f}")

    labels = test_set.tensors[1]
    base = (labels == train_set.tensors[1].mode().values).float().mean().item()
    print(f"test accuracy {test(model, test_loader):.4f} (majority class {base:.4f})")


if __name__ == "__main__":
    main()
