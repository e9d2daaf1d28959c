"""Conditional neural process (Garnelo et al. 2018) on draws from Gaussian processes."""
import math
import torch
import torch.nn as nn


class CNP(nn.Module):
    def __init__(self, r=96):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(2, r), nn.ReLU(), nn.Linear(r, r), nn.ReLU(), nn.Linear(r, r))
        self.decode = nn.Sequential(nn.Linear(r + 1, r), nn.ReLU(), nn.Linear(r, r), nn.ReLU(), nn.Linear(r, 2))

    def forward(self, xc, yc, xt):
        r = self.encode(torch.cat([xc, yc], -1)).mean(1, keepdim=True)
        h = self.decode(torch.cat([r.expand(-1, xt.size(1), -1), xt], -1))
        mu, raw = h.chunk(2, -1)
        sigma = 0.05 + 0.95 * nn.functional.softplus(raw)
        return torch.distributions.Normal(mu, sigma)


def gp_curves(batch, points, gen):
    x = torch.rand(batch, points, 1, generator=gen) * 4 - 2
    ell = 0.6 + 0.6 * torch.rand(batch, 1, 1, generator=gen)
    scale = 0.7 + 0.6 * torch.rand(batch, 1, 1, generator=gen)
    d2 = (x - x.transpose(1, 2)) ** 2
    k = scale ** 2 * torch.exp(-0.5 * d2 / ell ** 2) + 1e-3 * torch.eye(points)
    y = torch.linalg.cholesky(k) @ torch.randn(batch, points, 1, generator=gen)
    return x, y


def nll(model, x, y, n_ctx):
    pred = model(x[:, :n_ctx], y[:, :n_ctx], x[:, n_ctx:])
    return -pred.log_prob(y[:, n_ctx:]).mean(), pred.mean


def test_suite(gen):
    return [(n, *gp_curves(200, n + 20, gen)) for n in (4, 8, 16)]


def score(model, suite):
    model.eval()
    with torch.no_grad():
        res = [nll(model, x, y, n) for n, x, y in suite]
        loss = sum(r[0].item() for r in res) / len(res)
        rmse = math.sqrt(sum(((m - y[:, n:]) ** 2).mean().item() for (_, m), (n, _, y) in zip(res, suite)) / len(res))
    model.train()
    return loss, rmse


if __name__ == "__main__":
    torch.manual_seed(21)
    gen = torch.Generator().manual_seed(21)
    valid, test = test_suite(gen), test_suite(gen)
    model = CNP()
    n_iter = 700
    optim = torch.optim.Adam(model.parameters(), lr=2e-3)
    sched = torch.optim.lr_scheduler.OneCycleLR(optim, 2.5e-3, total_steps=n_iter, pct_start=0.1)
    avg = None
    for it in range(1, n_iter + 1):
        n_ctx = int(torch.randint(3, 20, (1,), generator=gen))
        x, y = gp_curves(48, n_ctx + 20, gen)
        loss, _ = nll(model, x, y, n_ctx)
        optim.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optim.step()
        sched.step()
        avg = loss.item() if avg is None else 0.97 * avg + 0.03 * loss.item()
        if it % 100 == 0:
            v, r = score(model, valid)
            print(f"iter {it}: smoothed nll {avg:.3f} | valid nll {v:.3f} rmse {r:.3f}")

    t_nll, t_rmse = score(model, test)
    flat = torch.cat([y[:, n:].flatten() for n, _, y in test])
    marginal = -torch.distributions.Normal(flat.mean(), flat.std()).log_prob(flat).mean().item()
    ctx_rmse = math.sqrt(sum(((y[:, :n].mean(1, keepdim=True) - y[:, n:]) ** 2).mean().item()
                             for n, _, y in test) / len(test))
    print(f"test nll {t_nll:.3f} (marginal Gaussian {marginal:.3f})   rmse {t_rmse:.3f} (context mean {ctx_rmse:.3f})")
