"""Probabilistic forecast of a wind farm's load factor (a number in (0,1)).

The network outputs a Beta distribution; we maximise the log likelihood, so the
loss (minus log density) goes below zero once the densities are sharp.
"""
import argparse

import numpy as np
import torch
import torch.nn as nn
from torch.distributions import Beta
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--lr", type=float, default=3e-3)
parser.add_argument("--hidden", type=int, default=64)
parser.add_argument("--seed", type=int, default=11)
args = parser.parse_args()


def simulate(n, rng):
    speed = 8.5 * rng.weibull(2.1, n)                  # m/s
    turbulence = np.clip(rng.normal(0.11, 0.03, n), 0.03, 0.25)
    density = rng.normal(1.22, 0.04, n)                # kg/m3
    misalign = rng.normal(0, 12, n)                    # degrees
    outage = rng.beta(1.5, 18, n)                      # share of turbines in service
    eff = speed * (density / 1.22) ** (1 / 3) * np.cos(np.radians(misalign))
    mean = 0.04 + 0.90 / (1 + np.exp(-(eff - 9.0) / 1.5))
    mean = mean * (1 - 0.8 * outage)
    kappa = 160 * np.exp(-9 * (turbulence - 0.06))
    y = rng.beta(mean * kappa, (1 - mean) * kappa)
    x = np.column_stack([speed, turbulence, density, misalign, outage])
    return x, np.clip(y, 1e-3, 1 - 1e-3)


class BetaNet(nn.Module):
    def __init__(self, n_in, hidden):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(n_in, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.mean = nn.Linear(hidden, 1)
        self.log_conc = nn.Linear(hidden, 1)

    def forward(self, x):
        h = self.body(x)
        m = torch.sigmoid(self.mean(h)).squeeze(-1).clamp(1e-3, 1 - 1e-3)
        k = torch.exp(self.log_conc(h).squeeze(-1).clamp(-2, 8)) + 2.0
        return Beta(m * k, (1 - m) * k)


torch.manual_seed(args.seed)
rng = np.random.default_rng(args.seed)
x_train, y_train = simulate(4000, rng)
x_val, y_val = simulate(800, rng)
x_test, y_test = simulate(1000, rng)

mu, sd = x_train.mean(0), x_train.std(0)
to_x = lambda a: torch.tensor((a - mu) / sd, dtype=torch.float32)
to_y = lambda a: torch.tensor(a, dtype=torch.float32)
train_dl = DataLoader(TensorDataset(to_x(x_train), to_y(y_train)), batch_size=args.batch_size, shuffle=True)
xv, yv, xt, yt = to_x(x_val), to_y(y_val), to_x(x_test), to_y(y_test)

model = BetaNet(x_train.shape[1], args.hidden)
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs * len(train_dl))

for epoch in range(args.epochs):
    model.train()
    losses = []
    for xb, yb in train_dl:
        loss = -model(xb).log_prob(yb).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        val_loss = -model(xv).log_prob(yv).mean().item()
    print(f"epoch {epoch:02d}  train nll {np.mean(losses):+.3f}  val nll {val_loss:+.3f}")

model.eval()
with torch.no_grad():
    dist = model(xt)
    test_ll = dist.log_prob(yt).mean().item()
    mae = (dist.mean - yt).abs().mean().item()

# baseline: one Beta for everything, moments of the training targets
m, v = y_train.mean(), y_train.var()
k = m * (1 - m) / v - 1
base_ll = Beta(torch.tensor(m * k), torch.tensor((1 - m) * k)).log_prob(torch.tensor(y_test)).mean().item()
base_mae = np.abs(y_test - np.median(y_train)).mean()
print(f"test log likelihood {test_ll:.3f} (constant Beta {base_ll:.3f}), MAE {mae:.4f} (median {base_mae:.4f})")
