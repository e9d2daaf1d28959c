# A small denoising diffusion model for points in the plane.
# The noise-prediction error has a floor well above zero: much of the noise cannot be guessed.
import copy
import math

import torch
import torch.nn.functional as F
from sklearn.datasets import make_moons
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)

STEPS = 700
BATCH = 256
LR = 2e-3
T = 40

points, _ = make_moons(5000, noise=0.05, random_state=0)
points = torch.tensor(points, dtype=torch.float32)
mean, std = points[:4000].mean(0), points[:4000].std(0)
points = (points - mean) / std
train_x, val_x = points[:4000], points[4000:]

# cosine schedule of the remaining signal
frac = torch.arange(1, T + 1) / (T + 1)
alpha_bar = torch.cos(frac * math.pi / 2) ** 2


class TimeEmbedding(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.register_buffer("freq", torch.exp(torch.linspace(0, -5, dim // 2)))
        self.proj = nn.Linear(dim, dim)

    def forward(self, t):
        angle = t[:, None].float() * self.freq
        return self.proj(torch.cat([angle.sin(), angle.cos()], dim=1))


class Denoiser(nn.Module):
    def __init__(self, width=96, time_dim=32):
        super().__init__()
        self.time = TimeEmbedding(time_dim)
        self.inp = nn.Linear(2 + time_dim, width)
        self.mid = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])
        self.out = nn.Linear(width, 2)

    def forward(self, x, t):
        h = F.silu(self.inp(torch.cat([x, self.time(t)], dim=1)))
        for layer in self.mid:
            h = h + F.silu(layer(h))
        return self.out(h)


def noisy(x, t, eps):
    a = alpha_bar[t][:, None]
    return a.sqrt() * x + (1 - a).sqrt() * eps


model = Denoiser()
ema = copy.deepcopy(model).requires_grad_(False)
optimizer = torch.optim.Adam(model.parameters(), lr=LR)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)

# the same noise and times at every validation, so that values are comparable
gen = torch.Generator().manual_seed(1)
val_t = torch.randint(0, T, (len(val_x),), generator=gen)
val_eps = torch.randn(val_x.shape, generator=gen)


@torch.no_grad()
def validate(net):
    net.eval()
    loss = F.mse_loss(net(noisy(val_x, val_t, val_eps), val_t), val_eps)
    net.train()
    return loss.item()


history = []
for step in range(1, STEPS + 1):
    x = train_x[torch.randint(0, len(train_x), (BATCH,))]
    t = torch.randint(0, T, (BATCH,))
    eps = torch.randn_like(x)
    pred = model(noisy(x, t, eps), t)
    loss = F.mse_loss(pred, eps)

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    with torch.no_grad():
        for p_ema, p in zip(ema.parameters(), model.parameters()):
            p_ema.lerp_(p, 0.02)

    history.append(loss.item())
    if step % 50 == 0:
        recent = sum(history[-50:]) / 50
        print(f"step {step:4d}  train {recent:.4f}  val(ema) {validate(ema):.4f}")


@torch.no_grad()
def sample(net, n):
    x = torch.randn(n, 2)
    for i in reversed(range(T)):
        t = torch.full((n,), i)
        eps = net(x, t)
        a = alpha_bar[i]
        x0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-3, 3)
        if i > 0:
            b = alpha_bar[i - 1]
            x = b.sqrt() * x0 + (1 - b).sqrt() * eps
        else:
            x = x0
    return x


made = sample(ema, 500)
nearest = torch.cdist(made, val_x).min(dim=1).values
print(f"median distance of samples to the data {nearest.median().item():.3f}")
