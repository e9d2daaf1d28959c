# WGAN-GP on the 8x8 digits
import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_digits

torch.set_num_threads(1)
torch.manual_seed(7)
np.random.seed(7)

n_critic = 4
n_iter = 220
bs = 64
nz = 16
lambda_gp = 10.0
lr = 5e-4

images = load_digits().data.astype("float32")
perm = np.random.permutation(len(images))
images = images[perm]
images = images / 16.0 * 2 - 1          # to [-1, 1] like tanh
X = torch.from_numpy(images[:1440])
X_test = torch.from_numpy(images[1440:])


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.Linear(nz, 128),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.Tanh(),
        )

    def forward(self, z):
        return self.main(z)


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.l1 = nn.Linear(64, 128)
        self.l2 = nn.Linear(128, 128)
        self.out = nn.Linear(128, 1)
        self.act = nn.LeakyReLU(0.2)

    def forward(self, x):
        h = self.act(self.l1(x))
        h = self.act(self.l2(h))
        return self.out(h).squeeze(1)


def gradient_penalty(D, real, fake):
    alpha = torch.rand(real.size(0), 1)
    mix = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
    g = torch.autograd.grad(D(mix).sum(), mix, create_graph=True)[0]
    norm = torch.sqrt((g ** 2).sum(1) + 1e-12)
    return ((norm - 1) ** 2).mean()


def energy_distance(a, b):
    return (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()


netG = Generator()
netD = Critic()
optD = torch.optim.Adam(netD.parameters(), lr=lr, betas=(0.5, 0.9))
optG = torch.optim.Adam(netG.parameters(), lr=lr, betas=(0.5, 0.9))


def evaluate():
    netG.eval()
    netD.eval()
    with torch.no_grad():
        fake = netG(torch.randn(len(X_test), nz))
        val = (netD(fake).mean() - netD(X_test).mean()).item()
        ed = energy_distance(fake, X_test)
    netG.train()
    netD.train()
    return val, ed


history = []
for it in range(1, n_iter + 1):
    for _ in range(n_critic):
        real = X[torch.randint(0, len(X), (bs,))]
        with torch.no_grad():
            fake = netG(torch.randn(bs, nz))
        optD.zero_grad()
        wdist = netD(fake).mean() - netD(real).mean()
        lossD = wdist + lambda_gp * gradient_penalty(netD, real, fake)
        lossD.backward()
        optD.step()

    optG.zero_grad()
    lossG = -netD(netG(torch.randn(bs, nz))).mean()
    lossG.backward()
    optG.step()
    history.append((lossD.item(), lossG.item()))

    if it % 20 == 0:
        val, ed = evaluate()
        print(f"it {it:4d}  loss_D {lossD.item():8.4f}  loss_G {lossG.item():8.4f}  "
              f"held-out W {val:8.4f}  energy distance {ed:.4f}")
