# Damped oscillator traces -> (a) damping ratio [half of the labels missing], (b) type of excitation, (c) sensor drift yes/no.
# Shared trunk on SGD with momentum, heads and task weights on AdamW; homoscedastic-uncertainty weighting.
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(21)


def simulate(n, T=64):
    t = torch.linspace(0, 6, T)
    zeta = torch.rand(n, 1) * .35 + .03
    w = torch.rand(n, 1) * 3 + 3
    kind = torch.randint(0, 3, (n,))
    env = torch.exp(-zeta * w * t)
    wd = w * (1 - zeta ** 2).sqrt()
    impulse = env * torch.sin(wd * t)
    release = env * torch.cos(wd * t)
    step = 1 - env * torch.cos(wd * t)
    x = torch.stack([impulse, release, step], 1)[torch.arange(n), kind]
    drift = (torch.rand(n) < .4)
    x = x + drift[:, None] * torch.randn(n, 1).sign() * (t / 6) * (.4 + .4 * torch.rand(n, 1))
    x = x + .15 * torch.randn(n, T)
    z = (zeta.squeeze(1) - .205) / .1                    # known design range, roughly unit scale
    return x, z, kind, drift.float()


class Trunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 96), nn.LayerNorm(96), nn.ReLU(), nn.Linear(96, 64), nn.LayerNorm(64), nn.ReLU())

    def forward(self, x):
        return self.net(x)


trunk = Trunk()
heads = nn.ModuleDict({"damping": nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1)),
                       "kind": nn.Linear(64, 3), "drift": nn.Linear(64, 1)})
log_var = nn.ParameterDict({k: nn.Parameter(torch.zeros(())) for k in heads})

opt_trunk = torch.optim.SGD(trunk.parameters(), lr=.05, momentum=.9, nesterov=True, weight_decay=1e-4)
opt_heads = torch.optim.AdamW(list(heads.parameters()) + list(log_var.parameters()), lr=2e-3, weight_decay=0.)
scheds = [torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=9) for o in (opt_trunk, opt_heads)]


def task_losses(x, z, kind, drift):
    h = trunk(x)
    has = ~torch.isnan(z)
    return {
        "damping": F.smooth_l1_loss(heads["damping"](h).squeeze(1)[has], z[has]),
        "kind": F.cross_entropy(heads["kind"](h), kind),
        "drift": F.binary_cross_entropy_with_logits(heads["drift"](h).squeeze(1), drift),
    }


train, valid, test = simulate(6000), simulate(800), simulate(1500)
z_partial = train[1].clone()
z_partial[torch.rand(6000) < .5] = float("nan")           # damping was measured for half of the rigs only
train = (train[0], z_partial, *train[2:])
centre, scale = train[0].mean(), train[0].std()
train, valid, test = [((p[0] - centre) / scale, *p[1:]) for p in (train, valid, test)]

history = []
for epoch in range(9):
    for m in (trunk, heads):
        m.train()
    sums = dict.fromkeys(heads, 0.)
    batches = torch.randperm(6000).split(120)
    for idx in batches:
        losses = task_losses(*(t[idx] for t in train))
        total = sum(torch.exp(-log_var[k]) * v + .5 * log_var[k] for k, v in losses.items())
        opt_trunk.zero_grad(); opt_heads.zero_grad()
        total.backward()
        opt_trunk.step(); opt_heads.step()
        for k, v in losses.items():
            sums[k] += v.item() / len(batches)
    for s in scheds:
        s.step()
    for m in (trunk, heads):
        m.eval()
    with torch.no_grad():
        val = {k: v.item() for k, v in task_losses(*valid).items()}
    history.append((sums, val))
    print(epoch, " ".join(f"{k} {sums[k]:.3f}/{val[k]:.3f}" for k in heads))

with torch.no_grad():
    h = trunk(test[0])
    r2 = 1 - (heads["damping"](h).squeeze(1) - test[1]).pow(2).mean() / test[1].var()
    acc = (heads["kind"](h).argmax(1) == test[2]).float().mean()
    acc_d = ((heads["drift"](h).squeeze(1) > 0).float() == test[3]).float().mean()

from sklearn.linear_model import LogisticRegression, Ridge
ok = ~torch.isnan(train[1])
ridge = Ridge(1.).fit(train[0][ok].numpy(), train[1][ok].numpy()).score(test[0].numpy(), test[1].numpy())
lk, ld = [LogisticRegression(max_iter=200).fit(train[0].numpy(), train[j].numpy()).score(test[0].numpy(), test[j].numpy()) for j in (2, 3)]
print("test: damping R2 %.3f (ridge %.3f)  kind %.3f (logreg %.3f)  drift %.3f (logreg %.3f)" % (r2, ridge, acc, lk, acc_d, ld))
print("task weights", {k: round(torch.exp(-v).item(), 2) for k, v in log_var.items()})
