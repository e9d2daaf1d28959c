"""Person re-identification from three-axis gait snippets.

Embedding net trained with the batch-hard triplet loss (Hermans et al.), P x K batches.
People in the test set are never seen in training.  Score: rank-1 with one gallery snippet per person.
"""
import math
import random

import torch
import torch.nn.functional as F
from torch import nn, optim


def make_people(n_people, n_snippets, gen):
    """Every person: own harmonic amplitudes and phases on each axis.  Every snippet: own start, tempo, gain, noise."""
    t = torch.linspace(0, 1, 97)[:96]
    harmonics = torch.arange(1, 6).float()
    amp = torch.rand(n_people, 3, 5, generator=gen) / harmonics.sqrt()
    phase = torch.rand(n_people, 3, 5, generator=gen) * 2 * math.pi
    start = torch.rand(n_people, n_snippets, 1, 1, 1, generator=gen)
    tempo = 3.0 * (1 + 0.08 * torch.randn(n_people, n_snippets, 1, 1, 1, generator=gen))
    gain = 1 + 0.15 * torch.randn(n_people, n_snippets, 3, 1, generator=gen)
    cycle = 2 * math.pi * (tempo * t + start)
    wave = amp[:, None, :, :, None] * torch.sin(harmonics[:, None] * cycle + phase[:, None, :, :, None])
    noise = 0.4 * torch.randn(n_people, n_snippets, 3, 96, generator=gen)
    return wave.sum(3) * gain + noise


class GaitNet(nn.Module):
    def __init__(self, width=48, dim=32):
        super().__init__()

        def block(i, o, stride):
            return nn.Sequential(nn.Conv1d(i, o, 7, stride, 3, bias=False), nn.BatchNorm1d(o), nn.ReLU(inplace=True))

        self.trunk = nn.Sequential(block(3, width, 2), block(width, width, 1), block(width, 2 * width, 2))
        self.head = nn.Linear(4 * width, dim)

    def forward(self, x):
        h = self.trunk(x)
        h = torch.cat([h.mean(2), h.amax(2)], 1)
        return F.normalize(self.head(h), dim=1)


def batch_hard(emb, label, margin):
    dist = (2 - 2 * emb @ emb.t()).clamp_min(1e-8).sqrt()
    same = label[:, None] == label[None]
    hardest_pos = dist.masked_fill(~same, -1).max(1).values
    hardest_neg = dist.masked_fill(same, 9).min(1).values
    return F.relu(hardest_pos - hardest_neg + margin).mean()


def pk_batch(data, people, snippets):
    who = random.sample(range(len(data)), people)
    which = [random.sample(range(data.size(1)), snippets) for _ in who]
    x = torch.cat([data[p, s] for p, s in zip(who, which)])
    return x, torch.arange(people).repeat_interleave(snippets)


def rank1(features):
    """features: people x snippets x dim; snippet 0 is the gallery."""
    gallery, query = features[:, 0], features[:, 1:]
    d = torch.cdist(query.flatten(0, 1), gallery)
    truth = torch.arange(len(features)).repeat_interleave(query.size(1))
    return (d.argmin(1) == truth).float().mean().item()


@torch.no_grad()
def embed(model, data):
    model.eval()
    out = model(data.flatten(0, 1)).view(data.size(0), data.size(1), -1)
    model.train()
    return out


if __name__ == "__main__":
    random.seed(11)
    torch.manual_seed(11)
    gen = torch.Generator().manual_seed(11)
    train, valid, test = (make_people(n, 12, gen) for n in (260, 50, 100))
    mean, std = train.mean((0, 1, 3), keepdim=True), train.std((0, 1, 3), keepdim=True)
    train, valid, test = ((d - mean[0]) / std[0] for d in (train, valid, test))

    model = GaitNet()
    steps = 260
    opt = optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)
    sched = optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    for step in range(1, steps + 1):
        x, y = pk_batch(train, 16, 4)
        loss = batch_hard(model(x), y, margin=0.3)
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
        if step % 40 == 0 or step == 1:
            print(f"{step:4d}  triplet {loss.item():.3f}  valid rank-1 {rank1(embed(model, valid)):.3f}")

    spectrum = torch.fft.rfft(test, dim=3).abs().flatten(2)
    print(f"test rank-1 on {len(test)} unseen people: {rank1(embed(model, test)):.3f}  "
          f"(raw signal {rank1(test.flatten(2)):.3f}, spectrum {rank1(spectrum):.3f}, chance {1 / len(test):.3f})")
