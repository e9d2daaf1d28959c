"""Denoising autoencoder on the 8x8 digits: noisy picture in, clean picture out."""
import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)
torch.manual_seed(3)
np.random.seed(3)

BATCH_SIZE = 64
EPOCHS = 14
LR = 3e-3
NOISE = 0.3


class NoisyDigits(Dataset):
    """Returns (noisy, clean); the noise is drawn anew at every access."""

    def __init__(self, images, noise, fixed=False):
        self.images = torch.tensor(images, dtype=torch.float32).unsqueeze(1)
        self.noise = noise
        self.fixed = torch.randn(self.images.shape) if fixed else None

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        clean = self.images[i]
        eps = self.fixed[i] if self.fixed is not None else torch.randn(clean.shape)
        noisy = clean + self.noise * eps
        return (noisy - 0.3) / 0.5, clean


class Encoder(nn.Module):
    def __init__(self, code=32):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.fc = nn.Linear(32 * 2 * 2, code)

    def forward(self, x):
        h = torch.relu(self.bn1(self.conv1(x)))
        h = torch.relu(self.conv2(h))
        return self.fc(h.flatten(1))


class Decoder(nn.Module):
    def __init__(self, code=32):
        super().__init__()
        self.fc = nn.Linear(code, 32 * 2 * 2)
        self.up1 = nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1)
        self.up2 = nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1)

    def forward(self, z):
        h = torch.relu(self.fc(z)).view(-1, 32, 2, 2)
        h = torch.relu(self.up1(h))
        return self.up2(h)


images = load_digits().images / 16.0
train_images, val_images = train_test_split(images, test_size=0.2, random_state=0)
train_loader = DataLoader(NoisyDigits(train_images, NOISE), batch_size=BATCH_SIZE, shuffle=True)
val_loader = DataLoader(NoisyDigits(val_images, NOISE, fixed=True), batch_size=128)

encoder = Encoder()
decoder = Decoder()
model = nn.Sequential(encoder, decoder)
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=LR)


def evaluate():
    model.eval()
    loss_sum, sq, n = 0.0, 0.0, 0
    with torch.no_grad():
        for noisy, clean in val_loader:
            out = model(noisy)
            loss_sum += criterion(out, clean).item() * len(clean)
            sq += ((torch.sigmoid(out) - clean) ** 2).mean().item() * len(clean)
            n += len(clean)
    model.train()
    return loss_sum / n, sq / n


for epoch in range(EPOCHS):
    model.train()
    running = 0.0
    for noisy, clean in train_loader:
        optimizer.zero_grad()
        recon = model(noisy)
        loss = criterion(recon, clean)
        loss.backward()
        optimizer.step()
        running += loss.item()
    val_loss, val_mse = evaluate()
    print(f"epoch {epoch + 1:2d}  train {running / len(train_loader):.4f}  val {val_loss:.4f}  val mse {val_mse:.4f}")

print(f"noise level mse {NOISE ** 2:.4f}, after denoising {val_mse:.4f}")
