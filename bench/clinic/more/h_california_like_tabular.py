# House sales: predict the price (regression) and whether the house sells within a month (yes/no),
# from numeric and categorical columns, with one network and two heads.
import copy

import numpy as np
import pandas as pd
import torch
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OrdinalEncoder, StandardScaler
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(1)
torch.manual_seed(3)
rng = np.random.default_rng(3)

# ---------------------------------------------------------------- data
N = 2600
income = rng.lognormal(1.2, 0.45, N)
age = rng.uniform(1, 52, N)
rooms = rng.normal(5.4, 1.2, N).clip(1)
people = rng.lognormal(6.9, 0.6, N)
lat = rng.uniform(32.5, 42.0, N)
lon = rng.uniform(-124.3, -114.3, N)
district = rng.choice(["inland", "near bay", "near ocean", "hills", "island"], N, p=[.35, .2, .25, .15, .05])
heating = rng.choice(["gas", "electric", "wood", "none"], N, p=[.5, .3, .1, .1])
premium = pd.Series(district).map({"inland": -.35, "near bay": .35, "near ocean": .25, "hills": .1, "island": .7}).to_numpy()
comfort = pd.Series(heating).map({"gas": .15, "electric": .1, "wood": -.1, "none": -.35}).to_numpy()
log_price = (0.9 * np.log(income) + premium + comfort * (lat > 37) + 0.12 * (rooms - 5.4)
             - 0.5 * np.exp(-((lat - 36) ** 2 + (lon + 119) ** 2) / 6) + 0.008 * np.abs(age - 25)
             + 0.15 * rng.standard_normal(N))
price = 150_000 * np.exp(log_price)
appeal = 1.2 * premium * np.sign(rooms - 5) - 1.5 * (log_price - 1.1) + 0.03 * (25 - age) + comfort
sold_fast = (appeal + 0.4 * rng.standard_normal(N) > 0).astype(int)
table = pd.DataFrame(dict(income=income, age=age, rooms=rooms, people=people, lat=lat, lon=lon,
                          district=district, heating=heating, price=price, sold_fast=sold_fast))

NUMERIC = ["income", "age", "rooms", "people", "lat", "lon"]
CATEGORICAL = ["district", "heating"]
train, rest = train_test_split(table, test_size=0.35, random_state=0)
valid, test = train_test_split(rest, test_size=0.5, random_state=0)

columns = ColumnTransformer([("num", StandardScaler(), NUMERIC), ("cat", OrdinalEncoder(), CATEGORICAL)])
columns.fit(train)
price_scaler = StandardScaler().fit(np.log(train[["price"]].to_numpy()))


def tensors(frame):
    z = columns.transform(frame)
    x_num = torch.tensor(z[:, :len(NUMERIC)], dtype=torch.float32)
    x_cat = torch.tensor(z[:, len(NUMERIC):], dtype=torch.long)
    y_price = torch.tensor(price_scaler.transform(np.log(frame[["price"]].to_numpy())), dtype=torch.float32)
    y_fast = torch.tensor(frame[["sold_fast"]].to_numpy(), dtype=torch.float32)
    return x_num, x_cat, y_price, y_fast


train_t, valid_t, test_t = tensors(train), tensors(valid), tensors(test)


# ---------------------------------------------------------------- model
class TwoHeads(nn.Module):
    def __init__(self, n_num, cardinalities, hidden=64, p=0.1):
        super().__init__()
        self.emb = nn.ModuleList([nn.Embedding(c, 4) for c in cardinalities])
        self.trunk = nn.Sequential(
            nn.Linear(n_num + 4 * len(cardinalities), hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(p),
            nn.Linear(hidden, hidden), nn.ReLU())
        self.price_head = nn.Linear(hidden, 1)
        self.fast_head = nn.Linear(hidden, 1)

    def forward(self, x_num, x_cat):
        e = [emb(x_cat[:, i]) for i, emb in enumerate(self.emb)]
        h = self.trunk(torch.cat([x_num] + e, dim=1))
        return self.price_head(h), self.fast_head(h)


net = TwoHeads(len(NUMERIC), [table[c].nunique() for c in CATEGORICAL])
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3, weight_decay=1e-4)
plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.4, patience=2)
BATCH, MAX_EPOCHS, PATIENCE = 64, 24, 7


def losses(price_hat, fast_hat, y_price, y_fast):
    return F.mse_loss(price_hat, y_price), F.binary_cross_entropy_with_logits(fast_hat, y_fast)


# ---------------------------------------------------------------- training with early stopping
best, best_state, waited = float("inf"), None, 0
for epoch in range(MAX_EPOCHS):
    net.train()
    order = np.random.default_rng(epoch).permutation(len(train_t[0]))
    total = 0.0
    for start in range(0, len(order) - BATCH + 1, BATCH):
        rows = torch.from_numpy(order[start:start + BATCH])
        xn, xc, yp, yf = (t[rows] for t in train_t)
        price_hat, fast_hat = net(xn, xc)
        reg, cls = losses(price_hat, fast_hat, yp, yf)
        loss = reg + cls
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    net.eval()
    with torch.no_grad():
        reg, cls = losses(*net(valid_t[0], valid_t[1]), valid_t[2], valid_t[3])
        val = (reg + cls).item()
    print(f"epoch {epoch:2d} train {total / (len(order) // BATCH):.4f} valid {val:.4f} (price {reg:.4f}, fast {cls:.4f})")
    plateau.step(val)
    if val < best:
        best, best_state, waited = val, copy.deepcopy(net.state_dict()), 0
    else:
        waited += 1
        if waited >= PATIENCE:
            print("no improvement, stopping")
            break

# ---------------------------------------------------------------- test
if best_state is not None:
    net.load_state_dict(best_state)
net.eval()
with torch.no_grad():
    price_hat, fast_hat = net(test_t[0], test_t[1])
r2 = 1 - F.mse_loss(price_hat, test_t[2]).item() / test_t[2].var().item()
accuracy = ((fast_hat > 0).float() == test_t[3]).float().mean().item()
ridge = Ridge().fit(train_t[0].numpy(), train_t[2].numpy().ravel())
print(f"test: R2 {r2:.3f} (ridge on the numeric columns {ridge.score(test_t[0].numpy(), test_t[2].numpy().ravel()):.3f}), "
      f"sold fast {accuracy:.3f} correct (always 'no' would be {1 - test_t[3].mean():.3f})")
