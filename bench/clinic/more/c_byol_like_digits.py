# Self-supervised digits: an online network predicts what a slowly moving target network says about
# another view of the same image. Quality is read off with a k-NN probe on frozen features.
import copy

import torch
from torch import nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(3)

cfg = dict(epochs=12, batch=96, lr=2e-3, tau=0.95, wd=1e-4)

X, y = load_digits(return_X_y=True)
X = (X / 16.0 - 0.305) / 0.376
Xtr, Xva, ytr, yva = train_test_split(X, y, test_size=0.2, random_state=0, stratify=y)
Xtr = torch.tensor(Xtr, dtype=torch.float32)
Xva = torch.tensor(Xva, dtype=torch.float32)
loader = DataLoader(TensorDataset(Xtr), batch_size=cfg["batch"], shuffle=True, drop_last=True)


def augment(x):
    """one-pixel shifts, random erasing and a bit of noise"""
    img = x.view(-1, 8, 8)
    moved = torch.stack([torch.roll(img, (dx, dy), dims=(1, 2)) for dx in (-1, 0, 1) for dy in (-1, 0, 1)])
    img = moved[torch.randint(0, 9, (len(x),)), torch.arange(len(x))]
    keep = (torch.rand_like(img) > 0.1).float()
    img = img * keep + 0.1 * torch.randn_like(img)
    return img.reshape(len(x), 64)


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(),
            nn.Linear(128, 64), nn.ReLU(),
        )
        self.projector = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x):
        return self.projector(self.encoder(x))


def regression_loss(p, z):
    p = F.normalize(p, dim=1)
    z = F.normalize(z, dim=1)
    return (2 - 2 * (p * z).sum(dim=1)).mean()


online = Branch()
predictor = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
target = copy.deepcopy(online)
for w in target.parameters():
    w.requires_grad = False

params = list(online.parameters()) + list(predictor.parameters())
opt = torch.optim.AdamW(params, lr=cfg["lr"], weight_decay=cfg["wd"])


def byol_loss(x):
    a, b = augment(x), augment(x)
    with torch.no_grad():
        za, zb = target(a), target(b)
    return 0.5 * (regression_loss(predictor(online(a)), zb) + regression_loss(predictor(online(b)), za))


@torch.no_grad()
def update_target(tau):
    for w, v in zip(target.parameters(), online.parameters()):
        w.mul_(tau).add_(v, alpha=1 - tau)
    for w, v in zip(target.buffers(), online.buffers()):
        w.copy_(v)


@torch.no_grad()
def evaluate():
    online.eval(), predictor.eval(), target.eval()
    val = byol_loss(Xva).item()
    knn = KNeighborsClassifier(5).fit(online.encoder(Xtr).numpy(), ytr)
    acc = knn.score(online.encoder(Xva).numpy(), yva)
    online.train(), predictor.train(), target.train()
    return val, acc


for epoch in range(1, cfg["epochs"] + 1):
    running, n = 0.0, 0
    for (x,) in loader:
        loss = byol_loss(x)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        update_target(cfg["tau"])
        running += loss.item()
        n += 1
    val, acc = evaluate()
    print(f"[{epoch:02d}] train {running / n:.4f}   val {val:.4f}   knn {acc:.3f}")
