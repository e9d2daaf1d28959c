"""Multi-label tagging: BCEWithLogits with pos_weight, ReduceLROnPlateau and gradient clipping."""
import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import make_multilabel_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.model_selection import train_test_split
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

CFG = dict(seed=9, lr=2e-3, batch_size=64, epochs=12, hidden=64, clip=1.0, patience=2)

torch.set_num_threads(1)
torch.manual_seed(CFG["seed"])


def load():
    X, Y = make_multilabel_classification(n_samples=5200, n_features=40, n_classes=10, n_labels=2,
                                          length=60, allow_unlabeled=True, random_state=CFG["seed"])
    X = np.log1p(X)
    X_tr, X_te, Y_tr, Y_te = train_test_split(X, Y, test_size=600, random_state=0)
    X_tr, X_va, Y_tr, Y_va = train_test_split(X_tr, Y_tr, test_size=600, random_state=0)
    sc = StandardScaler().fit(X_tr)
    return [(sc.transform(a).astype("float32"), b.astype("float32"))
            for a, b in ((X_tr, Y_tr), (X_va, Y_va), (X_te, Y_te))]


class Tagger(nn.Module):
    def __init__(self, n_in, n_hidden, n_tags):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(n_in, n_hidden), nn.LayerNorm(n_hidden), nn.SiLU(), nn.Dropout(0.25),
            nn.Linear(n_hidden, n_tags))

    def forward(self, x):
        return {"logits": self.net(x)}


class AverageMeter:
    def __init__(self):
        self.sum = self.n = 0

    def update(self, v, n):
        self.sum += v * n
        self.n += n

    @property
    def avg(self):
        return self.sum / self.n


@torch.no_grad()
def validate(model, loader, criterion):
    model.eval()
    meter, logits, truth = AverageMeter(), [], []
    for x, y in loader:
        out = model(x)["logits"]
        meter.update(criterion(out, y).item(), len(x))
        logits.append(out)
        truth.append(y)
    prob = torch.cat(logits).sigmoid().numpy()
    truth = torch.cat(truth).numpy()
    return {"loss": meter.avg, "mAP": average_precision_score(truth, prob, average="macro"),
            "f1": f1_score(truth, prob > 0.5, average="macro")}


def main():
    train, val, test = load()
    mk = lambda d, shuffle: DataLoader(TensorDataset(*map(torch.from_numpy, d)), CFG["batch_size"], shuffle=shuffle)
    train_dl, val_dl, test_dl = mk(train, True), mk(val, False), mk(test, False)

    positives = torch.from_numpy(train[1]).sum(0)
    pos_weight = ((len(train[1]) - positives) / positives).sqrt().clamp(max=5.0)       # softened inverse frequency
    print("pos_weight", np.round(pos_weight.numpy(), 2))

    model = Tagger(train[0].shape[1], CFG["hidden"], train[1].shape[1])
    criterion = nn.BCEWithLogitsLoss(pos_weight=pos_weight)
    optimizer = torch.optim.Adam(model.parameters(), lr=CFG["lr"], weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min", factor=0.3,
                                                           patience=CFG["patience"])
    for epoch in range(CFG["epochs"]):
        model.train()
        meter = AverageMeter()
        for x, y in train_dl:
            optimizer.zero_grad()
            loss = criterion(model(x)["logits"], y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CFG["clip"])
            optimizer.step()
            meter.update(loss.item(), len(x))
        res = validate(model, val_dl, criterion)
        scheduler.step(res["loss"])
        if epoch % 3 == 2:
            print(f"[{epoch + 1:2d}] train {meter.avg:.4f} " + " ".join(f"{k} {v:.4f}" for k, v in res.items())
                  + f" lr {optimizer.param_groups[0]['lr']:.1e}")

    print("test", {k: round(v, 4) for k, v in validate(model, test_dl, criterion).items()})
    lr = OneVsRestClassifier(LogisticRegression(max_iter=500)).fit(*train)
    print("logistic mAP %.4f" % average_precision_score(test[1], lr.predict_proba(test[0]), average="macro"),
          "| prior mAP %.4f" % test[1].mean())


if __name__ == "__main__":
    main()
