# Delivery times: predict the 10 %, 50 % and 90 % quantiles with the pinball loss.
import numpy as np
import torch
from torch import nn
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

torch.set_num_threads(1)
np.random.seed(3)
torch.manual_seed(3)


def make_orders(n=3000):
    rng = np.random.default_rng(11)
    distance = rng.gamma(2.0, 3000.0, n)             # metres
    weight = rng.exponential(2.5, n)                 # kg
    hour = rng.uniform(0, 24, n)
    value = rng.lognormal(4.0, 1.0, n)               # cents * 100
    rating = rng.uniform(0, 1, n)
    noise_col = rng.normal(size=n)
    rush = -np.cos(hour / 24 * 2 * np.pi)
    mean = 30 + 0.003 * distance + 16 * rush + 2.5 * np.sqrt(weight) * (rating < 0.5)
    spread = 1.0 + 0.0005 * distance + 1.5 * (rush > 0)
    minutes = mean + spread * rng.normal(size=n)
    X = np.stack([distance, weight, hour, value, rating, noise_col], axis=1)
    return X.astype("float32"), minutes.astype("float32")


X, y = make_orders()
X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=0.25, random_state=0)

x_scaler = StandardScaler().fit(X_train)
X_train, X_val = x_scaler.transform(X_train), x_scaler.transform(X_val)
y_mu, y_sd = y_train.mean(), y_train.std()
y_train, y_val = (y_train - y_mu) / y_sd, (y_val - y_mu) / y_sd

X_train, X_val = torch.tensor(X_train), torch.tensor(X_val)
y_train, y_val = torch.tensor(y_train).unsqueeze(1), torch.tensor(y_val).unsqueeze(1)

QUANTILES = torch.tensor([0.1, 0.5, 0.9])


class PinballLoss(nn.Module):
    def forward(self, pred, target):
        err = target - pred
        return torch.max(QUANTILES * err, (QUANTILES - 1) * err).mean()


net = nn.Sequential(
    nn.Linear(X_train.shape[1], 64),
    nn.ReLU(),
    nn.Linear(64, 64),
    nn.ReLU(),
    nn.Linear(64, 3),
)
loss_fn = PinballLoss()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
sched = torch.optim.lr_scheduler.ExponentialLR(opt, 0.93)

n_epochs, bs = 30, 128
for epoch in range(n_epochs):
    net.train()
    perm = torch.randperm(len(X_train))
    losses = []
    for i in range(0, len(X_train), bs):
        idx = perm[i:i + bs]
        xb, yb = X_train[idx], y_train[idx]
        opt.zero_grad()
        loss = loss_fn(net(xb), yb)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    sched.step()

    net.eval()
    with torch.no_grad():
        pv = net(X_val)
        val_loss = loss_fn(pv, y_val).item()
        inside = ((y_val >= pv[:, :1]) & (y_val <= pv[:, 2:])).float().mean().item()
    print(f"[{epoch + 1:02d}] train {np.mean(losses):.4f} val {val_loss:.4f} coverage {inside:.2f}")
