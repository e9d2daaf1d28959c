import math
import torch
from torch import nn, optim
from sklearn.ensemble import HistGradientBoostingRegressor


class Expert(nn.Module):
    def __init__(self, d_in, d_hidden, d_out):
        super().__init__()
        self.fc1 = nn.Linear(d_in, d_hidden)
        self.fc2 = nn.Linear(d_hidden, d_out)

    def forward(self, x):
        return self.fc2(torch.nn.functional.silu(self.fc1(x)))


class SparseMoE(nn.Module):
    """Top-k routed mixture of experts; returns (prediction, balance_loss, expert load)."""

    def __init__(self, d_in, n_experts=6, k=2, d_hidden=24):
        super().__init__()
        self.k = k
        self.experts = nn.ModuleList(Expert(d_in, d_hidden, 1) for _ in range(n_experts))
        self.gate = nn.Sequential(nn.Linear(d_in, 32), nn.Tanh(), nn.Linear(32, n_experts))
        self.noise = nn.Parameter(torch.tensor(-2.0))

    def forward(self, x):
        scores = self.gate(x)
        noisy = scores
        if self.training:
            noisy = scores + torch.randn_like(scores) * nn.functional.softplus(self.noise)
        top, idx = noisy.topk(self.k, dim=-1)
        w = torch.softmax(top, -1)
        y = x.new_zeros(x.shape[0], 1)
        load = []
        for e, expert in enumerate(self.experts):
            rows, slot = (idx == e).nonzero(as_tuple=True)
            load.append(rows.numel() / x.shape[0])
            if rows.numel():
                y = y.index_add(0, rows, w[rows, slot].unsqueeze(1) * expert(x[rows]))
        load = torch.tensor(load)
        importance = torch.softmax(scores, -1).mean(0)
        aux = len(self.experts) * (importance * load / self.k).sum()
        return y.squeeze(1), aux, load


def make_data(n, gen):
    """Four regimes; which one is in force depends on the first two coordinates."""
    x = torch.randn(n, 8, generator=gen)
    regime = (x[:, 0] > 0).long() * 2 + (x[:, 1] > 0).long()
    W = torch.tensor([[1.5, -1, 0, .5], [-1, 1, 1, 0], [0, 1.5, -1, 1], [-.5, 0, 1, -1.5]])
    y = (x[:, 2:6] * W[regime]).sum(1) + torch.sin(2 * x[:, 6])
    return x, y + 0.3 * torch.randn(n, generator=gen)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    gen = torch.Generator().manual_seed(77)
    X, Y = make_data(9000, gen)
    (xtr, xva, xte), (ytr, yva, yte) = X.split([6000, 1500, 1500]), Y.split([6000, 1500, 1500])
    mu, sd = ytr.mean(), ytr.std()

    moe = SparseMoE(8)
    opt = optim.Adam(moe.parameters(), lr=1e-2)
    steps, bs = 750, 192
    warm = 40
    sch = optim.lr_scheduler.LambdaLR(
        opt, lambda s: min((s + 1) / warm, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, s / steps)))))

    step = 0
    while step < steps:
        for chunk in torch.randperm(len(xtr)).split(bs):
            if len(chunk) < bs or step == steps:
                break
            pred, aux, load = moe(xtr[chunk])
            mse = nn.functional.mse_loss(pred, (ytr[chunk] - mu) / sd)
            loss = mse + 0.02 * aux
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(moe.parameters(), 5.0)
            opt.step()
            sch.step()
            step += 1
            if step % 125 == 0:
                moe.eval()
                with torch.no_grad():
                    pv, _, lv = moe(xva)
                    r2 = 1 - ((pv * sd + mu - yva) ** 2).mean() / yva.var()
                moe.train()
                print(f"step {step} mse {mse.item():.3f} aux {aux.item():.3f} valid R2 {r2:.3f} "
                      f"load {[round(v, 2) for v in lv.tolist()]}")

    moe.eval()
    with torch.no_grad():
        p = moe(xte)[0] * sd + mu
    trees = HistGradientBoostingRegressor(max_iter=80, random_state=0).fit(xtr.numpy(), ytr.numpy())
    print(f"test R2: moe {1 - ((p - yte) ** 2).mean() / yte.var():.3f}, "
          f"boosted trees {trees.score(xte.numpy(), yte.numpy()):.3f}, "
          f"noise ceiling {1 - 0.09 / yte.var():.3f}")


if __name__ == "__main__":
    main()
