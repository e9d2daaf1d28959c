import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import make_multilabel_classification
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler

torch.set_num_threads(1)
torch.manual_seed(0)


def get_loaders(batch_size=64):
    X, Y = make_multilabel_classification(n_samples=2400, n_features=30, n_classes=6, n_labels=2,
                                          length=80, random_state=0)
    X_train, Y_train = X[:1920], Y[:1920]
    X_val, Y_val = X[1920:], Y[1920:]
    scaler = StandardScaler().fit(X_train)
    X_train = scaler.transform(X_train)
    X_val = scaler.transform(X_val)
    train = TensorDataset(torch.tensor(X_train).float(), torch.tensor(Y_train).float())
    val = TensorDataset(torch.tensor(X_val).float(), torch.tensor(Y_val).float())
    return DataLoader(train, batch_size=batch_size, shuffle=True), DataLoader(val, batch_size=480)


class TagNet(nn.Module):
    def __init__(self, n_in=30, n_tags=6):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(n_in, 48),
            nn.BatchNorm1d(48),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(48, 48),
            nn.ReLU(),
        )
        self.tags = nn.Linear(48, n_tags)

    def forward(self, x):
        h = self.body(x)
        return self.tags(h)


def train_one_epoch(model, loader, criterion, optimizer):
    model.train()
    losses = []
    for x, y in loader:
        optimizer.zero_grad()
        out = model(x)
        loss = criterion(out, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.mean(losses)


def validate(model, loader, criterion):
    model.eval()
    losses, preds, targets = [], [], []
    with torch.no_grad():
        for x, y in loader:
            out = model(x)
            losses.append(criterion(out, y).item())
            preds.append((out > 0).int())
            targets.append(y.int())
    f1 = f1_score(torch.cat(targets).numpy(), torch.cat(preds).numpy(), average="macro", zero_division=0)
    return np.mean(losses), f1


def main():
    train_loader, val_loader = get_loaders()
    model = TagNet()
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    n_epochs = 12
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_epochs)
    for epoch in range(n_epochs):
        tr = train_one_epoch(model, train_loader, criterion, optimizer)
        va, f1 = validate(model, val_loader, criterion)
        scheduler.step()
        print(f"epoch {epoch:02d} | train {tr:.4f} | val {va:.4f} | macro-F1 {f1:.3f}")


main()
