"""Rare events (3 %): focal loss with class weights. Metric: average precision."""
import numpy as np
import torch
from torch import nn, Tensor
from torch.utils.data import TensorDataset, DataLoader
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import train_test_split

torch.set_num_threads(1)
torch.manual_seed(2)

X, y = make_classification(n_samples=12000, n_features=20, n_informative=8, n_redundant=4, n_clusters_per_class=3,
                           weights=[0.97], class_sep=1.3, flip_y=0.0, random_state=12)
Xa, Xt, ya, yt = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
Xa, Xv, ya, yv = train_test_split(Xa, ya, test_size=0.2, stratify=ya, random_state=0)
m, s = Xa.mean(0), Xa.std(0)
Xa, Xv, Xt = ((z - m) / s for z in (Xa, Xv, Xt))
prior = ya.mean()
print(f"positives: train {ya.sum()}/{len(ya)}, test {yt.sum()}/{len(yt)}")


class FocalLoss(nn.Module):
    def __init__(self, alpha: Tensor, gamma: float = 2.0):
        super().__init__()
        self.register_buffer("alpha", alpha)
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logp = torch.log_softmax(logits, dim=1).gather(1, target[:, None]).squeeze(1)
        focal = (1 - logp.exp()) ** self.gamma
        return -(self.alpha[target] * focal * logp).mean()


class Tabular(nn.Module):
    def __init__(self, d, h=96):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(d, h), nn.LeakyReLU(0.1), nn.Dropout(0.2), nn.Linear(h, h), nn.LeakyReLU(0.1),
                               nn.Dropout(0.2))
        self.logits = nn.Linear(h, 2)
        nn.init.normal_(self.logits.weight, std=0.01)
        with torch.no_grad():            # RetinaNet style: start from the prior
            self.logits.bias.copy_(torch.tensor([1 - prior, prior]).log())

    def forward(self, x):
        return self.logits(self.f(x))


freq = np.bincount(ya) / len(ya)
weights = torch.tensor((1 / freq) ** 0.5 / ((1 / freq) ** 0.5).sum() * 2, dtype=torch.float32)   # tempered
crit = FocalLoss(weights)
model = Tabular(X.shape[1])
opt = torch.optim.Adam(model.parameters(), lr=4e-3, weight_decay=1e-5)
EPOCHS = 12
loader = DataLoader(TensorDataset(torch.tensor(Xa, dtype=torch.float32), torch.tensor(ya)), batch_size=160, shuffle=True,
                    drop_last=True)
sch = torch.optim.lr_scheduler.CosineAnnealingLR(opt, EPOCHS * len(loader))


def scores(a):
    model.eval()
    with torch.inference_mode():
        z = model(torch.tensor(a, dtype=torch.float32))
    model.train()
    return z


for ep in range(EPOCHS):
    acc = []
    for xb, yb in loader:
        opt.zero_grad()
        l = crit(model(xb), yb)
        l.backward()
        opt.step()
        sch.step()
        acc.append(l.item())
    if ep % 3 == 2:
        zv = scores(Xv)
        print(f"epoch {ep + 1:2d}  focal {np.mean(acc):.4f}  val focal {crit(zv, torch.tensor(yv)).item():.4f}"
              f"  val AP {average_precision_score(yv, zv.softmax(1)[:, 1]):.3f}")

p = scores(Xt).softmax(1)[:, 1].numpy()
lr = LogisticRegression(max_iter=500, class_weight="balanced").fit(Xa, ya).decision_function(Xt)
print(f"test: AP {average_precision_score(yt, p):.3f}  AUC {roc_auc_score(yt, p):.3f}")
rf = RandomForestClassifier(30, random_state=0).fit(Xa, ya).predict_proba(Xt)[:, 1]
print(f"forest: AP {average_precision_score(yt, rf):.3f}   logistic regression: AP {average_precision_score(yt, lr):.3f}   prevalence {yt.mean():.3f}")
