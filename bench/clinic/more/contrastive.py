"""Self-supervised features for digits: two noisy views, InfoNCE, then a nearest-neighbour probe."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)
torch.manual_seed(21)

TEMPERATURE = 0.2


class TwoViews(Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def view(self, x):
        keep = (torch.rand(x.shape) > 0.25).float()
        return x * keep + 0.3 * torch.randn(x.shape)

    def __getitem__(self, i):
        x = self.data[i]
        return self.view(x), self.view(x)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU())
        self.projector = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x):
        h = self.backbone(x)
        z = self.projector(h)
        return F.normalize(z, dim=1)


def info_nce(z1, z2):
    logits = z1 @ z2.t() / TEMPERATURE
    labels = torch.arange(len(z1))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2


def probe(model, x_train, y_train, x_val, y_val):
    knn = KNeighborsClassifier(5)
    with torch.no_grad():
        knn.fit(model.backbone(x_train).numpy(), y_train)
        return knn.score(model.backbone(x_val).numpy(), y_val)


digits = load_digits()
x = torch.tensor(digits.data, dtype=torch.float32)
x = (x - x.mean()) / x.std()
perm = torch.randperm(len(x))
train_id, val_id = perm[:1437], perm[1437:]
train_loader = DataLoader(TwoViews(x[train_id]), batch_size=96, shuffle=True, drop_last=True)
val_loader = DataLoader(TwoViews(x[val_id]), batch_size=96, drop_last=True)

model = Encoder()
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)

for epoch in range(16):
    model.train()
    train_loss = 0.0
    for v1, v2 in train_loader:
        loss = info_nce(model(v1), model(v2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        train_loss += loss.item()
    if epoch % 2 == 1:
        model.eval()
        with torch.no_grad():
            val_loss = sum(info_nce(model(a), model(b)).item() for a, b in val_loader) / len(val_loader)
        acc = probe(model, x[train_id], digits.target[train_id], x[val_id], digits.target[val_id])
        print(f"epoch {epoch + 1}: train {train_loss / len(train_loader):.4f} val {val_loss:.4f} knn {acc:.3f}")
