"""Who is buzzing?  Triplet metric learning on wing-beat snippets.

60 insects for training, 20 others for validation and 20 others for the test: open-set identification, so
the embedding has to work for individuals it has never met.  PK batches, batch-hard triplets.
"""
import numpy as np
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import TensorDataset, DataLoader, Sampler

torch.set_num_threads(1)


def record(individuals, per, rng, length=128):
    t = np.arange(length) / length
    xs, ids = [], []
    for who in range(individuals):
        f0 = rng.uniform(6, 12)
        amp = rng.dirichlet(np.ones(4)) + .05
        for _ in range(per):
            f = f0 * (1 + .02 * rng.standard_normal())
            wave = sum(a * np.sin(2 * np.pi * (h + 1) * f * t + rng.uniform(0, 2 * np.pi)) for h, a in enumerate(amp))
            wave = rng.uniform(.5, 2) * wave + .08 * rng.standard_normal(length)
            xs.append((wave - wave.mean()) / wave.std())
            ids.append(who)
    return torch.tensor(np.array(xs), dtype=torch.float32), torch.tensor(ids)


class PKSampler(Sampler):
    def __init__(self, labels, p, k, batches, seed):
        self.groups = [torch.where(labels == c)[0].numpy() for c in labels.unique()]
        self.p, self.k, self.batches, self.rng = p, k, batches, np.random.default_rng(seed)

    def __len__(self):
        return self.batches

    def __iter__(self):
        for _ in range(self.batches):
            chosen = self.rng.choice(len(self.groups), self.p, replace=False)
            yield np.concatenate([self.rng.choice(self.groups[c], self.k, replace=False) for c in chosen]).tolist()


class Embedder(nn.Module):
    def __init__(self, dim=24):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv1d(1, 24, 15, stride=2, padding=7), nn.BatchNorm1d(24), nn.ReLU(),
            nn.Conv1d(24, 32, 9, stride=2, padding=4), nn.BatchNorm1d(32), nn.ReLU(),
            nn.Conv1d(32, 48, 5, stride=2, padding=2), nn.BatchNorm1d(48), nn.ReLU())
        self.fc = nn.Linear(96, dim)

    def forward(self, x):
        h = self.conv(x.unsqueeze(1))
        return F.normalize(self.fc(torch.cat([h.mean(2), h.std(2)], 1)), dim=1)


def batch_hard(z, y):
    d = torch.cdist(z, z)
    same = y[:, None] == y[None]
    far = d.masked_fill(~same, -1).max(1).values
    near = d.masked_fill(same, 9).min(1).values
    return F.softplus(5 * (far - near + .2)).mean() / 5          # soft margin


@torch.no_grad()
def identify(net, x, y, shots=3):
    """First `shots` snippets of each individual are the gallery, the rest are probes."""
    net.eval()
    z = net(x)
    rank = torch.cat([torch.arange((y == c).sum()) for c in y.unique()])
    g, p = rank < shots, rank >= shots
    top = y[g][torch.cdist(z[p], z[g]).argmin(1)]
    same_shape = PKSampler(y, 8, 4, 25, 1)                       # loss on batches like the training ones
    return (top == y[p]).float().mean().item(), np.mean([batch_hard(z[i], y[i]).item() for i in same_shape])


if __name__ == "__main__":
    torch.manual_seed(4)
    rng = np.random.default_rng(4)
    (xa, ya), (xv, yv), (xt, yt) = record(60, 24, rng), record(20, 24, rng), record(20, 24, rng)
    net = Embedder()
    opt = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    sch = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 6)
    loader = DataLoader(TensorDataset(xa, ya), batch_sampler=PKSampler(ya, 8, 4, 45, 0))
    print("before: valid top-1 %.3f" % identify(net, xv, yv)[0])
    for epoch in range(6):
        net.train()
        log = []
        for x, y in loader:
            loss = batch_hard(net(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            log.append(loss.item())
        sch.step()
        acc, vl = identify(net, xv, yv)
        print(f"epoch {epoch} loss {np.mean(log):.3f} | new individuals: top-1 {acc:.3f} loss {vl:.3f}")
    spec = lambda x: torch.fft.rfft(x).abs()[:, :60]
    print("test top-1 %.3f | raw waves %.3f | spectra %.3f | chance %.3f" % (
        identify(net, xt, yt)[0], identify(nn.Flatten(), xt, yt)[0], identify(type("S", (nn.Module,), {"forward": lambda s, x: spec(x)})(), xt, yt)[0], 1 / 20))
