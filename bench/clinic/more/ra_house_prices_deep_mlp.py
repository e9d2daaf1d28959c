# %% [markdown]
# # House prices, deep MLP
# Synthetic county of houses (California-housing-like columns). Predict log price.

# %%
import copy
import math
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

np.random.seed(7)
torch.manual_seed(7)

# %%
n = 7000
income = np.random.lognormal(mean=1.25, sigma=0.45, size=n)            # tens of k$
age = np.clip(np.random.gamma(4.0, 7.0, size=n), 1, 90)                # years
rooms = 3.0 + 0.6 * income + np.random.gamma(2.0, 0.7, size=n)
bedrooms = 0.22 * rooms + np.random.normal(0, 0.15, size=n)
population = np.random.lognormal(7.0, 0.7, size=n)
occupancy = 1.8 + np.random.gamma(3.0, 0.4, size=n)
lat = np.random.uniform(32.5, 42.0, size=n)
lon = -124.0 + (42.0 - lat) * 0.7 + np.random.exponential(1.5, size=n)

d_coast = lon - (-124.0 + (42.0 - lat) * 0.7)
city_a = np.exp(-((lat - 37.7) ** 2) / 3.0)
city_b = np.exp(-((lat - 34.0) ** 2) / 2.0)
log_price = (
    11.2
    + 0.75 * np.log(income)
    + 1.1 * city_a * np.exp(-d_coast / 2.5)
    + 1.0 * city_b * np.exp(-d_coast / 3.0)
    - 0.05 * d_coast
    - 0.35 * np.sin(age / 90 * math.pi)
    - 0.25 * np.maximum(occupancy - 3.0, 0)
    + 0.05 * (rooms - bedrooms * 3)
    + np.random.normal(0, 0.12, size=n)
)

X = np.column_stack([np.log(income), age, rooms, bedrooms, np.log(population), occupancy, lat, lon])
y = log_price
print("rows, columns:", X.shape)

# %%
# split, then z-score everything with the training statistics
perm = np.random.permutation(n)
tr, va, te = perm[:5000], perm[5000:6000], perm[6000:]
mu, sd = X[tr].mean(0), X[tr].std(0)
y_mu, y_sd = y[tr].mean(), y[tr].std()

def tensors(idx):
    xs = torch.tensor((X[idx] - mu) / sd, dtype=torch.float32)
    ys = torch.tensor((y[idx] - y_mu) / y_sd, dtype=torch.float32).unsqueeze(1)
    return xs, ys

Xtr, ytr = tensors(tr)
Xva, yva = tensors(va)
Xte, yte = tensors(te)
loader = DataLoader(TensorDataset(Xtr, ytr), batch_size=128, shuffle=True)

# %%
layers = []
width_in = X.shape[1]
for _ in range(8):
    lin = nn.Linear(width_in, 64)
    nn.init.kaiming_normal_(lin.weight, nonlinearity="relu")
    nn.init.zeros_(lin.bias)
    layers += [lin, nn.ReLU()]
    width_in = 64
layers.append(nn.Linear(64, 1))
net = nn.Sequential(*layers)
opt = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
epochs = 14
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=epochs)
loss_fn = nn.MSELoss()

# %%
best, best_state = float("inf"), None
for epoch in range(epochs):
    net.train()
    total = 0.0
    for xb, yb in loader:
        opt.zero_grad()
        loss = loss_fn(net(xb), yb)
        loss.backward()
        opt.step()
        total += loss.item() * len(xb)
    sched.step()

    net.eval()
    with torch.no_grad():
        val = loss_fn(net(Xva), yva).item()
    if val < best:
        best, best_state = val, copy.deepcopy(net.state_dict())
    print(f"epoch {epoch + 1:2d}  train mse {total / len(Xtr):.4f}  val mse {val:.4f}")

# %%
net.load_state_dict(best_state)
net.eval()
with torch.no_grad():
    mse = loss_fn(net(Xte), yte).item()
base = ((yte - ytr.mean()) ** 2).mean().item()
A = np.c_[Xtr.numpy(), np.ones(len(Xtr))]
w = np.linalg.lstsq(A, ytr.numpy(), rcond=None)[0]
lin_mse = float(((np.c_[Xte.numpy(), np.ones(len(Xte))] @ w - yte.numpy()) ** 2).mean())
print(f"TEST R2 {1 - mse / base:.3f}   (mean predictor 0.000, linear regression {1 - lin_mse / base:.3f})")
