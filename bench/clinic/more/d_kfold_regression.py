"""4-fold cross-validation of an MLP regressor (Friedman #1), with early stopping inside every fold."""
import copy

import numpy as np
import torch
from sklearn.datasets import make_friedman1
from sklearn.model_selection import KFold, train_test_split
from torch import nn

torch.set_num_threads(1)

CONFIG = dict(folds=4, hidden=48, dropout=0.05, lr=4e-3, weight_decay=1e-4, batch_size=32, max_epochs=45, patience=8)


def load_data(seed=0):
    X, y = make_friedman1(n_samples=560, n_features=8, noise=0.5, random_state=seed)
    return X.astype(np.float32), y.astype(np.float32)


class MLP(nn.Module):
    def __init__(self, n_in, hidden, dropout):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(n_in, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )

    def forward(self, x):
        return self.net(x).squeeze(-1)


def predict(model, x):
    model.eval()
    with torch.no_grad():
        return model(x)


def mse(pred, target):
    return ((pred - target) ** 2).mean()


def run_epoch(model, optimizer, x, y, batch_size):
    model.train()
    order = torch.randperm(len(x))
    total = 0.0
    for idx in order.split(batch_size):
        xb, yb = x[idx], y[idx]
        optimizer.zero_grad()
        loss = mse(model(xb), yb)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(idx)
    return total / len(x)


def fit_fold(model, optimizer, train, val, cfg, fold):
    best, best_state, wait = float("inf"), None, 0
    for epoch in range(1, cfg["max_epochs"] + 1):
        train_loss = run_epoch(model, optimizer, *train, cfg["batch_size"])
        val_loss = mse(predict(model, val[0]), val[1]).item()
        if epoch % 5 == 1:
            print(f"  fold {fold} epoch {epoch:3d} train {train_loss:.4f} val {val_loss:.4f}")
        if val_loss < best:
            best, best_state, wait = val_loss, copy.deepcopy(model.state_dict()), 0
        else:
            wait += 1
            if wait >= cfg["patience"]:
                print(f"  fold {fold} stopped at epoch {epoch}")
                break
    if best_state is not None:
        model.load_state_dict(best_state)
    return model


def make_model(n_in, cfg):
    model = MLP(n_in, cfg["hidden"], cfg["dropout"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg["lr"], weight_decay=cfg["weight_decay"])
    return model, optimizer


def cross_validate(cfg=CONFIG):
    X, y = load_data()
    scores = []
    splitter = KFold(cfg["folds"], shuffle=True, random_state=0)
    for fold, (tr, te) in enumerate(splitter.split(X), start=1):
        torch.manual_seed(fold)
        tr, va = train_test_split(tr, test_size=0.15, random_state=fold)  # va decides when to stop, te is only scored
        mean, std = X[tr].mean(0), X[tr].std(0)
        y_mean, y_std = y[tr].mean(), y[tr].std()
        as_x = lambda i: torch.from_numpy((X[i] - mean) / std)
        as_y = lambda i: torch.from_numpy((y[i] - y_mean) / y_std)
        train, val, test = [(as_x(i), as_y(i)) for i in (tr, va, te)]
        model, optimizer = make_model(X.shape[1], cfg)
        fit_fold(model, optimizer, train, val, cfg, fold)
        r2 = 1 - mse(predict(model, test[0]), test[1]) / test[1].var(unbiased=False)
        scores.append(r2.item())
        print(f"fold {fold}: R2 {scores[-1]:.3f}")
    print(f"R2 = {np.mean(scores):.3f} +- {np.std(scores):.3f}")


if __name__ == "__main__":
    cross_validate()
