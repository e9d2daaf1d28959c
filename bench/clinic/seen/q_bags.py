"""Multiple-instance learning: a bag of digit images is positive if at least one of them is a 9.
Gated attention pooling (Ilse et al. 2018) over padded bags of 4-10 instances."""
import random
import numpy as np
import torch
from torch import nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.metrics import roc_auc_score

torch.set_num_threads(1)


class BagMaker(torch.utils.data.Dataset):
    """Bags drawn beforehand from one pool of images, so pools (not bags) are split."""

    def __init__(self, images, digits, n_bags, seed):
        rnd = random.Random(seed)
        nine = [i for i, d in enumerate(digits) if d == 9]
        rest = [i for i, d in enumerate(digits) if d != 9]
        self.images, self.bags, self.truth = images, [], []
        for k in range(n_bags):
            size = rnd.randint(4, 10)
            n_pos = rnd.choice([1, 1, 2]) if k % 2 else 0
            members = rnd.sample(nine, n_pos) + rnd.sample(rest, size - n_pos)
            rnd.shuffle(members)
            self.bags.append(members)
            self.truth.append([int(digits[m] == 9) for m in members])

    def __len__(self):
        return len(self.bags)

    def __getitem__(self, k):
        return self.images[self.bags[k]], float(any(self.truth[k])), self.truth[k]


def pad_bags(items):
    longest = max(len(b) for b, _, _ in items)
    x = torch.zeros(len(items), longest, 64)
    mask = torch.zeros(len(items), longest, dtype=torch.bool)
    for i, (b, _, _) in enumerate(items):
        x[i, :len(b)], mask[i, :len(b)] = b, True
    return x, mask, torch.tensor([y for _, y, _ in items]), [t for _, _, t in items]


class GatedAttentionMIL(nn.Module):
    def __init__(self, d=64, a=32):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Dropout(.3), nn.Linear(96, d), nn.ReLU())
        self.V, self.U, self.w = nn.Linear(d, a), nn.Linear(d, a), nn.Linear(a, 1)
        self.head = nn.Linear(d, 1)

    def forward(self, x, mask):
        h = self.enc(x)
        s = self.w(torch.tanh(self.V(h)) * torch.sigmoid(self.U(h))).squeeze(-1)
        att = s.masked_fill(~mask, float("-inf")).softmax(1)
        return self.head((att.unsqueeze(-1) * h).sum(1)).squeeze(-1), att


def run_epoch(model, loader, opt=None):
    model.train(opt is not None)
    losses, ys, ps, hits = [], [], [], []
    with torch.set_grad_enabled(opt is not None):
        for x, mask, y, truth in loader:
            logit, att = model(x, mask)
            loss = nn.functional.binary_cross_entropy_with_logits(logit, y)
            if opt:
                opt.zero_grad(); loss.backward(); opt.step()
            losses.append(loss.item() * len(y)); ys.append(y); ps.append(logit.detach())
            hits += [t[a[:len(t)].argmax()] for t, a in zip(truth, att) if any(t)]
    y, p = torch.cat(ys), torch.cat(ps)
    return {"loss": sum(losses) / len(y), "auc": roc_auc_score(y, p), "acc": ((p > 0).float() == y).float().mean().item(), "top_is_9": float(np.mean(hits))}


torch.manual_seed(5)
X, d = load_digits(return_X_y=True)
X = torch.tensor(X / 16., dtype=torch.float32)
i_tr, i_rest = train_test_split(np.arange(len(d)), test_size=.4, stratify=d, random_state=0)
i_va, i_te = train_test_split(i_rest, test_size=.5, stratify=d[i_rest], random_state=0)
sets = [BagMaker(X[i], d[i], n, s) for i, n, s in [(i_tr, 1800, 1), (i_va, 400, 2), (i_te, 400, 3)]]
tr, va, te = [torch.utils.data.DataLoader(s, batch_size=32, shuffle=(k == 0), collate_fn=pad_bags) for k, s in enumerate(sets)]
net = GatedAttentionMIL()
opt = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-3)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 7)
for ep in range(7):
    a, b = run_epoch(net, tr, opt), run_epoch(net, va)
    sched.step()
    print(ep, {k: round(v, 3) for k, v in a.items()}, "| val", {k: round(v, 3) for k, v in b.items()})
print("test", {k: round(v, 3) for k, v in run_epoch(net, te).items()})

from sklearn.linear_model import LogisticRegression
pooled = [(np.stack([np.r_[b.mean(0), b.max(0).values] for b, _, _ in s]), [y for _, y, _ in s]) for s in (sets[0], sets[2])]
base = LogisticRegression(max_iter=500).fit(*pooled[0])
print("mean/max-pooled pixels + logistic regression: auc %.3f" % roc_auc_score(pooled[1][1], base.decision_function(pooled[1][0])))
