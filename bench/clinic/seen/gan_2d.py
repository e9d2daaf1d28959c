"""A GAN for eight points on a ring."""
import math

import torch
import torch.nn as nn

torch.set_num_threads(1)
torch.manual_seed(5)

LATENT = 2
BATCH = 128
STEPS = 700


def sample_real(n):
    angle = 2 * math.pi * torch.randint(0, 8, (n,)) / 8
    centers = torch.stack([angle.cos(), angle.sin()], dim=1) * 1.4
    return centers + 0.1 * torch.randn(n, 2)


def energy_distance(a, b):
    return (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()


class Generator(nn.Module):
    def __init__(self, hidden=64):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(LATENT, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, 2))

    def forward(self, z):
        return self.net(z)


class Discriminator(nn.Module):
    def __init__(self, hidden=64):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, hidden), nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden), nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1))

    def forward(self, x):
        return self.net(x)


real_train = sample_real(4000)
real_val = sample_real(600)

G, D = Generator(), Discriminator()
opt_g = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.0, 0.99))
opt_d = torch.optim.Adam(D.parameters(), lr=3e-3, betas=(0.0, 0.99))
bce = nn.BCEWithLogitsLoss()
ones, zeros = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)

for step in range(1, STEPS + 1):
    real = real_train[torch.randint(0, len(real_train), (BATCH,))]
    z = torch.randn(BATCH, LATENT)
    fake = G(z)

    # discriminator
    opt_d.zero_grad()
    loss_d = bce(D(real), ones) + bce(D(fake.detach()), zeros)
    loss_d.backward()
    opt_d.step()

    # generator
    opt_g.zero_grad()
    loss_g = bce(D(fake), ones)
    loss_g.backward()
    opt_g.step()

    if step % 70 == 0:
        G.eval(), D.eval()
        with torch.no_grad():
            samples = G(torch.randn(600, LATENT))
            val_d = bce(D(real_val), torch.ones(600, 1)) + bce(D(samples), torch.zeros(600, 1))
            dist = energy_distance(samples, real_val)
        G.train(), D.train()
        print(f"step {step}  loss_d {loss_d.item():.3f}  loss_g {loss_g.item():.3f}  "
              f"val_d {val_d.item():.3f}  energy distance {dist:.4f}")
