"""Transfer: a small convnet learns digits 0-4, is frozen, and a new head learns 5-9 from 20 pictures per class."""
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)


class Backbone(nn.Module):
    def __init__(self, width=24):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.dim = 8 * width
        self.frozen = False

    def freeze(self):
        self.requires_grad_(False)
        self.frozen = True
        return self.eval()

    def train(self, mode=True):          # a frozen backbone keeps its running statistics
        return super().train(mode and not self.frozen)

    def forward(self, x):
        return self.net(x)


class Classifier(nn.Module):
    def __init__(self, backbone, n_classes):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.dim, n_classes)

    def forward(self, x):
        return self.head(self.backbone(x))


def fit(model, loader, epochs, lr, weight_decay):
    params = [p for p in model.parameters() if p.requires_grad]
    print(f"training {sum(p.numel() for p in params)} of {sum(p.numel() for p in model.parameters())} parameters")
    opt = torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay)
    ce = nn.CrossEntropyLoss()
    for epoch in range(epochs):
        model.train()
        total = 0
        for xb, yb in loader:
            opt.zero_grad()
            loss = ce(model(xb), yb)
            loss.backward()
            opt.step()
            total += loss.item()
    print(f"   final train loss {total / len(loader):.4f}")
    return model


@torch.no_grad()
def accuracy(model, x, y):
    model.eval()
    return (model(x).argmax(1) == y).float().mean().item()


def main():
    torch.manual_seed(5)
    d = load_digits()
    x = torch.tensor(d.images, dtype=torch.float32).unsqueeze(1).div(16).sub(0.3).div(0.375)
    y = torch.tensor(d.target)
    low = y < 5
    xs, xsv, ys, ysv = train_test_split(x[low], y[low], test_size=0.2, random_state=0, stratify=y[low])
    xt, xtv, yt, ytv = train_test_split(x[~low], y[~low] - 5, train_size=100, random_state=0, stratify=y[~low])

    source = Classifier(Backbone(), 5)
    fit(source, DataLoader(TensorDataset(xs, ys), 64, shuffle=True), epochs=12, lr=2e-3, weight_decay=1e-2)
    print(f"source digits 0-4, held out: {accuracy(source, xsv, ysv):.3f}")

    target = Classifier(source.backbone.freeze(), 5)
    before = target.backbone.net[1].running_mean.clone()
    fit(target, DataLoader(TensorDataset(xt, yt), 25, shuffle=True), epochs=60, lr=3e-3, weight_decay=0.05)
    assert torch.equal(before, target.backbone.net[1].running_mean)
    pix = LogisticRegression(max_iter=1000, C=0.1).fit(xt.flatten(1), yt)
    print(f"target digits 5-9, {len(ytv)} held out: frozen features {accuracy(target, xtv, ytv):.3f}"
          f"   logistic regression on pixels {pix.score(xtv.flatten(1), ytv):.3f}")


main()
