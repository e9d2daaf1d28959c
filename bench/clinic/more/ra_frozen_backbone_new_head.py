"""Transfer learning on the digits data: pretrain on 0-4, keep the backbone frozen, new head for 5-9."""
import os
import tempfile

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(5)


def backbone():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Flatten(),
    )


FEATS = 64 * 16


class FineTuner(nn.Module):
    """Frozen backbone + trainable linear head."""

    def __init__(self, body, n_classes):
        super().__init__()
        self.body = body
        for p in self.body.parameters():
            p.requires_grad = False
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(FEATS, n_classes))

    def train(self, mode=True):
        super().train(mode)
        self.body.eval()          # keep the BatchNorm statistics frozen too
        return self

    def forward(self, x):
        with torch.no_grad():
            f = self.body(x)
        return self.head(f)


def accuracy(model, x, y):
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def fit(model, x, y, params, lr, epochs, xv, yv, tag):
    opt = torch.optim.Adam(params, lr=lr)
    loss_fn = nn.CrossEntropyLoss()
    dl = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    for ep in range(epochs):
        model.train()
        total = 0.0
        for xb, yb in dl:
            opt.zero_grad()
            loss = loss_fn(model(xb), yb)
            loss.backward()
            opt.step()
            total += loss.item() * len(xb)
        print(f"[{tag}] epoch {ep + 1} loss {total / len(x):.4f} val acc {accuracy(model, xv, yv):.3f}")


def main():
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images / 16.0, dtype=torch.float32).view(-1, 1, 8, 8)
    labels = torch.tensor(labels)

    # ---- source task: digits 0-4
    src = labels < 5
    xs, xsv, ys, ysv = train_test_split(images[src], labels[src], test_size=0.2, stratify=labels[src], random_state=0)
    body = backbone()
    source_model = nn.Sequential(body, nn.Linear(FEATS, 5))
    fit(source_model, xs, ys, source_model.parameters(), 1e-3, 5, xsv, ysv, "pretrain 0-4")
    ckpt = os.path.join(tempfile.mkdtemp(), "backbone.pt")
    torch.save(body.state_dict(), ckpt)

    # ---- target task: digits 5-9 -> classes 0..4
    x, y = images[~src], labels[~src] - 5
    xtr, xte, ytr, yte = train_test_split(x, y, test_size=0.3, stratify=y, random_state=0)
    xtr, xv, ytr, yv = train_test_split(xtr, ytr, test_size=0.15, stratify=ytr, random_state=0)
    pretrained = backbone()
    pretrained.load_state_dict(torch.load(ckpt, weights_only=True))
    model = FineTuner(pretrained, 5)
    n_train = sum(p.numel() for p in model.parameters() if p.requires_grad)
    n_all = sum(p.numel() for p in model.parameters())
    print(f"trainable parameters: {n_train} of {n_all}")
    fit(model, xtr, ytr, model.head.parameters(), 1e-3, 15, xv, yv, "head 5-9")

    base = (yte == ytr.mode().values).float().mean().item()
    print(f"test accuracy on 5-9: {accuracy(model, xte, yte):.4f} (majority {base:.4f})")


if __name__ == "__main__":
    main()
