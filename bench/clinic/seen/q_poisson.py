# Claim counts per policy.  Policy table: integer codes + a few numbers, unequal exposure.
import numpy as np, torch
from torch import nn
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import mean_poisson_deviance
from sklearn.preprocessing import OneHotEncoder

torch.set_num_threads(1)
torch.manual_seed(7)
rng = np.random.default_rng(7)

n = 12000
region = rng.integers(0, 12, n)
vehicle = rng.choice(6, n, p=[.3, .25, .2, .12, .08, .05])
fuel = rng.integers(0, 2, n)
age = rng.uniform(18, 85, n)
power = rng.gamma(6, 15, n)
exposure = rng.uniform(0.1, 1.0, n)
r_eff, v_eff = rng.normal(0, .35, 12), rng.normal(0, .4, 6)
log_rate = (-1.1 + r_eff[region] + v_eff[vehicle] + 1.3 * np.exp(-(age - 18) / 9)
            + .9 * ((age - 50) / 35) ** 2 * (fuel == 1) + .25 * (power - 90) / 36)
claims = rng.poisson(exposure * np.exp(log_rate))

order = rng.permutation(n)
tr, va, te = order[:8000], order[8000:10000], order[10000:]
cats = np.stack([region, vehicle, fuel], 1)
nums = np.stack([age, np.log(power)], 1)
mu, sd = nums[tr].mean(0), nums[tr].std(0)
nums = (nums - mu) / sd

C = torch.as_tensor(cats)
N = torch.as_tensor(nums, dtype=torch.float32)
logE = torch.as_tensor(np.log(exposure), dtype=torch.float32)
Y = torch.as_tensor(claims, dtype=torch.float32)


class Frequency(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.emb = nn.ModuleList([nn.Embedding(12, 3), nn.Embedding(6, 3), nn.Embedding(2, 2)])
        self.mlp = nn.Sequential(nn.Linear(10, 32), nn.SiLU(), nn.Linear(32, 16), nn.SiLU(), nn.Linear(16, 1))
        with torch.no_grad():
            self.mlp[-1].bias.fill_(base)

    def forward(self, c, x, log_e):
        z = torch.cat([e(c[:, i]) for i, e in enumerate(self.emb)] + [x], 1)
        return self.mlp(z).squeeze(1) + log_e          # log of the expected count


net = Frequency(float(np.log(claims[tr].sum() / exposure[tr].sum())))
opt = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10)
nll = nn.PoissonNLLLoss(log_input=True, full=False)

for epoch in range(10):
    net.train()
    tot = 0.
    for b in torch.as_tensor(rng.permutation(tr)).split(160):
        loss = nll(net(C[b], N[b], logE[b]), Y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        tot += loss.item() * len(b)
    sched.step()
    net.eval()
    with torch.no_grad():
        v = nll(net(C[va], N[va], logE[va]), Y[va]).item()
    print(f"epoch {epoch}: train nll {tot / len(tr):.4f}  valid nll {v:.4f}")

with torch.no_grad():
    pred = net(C[te], N[te], logE[te]).exp().numpy()
oh = OneHotEncoder().fit(cats[tr])
X = np.hstack([oh.transform(cats).toarray(), nums])
glm = PoissonRegressor(alpha=1e-4, max_iter=300).fit(X[tr], claims[tr] / exposure[tr], sample_weight=exposure[tr])
flat = exposure[te] * claims[tr].sum() / exposure[tr].sum()
print("zero share %.2f" % (claims == 0).mean())
print("test deviance  net %.4f  glm %.4f  flat rate %.4f  truth %.4f" % (
    mean_poisson_deviance(claims[te], pred), mean_poisson_deviance(claims[te], glm.predict(X[te]) * exposure[te]),
    mean_poisson_deviance(claims[te], flat), mean_poisson_deviance(claims[te], exposure[te] * np.exp(log_rate[te]))))
