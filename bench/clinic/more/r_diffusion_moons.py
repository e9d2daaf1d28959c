"""DDPM on the two moons. eps-prediction, cosine schedule, 2-D points."""
import math
import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import make_moons

torch.set_num_threads(1)
torch.manual_seed(0)

T = 60
N_STEPS = 700
BATCH = 384


def moons(n, seed):
    x, _ = make_moons(n, noise=0.08, random_state=seed)
    return torch.tensor(x, dtype=torch.float32)


train_x, held_x = moons(4000, 1), moons(1000, 2)
mu, sd = train_x.mean(0), train_x.std(0)
train_x, held_x = (train_x - mu) / sd, (held_x - mu) / sd

# Nichol & Dhariwal cosine schedule
grid = torch.linspace(0, 1, T + 1)
f = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
betas = (1 - f[1:] / f[:-1]).clamp(max=0.5)
alphas = 1 - betas
abar = torch.cumprod(alphas, 0)


class Denoiser(nn.Module):
    def __init__(self, width=128, n_freq=5):
        super().__init__()
        self.register_buffer("freq", 2.0 ** torch.arange(n_freq) * math.pi / 2)
        self.inp = nn.Linear(2 + 2 * n_freq, width)
        self.mid = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.out = nn.Linear(width, 2)

    def forward(self, x, t):
        ang = (t.float() / T)[:, None] * self.freq
        h = nn.functional.silu(self.inp(torch.cat([x, ang.sin(), ang.cos()], 1)))
        for lin in self.mid:
            h = h + nn.functional.silu(lin(h))
        return self.out(h)


def eps_loss(net, x0, gen=None):
    t = torch.randint(0, T, (len(x0),), generator=gen)
    eps = torch.randn(x0.shape, generator=gen)
    a = abar[t][:, None]
    return ((net(a.sqrt() * x0 + (1 - a).sqrt() * eps, t) - eps) ** 2).mean()


@torch.no_grad()
def sample(net, n):
    x = torch.randn(n, 2)
    for t in reversed(range(T)):
        e = net(x, torch.full((n,), t))
        x = (x - betas[t] / (1 - abar[t]).sqrt() * e) / alphas[t].sqrt()
        if t:
            var = betas[t] * (1 - abar[t - 1]) / (1 - abar[t])
            x = x + var.sqrt() * torch.randn_like(x)
    return x


def energy_distance(a, b):
    n, m = len(a), len(b)
    aa = torch.cdist(a, a).sum() / (n * (n - 1))
    bb = torch.cdist(b, b).sum() / (m * (m - 1))
    return (2 * torch.cdist(a, b).mean() - aa - bb).item()


net = Denoiser()
opt = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-4)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, N_STEPS, eta_min=1e-5)

recent = []
for step in range(1, N_STEPS + 1):
    x0 = train_x[torch.randint(0, len(train_x), (BATCH,))]
    loss = eps_loss(net, x0)
    recent.append(loss.item())
    opt.zero_grad()
    loss.backward()
    opt.step()
    sched.step()
    if step % 140 == 0:
        net.eval()
        with torch.no_grad():
            g = torch.Generator().manual_seed(5)
            held = np.mean([eps_loss(net, held_x, g).item() for _ in range(4)])
        net.train()
        print(f"{step:5d}  train {np.mean(recent[-100:]):.3f}  held {held:.3f}")

net.eval()
gen = sample(net, 1000)
gauss = torch.randn(1000, 2) @ torch.linalg.cholesky(torch.cov(train_x.T)).T
print("energy distance to held-out: model %.4f  gaussian fit %.4f  fresh train %.4f" % (
    energy_distance(gen, held_x), energy_distance(gauss, held_x), energy_distance(train_x[:1000], held_x)))
near = torch.cdist(gen, train_x).min(1).values.median().item()
near_g = torch.cdist(gauss, train_x).min(1).values.median().item()
print(f"median distance to the data: samples {near:.3f}, gaussian {near_g:.3f}")
