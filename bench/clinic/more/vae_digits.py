import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

torch.set_num_threads(1)
torch.manual_seed(5)

SIGMA = 0.2  # standard deviation of a pixel given the latent code

# ---------------------------------------------------------------- data
images = load_digits().data.astype("float32") / 16.0
x_train, x_test = train_test_split(images, test_size=0.2, random_state=5)
x_train, x_test = torch.tensor(x_train), torch.tensor(x_test)


# ---------------------------------------------------------------- model
class Encoder(nn.Module):
    def __init__(self, latent=6):
        super().__init__()
        self.fc1 = nn.Linear(64, 96)
        self.fc2 = nn.Linear(96, 48)
        self.mu = nn.Linear(48, latent)
        self.logvar = nn.Linear(48, latent)

    def forward(self, x):
        h = F.relu(self.fc1(x - 0.3))
        h = F.relu(self.fc2(h))
        return self.mu(h), self.logvar(h)


class Decoder(nn.Module):
    def __init__(self, latent=6):
        super().__init__()
        self.fc1 = nn.Linear(latent, 48)
        self.fc2 = nn.Linear(48, 96)
        self.out = nn.Linear(96, 64)

    def forward(self, z):
        h = F.relu(self.fc1(z))
        h = F.relu(self.fc2(h))
        return torch.sigmoid(self.out(h))


def sample(mu, logvar):
    std = torch.exp(0.5 * logvar)
    return mu + std * torch.randn_like(std)


def recon_loss(out, x):
    return 0.5 * ((out - x) / SIGMA).pow(2).sum(dim=1).mean()  # Gaussian log-likelihood, up to a constant


def kl_loss(mu, logvar):
    return -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(dim=1).mean()


# ---------------------------------------------------------------- training
encoder, decoder = Encoder(), Decoder()
params = list(encoder.parameters()) + list(decoder.parameters())
optimizer = torch.optim.Adam(params, lr=3e-3)
epochs = 24
batch_size = 64
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, eta_min=2e-4)

for epoch in range(1, epochs + 1):
    encoder.train()
    decoder.train()
    perm = torch.randperm(len(x_train))
    total, batches = 0.0, 0
    for i in range(0, len(x_train), batch_size):
        x = x_train[perm[i:i + batch_size]]
        mu, logvar = encoder(x)
        z = sample(mu, logvar)
        out = decoder(z)
        recon, kl = recon_loss(out, x), kl_loss(mu, logvar)
        loss = recon + kl  # negative ELBO
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        batches += 1
    scheduler.step()

    encoder.eval()
    decoder.eval()
    with torch.no_grad():
        mu, logvar = encoder(x_test)
        out = decoder(sample(mu, logvar))
        test_recon, test_kl = recon_loss(out, x_test), kl_loss(mu, logvar)
        test_loss = test_recon + test_kl
    if epoch % 2 == 0:
        print(f"epoch {epoch:2d} | train {total / batches:.3f} | test {test_loss.item():.3f} "
              f"(recon {test_recon.item():.3f}, kl {test_kl.item():.3f})")
