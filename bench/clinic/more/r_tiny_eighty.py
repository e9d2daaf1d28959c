"""80 patients for training, the rest of the Wisconsin set to be honest about it."""
import copy
import torch
import torch.nn as nn
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

torch.set_num_threads(1)
torch.manual_seed(7)


def get_data():
    X, y = load_breast_cancer(return_X_y=True)
    Xtr, Xrest, ytr, yrest = train_test_split(X, y, train_size=80, stratify=y, random_state=4)
    Xva, Xte, yva, yte = train_test_split(Xrest, yrest, train_size=120, stratify=yrest, random_state=4)
    sc = StandardScaler().fit(Xtr)
    return [(sc.transform(a), b) for a, b in ((Xtr, ytr), (Xva, yva), (Xte, yte))]


def as_tensors(pair):
    return torch.as_tensor(pair[0], dtype=torch.float), torch.as_tensor(pair[1], dtype=torch.float)


class EarlyStopping:
    def __init__(self, patience):
        self.patience, self.best, self.bad, self.state, self.when = patience, float("inf"), 0, None, -1

    def __call__(self, value, model, epoch):
        if value < self.best - 1e-4:
            self.best, self.bad, self.when = value, 0, epoch
            self.state = copy.deepcopy(model.state_dict())
        else:
            self.bad += 1
        return self.bad >= self.patience


def main():
    train, val, test = get_data()
    (xt, yt), (xv, yv), (xs, ys) = map(as_tensors, (train, val, test))

    model = nn.Sequential(
        nn.Linear(30, 48), nn.ReLU(), nn.Dropout(0.6),
        nn.Linear(48, 24), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(24, 1), nn.Flatten(0))
    bce = nn.BCEWithLogitsLoss()
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.5},
                             {"params": plain, "weight_decay": 0.0}], lr=1e-3)
    stop = EarlyStopping(patience=25)

    for epoch in range(200):
        model.train()
        tot = 0.0
        for idx in torch.randperm(len(xt)).split(20):
            opt.zero_grad()
            loss = bce(model(xt[idx]), yt[idx])
            loss.backward()
            opt.step()
            tot += loss.item() * len(idx)
        model.eval()
        with torch.no_grad():
            v = bce(model(xv), yv).item()
        if epoch % 20 == 0:
            print(f"{epoch:3d}  train(with dropout) {tot / len(xt):.3f}  val {v:.3f}")
        if stop(v, model, epoch):
            print(f"stopped after epoch {epoch}, best was {stop.when}")
            break

    model.load_state_dict(stop.state)
    model.eval()
    with torch.no_grad():
        acc = ((model(xs) > 0) == (ys > 0.5)).float().mean().item()
    lr = LogisticRegression(C=0.1, max_iter=1000).fit(*train)
    print(f"test accuracy: net {acc:.3f}   logistic regression {lr.score(*test):.3f}   majority {ys.mean().item():.3f}")


if __name__ == "__main__":
    main()
