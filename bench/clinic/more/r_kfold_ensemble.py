#!/usr/bin/env python
# 5-fold bagging of little nets on the diabetes data; sum-of-squares loss as in the old textbooks
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, train_test_split

torch.set_num_threads(1)

data = load_diabetes(scaled=False)
X_dev, X_test, y_dev, y_test = train_test_split(data.data, data.target, test_size=90, random_state=10)


def make_net(n_in, seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(n_in, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))


def sse(pred, y):
    return torch.nn.functional.mse_loss(pred.squeeze(1), y, reduction="sum")


def train_one(X, y, Xv, yv, seed, epochs=30, bs=32, lr=1e-4):
    xm, xs, ym, ys = X.mean(0), X.std(0), y.mean(), y.std()
    prep = lambda A: torch.from_numpy(((A - xm) / xs).astype(np.float32))
    A, b = prep(X), torch.from_numpy(((y - ym) / ys).astype(np.float32))
    Av, bv = prep(Xv), torch.from_numpy(((yv - ym) / ys).astype(np.float32))
    net = make_net(X.shape[1], seed)
    opt = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=0.3)   # decay is per summed loss
    curve = []
    for ep in range(epochs):
        net.train()
        for idx in np.array_split(np.random.default_rng(100 * seed + ep).permutation(len(A)), len(A) // bs):
            loss = sse(net(A[idx]), b[idx])
            opt.zero_grad()
            loss.backward()
            opt.step()
        net.eval()
        with torch.no_grad():
            curve.append(sse(net(Av), bv).item() / len(bv))

    def predict(Z):
        with torch.no_grad():
            return net(prep(Z)).squeeze(1).numpy() * ys + ym
    return predict, curve


models, oof = [], np.zeros_like(y_dev)
for fold, (tr, va) in enumerate(KFold(5, shuffle=True, random_state=3).split(X_dev)):
    predict, curve = train_one(X_dev[tr], y_dev[tr], X_dev[va], y_dev[va], seed=fold)
    oof[va] = predict(X_dev[va])
    models.append(predict)
    print(f"fold {fold}: val mse {curve[0]:.3f} -> {curve[-1]:.3f} (lowest {min(curve):.3f})   R2 {r2_score(y_dev[va], oof[va]):.3f}")

print(f"out of fold R2 {r2_score(y_dev, oof):.3f}")
ens = np.mean([m(X_test) for m in models], axis=0)
mu, sd = X_dev.mean(0), X_dev.std(0)
ridge = RidgeCV(np.logspace(-2, 3, 20)).fit((X_dev - mu) / sd, y_dev)
print(f"test R2: ensemble {r2_score(y_test, ens):.3f}   ridge {ridge.score((X_test - mu) / sd, y_test):.3f}   mean predictor 0")
