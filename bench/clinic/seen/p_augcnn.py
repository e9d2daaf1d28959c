import random
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset


def seed_everything(s=2024):
    random.seed(s)
    np.random.seed(s)
    torch.manual_seed(s)


class DigitImages(Dataset):
    def __init__(self, images, labels):
        self.images = torch.tensor(images / 16.0, dtype=torch.float32).unsqueeze(1)
        self.labels = torch.tensor(labels)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.images[i], self.labels[i]


def augment(x):
    """Random affine (rotation, zoom, shift), then random erasing and pixel noise, per image."""
    n = x.shape[0]
    ang = (torch.rand(n) - 0.5) * 0.7
    zoom = 1 + (torch.rand(n) - 0.5) * 0.4
    shift = (torch.rand(n, 2) - 0.5) * 0.4
    cos, sin = torch.cos(ang) * zoom, torch.sin(ang) * zoom
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    x = F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False)
    top, left = torch.randint(0, 6, (n,)), torch.randint(0, 6, (n,))
    r = torch.arange(8)
    rows = (r[None] >= top[:, None]) & (r[None] < top[:, None] + 3)
    cols = (r[None] >= left[:, None]) & (r[None] < left[:, None] + 3)
    hole = rows[:, :, None] & cols[:, None, :] & (torch.rand(n) < 0.5)[:, None, None]
    x = x.masked_fill(hole[:, None], 0.0)
    return (x + 0.08 * torch.randn_like(x)).clamp(0, 1)


class SmallNet(nn.Module):
    def __init__(self):
        super().__init__()
        def block(i, o):
            return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
        self.features = nn.Sequential(block(1, 12), block(12, 24), nn.MaxPool2d(2), block(24, 40))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(40 * 16, 10))

    def forward(self, x):
        return self.classifier(self.features(x - 0.3))


class EarlyStopping:
    def __init__(self, patience):
        self.patience, self.best, self.wait, self.state, self.epoch = patience, float("inf"), 0, None, -1

    def update(self, value, model, epoch):
        if value < self.best:
            self.best, self.wait, self.epoch = value, 0, epoch
            self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        else:
            self.wait += 1
        return self.wait >= self.patience


@torch.no_grad()
def test_on(model, ds):
    model.eval()
    out = model(ds.images)
    return F.cross_entropy(out, ds.labels).item(), (out.argmax(1) == ds.labels).float().mean().item()


def run():
    torch.set_num_threads(1)
    seed_everything()
    X, y = load_digits(return_X_y=True)
    X = X.reshape(-1, 8, 8)
    Xtr, Xte, ytr, yte = train_test_split(X, y, test_size=400, stratify=y, random_state=0)
    Xtr, Xva, ytr, yva = train_test_split(Xtr, ytr, test_size=300, stratify=ytr, random_state=0)
    tr, va, te = DigitImages(Xtr, ytr), DigitImages(Xva, yva), DigitImages(Xte, yte)
    loader = DataLoader(tr, batch_size=64, shuffle=True, drop_last=True)
    model = SmallNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.4, patience=2)
    stopper = EarlyStopping(patience=5)
    for epoch in range(25):
        model.train()
        losses = []
        for img, lab in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(augment(img)), lab)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        val_loss, val_acc = test_on(model, va)
        plateau.step(val_loss)
        print(f"epoch {epoch:2d} | train (augmented) {np.mean(losses):.3f} | val {val_loss:.3f} {val_acc:.3f} | lr {optimizer.param_groups[0]['lr']:.4f}")
        if stopper.update(val_loss, model, epoch):
            break
    model.load_state_dict(stopper.state)
    knn = KNeighborsClassifier(3).fit(Xtr.reshape(len(Xtr), -1) / 16, ytr)
    print(f"restored epoch {stopper.epoch}: test loss {test_on(model, te)[0]:.3f} acc {test_on(model, te)[1]:.3f}"
          f"  (3 nearest neighbours {knn.score(Xte.reshape(len(Xte), -1) / 16, yte):.3f})")


run()
