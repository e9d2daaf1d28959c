"""MAML with learned inner learning rates (Meta-SGD) on the sinusoid family, written with torch.func."""
import math

import torch
import torch.nn as nn
from torch.func import functional_call, grad, vmap

torch.manual_seed(0)
META_BATCH, SHOTS, QUERY, INNER_STEPS, STEPS = 24, 10, 15, 2, 500

net = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
weights = {k: nn.Parameter(v.detach().clone()) for k, v in net.named_parameters()}
rates = {k: nn.Parameter(torch.full_like(v, 0.03)) for k, v in weights.items()}


def sample_tasks(n):
    amp = torch.empty(n, 1, 1).uniform_(0.5, 3.0)
    phase = torch.empty(n, 1, 1).uniform_(0, math.pi)
    x = torch.empty(n, SHOTS + QUERY, 1).uniform_(-4, 4)
    y = amp * torch.sin(x + phase)
    return x[:, :SHOTS], y[:, :SHOTS], x[:, SHOTS:], y[:, SHOTS:]


def mse(params, x, y):
    return ((functional_call(net, params, (x,)) - y) ** 2).mean()


def adapt_and_score(params, lrs, xs, ys, xq, yq):
    for _ in range(INNER_STEPS):
        g = grad(mse)(params, xs, ys)
        params = {k: params[k] - lrs[k] * g[k] for k in params}
    return mse(params, xq, yq)


over_tasks = vmap(adapt_and_score, in_dims=(None, None, 0, 0, 0, 0))

outer = torch.optim.Adam(
    [{"params": list(weights.values()), "lr": 4e-3}, {"params": list(rates.values()), "lr": 1e-3}])
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(outer, STEPS, eta_min=1e-4)
validation = sample_tasks(200)

for step in range(1, STEPS + 1):
    outer.zero_grad()
    meta_loss = over_tasks(weights, rates, *sample_tasks(META_BATCH)).mean()
    meta_loss.backward()
    nn.utils.clip_grad_norm_(list(weights.values()) + list(rates.values()), 5.0)
    outer.step()
    schedule.step()
    if step % 100 == 0 or step == 1:
        with torch.no_grad():
            val = over_tasks(weights, rates, *validation).mean().item()
        print(f"{step:4d}  meta loss {meta_loss.item():.3f}   validation tasks {val:.3f}")

test = sample_tasks(1000)
with torch.no_grad():
    after = over_tasks(weights, rates, *test).mean().item()
    before = vmap(mse, in_dims=(None, 0, 0))(weights, test[2], test[3]).mean().item()
zero = (test[3] ** 2).mean().item()
print(f"1000 new tasks, query mse: after adaptation {after:.3f}, before {before:.3f}, predicting zero {zero:.3f}")
