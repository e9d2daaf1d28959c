"""Which digits are on a strip of three? Multi-label classification of strips glued together from sklearn's digits."""
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)

CONFIG = dict(n_train=3000, n_val=600, width=24, hidden=64, dropout=0.2, lr=4e-3, weight_decay=1e-4, batch_size=64, epochs=8)
CELLS = 3


class Strips(Dataset):
    def __init__(self, images, digits, n, seed, augment=False):
        rng = np.random.default_rng(seed)
        picks = rng.integers(len(images), size=(n, CELLS))
        self.x = np.concatenate([images[picks[:, c]] for c in range(CELLS)], axis=2)
        counts = np.stack([(digits[picks] == d).sum(axis=1) for d in range(10)], axis=1)
        self.y = (counts > 0).astype(np.float32)
        self.augment = augment

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        x = torch.from_numpy(self.x[i]).unsqueeze(0)
        if self.augment:
            shift = int(torch.randint(-1, 2, ()))
            x = torch.roll(x, shift, dims=2) * (0.8 + 0.4 * torch.rand(()))
        return x, torch.from_numpy(self.y[i])


def load_data(cfg):
    data = load_digits()
    images = (data.images / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    tr, va = order[:1300], order[1300:]  # no digit of the validation strips is in a training strip
    train = Strips(images[tr], data.target[tr], cfg["n_train"], seed=1, augment=True)
    val = Strips(images[va], data.target[va], cfg["n_val"], seed=2)
    return train, val


class StripNet(nn.Module):
    def __init__(self, width, hidden, dropout):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Flatten(),
        )
        self.fc1 = nn.Linear(2 * width * 2 * 2 * CELLS, hidden)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, x):
        z = self.features(x)
        return self.fc2(self.drop(self.act(self.fc1(z))))


def evaluate(model, loader, criterion):
    model.eval()
    losses, logits, targets = [], [], []
    with torch.no_grad():
        for x, y in loader:
            out = model(x)
            losses.append(criterion(out, y).item() * len(x))
            logits.append(out)
            targets.append(y)
    pred, y = torch.cat(logits) > 0, torch.cat(targets).bool()
    tp = (pred & y).sum(0)
    f1 = 2 * tp / (pred.sum(0) + y.sum(0)).clamp(min=1)
    return sum(losses) / len(y), f1.mean().item()


def train_epoch(model, loader, criterion, optimizer):
    model.train()
    total = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(x)
    return total / len(loader.dataset)


def main(cfg=CONFIG):
    torch.manual_seed(0)
    train, val = load_data(cfg)
    train_loader = DataLoader(train, batch_size=cfg["batch_size"], shuffle=True)
    val_loader = DataLoader(val, batch_size=200)
    model = StripNet(cfg["width"], cfg["hidden"], cfg["dropout"])
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg["lr"], weight_decay=cfg["weight_decay"])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, cfg["epochs"])

    for epoch in range(1, cfg["epochs"] + 1):
        train_loss = train_epoch(model, train_loader, criterion, optimizer)
        val_loss, f1 = evaluate(model, val_loader, criterion)
        scheduler.step()
        print(f"epoch {epoch} train {train_loss:.4f} val {val_loss:.4f} F1 {f1:.3f}")

    rate = torch.from_numpy(val.y).mean(0)
    print(f"macro F1 {f1:.3f} (every digit on every strip: {(2 * rate / (1 + rate)).mean():.3f})")


if __name__ == "__main__":
    main()
