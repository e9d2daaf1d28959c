"""Fit a response to six measured quantities with LBFGS in double precision."""
import numpy as np
import torch
from sklearn.datasets import make_friedman1
from torch import nn

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)

OUTER = 40
WEIGHT_DECAY = 2e-3


def load(n, seed):
    X, y = make_friedman1(n_samples=n, n_features=6, noise=0.5, random_state=seed)
    # physical units: temperature, pressure, angle, two ratios and a control that does nothing
    X = X * np.array([80.0, 1013.0, 360.0, 1.0, 1.0, 5.0])
    return torch.tensor(X), torch.tensor(y)


X_train, y_train = load(400, 0)
X_val, y_val = load(200, 1)

x_mean, x_std = X_train.mean(0), X_train.std(0)
y_mean, y_std = y_train.mean(), y_train.std()
X_train, X_val = (X_train - x_mean) / x_std, (X_val - x_mean) / x_std
y_train, y_val = (y_train - y_mean) / y_std, (y_val - y_mean) / y_std

net = nn.Sequential(
    nn.Linear(6, 16),
    nn.Tanh(),
    nn.Linear(16, 16),
    nn.Tanh(),
    nn.Linear(16, 1),
)
optimizer = torch.optim.LBFGS(net.parameters(), lr=1.0, max_iter=10, history_size=10, line_search_fn="strong_wolfe")


def mse(x, y):
    out = net(x).squeeze(-1)
    return ((out - y) ** 2).mean()


def penalty():
    return sum((p ** 2).sum() for p in net.parameters() if p.dim() > 1)


def closure():
    optimizer.zero_grad()
    loss = mse(X_train, y_train) + WEIGHT_DECAY * penalty()
    loss.backward()
    return loss


for it in range(OUTER):
    net.train()
    objective = optimizer.step(closure)
    net.eval()
    with torch.no_grad():
        train, val = mse(X_train, y_train).item(), mse(X_val, y_val).item()
    if it % 4 == 0 or it == OUTER - 1:
        print(f"iteration {it:3d} objective {objective.item():.4f} train mse {train:.4f} val mse {val:.4f}")

print(f"R2 on held-out data: {1 - val / y_val.var(unbiased=False).item():.3f}")
