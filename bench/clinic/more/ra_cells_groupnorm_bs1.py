"""Segment bright cells in synthetic microscope images.

Every image has its own size, so we train with batch size 1 and GroupNorm.
"""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

rng = np.random.default_rng(8)
torch.manual_seed(8)


def image():
    h, w = 4 * rng.integers(8, 15, 2)
    yy, xx = np.mgrid[0:h, 0:w]
    gx, gy = rng.normal(0, 1, 2)
    img = 0.5 + 0.9 * (gx * xx / w + gy * yy / h)              # uneven illumination
    mask = np.zeros((h, w), dtype=np.float32)
    for _ in range(rng.integers(3, 7)):
        cy, cx = rng.uniform(4, h - 4), rng.uniform(4, w - 4)
        a, b, t = rng.uniform(2.5, 5), rng.uniform(2.5, 5), rng.uniform(0, np.pi)
        u = (xx - cx) * np.cos(t) + (yy - cy) * np.sin(t)
        v = -(xx - cx) * np.sin(t) + (yy - cy) * np.cos(t)
        mask[(u / a) ** 2 + (v / b) ** 2 < 1] = 1
    img = img + rng.uniform(0.7, 1.1) * mask + rng.normal(0, 0.25, (h, w))
    return torch.tensor(img, dtype=torch.float32)[None, None], torch.from_numpy(mask)[None, None]


train = [image() for _ in range(200)]
val = [image() for _ in range(30)]
test = [image() for _ in range(60)]
pix = torch.cat([x.flatten() for x, _ in train])
m, s = pix.mean(), pix.std()
train, val, test = ([((x - m) / s, y) for x, y in part] for part in (train, val, test))


def block(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.GroupNorm(4, o), nn.ReLU(),
                         nn.Conv2d(o, o, 3, padding=1, bias=False), nn.GroupNorm(4, o), nn.ReLU())


class MiniUNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.d1, self.d2 = block(1, 8), block(8, 16)
        self.mid = block(16, 16)
        self.u2, self.u1 = block(32, 16), block(24, 8)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        a = self.d1(x)
        b = self.d2(F.max_pool2d(a, 2))
        c = self.mid(F.max_pool2d(b, 2))
        y = self.u2(torch.cat([F.interpolate(c, scale_factor=2), b], 1))
        y = self.u1(torch.cat([F.interpolate(y, scale_factor=2), a], 1))
        return self.out(y)


def iou(pred, target):
    inter = (pred & target).sum().item()
    return inter / (pred | target).sum().item()


@torch.no_grad()
def mean_iou(net, data):
    net.eval()
    return float(np.mean([iou(net(x) > 0, y > 0.5) for x, y in data]))


net = MiniUNet()
opt = torch.optim.Adam(net.parameters(), lr=2e-3)
EPOCHS = 2
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, EPOCHS * len(train))

for epoch in range(EPOCHS):
    net.train()
    recent = []
    for n, k in enumerate(rng.permutation(len(train)), 1):
        x, y = train[k]
        loss = F.binary_cross_entropy_with_logits(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
        recent.append(loss.item())
        if n % 50 == 0:
            print(f"epoch {epoch + 1} image {n}: loss {np.mean(recent[-50:]):.4f}")
    print(f"epoch {epoch + 1}: val IoU {mean_iou(net, val):.3f}")

# baselines: best global threshold (chosen on train), and everything foreground
ths = np.linspace(-1, 3, 41)
best = max(ths, key=lambda t: np.mean([iou(x > t, y > 0.5) for x, y in train]))
thr_iou = np.mean([iou(x > best, y > 0.5) for x, y in test])
all_iou = np.mean([y.mean().item() for _, y in test])
print(f"test IoU {mean_iou(net, test):.3f}  (best threshold {thr_iou:.3f}, all foreground {all_iou:.3f})")
