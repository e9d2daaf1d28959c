import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

# Leaky integrate-and-fire network, 12 time steps, surrogate gradient through the spike.

T = 12
BETA = 0.85
SEED = 5


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return (v > 0).float()

    @staticmethod
    def backward(ctx, grad):
        (v,) = ctx.saved_tensors
        return grad / (1 + 5 * v.abs()) ** 2        # fast sigmoid


class LIFLayer(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.fc = nn.Linear(n_in, n_out)
        self.n_out = n_out

    def init_state(self, batch):
        return torch.zeros(batch, self.n_out)

    def forward(self, x, v):
        v = BETA * v + self.fc(x)
        s = Spike.apply(v - 1.0)
        v = v - s.detach()                           # soft reset
        return s, v


class SNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.l1 = LIFLayer(64, 128)
        self.l2 = LIFLayer(128, 64)
        self.readout = nn.Linear(64, 10)

    def forward(self, img):
        v1, v2 = self.l1.init_state(len(img)), self.l2.init_state(len(img))
        out = torch.zeros(len(img), 10)
        logits, rate = 0.0, 0.0
        for _ in range(T):
            s1, v1 = self.l1(img, v1)
            s2, v2 = self.l2(s1, v2)
            out = BETA * out + self.readout(s2)
            logits = logits + out / T
            rate = rate + (s1.mean() + s2.mean()) / (2 * T)
        return logits, rate


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        logits, _ = net(x)
    net.train()
    return (logits.argmax(1) == y).float().mean().item(), F.cross_entropy(logits, y).item()


def main():
    torch.manual_seed(SEED)
    X, y = load_digits(return_X_y=True)
    X = (X / 16.0).astype(np.float32)
    Xtr, Xte, ytr, yte = train_test_split(X, y, test_size=0.3, stratify=y, random_state=SEED)
    Xtr, Xva, ytr, yva = train_test_split(Xtr, ytr, test_size=0.15, stratify=ytr, random_state=SEED)
    Xtr, Xva, Xte = map(torch.from_numpy, (Xtr, Xva, Xte))
    ytr, yva, yte = map(torch.from_numpy, (ytr, yva, yte))

    net = SNN()
    opt = torch.optim.Adam(net.parameters(), lr=2e-3, weight_decay=1e-4)
    batch, epochs = 48, 12
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs)
    for epoch in range(epochs):
        order = torch.randperm(len(Xtr))
        tot, n, spikes = 0.0, 0, 0.0
        for idx in order.split(batch):
            logits, rate = net(Xtr[idx])
            loss = F.cross_entropy(logits, ytr[idx]) + 0.5 * (rate - 0.15).clamp(min=0) ** 2
            opt.zero_grad()
            loss.backward()
            opt.step()
            tot, n, spikes = tot + loss.item(), n + 1, spikes + rate.item()
        sched.step()
        acc, vloss = accuracy(net, Xva, yva)
        print(f"epoch {epoch:2d} loss {tot / n:.3f} firing rate {spikes / n:.3f} val loss {vloss:.3f} val acc {acc:.3f}")
    acc, _ = accuracy(net, Xte, yte)
    base = (yte == ytr.mode().values).float().mean().item()
    print(f"TEST accuracy {acc:.3f} (majority class {base:.3f})")


if __name__ == "__main__":
    main()
