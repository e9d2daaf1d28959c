"""Mixture density network for an inverse problem, trained by *maximising* the log-likelihood."""
import math
import numpy as np
import torch
from torch import distributions as D, nn

torch.set_num_threads(1)
torch.manual_seed(8)
rs = np.random.RandomState(8)
NOISE = 0.04


def draw(n):
    """y given x has two branches for |x|<.5, one outside; noise is small so densities exceed 1"""
    x = rs.uniform(-1, 1, n)
    gap = np.sqrt(np.clip(0.25 - x ** 2, 0, None))
    branch = np.where(rs.rand(n) < 0.3, 1, -1)
    y = 0.5 * x + branch * gap + NOISE * rs.randn(n)
    return [torch.tensor(a, dtype=torch.float32)[:, None] for a in (x, y)]


def true_loglik(x, y):
    gap = (0.25 - x ** 2).clamp(min=0).sqrt()
    lp = torch.stack([math.log(w) + D.Normal(0.5 * x + s * gap, NOISE).log_prob(y) for w, s in ((0.3, 1), (0.7, -1))])
    return lp.logsumexp(0).mean().item()


class MDN(nn.Module):
    def __init__(self, k=4, h=64):
        super().__init__()
        self.k = k
        self.trunk = nn.Sequential(nn.Linear(1, h), nn.Tanh(), nn.Linear(h, h), nn.Tanh())
        self.heads = nn.ModuleDict({"logits": nn.Linear(h, k), "mean": nn.Linear(h, k), "logscale": nn.Linear(h, k)})
        with torch.no_grad():
            self.heads["mean"].bias.copy_(torch.linspace(-0.6, 0.6, k))
            self.heads["logscale"].bias.fill_(-1.0)

    def forward(self, x):
        h = self.trunk(2 * x)
        scale = self.heads["logscale"](h).clamp(-5, 2).exp()
        return D.MixtureSameFamily(D.Categorical(logits=self.heads["logits"](h)), D.Normal(self.heads["mean"](h), scale))


xtr, ytr = draw(3000)
xva, yva = draw(1000)
model = MDN()
opt = torch.optim.Adam(model.parameters(), lr=4e-3, maximize=True)
n_steps = 700
sch = torch.optim.lr_scheduler.CosineAnnealingLR(opt, n_steps, eta_min=1e-5)
history = {"step": [], "train": [], "val": []}
for i in range(n_steps):
    pick = torch.randint(len(xtr), (200,))
    loglik = model(xtr[pick]).log_prob(ytr[pick, 0]).mean()
    opt.zero_grad()
    loglik.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 2.0)
    opt.step()
    sch.step()
    if (i + 1) % 100 == 0:
        model.eval()
        with torch.no_grad():
            v = model(xva).log_prob(yva[:, 0]).mean().item()
        model.train()
        for key, val in zip(history, (i + 1, loglik.item(), v)):
            history[key].append(val)
        print(f"{i + 1:4d}  log p(train batch) {loglik.item():+.3f}   log p(val) {v:+.3f}")

# one Gaussian around a cubic fit
c = np.polyfit(xtr[:, 0], ytr[:, 0], 3)
sd = (ytr[:, 0] - torch.tensor(np.polyval(c, xtr[:, 0]))).std()
gauss = D.Normal(torch.tensor(np.polyval(c, xva[:, 0])), sd).log_prob(yva[:, 0]).mean().item()
print(f"validation nats: cubic+gaussian {gauss:+.3f}   MDN {history['val'][-1]:+.3f}   truth {true_loglik(xva, yva):+.3f}")
