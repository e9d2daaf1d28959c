# coding: utf-8

# # Tiny DDPM on two moons
# exported from diffusion_moons.ipynb

# In[1]:


import math
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import make_moons

torch.manual_seed(42)


# In[2]:


# data: 4000 points to train on, 1000 held out
pts, _ = make_moons(n_samples=5000, noise=0.06, random_state=42)
pts = torch.tensor(pts, dtype=torch.float32)
pts = pts[torch.randperm(len(pts))]
train_x, test_x = pts[:4000], pts[4000:]
mu, sd = train_x.mean(0), train_x.std(0)
train_x = (train_x - mu) / sd
test_x = (test_x - mu) / sd
train_x.shape, test_x.shape


# In[3]:


T = 100
BATCH = 512
betas = torch.linspace(1e-4, 0.1, T)
alphas = 1 - betas
abar = torch.cumprod(alphas, 0)


def q_sample(x0, t, eps):
    a = abar[t].unsqueeze(1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


# In[4]:


class Denoiser(nn.Module):
    def __init__(self, hidden=128, emb=32):
        super().__init__()
        self.emb = emb
        self.net = nn.Sequential(
            nn.Linear(2 + 12 + emb, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, 2),
        )

    def time_embedding(self, t):
        half = self.emb // 2
        freqs = torch.exp(-math.log(1000.0) * torch.arange(half) / half)
        ang = t.float().unsqueeze(1) * freqs
        return torch.cat([ang.sin(), ang.cos()], dim=1)

    def coord_features(self, x):
        # a few sines and cosines of the coordinates, helps with the fine structure
        return torch.cat([f(k * x) for k in (1, 2, 4) for f in (torch.sin, torch.cos)], dim=1)

    def forward(self, x, t):
        return self.net(torch.cat([x, self.coord_features(x), self.time_embedding(t)], dim=1))


model = Denoiser()
opt = torch.optim.Adam(model.parameters(), lr=4e-3)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=800, eta_min=1e-5)
sum(p.numel() for p in model.parameters())


# In[5]:


# fixed noise and fixed time steps for the held-out loss, so that it can be compared between steps
g = torch.Generator().manual_seed(0)
val_x = test_x.repeat(4, 1)
val_t = torch.randint(0, T, (len(val_x),), generator=g)
val_eps = torch.randn(val_x.shape, generator=g)


def heldout_loss():
    model.eval()
    with torch.no_grad():
        l = F.mse_loss(model(q_sample(val_x, val_t, val_eps), val_t), val_eps).item()
    model.train()
    return l


# In[6]:


losses = []
for step in range(1, 801):
    idx = torch.randint(0, len(train_x), (BATCH,))
    x0 = train_x[idx]
    t = torch.randint(0, T, (BATCH,))
    eps = torch.randn_like(x0)
    loss = F.mse_loss(model(q_sample(x0, t, eps), t), eps)
    opt.zero_grad()
    loss.backward()
    opt.step()
    sched.step()
    losses.append(loss.item())
    if step % 100 == 0:
        print(f"step {step}: train {sum(losses[-100:]) / 100:.4f}  held-out {heldout_loss():.4f}")


# In[7]:


@torch.no_grad()
def sample(n):
    model.eval()
    x = torch.randn(n, 2)
    for i in reversed(range(T)):
        t = torch.full((n,), i)
        eps = model(x, t)
        x = (x - betas[i] / (1 - abar[i]).sqrt() * eps) / alphas[i].sqrt()
        if i > 0:
            var = betas[i] * (1 - abar[i - 1]) / (1 - abar[i])
            x = x + var.sqrt() * torch.randn_like(x)
    return x


def energy_distance(a, b):
    def within(z):
        return torch.cdist(z, z).sum() / (len(z) * (len(z) - 1))
    return (2 * torch.cdist(a, b).mean() - within(a) - within(b)).item()


# In[8]:


samples = sample(1000)
# if the data were one Gaussian, the best guess would be eps = sqrt(1-abar) * x_t
gauss = F.mse_loss((1 - abar[val_t]).sqrt().unsqueeze(1) * q_sample(val_x, val_t, val_eps), val_eps).item()
print(f"held-out noise MSE: {heldout_loss():.4f}  (predict zero {val_eps.pow(2).mean():.4f}, Gaussian fit {gauss:.4f})")
print(f"energy distance to held-out points: model {energy_distance(samples, test_x):.4f}, "
      f"Gaussian {energy_distance(torch.randn(1000, 2), test_x):.4f}, "
      f"training points {energy_distance(train_x[:1000], test_x):.4f}")
