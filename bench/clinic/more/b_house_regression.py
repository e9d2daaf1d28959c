"""Regression on Friedman #1 with early stopping and the best weights kept in memory."""
import copy
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import make_friedman1
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(42)


def load(n_samples=1500, noise=0.7):
    X, y = make_friedman1(n_samples=n_samples, n_features=10, noise=noise, random_state=42)
    X_tr, X_va, y_tr, y_va = train_test_split(X, y, test_size=0.3, random_state=1)
    sx, sy = StandardScaler().fit(X_tr), StandardScaler().fit(y_tr.reshape(-1, 1))
    X_tr, X_va = sx.transform(X_tr), sx.transform(X_va)
    y_tr, y_va = sy.transform(y_tr.reshape(-1, 1)), sy.transform(y_va.reshape(-1, 1))
    as_tensor = partial(torch.tensor, dtype=torch.float32)
    return tuple(map(as_tensor, (X_tr, y_tr, X_va, y_va)))


def build(n_in, hidden=64, p=0.05):
    return nn.Sequential(
        nn.Linear(n_in, hidden), nn.ReLU(),
        nn.Dropout(p),
        nn.Linear(hidden, hidden), nn.ReLU(),
        nn.Linear(hidden, 1),
    )


def train_epoch(model, loader, opt, loss_fn):
    model.train()
    total = 0.0
    for xb, yb in loader:
        opt.zero_grad()
        loss = loss_fn(model(xb), yb)
        loss.backward()
        opt.step()
        total += loss.item() * xb.shape[0]
    return total / len(loader.dataset)


@torch.no_grad()
def eval_epoch(model, loader, loss_fn):
    model.eval()
    total = 0.0
    for xb, yb in loader:
        total += loss_fn(model(xb), yb).item() * xb.shape[0]
    return total / len(loader.dataset)


X_tr, y_tr, X_va, y_va = load()
train_loader = DataLoader(TensorDataset(X_tr, y_tr), batch_size=64, shuffle=True)
val_loader = DataLoader(TensorDataset(X_va, y_va), batch_size=256)

model = build(X_tr.shape[1])
loss_fn = F.mse_loss
opt = torch.optim.Adam(model.parameters(), lr=4e-3, weight_decay=1e-4)
sched = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, factor=0.5, patience=4)

best, best_state, bad_epochs, patience = float("inf"), None, 0, 10
for epoch in range(40):
    tr = train_epoch(model, train_loader, opt, loss_fn)
    va = eval_epoch(model, val_loader, loss_fn)
    sched.step(va)
    print(f"epoch {epoch:3d} | train {tr:.4f} | val {va:.4f} | lr {opt.param_groups[0]['lr']:.1e}")
    if va < best - 1e-4:
        best, bad_epochs = va, 0
        best_state = copy.deepcopy(model.state_dict())
    else:
        bad_epochs += 1
        if bad_epochs >= patience:
            print("early stop")
            break

if best_state is not None:
    model.load_state_dict(best_state)
final = eval_epoch(model, val_loader, loss_fn)
ridge = Ridge().fit(X_tr.numpy(), y_tr.numpy().ravel())
ridge_mse = ((ridge.predict(X_va.numpy()) - y_va.numpy().ravel()) ** 2).mean()
print(f"best val mse {final:.4f} (R2 {1 - final / y_va.var().item():.3f}), ridge {ridge_mse:.4f}")
