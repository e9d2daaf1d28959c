"""Learning to rank: each query has 5-25 candidate documents with graded relevance 0-4.
A set-aware scorer (self-attention over the candidates) trained with the ListNet loss."""
import numpy as np
import torch
from torch import nn

rng = np.random.default_rng(31)
torch.manual_seed(31)
torch.set_num_threads(1)
D, MAX = 12, 25


def make_queries(n):
    feats = np.zeros((n, MAX, D), np.float32)
    grade = np.full((n, MAX), -1, np.int64)          # -1 = padding
    for q in range(n):
        k = rng.integers(5, MAX + 1)
        x = rng.lognormal(0, 0.8, (k, D)) * (rng.random((k, D)) < 0.6)     # zero-heavy, skewed
        rel = np.log1p(x)
        u = 1.2 * rel[:, 0] + rel[:, 1] * rel[:, 2] - 0.8 * rel[:, 3] + 0.7 * np.maximum(rel[:, 4], rel[:, 5])
        u = u - 0.6 * (rel[:, 6] > rel[:, 6].mean()) + rng.normal(0, 0.3, k)
        grade[q, :k] = np.digitize(u, [0.3, 1.0, 1.8, 2.6])
        feats[q, :k] = rel
    return torch.from_numpy(feats), torch.from_numpy(grade)


class Scorer(nn.Module):
    def __init__(self, width=32, heads=2):
        super().__init__()
        self.inp = nn.Sequential(nn.Linear(D, width), nn.ReLU(), nn.Linear(width, width))
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, 1)

    def forward(self, x, pad):
        h = self.inp(x)
        h = self.norm(h + self.attn(h, h, h, key_padding_mask=pad, need_weights=False)[0])
        h = h + nn.functional.glu(self.gate(h), -1)
        return self.out(h).squeeze(-1).masked_fill(pad, -1e9)


def listnet(scores, grade):
    pad = grade < 0
    target = grade.float().masked_fill(pad, -1e9).softmax(-1)
    return -(target * scores.log_softmax(-1)).masked_fill(pad, 0).sum(-1).mean()


def ndcg(scores, grade, k=5):
    gain = (2.0 ** grade.clamp(min=0) - 1)
    disc = 1 / torch.log2(torch.arange(2, k + 2).float())
    got = gain.gather(1, scores.topk(k, 1).indices)
    ideal = gain.topk(k, 1).values
    ok = ideal.sum(1) > 0
    return (((got * disc).sum(1) / (ideal * disc).sum(1).clamp(min=1e-9))[ok]).mean().item()


train, valid, test = make_queries(1500), make_queries(300), make_queries(500)
seen = train[0][train[1] >= 0]
mu, sd = seen.mean(0), seen.std(0)
train, valid, test = [((f - mu) / sd * (g >= 0)[..., None], g) for f, g in (train, valid, test)]

model = Scorer()
decay = [p for p in model.parameters() if p.ndim > 1]
rest = [p for p in model.parameters() if p.ndim <= 1]
opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}], lr=2e-3)
sched = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=4, T_mult=2, eta_min=1e-5)
ACCUM = 2                                            # 2 x 32 queries per optimizer step
for epoch in range(12):
    model.train()
    chunks = torch.randperm(len(train[0])).split(32)
    chunks = chunks[:len(chunks) // ACCUM * ACCUM]
    log = {"loss": 0.0}
    for i, c in enumerate(chunks):
        f, g = train[0][c], train[1][c]
        loss = listnet(model(f, g < 0), g)
        (loss / ACCUM).backward()
        log["loss"] += loss.item() / len(chunks)
        if (i + 1) % ACCUM == 0:
            opt.step()
            opt.zero_grad()
            sched.step(epoch + (i + 1) / len(chunks))
    model.eval()
    with torch.no_grad():
        s = model(valid[0], valid[1] < 0)
        log |= {"val_loss": listnet(s, valid[1]).item(), "val_ndcg5": ndcg(s, valid[1])}
    print(epoch, {k: round(v, 4) for k, v in log.items()})

with torch.no_grad():
    f, g = test
    keep = train[1] >= 0
    A = torch.cat([train[0][keep], torch.ones(int(keep.sum()), 1)], 1)
    w = torch.linalg.lstsq(A, train[1][keep].float()[:, None]).solution
    linear = (f @ w[:-1]).squeeze(-1).masked_fill(g < 0, -1e9)
    rand = torch.rand(g.shape).masked_fill(g < 0, -1e9)
    print("test NDCG@5  set scorer %.3f  pointwise linear %.3f  random %.3f" % (
        ndcg(model(f, g < 0), g), ndcg(linear, g), ndcg(rand, g)))
