"""Classify small 3-D point clouds (sphere, cube, torus, plane) with a PointNet-style set network."""
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)
torch.manual_seed(7)
np.random.seed(7)

SHAPES = ["sphere", "cube", "torus", "plane"]
N_POINTS = 48


def random_rotation(rng):
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    return q * np.sign(np.diag(r))


def make_cloud(shape, rng):
    n = N_POINTS
    if shape == "sphere":
        p = rng.standard_normal((n, 3))
        p /= np.linalg.norm(p, axis=1, keepdims=True)
    elif shape == "cube":
        p = rng.uniform(-1, 1, (n, 3))
        face = rng.integers(0, 3, n)
        p[np.arange(n), face] = np.sign(p[np.arange(n), face])
    elif shape == "torus":
        u, v = rng.uniform(0, 2 * np.pi, (2, n))
        p = np.stack([(1 + 0.4 * np.cos(v)) * np.cos(u), (1 + 0.4 * np.cos(v)) * np.sin(u), 0.4 * np.sin(v)], 1)
    else:
        p = np.concatenate([rng.uniform(-1, 1, (n, 2)), np.zeros((n, 1))], 1)
    p = p @ random_rotation(rng).T
    p = p + 0.02 * rng.standard_normal(p.shape)
    return p * rng.uniform(0.5, 2.0)


class PointClouds(Dataset):
    def __init__(self, n_per_class, seed, jitter=0.0):
        rng = np.random.default_rng(seed)
        clouds, labels = [], []
        for k, shape in enumerate(SHAPES):
            for _ in range(n_per_class):
                p = make_cloud(shape, rng)
                p = p - p.mean(0)
                p = p / p.std()
                clouds.append(p)
                labels.append(k)
        self.points = np.stack(clouds).astype(np.float32)
        self.labels = np.array(labels, dtype=np.int64)
        self.jitter = jitter

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        p = self.points[i]
        if self.jitter > 0:
            p = p + self.jitter * np.random.randn(*p.shape).astype(np.float32)
        return torch.from_numpy(p), int(self.labels[i])


class PointNet(nn.Module):
    def __init__(self, width=48, n_classes=4, drop=0.2):
        super().__init__()
        self.phi = nn.Sequential(
            nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, width),
        )
        self.norm = nn.LayerNorm(2 * width)
        self.rho = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Dropout(drop), nn.Linear(width, n_classes))

    def forward(self, x):
        b, n, _ = x.shape
        h = self.phi(x.reshape(b * n, 3)).reshape(b, n, -1)
        h = torch.cat([h.max(dim=1).values, h.mean(dim=1)], dim=1)
        return self.rho(self.norm(h))


class Trainer:
    def __init__(self, model, train_loader, val_loader, epochs=18, max_lr=6e-3):
        self.model = model
        self.train_loader = train_loader
        self.val_loader = val_loader
        self.epochs = epochs
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=max_lr / 10, weight_decay=1e-3)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=max_lr, total_steps=epochs * len(train_loader), pct_start=0.25)
        self.history = []

    def train_epoch(self):
        self.model.train()
        for points, labels in self.train_loader:
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(points), labels)
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            self.history.append(loss.item())
        return float(np.mean([float(v) for v in self.history[-len(self.train_loader):]]))

    @torch.no_grad()
    def evaluate(self):
        self.model.eval()
        total, correct, n = 0.0, 0, 0
        for points, labels in self.val_loader:
            logits = self.model(points)
            total += self.criterion(logits, labels).item() * len(labels)
            correct += (logits.argmax(1) == labels).sum().item()
            n += len(labels)
        return total / n, correct / n

    def fit(self):
        for epoch in range(1, self.epochs + 1):
            train_loss = self.train_epoch()
            val_loss, val_acc = self.evaluate()
            print(f"epoch {epoch:2d}  train {train_loss:.4f}  val {val_loss:.4f}  acc {val_acc:.3f}")


if __name__ == "__main__":
    train_set = PointClouds(160, seed=0, jitter=0.03)
    val_set = PointClouds(50, seed=1)
    train_loader = DataLoader(train_set, batch_size=32, shuffle=True, drop_last=True)
    val_loader = DataLoader(val_set, batch_size=100)
    model = PointNet()
    trainer = Trainer(model, train_loader, val_loader)
    trainer.fit()
