"""GAN on the 8x8 digits of scikit-learn (zeros only, so that it trains in seconds)."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits

torch.set_num_threads(1)
torch.manual_seed(2)

NOISE = 8
EPOCHS = 150
BATCH = 32
LR_G = 1e-3
LR_D = 2e-3

digits = load_digits()
zeros = torch.tensor(digits.images[digits.target == 0], dtype=torch.float32) / 8 - 1  # in [-1, 1]
zeros = zeros[torch.randperm(len(zeros))]
real_train, real_val = zeros[:140], zeros[140:]
loader = DataLoader(TensorDataset(real_train), batch_size=BATCH, shuffle=True, drop_last=True)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(NOISE, 64),
            nn.LeakyReLU(0.2),
            nn.Linear(64, 64),
            nn.LeakyReLU(0.2),
            nn.Linear(64, 64),
            nn.Tanh(),
        )

    def forward(self, z):
        return self.net(z).view(-1, 8, 8)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 64),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.2),
            nn.Linear(64, 32),
            nn.LeakyReLU(0.2),
            nn.Linear(32, 1),
        )

    def forward(self, x):
        return self.net(x).squeeze(1)


gen, disc = Generator(), Discriminator()
bce = nn.BCEWithLogitsLoss()
opt_g = torch.optim.Adam(gen.parameters(), lr=LR_G, betas=(0.5, 0.999))
opt_d = torch.optim.Adam(disc.parameters(), lr=LR_D, betas=(0.5, 0.999))


def d_loss_fn(real_score, fake_score):
    return bce(real_score, torch.ones_like(real_score)) + bce(fake_score, torch.zeros_like(fake_score))


def g_loss_fn(fake_score):
    return bce(fake_score, torch.ones_like(fake_score))


def moments_gap(fake, real):
    return ((fake.mean(0) - real.mean(0)).abs().mean() + (fake.std(0) - real.std(0)).abs().mean()).item()


for epoch in range(1, EPOCHS + 1):
    gen.train()
    disc.train()
    for (real,) in loader:
        # discriminator
        fake = gen(torch.randn(len(real), NOISE))
        loss_d = d_loss_fn(disc(real), disc(fake.detach()))
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()

        # generator
        loss_g = g_loss_fn(disc(fake))
        opt_g.zero_grad()
        loss_g.backward()
        opt_g.step()

    if epoch % 10 == 0:
        gen.eval()
        disc.eval()
        with torch.no_grad():
            fake = gen(torch.randn(200, NOISE))
            val_d = d_loss_fn(disc(real_val), disc(fake)).item()
            gap = moments_gap(fake, real_val)
        print(f"epoch {epoch:3d}  D {loss_d.item():.3f}  G {loss_g.item():.3f}  held-out D {val_d:.3f}  moments gap {gap:.3f}")
