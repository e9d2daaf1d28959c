"""Sparse mixture of experts (top-2 of 6) with a load-balance term, on a process that has four operating regimes."""
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.linear_model import LinearRegression
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class Config:
    n_experts: int = 6
    top_k: int = 2
    hidden: int = 32
    batch_size: int = 128
    epochs: int = 13
    lr: float = 5e-3
    balance: float = 0.02
    seed: int = 0


def make_data(n, rng):
    """Two settings choose the regime (quadrants with soft borders), six sensors drive the response."""
    setting = rng.uniform(-1, 1, size=(n, 2))
    x = rng.normal(size=(n, 6))
    gate = 1 / (1 + np.exp(-12 * setting))
    a = np.sin(1.5 * x[:, 0]) + 0.5 * x[:, 1]
    b = x[:, 2] * x[:, 3] * 0.7 - x[:, 1]
    c = np.abs(x[:, 4]) * 1.2 - x[:, 0]
    d = np.tanh(x[:, 5] + x[:, 2]) * 1.5 + 0.4 * x[:, 3]
    y = (gate[:, 0] * gate[:, 1] * a + gate[:, 0] * (1 - gate[:, 1]) * b
         + (1 - gate[:, 0]) * gate[:, 1] * c + (1 - gate[:, 0]) * (1 - gate[:, 1]) * d)
    y = y + rng.normal(scale=0.1, size=n)
    return np.concatenate([setting, x], 1).astype(np.float32), y.astype(np.float32)[:, None]


class SparseMoE(nn.Module):
    def __init__(self, d_in, d_out, n_experts, top_k, hidden):
        super().__init__()
        self.top_k, self.n_experts = top_k, n_experts
        self.router = nn.Sequential(nn.Linear(d_in, 24), nn.Tanh(), nn.Linear(24, n_experts))
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(d_in, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
                          nn.Linear(hidden, d_out)) for _ in range(n_experts))
        self.d_out = d_out

    def forward(self, x):
        logits = self.router(x)
        probs = logits.softmax(-1)
        top, index = probs.topk(self.top_k, dim=-1)
        top = top / top.sum(-1, keepdim=True)
        out = x.new_zeros(len(x), self.d_out)
        for e, expert in enumerate(self.experts):
            row, slot = (index == e).nonzero(as_tuple=True)
            if len(row) == 0:
                continue
            out = out.index_add(0, row, expert(x[row]) * top[row, slot].unsqueeze(1))
        # Switch-style auxiliary loss: fraction routed x mean probability
        load = F.one_hot(index, self.n_experts).float().sum(1).mean(0) / self.top_k
        aux = self.n_experts * (load * probs.mean(0)).sum()
        return out, aux, load.detach()


class Trainer:
    def __init__(self, cfg):
        self.cfg = cfg
        torch.manual_seed(cfg.seed)
        rng = np.random.default_rng(cfg.seed)
        (xtr, ytr), (xva, yva), (xte, yte) = make_data(6000, rng), make_data(1000, rng), make_data(2000, rng)
        mx, sx, my, sy = xtr.mean(0), xtr.std(0), ytr.mean(0), ytr.std(0)
        scale = lambda x, y: (torch.from_numpy((x - mx) / sx), torch.from_numpy((y - my) / sy))
        self.train_set, self.val, self.test = scale(xtr, ytr), scale(xva, yva), scale(xte, yte)
        self.loader = DataLoader(TensorDataset(*self.train_set), cfg.batch_size, shuffle=True, drop_last=True)
        self.model = SparseMoE(8, 1, cfg.n_experts, cfg.top_k, cfg.hidden)
        self.opt = torch.optim.Adam(self.model.parameters(), lr=cfg.lr)
        self.sched = torch.optim.lr_scheduler.OneCycleLR(
            self.opt, cfg.lr, total_steps=cfg.epochs * len(self.loader), pct_start=0.15)

    def r2(self, data):
        self.model.eval()
        with torch.no_grad():
            pred, _, load = self.model(data[0])
        return 1 - ((pred - data[1]) ** 2).sum().item() / ((data[1] - data[1].mean()) ** 2).sum().item(), load

    def fit(self):
        for epoch in range(1, self.cfg.epochs + 1):
            self.model.train()
            total = 0.0
            for x, y in self.loader:
                pred, aux, _ = self.model(x)
                mse = F.mse_loss(pred, y)
                loss = mse + self.cfg.balance * aux
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()
                self.sched.step()
                total += mse.item()
            r2, load = self.r2(self.val)
            print(f"epoch {epoch:2d}  mse {total / len(self.loader):.4f}  val R2 {r2:.4f}  "
                  f"load {' '.join(f'{v:.2f}' for v in load.tolist())}")

    def report(self):
        r2, _ = self.r2(self.test)
        xtr, ytr = (t.numpy() for t in self.train_set)
        xte, yte = (t.numpy() for t in self.test)
        linear = LinearRegression().fit(xtr, ytr).score(xte, yte)
        print(f"test R2 {r2:.4f}   (linear regression {linear:.4f}, mean 0)")


if __name__ == "__main__":
    trainer = Trainer(Config())
    trainer.fit()
    trainer.report()
