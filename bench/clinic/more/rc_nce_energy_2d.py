"""Fit an unnormalised density to 2-D data by noise-contrastive estimation (Gutmann & Hyvarinen 2010).

The network gives log p~(x); the log partition function is one more learned number.
"""
import math
import numpy as np
import torch
from torch import nn
from torch.nn.functional import softplus
from sklearn.datasets import make_moons

torch.manual_seed(0)
x, _ = make_moons(9000, noise=0.12, random_state=0)
x = torch.tensor(x, dtype=torch.float32)
perm = torch.randperm(len(x))
train, valid, test = x[perm[:7000]], x[perm[7000:8000]], x[perm[8000:]]
mu, sd = train.mean(0), train.std(0)
train, valid, test = [(t - mu) / sd for t in (train, valid, test)]

noise = torch.distributions.MultivariateNormal(torch.zeros(2), 1.3 * torch.cov(train.T))
NU = 4


class LogDensity(nn.Module):
    def __init__(self, h=64):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(2, h), nn.SiLU(), nn.Linear(h, h), nn.SiLU(), nn.Linear(h, h), nn.SiLU(),
                               nn.Linear(h, 1, bias=False))       # its constant would double log_z
        self.log_z = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        # tails go down like a wide Gaussian, the net learns the rest
        return self.f(x).squeeze(-1) - x.pow(2).sum(-1) / 8 - self.log_z


model = LogDensity()
opt = torch.optim.Adam([{"params": model.f.parameters(), "lr": 1e-2}, {"params": [model.log_z], "lr": 2e-2}])
N_STEP, BATCH = 600, 256
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, N_STEP, eta_min=2e-5)


def nce(data):
    fake = noise.sample((NU * len(data),))
    g_real = model(data) - noise.log_prob(data) - math.log(NU)
    g_fake = model(fake) - noise.log_prob(fake) - math.log(NU)
    return softplus(-g_real).mean() + NU * softplus(g_fake).mean()


step = 0
while step < N_STEP:
    for batch in train[torch.randperm(len(train))].split(BATCH):
        if len(batch) < BATCH or step == N_STEP:
            break
        loss = nce(batch)
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
        step += 1
        if step % 100 == 0:
            with torch.no_grad():
                print(f"step {step}: nce {loss.item():.3f}  valid nce {nce(valid).item():.3f}  log Z {model.log_z.item():+.2f}")

# true normaliser on a grid, then honest held-out log-likelihood
g = torch.from_numpy(np.linspace(-6, 6, 401, dtype=np.float32))
grid = torch.cartesian_prod(g, g)
with torch.no_grad():
    log_norm = torch.logsumexp(model(grid), 0).item() + 2 * math.log((g[1] - g[0]).item())
    ll = model(test).mean().item() - log_norm
gauss = torch.distributions.MultivariateNormal(train.mean(0), torch.cov(train.T))
print(f"self-normalised to exp({log_norm:+.3f})")
print(f"held-out log-likelihood {ll:.3f} nats, Gaussian {gauss.log_prob(test).mean().item():.3f}")
