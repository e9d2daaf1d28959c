"""House-price style regression: DataFrame -> one-hot + standard scaling -> MLP with L1 loss."""
import numpy as np
import pandas as pd
import torch
import torch.nn as nn
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

torch.set_num_threads(1)
SEED = 2024
rng = np.random.default_rng(SEED)
torch.manual_seed(SEED)

# ---------------------------------------------------------------- data
n = 2400
df = pd.DataFrame({
    "area": rng.gamma(8, 13, n),
    "rooms": rng.integers(1, 7, n),
    "age": rng.integers(0, 90, n),
    "dist_km": rng.exponential(6, n),
    "city": rng.choice(["Lyon", "Nice", "Lille", "Brest", "Metz"], n, p=[.3, .25, .2, .15, .1]),
    "heating": rng.choice(["gas", "electric", "wood"], n),
    "garage": rng.choice(["yes", "no"], n),
})
level = df.city.map({"Lyon": 3.9, "Nice": 4.6, "Lille": 3.0, "Brest": 2.5, "Metz": 2.3})
df["price"] = (df.area * level * (1 - 0.35 * np.sin(df.age / 90 * np.pi)) * np.exp(-df.dist_km / 40)
               + 9 * df.rooms + 14 * (df.garage == "yes") - 12 * (df.heating == "electric")
               + rng.laplace(0, 18, n)).round(1)

num_cols = ["area", "rooms", "age", "dist_km"]
cat_cols = ["city", "heating", "garage"]
X = pd.get_dummies(df[num_cols + cat_cols], columns=cat_cols, dtype=float)
y = df["price"]
X_tmp, X_test, y_tmp, y_test = train_test_split(X, y, test_size=0.2, random_state=SEED)
X_train, X_val, y_train, y_val = train_test_split(X_tmp, y_tmp, test_size=0.2, random_state=SEED)

scaler = StandardScaler().fit(X_train[num_cols])
for part in (X_train, X_val, X_test):
    part[num_cols] = scaler.transform(part[num_cols])
y_mean, y_std = y_train.mean(), y_train.std()

as_x = lambda f: torch.tensor(f.to_numpy(), dtype=torch.float32)
as_y = lambda s: torch.tensor(((s - y_mean) / y_std).to_numpy(), dtype=torch.float32).unsqueeze(1)
Xtr, Xva, Xte = as_x(X_train), as_x(X_val), as_x(X_test)
ytr, yva, yte = as_y(y_train), as_y(y_val), as_y(y_test)

# ---------------------------------------------------------------- model
model = nn.Sequential(
    nn.Linear(Xtr.shape[1], 32), nn.LeakyReLU(0.1),
    nn.Linear(32, 16), nn.LeakyReLU(0.1),
    nn.Linear(16, 1),
)
mae = nn.L1Loss()
opt = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
epochs, bs = 22, 64
sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=8e-3, total_steps=epochs * -(-len(Xtr) // bs))

logs = []
for epoch in range(epochs):
    model.train()
    order = torch.randperm(len(Xtr))
    total = 0.0
    for chunk in order.split(bs):
        opt.zero_grad(set_to_none=True)
        loss = mae(model(Xtr[chunk]), ytr[chunk])
        loss.backward()
        opt.step()
        sched.step()
        total += loss.item() * len(chunk)
    model.eval()
    with torch.no_grad():
        val = mae(model(Xva), yva).item()
    logs.append({"epoch": epoch, "train_mae": total / len(Xtr) * y_std, "val_mae": val * y_std})

print(pd.DataFrame(logs).iloc[::4].round(2).to_string(index=False))
with torch.no_grad():
    net_mae = (model(Xte) * y_std + y_mean - torch.tensor(y_test.to_numpy()).float().unsqueeze(1)).abs().mean()
lin = LinearRegression().fit(X_train, y_train)
print("test MAE  net %.2f | linear %.2f | median %.2f" % (
    net_mae, np.abs(lin.predict(X_test) - y_test).mean(), np.abs(y_test - y_train.median()).mean()))
