import copy

import torch
from sklearn.datasets import make_friedman1
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class EarlyStopping:
    def __init__(self, patience):
        self.patience = patience
        self.best = float("inf")
        self.best_state = None
        self.best_epoch = None
        self.bad_epochs = 0

    def step(self, val_loss, model, epoch):
        """returns True when it is time to stop"""
        if val_loss < self.best:
            self.best = val_loss
            self.best_epoch = epoch
            self.best_state = copy.deepcopy(model.state_dict())
            self.bad_epochs = 0
        else:
            self.bad_epochs += 1
        return self.bad_epochs >= self.patience

    def restore(self, model):
        model.load_state_dict(self.best_state)


class Regressor(nn.Module):
    def __init__(self, n_in, hidden=48):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(n_in, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, x):
        return self.body(x).squeeze(-1)


def mse_on(model, ds):
    model.eval()
    with torch.no_grad():
        x, y = ds.tensors
        return nn.functional.mse_loss(model(x), y).item()


torch.manual_seed(123)

# y = 10 sin(pi x1 x2) + 20 (x3 - 0.5)^2 + 10 x4 + 5 x5 + noise; x6..x10 play no part
X, y = make_friedman1(n_samples=4000, n_features=10, noise=1.0, random_state=123)
X_tr, X_te, y_tr, y_te = train_test_split(X, y, test_size=0.25, random_state=123)
X_tr, X_va, y_tr, y_va = train_test_split(X_tr, y_tr, test_size=0.2, random_state=123)

xs = StandardScaler().fit(X_tr)
ys = StandardScaler().fit(y_tr[:, None])


def as_dataset(X, y):
    return TensorDataset(
        torch.tensor(xs.transform(X), dtype=torch.float32),
        torch.tensor(ys.transform(y[:, None])[:, 0], dtype=torch.float32),
    )


train_ds, val_ds, test_ds = as_dataset(X_tr, y_tr), as_dataset(X_va, y_va), as_dataset(X_te, y_te)
train_dl = DataLoader(train_ds, batch_size=96, shuffle=True)

model = Regressor(X.shape[1])
opt = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=5e-2)
sched = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, factor=0.3, patience=2)
stopper = EarlyStopping(patience=7)
loss_fn = nn.MSELoss()

for epoch in range(1, 31):
    model.train()
    train_loss = 0.0
    for xb, yb in train_dl:
        opt.zero_grad()
        loss = loss_fn(model(xb), yb)
        loss.backward()
        opt.step()
        train_loss += loss.item() * len(xb) / len(train_ds)
    val_loss = mse_on(model, val_ds)
    sched.step(val_loss)
    print(f"{epoch:3d} train {train_loss:.4f} val {val_loss:.4f} lr {opt.param_groups[0]['lr']:.1e}")
    if stopper.step(val_loss, model, epoch):
        print(f"stopping, best epoch was {stopper.best_epoch}")
        break

stopper.restore(model)
test_mse = mse_on(model, test_ds)
y_test = test_ds.tensors[1]
var = (y_test - y_test.mean()).pow(2).mean().item()
print(f"test R2 {1 - test_mse / var:.4f}; RMSE {test_mse ** 0.5 * ys.scale_[0]:.3f}, "
      f"predicting the training mean {y_test.pow(2).mean().sqrt().item() * ys.scale_[0]:.3f}, noise 1.0")
