"""SimCLR on the 8x8 digits: contrastive pretraining with two random views, then a linear probe."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

torch.set_num_threads(1)
torch.manual_seed(5)

BATCH = 128
PRETRAIN_EPOCHS = 12
PROBE_EPOCHS = 12
TEMPERATURE = 0.2


def get_data():
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None]
    y = torch.tensor(digits.target)
    xa, xb, ya, yb = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
    mean, std = xa.mean(), xa.std()
    return (xa - mean) / std, ya, (xb - mean) / std, yb


def augment(x):
    """Random shift by one pixel, brightness, noise: drawn for every image."""
    n = len(x)
    padded = F.pad(x, (1, 1, 1, 1), value=x.min().item())
    dx, dy = torch.randint(0, 3, (n,)), torch.randint(0, 3, (n,))
    rows = torch.arange(8)[None, :] + dy[:, None]
    cols = torch.arange(8)[None, :] + dx[:, None]
    shifted = padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], cols[:, None, :]][:, None]
    gain = 1 + 0.2 * torch.randn(n, 1, 1, 1)
    return shifted * gain + 0.2 * torch.randn_like(x)


class Encoder(nn.Module):
    def __init__(self, width=16, dim=64):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.fc = nn.Linear(2 * width * 16, dim)

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.fc(h.flatten(1)))


def nt_xent(z1, z2):
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    sim = z @ z.t() / TEMPERATURE
    sim = sim.masked_fill(torch.eye(2 * n, dtype=torch.bool), -1e9)
    partner = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(sim, partner)


x_train, y_train, x_test, y_test = get_data()
encoder = Encoder()
projector = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
params = list(encoder.parameters()) + list(projector.parameters())
opt = torch.optim.Adam(params, lr=2e-3, weight_decay=1e-5)

for epoch in range(PRETRAIN_EPOCHS):
    encoder.train()
    projector.train()
    order = torch.randperm(len(x_train))
    total, steps = 0.0, 0
    for i in range(0, len(order) - BATCH + 1, BATCH):
        xb = x_train[order[i:i + BATCH]]
        loss = nt_xent(projector(encoder(augment(xb))), projector(encoder(augment(xb))))
        opt.zero_grad()
        loss.backward()
        opt.step()
        total, steps = total + loss.item(), steps + 1
    encoder.eval()
    projector.eval()
    with torch.no_grad():
        xv = x_test[:BATCH]
        vloss = nt_xent(projector(encoder(augment(xv))), projector(encoder(augment(xv)))).item()
    print(f"pretrain {epoch + 1:2d}  nt-xent {total / steps:.4f}  held-out {vloss:.4f}")

# linear probe on frozen features
encoder.eval()
with torch.no_grad():
    f_train, f_test = encoder(x_train), encoder(x_test)
    mu, sd = f_train.mean(0), f_train.std(0) + 1e-3
    f_train, f_test = (f_train - mu) / sd, (f_test - mu) / sd
probe = nn.Linear(f_train.shape[1], 10)
probe_opt = torch.optim.SGD(probe.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
for epoch in range(PROBE_EPOCHS):
    order = torch.randperm(len(f_train))
    probe_total = 0.0
    for i in range(0, len(order), 64):
        j = order[i:i + 64]
        probe_loss = F.cross_entropy(probe(f_train[j]), y_train[j])
        probe_opt.zero_grad()
        probe_loss.backward()
        probe_opt.step()
        probe_total += probe_loss.item() * len(j)
    with torch.no_grad():
        out = probe(f_test)
        vloss = F.cross_entropy(out, y_test).item()
        acc = (out.argmax(1) == y_test).float().mean().item()
    print(f"probe {epoch + 1:2d}  train {probe_total / len(f_train):.4f}  test {vloss:.4f}  acc {acc:.3f}")
