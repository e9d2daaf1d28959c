# RealNVP on 2-D data (two moons), trained by maximum likelihood.
# Held-out average log-density is compared with a Gaussian and a 16-component mixture fitted on the same points.
import copy
import math
import numpy as np
import torch as th
from sklearn.datasets import make_moons
from sklearn.mixture import GaussianMixture

th.set_num_threads(1)
th.manual_seed(123)

pts, _ = make_moons(6000, noise=0.08, random_state=4)
fit, val, tst = np.split(pts.astype("float32"), [4000, 5000])
m, s = fit.mean(0), fit.std(0)
fit, val, tst = [(a - m) / s for a in (fit, val, tst)]
fit_t, val_t, tst_t = map(th.from_numpy, (fit, val, tst))


class Coupling(th.nn.Module):
    def __init__(self, keep, hidden=32):
        super().__init__()
        self.keep, self.move = keep, 1 - keep
        self.net = th.nn.Sequential(th.nn.Linear(1, hidden), th.nn.Tanh(), th.nn.Linear(hidden, hidden), th.nn.Tanh(),
                                    th.nn.Linear(hidden, 2))
        th.nn.init.zeros_(self.net[-1].weight)       # start as the identity
        th.nn.init.zeros_(self.net[-1].bias)

    def forward(self, x):
        a, b = x[:, self.keep], x[:, self.move]
        ls, t = self.net(a[:, None]).unbind(1)
        ls = 2 * th.tanh(ls / 2)
        b = b * ls.exp() + t
        return th.stack([a, b] if self.keep == 0 else [b, a], 1), ls

    def inverse(self, y):
        a, b = y[:, self.keep], y[:, self.move]
        ls, t = self.net(a[:, None]).unbind(1)
        b = (b - t) * (-2 * th.tanh(ls / 2)).exp()
        return th.stack([a, b] if self.keep == 0 else [b, a], 1)


class Flow(th.nn.Module):
    def __init__(self, depth=6):
        super().__init__()
        self.layers = th.nn.ModuleList([Coupling(i % 2) for i in range(depth)])
        self.angle = th.nn.Parameter(0.5 * th.randn(depth))      # a learned rotation before every coupling

    def rotation(self, i):
        c, s = th.cos(self.angle[i]), th.sin(self.angle[i])
        return th.stack([c, -s, s, c]).view(2, 2)

    def log_prob(self, x):
        logdet = 0.0
        for i, l in enumerate(self.layers):
            x, d = l(x @ self.rotation(i))
            logdet = logdet + d
        return logdet - 0.5 * x.pow(2).sum(1) - math.log(2 * math.pi)

    def sample(self, n):
        z = th.randn(n, 2)
        for i in reversed(range(len(self.layers))):
            z = self.layers[i].inverse(z) @ self.rotation(i).T
        return z


flow = Flow()
ema = copy.deepcopy(flow).requires_grad_(False)
opt = th.optim.Adam(flow.parameters(), lr=4e-3)
sched = th.optim.lr_scheduler.OneCycleLR(opt, max_lr=1e-2, total_steps=500, pct_start=0.1)

for it in range(500):
    idx = th.randint(len(fit_t), (256,))
    nll = -flow.log_prob(fit_t[idx]).mean()
    opt.zero_grad()
    nll.backward()
    th.nn.utils.clip_grad_norm_(flow.parameters(), 2.0)
    opt.step()
    sched.step()
    with th.no_grad():
        decay = min(0.98, (1 + it) / (10 + it))
        for pe, p in zip(ema.parameters(), flow.parameters()):
            pe.lerp_(p, 1 - decay)
    if it % 100 == 99:
        with th.no_grad():
            print(it + 1, "nll", round(nll.item(), 3), "valid nll (ema)", round(-ema.log_prob(val_t).mean().item(), 3))

with th.no_grad():
    ours = ema.log_prob(tst_t).mean().item()
    drawn = ema.sample(2000)
gauss = GaussianMixture(1).fit(fit).score(tst)
mix = GaussianMixture(16, random_state=0).fit(fit)
print("test log density  flow %.3f  gaussian %.3f  mixture %.3f" % (ours, gauss, mix.score(tst)))
print("sample mean/std", drawn.mean(0).numpy().round(2), drawn.std(0).numpy().round(2))
