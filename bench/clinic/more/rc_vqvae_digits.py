# VQ-VAE on the 8x8 digits, EMA codebook.  quick and dirty
import torch, torch.nn as nn, torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

torch.manual_seed(3)
digits = load_digits()
imgs = (digits.images / 16.0).astype("float32")[:, None]
tr, te = train_test_split(imgs, test_size=0.25, random_state=3, stratify=digits.target)
tr, te = torch.from_numpy(tr), torch.from_numpy(te)

K, D = 32, 12


class Quantiser(nn.Module):
    def __init__(self, decay=0.97):
        super().__init__()
        self.decay = decay
        self.register_buffer("codes", torch.randn(K, D))
        self.register_buffer("count", torch.ones(K))
        self.register_buffer("total", self.codes.clone())
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, z):                                   # z: B D H W
        flat = z.permute(0, 2, 3, 1).reshape(-1, D)
        if self.training and not self.ready:                # start from real encoder outputs
            self.codes.copy_(flat.detach()[torch.randperm(len(flat))[:K]])
            self.total.copy_(self.codes)
            self.ready.fill_(True)
        idx = torch.cdist(flat, self.codes).argmin(1)
        q = self.codes[idx]
        if self.training:
            with torch.no_grad():
                hot = F.one_hot(idx, K).float()
                self.count.mul_(self.decay).add_(hot.sum(0), alpha=1 - self.decay)
                self.total.mul_(self.decay).add_(hot.t() @ flat, alpha=1 - self.decay)
                dead = self.count < 0.3
                if dead.any():                              # revive codes nobody uses
                    pick = flat[torch.randint(len(flat), (int(dead.sum()),))]
                    self.total[dead] = pick
                    self.count[dead] = 1.0
                self.codes.copy_(self.total / self.count[:, None])
        commit = F.mse_loss(flat, q)
        q = flat + (q - flat).detach()
        q = q.reshape(z.size(0), z.size(2), z.size(3), D).permute(0, 3, 1, 2)
        return q, commit, idx


enc = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 40, 4, 2, 1), nn.ReLU(),
                    nn.Conv2d(40, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, D, 1))
dec = nn.Sequential(nn.Conv2d(D, 40, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(40, 32, 4, 2, 1), nn.ReLU(),
                    nn.Conv2d(32, 1, 3, padding=1), nn.Sigmoid())
vq = Quantiser()
net = nn.ModuleList([enc, vq, dec])
opt = torch.optim.Adam(list(enc.parameters()) + list(dec.parameters()), lr=2e-3)

BS, EPOCHS = 64, 19
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, EPOCHS * (len(tr) // BS))
for ep in range(EPOCHS):
    net.train()
    perm = torch.randperm(len(tr))
    s = 0.0
    for i in range(len(tr) // BS):
        x = tr[perm[i * BS:(i + 1) * BS]]
        q, commit, _ = vq(enc(x))
        rec = F.mse_loss(dec(q), x)
        loss = rec + 0.05 * commit
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
        s += rec.item()
    if ep % 3 == 0 or ep == EPOCHS - 1:
        net.eval()
        with torch.no_grad():
            q, _, idx = vq(enc(te))
            v = F.mse_loss(dec(q), te).item()
        p = torch.bincount(idx, minlength=K).float() / len(idx)
        perp = torch.exp(-(p * (p + 1e-9).log()).sum()).item()
        print(f"ep {ep:2d} train rec {s / (len(tr) // BS):.4f} test rec {v:.4f} perplexity {perp:.1f}")

base = F.mse_loss(tr.mean(0, keepdim=True).expand_as(te), te).item()
print(f"held-out reconstruction mse {v:.4f}, mean image {base:.4f}")
