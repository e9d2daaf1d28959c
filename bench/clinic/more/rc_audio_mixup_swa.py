"""
Raw-waveform sound events, 1-D conv net.  mixup + label smoothing, SWA over the last third.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel, SWALR, update_bn
from torch.utils.data import DataLoader, TensorDataset

CLASSES = ("chirp up", "chirp down", "tremolo", "vibrato", "clicks", "two tones")
SR, N = 4000, 1024


def synth(n, g):
    """n sounds of random class at random level in noise"""
    u = lambda lo, hi: lo + (hi - lo) * torch.rand(n, 1, generator=g)
    t = torch.arange(N)[None] / SR
    y = torch.randint(len(CLASSES), (n,), generator=g)
    f, phi, tau = u(250, 900), u(0, 6.283), 6.28318
    sweep = u(600, 1500)
    rate = u(12, 30)
    up = torch.sin(tau * (f * t + sweep * t ** 2) + phi)
    down = torch.sin(tau * ((f + 2 * sweep * 0.256) * t - sweep * t ** 2) + phi)
    tremolo = (0.55 + 0.45 * torch.sin(tau * rate * t)) * torch.sin(tau * f * t + phi)
    vibrato = torch.sin(tau * f * t + u(3, 7) * torch.sin(tau * rate * t + phi))
    since = torch.remainder(t + u(0, 0.05), 1 / rate)
    clicks = 1.6 * torch.exp(-since * 150) * torch.sin(tau * f * since)
    two = 0.6 * torch.sin(tau * f * t + phi) + 0.6 * torch.sin(tau * f * u(1.2, 1.9) * t)
    bank = torch.stack([up, down, tremolo, vibrato, clicks, two], 1)
    x = bank[torch.arange(n), y] * u(0.6, 1.4) + u(0.2, 0.7) * torch.randn(n, N, generator=g)
    return x.unsqueeze(1), y


def net():
    def cbr(i, o, k, s):
        return [nn.Conv1d(i, o, k, s, k // 2, bias=False), nn.BatchNorm1d(o), nn.ReLU()]
    return nn.Sequential(*cbr(1, 24, 33, 8), *cbr(24, 32, 9, 2), *cbr(32, 48, 9, 2), *cbr(48, 64, 9, 2),
                         nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, len(CLASSES)))


@torch.no_grad()
def evaluate(model, x, y):
    model.eval()
    out = model(x)
    return (out.argmax(1) == y).float().mean().item(), F.cross_entropy(out, y).item()


g = torch.Generator().manual_seed(33)
torch.manual_seed(33)
xtr, ytr = synth(2200, g)
xva, yva = synth(400, g)
xte, yte = synth(800, g)
scale = xtr.std()
xtr, xva, xte = xtr / scale, xva / scale, xte / scale

model = net()
averaged = AveragedModel(model)
loader = DataLoader(TensorDataset(xtr, ytr), batch_size=48, shuffle=True, drop_last=True)
epochs, swa_from, alpha = 9, 6, 0.2
opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
cosine = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs * len(loader))
swa_lr = SWALR(opt, swa_lr=0.02, anneal_epochs=1)
beta = torch.distributions.Beta(alpha, alpha)

for epoch in range(epochs):
    model.train()
    seen = 0.0
    for x, y in loader:
        lam = beta.sample().item()
        other = torch.randperm(len(x))
        out = model(lam * x + (1 - lam) * x[other])
        loss = (lam * F.cross_entropy(out, y, label_smoothing=0.1)
                + (1 - lam) * F.cross_entropy(out, y[other], label_smoothing=0.1))
        opt.zero_grad()
        loss.backward()
        opt.step()
        if epoch < swa_from:
            cosine.step()
        seen += loss.item()
    if epoch >= swa_from:
        averaged.update_parameters(model)
        swa_lr.step()
    acc, ce = evaluate(model, xva, yva)
    print(f"epoch {epoch}: mixup loss {seen / len(loader):.3f}, valid ce {ce:.3f}, valid acc {acc:.3f}, lr {opt.param_groups[0]['lr']:.3f}")

update_bn(loader, averaged)
acc_avg, _ = evaluate(averaged, xte, yte)
acc_last, _ = evaluate(model, xte, yte)
base = (yte == ytr.mode().values).float().mean().item()
print(f"test accuracy: averaged {acc_avg:.3f}, last {acc_last:.3f}, majority {base:.3f}")
