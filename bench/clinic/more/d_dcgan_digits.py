"""DCGAN on the 8x8 digits. Quality: Frechet distance between real (held out) and generated digits in PCA space."""
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from torch import nn, optim

torch.set_num_threads(1)
torch.manual_seed(3)

nz, ngf, ndf = 16, 24, 16
batch_size, epochs, lr, beta1 = 48, 16, 2e-3, 0.5

# data: values 0..16 -> -1..1 (the range of tanh)
images = load_digits().images.astype(np.float32) / 8.0 - 1.0
train_x, val_x = train_test_split(images, test_size=300, random_state=0)
train_x = torch.from_numpy(train_x).unsqueeze(1)
val_x = torch.from_numpy(val_x).unsqueeze(1)

pca = PCA(10).fit(train_x.flatten(1).numpy())


def sqrtm(a):
    w, v = np.linalg.eigh(a)
    return (v * np.sqrt(np.clip(w, 0, None))) @ v.T


def frechet(a, b):
    a, b = pca.transform(a.flatten(1).numpy()), pca.transform(b.flatten(1).numpy())
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = sqrtm(ca)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(root @ cb @ root)))


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, 2 * ngf, 2, 1, 0, bias=False), nn.BatchNorm2d(2 * ngf), nn.ReLU(True),  # 2x2
            nn.ConvTranspose2d(2 * ngf, ngf, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf), nn.ReLU(True),  # 4x4
            nn.ConvTranspose2d(ngf, 1, 4, 2, 1), nn.Tanh(),  # 8x8
        )

    def forward(self, z):
        return self.main(z)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(1, ndf, 4, 2, 1), nn.LeakyReLU(0.2),  # 4x4
            nn.Conv2d(ndf, 2 * ndf, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * ndf), nn.LeakyReLU(0.2),  # 2x2
            nn.Flatten(), nn.Linear(8 * ndf, 1),
        )

    def forward(self, x):
        return self.main(x).squeeze(1)


def weights_init(m):
    if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(m.weight, 0.0, 0.08)


netG, netD = Generator(), Discriminator()
netG.apply(weights_init)
netD.apply(weights_init)
criterion = nn.BCEWithLogitsLoss()
optD = optim.Adam(netD.parameters(), lr=lr / 2, betas=(beta1, 0.999))
optG = optim.Adam(netG.parameters(), lr=lr, betas=(beta1, 0.999))
fixed_noise = torch.randn(300, nz, 1, 1)
history = []

for epoch in range(epochs):
    netG.train()
    netD.train()
    sum_d = sum_g = 0.0
    steps = 0
    perm = torch.randperm(len(train_x))
    for i in range(0, len(perm) - batch_size + 1, batch_size):
        real = train_x[perm[i:i + batch_size]]
        ones, zeros = torch.ones(len(real)), torch.zeros(len(real))

        # discriminator: real up, fake down
        fake = netG(torch.randn(len(real), nz, 1, 1))
        optD.zero_grad()
        loss_d = 0.5 * (criterion(netD(real), ones) + criterion(netD(fake.detach()), zeros))
        loss_d.backward()
        optD.step()

        # generator: fool the discriminator
        optG.zero_grad()
        loss_g = criterion(netD(fake), ones)
        loss_g.backward()
        optG.step()

        sum_d += loss_d.item()
        sum_g += loss_g.item()
        steps += 1

    netG.eval()
    netD.eval()
    with torch.no_grad():
        samples = netG(fixed_noise)
        val_d = 0.5 * (criterion(netD(val_x), torch.ones(300)) + criterion(netD(samples), torch.zeros(300))).item()
    fd = frechet(val_x, samples)
    history.append(fd)
    print(f"[{epoch + 1:2d}/{epochs}] loss_D {sum_d / steps:.3f} loss_G {sum_g / steps:.3f} val_D {val_d:.3f} frechet {fd:.2f}")

print(f"final frechet {history[-1]:.2f}, real against real {frechet(val_x, train_x[:300]):.2f}")
