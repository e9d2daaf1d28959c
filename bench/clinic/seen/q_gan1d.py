"""A toy GAN on one-dimensional data (eruption waiting times, two humps), non-saturating loss with R1,
EMA of the generator; judged by the Wasserstein-1 distance to held-out data."""
import copy
import numpy as np
import torch
from torch import nn
from torch.nn.functional import softplus
from scipy.stats import wasserstein_distance

torch.set_num_threads(1)
torch.manual_seed(9)


def waiting_times(n, rng):
    short = rng.random(n) < .36
    return np.where(short, rng.normal(54.5, 5.9, n), 80 + 5.5 * rng.gumbel(-.3, .8, n))


rng = np.random.default_rng(10)
real_tr, real_va, real_te = waiting_times(6000, rng), waiting_times(3000, rng), waiting_times(6000, rng)
m, s = real_tr.mean(), real_tr.std()
data = torch.tensor((real_tr - m) / s, dtype=torch.float32).unsqueeze(1)


def mlp(i, h, o, act):
    return nn.Sequential(nn.Linear(i, h), act(), nn.Linear(h, h), act(), nn.Linear(h, o))


G, D = mlp(4, 32, 1, nn.SiLU), mlp(1, 32, 1, lambda: nn.LeakyReLU(.2))
G_ema = copy.deepcopy(G).requires_grad_(False)
opt_g = torch.optim.Adam(G.parameters(), lr=2e-3, betas=(0., .99))
opt_d = torch.optim.Adam(D.parameters(), lr=2e-3, betas=(0., .99))
B = 192


def sample(net, n, seed):
    with torch.no_grad():
        z = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
        return net(z).squeeze(1).numpy() * s + m


print("untrained: W1 %.2f min" % wasserstein_distance(sample(G, 4000, 0), real_va))
for it in range(1, 701):
    x = data[torch.randint(len(data), (B,))].requires_grad_(True)
    with torch.no_grad():
        fake = G(torch.randn(B, 4))
    d_real, d_fake = D(x), D(fake)
    loss_d = softplus(-d_real).mean() + softplus(d_fake).mean()
    grad, = torch.autograd.grad(d_real.sum(), x, create_graph=True)
    r1 = grad.pow(2).sum(1).mean()
    opt_d.zero_grad()
    (loss_d + .05 * r1).backward()
    opt_d.step()

    loss_g = softplus(-D(G(torch.randn(B, 4)))).mean()
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    with torch.no_grad():
        for pe, p in zip(G_ema.parameters(), G.parameters()):
            pe.lerp_(p, .02)
    if it % 100 == 0:
        w = wasserstein_distance(sample(G_ema, 4000, 0), real_va)
        print(f"{it} D {loss_d.item():.3f} G {loss_g.item():.3f} W1 to validation {w:.2f} min")

fake = sample(G_ema, 4000, 123)
gauss = np.random.default_rng(0).normal(m, s, 4000)
print("test W1: gan %.2f  single gaussian %.2f  training sample itself %.2f" % tuple(
    wasserstein_distance(a, real_te) for a in (fake, gauss, real_tr)))
print("share under 67 min: gan %.3f  real %.3f;  std gan %.2f real %.2f" % ((fake < 67).mean(), (real_te < 67).mean(), fake.std(), real_te.std()))
