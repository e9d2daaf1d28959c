# disease progression from ten measurements
import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_diabetes

torch.set_num_threads(1)
torch.manual_seed(3)
rng = np.random.default_rng(3)

X, y = load_diabetes(return_X_y=True, scaled=False)
X = X.astype(np.float32)
y = y.astype(np.float32)
perm = rng.permutation(len(X))
train_idx, val_idx = perm[:340], perm[340:]
X_train, y_train = X[train_idx], y[train_idx]
X_val, y_val = X[val_idx], y[val_idx]

# standardise with the statistics of the training part
mu, sigma = X_train.mean(0), X_train.std(0)
X_train = (X_train - mu) / sigma
X_val = (X_val - mu) / sigma
y_mu, y_sigma = y_train.mean(), y_train.std()
y_train = (y_train - y_mu) / y_sigma
y_val = (y_val - y_mu) / y_sigma

X_train = torch.from_numpy(X_train)
X_val = torch.from_numpy(X_val)
y_train = torch.from_numpy(y_train).unsqueeze(1)
y_val = torch.from_numpy(y_val).unsqueeze(1)

net = nn.Sequential(
    nn.Linear(10, 32),
    nn.ReLU(),
    nn.Linear(32, 1),
)
loss_fn = nn.MSELoss()
opt = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-2)

batch_size = 32
n_epochs = 40
for epoch in range(1, n_epochs + 1):
    net.train()
    order = torch.randperm(len(X_train))
    train_loss = 0.0
    for i in range(0, len(X_train), batch_size):
        idx = order[i:i + batch_size]
        xb, yb = X_train[idx], y_train[idx]
        pred = net(xb)
        loss = loss_fn(pred, yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
        train_loss += loss.item() * len(idx)
    if epoch % 4 == 0:
        net.eval()
        with torch.no_grad():
            val_pred = net(X_val)
            val_loss = loss_fn(val_pred, y_val).item()
        r2 = 1 - val_loss / y_val.var(unbiased=False).item()
        print(f"{epoch:4d} train mse {train_loss / len(X_train):.4f} val mse {val_loss:.4f} r2 {r2:.3f}")
