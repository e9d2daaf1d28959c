# Survival analysis with right censoring: for a third of the people the event is never seen.
# Cox partial likelihood with a residual MLP risk score, against the linear Cox model
# trained in the same process by L-BFGS.  Quality: Harrell's concordance on held-out people.
import numpy as np
import torch
from torch import nn

torch.set_num_threads(1)
g = torch.Generator().manual_seed(2)
torch.manual_seed(2)

n = 5000
age = 40 + 30 * torch.rand(n, generator=g)
marker = torch.randn(n, 6, generator=g)
smoker = (torch.rand(n, generator=g) < 0.3).float()
stage = torch.randint(0, 4, (n,), generator=g)
true_risk = (0.05 * (age - 55) + 0.8 * smoker + torch.tensor([0.0, 0.2, 0.9, 1.6])[stage]
             + 1.2 * marker[:, 0] * marker[:, 1] + 0.6 * marker[:, 2].abs() - 0.5 * marker[:, 3])
event_time = -torch.log(torch.rand(n, generator=g)) * 12 * torch.exp(-true_risk)
censor_time = 0.5 + 9.5 * torch.rand(n, generator=g)
time = torch.minimum(event_time, censor_time)
event = (event_time <= censor_time).float()

X = torch.cat([(age[:, None] - 55) / 10, smoker[:, None], nn.functional.one_hot(stage, 4).float(), marker], 1)
tr, va, te = torch.arange(n).split([3200, 800, 1000])
print("share with observed event: %.2f" % event.mean())


def cox_loss(score, time, event):
    """Negative log partial likelihood per event (Breslow; times are continuous)."""
    order = time.argsort(descending=True)
    s, e = score[order], event[order]
    return -((s - s.logcumsumexp(0)) * e).sum() / e.sum()


def concordance(score, time, event):
    comparable = (time[:, None] < time[None]) & (event[:, None] > 0)
    diff = score[:, None] - score[None]
    good = (diff > 0).float() + 0.5 * (diff == 0).float()
    return (good[comparable].mean()).item()


class Residual(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.f = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, d), nn.SiLU(), nn.Dropout(0.2), nn.Linear(d, d))

    def forward(self, x):
        return x + self.f(x)


deep = nn.Sequential(nn.Linear(X.shape[1], 32), Residual(32), Residual(32), nn.LayerNorm(32), nn.Linear(32, 1, bias=False))
optimizer = torch.optim.AdamW(deep.parameters(), lr=2e-3, weight_decay=0.1)
EPOCHS, BATCH = 25, 200                       # risk sets are taken within a batch
sched = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=EPOCHS * (len(tr) // BATCH))

for epoch in range(EPOCHS):
    deep.train()
    tot = 0.0
    for rows in tr[torch.randperm(len(tr))].split(BATCH):
        loss = cox_loss(deep(X[rows]).squeeze(-1), time[rows], event[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sched.step()
        tot += loss.item()
    if epoch % 5 == 4:
        deep.eval()
        with torch.no_grad():
            # the same size of risk set as in training, so that the two numbers compare
            val = np.mean([cox_loss(deep(X[r]).squeeze(-1), time[r], event[r]).item() for r in va.split(BATCH)])
            c = concordance(deep(X[va]).squeeze(-1), time[va], event[va])
        print("epoch %d  train %.3f  valid %.3f  valid C %.3f" % (epoch + 1, tot / (len(tr) // BATCH), val, c))

linear = nn.Linear(X.shape[1], 1, bias=False)
nn.init.zeros_(linear.weight)
lbfgs = torch.optim.LBFGS(linear.parameters(), max_iter=60, line_search_fn="strong_wolfe")


def closure():
    lbfgs.zero_grad()
    l = cox_loss(linear(X[tr]).squeeze(-1), time[tr], event[tr]) + 1e-3 * linear.weight.pow(2).sum()
    l.backward()
    return l


lbfgs.step(closure)
deep.eval()
with torch.no_grad():
    print("test C-index: deep %.3f  linear Cox %.3f  true risk %.3f  (chance 0.5)" % (
        concordance(deep(X[te]).squeeze(-1), time[te], event[te]),
        concordance(linear(X[te]).squeeze(-1), time[te], event[te]),
        concordance(true_risk[te], time[te], event[te])))
