# Segment solid discs in noisy binary scans: hollow rings and strokes are distractors. Mini U-Net, BCE + soft Dice.
from collections import defaultdict
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from scipy.ndimage import binary_opening

torch.set_num_threads(1)
S = 20
yy, xx = np.mgrid[:S, :S]


def draw(rng):
    img, mask = np.zeros((S, S), bool), np.zeros((S, S), bool)
    for _ in range(rng.integers(1, 3)):
        cy, cx, r = *rng.uniform(4, S - 4, 2), rng.uniform(2.2, 4.5)
        mask |= (yy - cy) ** 2 + (xx - cx) ** 2 <= r * r
    for _ in range(rng.integers(1, 3)):
        cy, cx, r = *rng.uniform(4, S - 4, 2), rng.uniform(2.5, 5)
        d = np.hypot(yy - cy, xx - cx)
        img |= abs(d - r) < .8
    for _ in range(rng.integers(0, 3)):
        a, c = rng.uniform(0, np.pi), rng.uniform(6, S - 6, 2)
        img |= abs((yy - c[0]) * np.cos(a) - (xx - c[1]) * np.sin(a)) < .7
    img |= mask
    return img ^ (rng.random((S, S)) < .06), mask


def dataset(n, seed):
    rng = np.random.default_rng(seed)
    x, y = zip(*(draw(rng) for _ in range(n)))
    return torch.tensor(np.array(x)).unsqueeze(1).float(), torch.tensor(np.array(y)).unsqueeze(1).float()


def conv(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))


def double(i, o):
    return nn.Sequential(*conv(i, o), *conv(o, o))


class UNet(nn.Module):
    def __init__(self, c=8):
        super().__init__()
        self.d1, self.d2, self.mid = conv(1, c), conv(c, 2 * c), double(2 * c, 4 * c)
        self.u2, self.u1 = double(6 * c, 2 * c), conv(3 * c, c)
        self.out = nn.Conv2d(c, 1, 1)

    def forward(self, x):
        a = self.d1(x)
        b = self.d2(F.max_pool2d(a, 2))
        m = self.mid(F.max_pool2d(b, 2))
        b = self.u2(torch.cat([F.interpolate(m, scale_factor=2), b], 1))
        a = self.u1(torch.cat([F.interpolate(b, scale_factor=2), a], 1))
        return self.out(a)


def dice_loss(logit, y):
    p = logit.sigmoid().flatten(1)
    y = y.flatten(1)
    return (1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)).mean()


def iou(pred, y):
    return ((pred & y).sum() / (pred | y).sum()).item()


def evaluate(net, x, y):
    net.eval()
    with torch.no_grad():
        logit = torch.cat([net(b) for b in x.split(128)])
    return {"bce": F.binary_cross_entropy_with_logits(logit, y).item(), "dice": dice_loss(logit, y).item(), "iou": iou(logit > 0, y > .5)}


torch.manual_seed(0)
xtr, ytr = dataset(800, 1)
xva, yva = dataset(200, 2)
xte, yte = dataset(300, 3)
net = UNet()
opt = torch.optim.AdamW(net.parameters(), lr=8e-3, weight_decay=1e-3)
EPOCHS, BS = 6, 16
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, EPOCHS * (len(xtr) // BS), eta_min=1e-4)
logs = defaultdict(list)
for epoch in range(EPOCHS):
    net.train()
    for idx in torch.randperm(len(xtr)).split(BS):
        x, y = xtr[idx], ytr[idx]
        flips = [d for d in (2, 3) if torch.rand(()) < .5]
        if flips:
            x, y = x.flip(flips), y.flip(flips)
        out = net(x)
        bce, dice = F.binary_cross_entropy_with_logits(out, y), dice_loss(out, y)
        opt.zero_grad()
        (bce + .5 * dice).backward()
        opt.step()
        sched.step()
        logs["bce"].append(bce.item()); logs["dice"].append(dice.item())
    v = evaluate(net, xva, yva)
    print(epoch, {k: round(float(np.mean(q[-50:])), 3) for k, q in logs.items()}, "val", {k: round(q, 3) for k, q in v.items()})

opened = torch.tensor(np.array([[binary_opening(i[0].numpy() > .5, np.ones((3, 3)))] for i in xte]))
print("test", {k: round(v, 3) for k, v in evaluate(net, xte, yte).items()})
print("test iou of: the input itself %.3f, a morphological opening %.3f" % (iou(xte > .5, yte > .5), iou(opened, yte > .5)))
