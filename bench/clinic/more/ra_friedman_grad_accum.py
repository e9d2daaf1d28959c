# Friedman #1 regression with gradient accumulation.
# effective batch 64 = 4 micro batches of 16; the last window of an epoch is shorter,
# so each micro batch is weighted by its share of the window's rows.
import argparse
import itertools

import torch
from sklearn.datasets import make_friedman1
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def windows(loader, k):
    it = iter(loader)
    while True:
        w = list(itertools.islice(it, k))
        if not w:
            return
        yield w


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--micro", type=int, default=16)
    ap.add_argument("--accum", type=int, default=4)
    ap.add_argument("--epochs", type=int, default=16)
    ap.add_argument("--lr", type=float, default=4e-3)
    args = ap.parse_args()
    torch.manual_seed(9)

    X, y = make_friedman1(n_samples=3090, n_features=7, noise=1.0, random_state=9)
    Xtr, Xva, Xte = X[:2090], X[2090:2490], X[2490:]
    ytr, yva, yte = y[:2090, None], y[2090:2490, None], y[2490:, None]
    sx, sy = StandardScaler().fit(Xtr), StandardScaler().fit(ytr)
    f = lambda a: torch.tensor(a, dtype=torch.float32)
    Xtr, Xva, Xte = f(sx.transform(Xtr)), f(sx.transform(Xva)), f(sx.transform(Xte))
    ytr, yva, yte = f(sy.transform(ytr)), f(sy.transform(yva)), f(sy.transform(yte))

    loader = DataLoader(TensorDataset(Xtr, ytr), batch_size=args.micro, shuffle=True)
    model = nn.Sequential(nn.Linear(7, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
    opt = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-2)
    steps_per_epoch = -(-len(loader) // args.accum)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, args.epochs * steps_per_epoch)

    for epoch in range(args.epochs):
        model.train()
        sse = 0.0
        for window in windows(loader, args.accum):
            n_rows = sum(len(xb) for xb, _ in window)
            opt.zero_grad()
            for xb, yb in window:
                loss = nn.functional.mse_loss(model(xb), yb, reduction="sum")
                (loss / n_rows).backward()
                sse += loss.item()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            sched.step()
        model.eval()
        with torch.no_grad():
            val = nn.functional.mse_loss(model(Xva), yva).item()
        print(f"epoch {epoch + 1:2d}  train {sse / len(Xtr):.4f}  val {val:.4f}")

    model.eval()
    with torch.no_grad():
        res = ((model(Xte) - yte) ** 2).mean()
    tot = ((yte - ytr.mean()) ** 2).mean()
    lin = torch.linalg.lstsq(torch.cat([Xtr, torch.ones(len(Xtr), 1)], 1), ytr).solution
    lin_res = ((torch.cat([Xte, torch.ones(len(Xte), 1)], 1) @ lin - yte) ** 2).mean()
    print(f"test R2 = {1 - res / tot:.3f}   linear model R2 = {1 - lin_res / tot:.3f}   mean R2 = 0")


if __name__ == "__main__":
    main()
