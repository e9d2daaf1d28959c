"""Convolutional variational autoencoder on the 8x8 digits, then a linear probe on its frozen latent codes."""
from typing import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

LATENT = 16
Split = tuple[Tensor, Tensor]


def load_splits(seed: int = 0) -> tuple[Split, Split]:
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    tr_x, va_x, tr_y, va_y = train_test_split(images, labels, test_size=0.3, stratify=labels, random_state=seed)
    return (torch.from_numpy(tr_x), torch.from_numpy(tr_y)), (torch.from_numpy(va_x), torch.from_numpy(va_y))


def minibatches(*tensors: Tensor, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
    for rows in torch.randperm(len(tensors[0]), generator=generator).split(size):
        yield tuple(t[rows] for t in tensors)


class Encoder(nn.Module):
    def __init__(self, latent: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Flatten(), nn.Linear(16 * 4 * 4, 64), nn.ReLU())
        self.mu = nn.Linear(64, latent)
        self.log_var = nn.Linear(64, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.mu(h), self.log_var(h)


class Decoder(nn.Module):
    def __init__(self, latent: int) -> None:
        super().__init__()
        self.fc = nn.Linear(latent, 16 * 4 * 4)
        self.up = nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1)
        self.out = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = F.relu(self.fc(z)).view(-1, 16, 4, 4)
        return self.out(F.relu(self.up(h)))


class VAE(nn.Module):
    def __init__(self, latent: int = LATENT) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(latent), Decoder(latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_var = self.encoder(x)
        z = mu + torch.randn_like(mu) * (0.5 * log_var).exp() if self.training else mu
        return self.decoder(z), mu, log_var


def elbo_loss(recon: Tensor, x: Tensor, mu: Tensor, log_var: Tensor, beta: float = 0.05) -> Tensor:
    pixels = F.binary_cross_entropy_with_logits(recon, x, reduction="sum") / len(x)
    kl = -0.5 * (1 + log_var - mu.pow(2) - log_var.exp()).sum(dim=1).mean()
    return pixels + beta * kl


def validate_vae(vae: VAE, x: Tensor) -> float:
    vae.eval()
    with torch.no_grad():
        recon, mu, log_var = vae(x)
        return elbo_loss(recon, x, mu, log_var).item()


def train_vae(train: Split, valid: Split, epochs: int = 12, lr: float = 6e-3) -> VAE:
    vae = VAE()
    opt = torch.optim.Adam(vae.parameters(), lr=lr)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=epochs)
    gen = torch.Generator().manual_seed(0)
    for epoch in range(1, epochs + 1):
        vae.train()
        history = []
        for (x,) in minibatches(train[0], size=48, generator=gen):
            recon, mu, log_var = vae(x)
            loss = elbo_loss(recon, x, mu, log_var)
            opt.zero_grad()
            loss.backward()
            opt.step()
            history.append(loss.item())
        sched.step()
        print(f"vae epoch {epoch:2d}: train {np.mean(history):.3f}, valid {validate_vae(vae, valid[0]):.3f}")
    return vae


def encode(vae: VAE, x: Tensor) -> Tensor:
    vae.eval()
    with torch.no_grad():
        return vae.encoder(x)[0]


def train_probe(codes: Tensor, y: Tensor, val_codes: Tensor, val_y: Tensor, epochs: int = 12) -> float:
    probe = nn.Linear(LATENT, 10)
    opt = torch.optim.Adam(probe.parameters(), lr=3e-2)
    gen = torch.Generator().manual_seed(1)
    for epoch in range(1, epochs + 1):
        for z, target in minibatches(codes, y, size=64, generator=gen):
            opt.zero_grad()
            F.cross_entropy(probe(z), target).backward()
            opt.step()
        with torch.no_grad():
            scores = probe(val_codes)
        val_loss, accuracy = F.cross_entropy(scores, val_y).item(), (scores.argmax(1) == val_y).float().mean().item()
        if epoch % 3 == 0:
            print(f"probe epoch {epoch:2d}: valid loss {val_loss:.3f}, accuracy {accuracy:.3f}")
    return accuracy


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train, valid = load_splits()
    vae = train_vae(train, valid)
    accuracy = train_probe(encode(vae, train[0]), train[1], encode(vae, valid[0]), valid[1])
    print(f"linear probe on {LATENT} latent dimensions: {accuracy:.1%}")


if __name__ == "__main__":
    main()
