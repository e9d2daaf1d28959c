"""Sparse autoencoder (dictionary learning) on superposed features.

Following the 'toy models of superposition' setting: x = F a + noise where a is a
sparse non-negative activation vector (96 features in 48 dimensions)
and F has unit columns.  The SAE should find F back.
"""
import torch
import torch.nn as nn
from sklearn.decomposition import PCA

torch.set_num_threads(1)
torch.manual_seed(42)

D, N_FEAT, N_LATENT = 48, 96, 128
F_true = nn.functional.normalize(torch.randn(D, N_FEAT), dim=0)
P_ON = 0.03


def sample(n):
    on = (torch.rand(n, N_FEAT) < P_ON).float()
    a = on * (0.5 + torch.rand(n, N_FEAT))
    return a @ F_true.T + 0.02 * torch.randn(n, D)


class SparseAutoencoder(nn.Module):
    def __init__(self, d, m):
        super().__init__()
        W = nn.functional.normalize(torch.randn(m, d), dim=1)
        self.W_dec = nn.Parameter(W.clone())
        self.W_enc = nn.Parameter(W.T.clone())
        self.b_enc = nn.Parameter(torch.zeros(m))
        self.b_dec = nn.Parameter(torch.zeros(d))

    def encode(self, x):
        return torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)

    def forward(self, x):
        z = self.encode(x)
        return {"recon": z @ self.W_dec + self.b_dec, "codes": z}

    @torch.no_grad()
    def renormalize(self):
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True))


train, held = sample(40000), sample(4000)
scale = (D ** 0.5) / train.norm(dim=1).mean()        # usual activation scaling, from training data
train, held = train * scale, held * scale

sae = SparseAutoencoder(D, N_LATENT)
sae.b_dec.data.copy_(train.mean(0))
opt = torch.optim.Adam(sae.parameters(), lr=3e-3, betas=(0.9, 0.99))
STEPS, L1 = 800, 1.0


def report(tag):
    with torch.no_grad():
        out = sae(held)
        fvu = ((out["recon"] - held) ** 2).sum() / ((held - train.mean(0)) ** 2).sum()
        l0 = (out["codes"] > 0).float().sum(1).mean()
        dead = ((out["codes"] > 0).sum(0) == 0).sum()
        sim = nn.functional.normalize(sae.W_dec, dim=1) @ F_true
        print(f"{tag}: held-out FVU {fvu:.3f}  L0 {l0:.1f}  dead {int(dead)}/{N_LATENT}"
              f"  mean best cosine {sim.max(0).values.mean():.3f}")


report("init")
for step in range(STEPS):
    x = train[torch.randint(len(train), (512,))]
    out = sae(x)
    recon = (out["recon"] - x).pow(2).sum(1).mean()
    sparsity = out["codes"].abs().sum(1).mean()
    lam = L1 * min(1.0, step / 200)
    loss = recon + lam * sparsity
    opt.zero_grad()
    loss.backward()
    # remove the part of the gradient along each dictionary row
    with torch.no_grad():
        g, w = sae.W_dec.grad, sae.W_dec
        g.sub_((g * w).sum(1, keepdim=True) * w)
    opt.step()
    sae.renormalize()
    if step > STEPS * 0.8:
        opt.param_groups[0]["lr"] = 3e-3 * (STEPS - step) / (0.2 * STEPS)
    if (step + 1) % 200 == 0:
        print(f"step {step + 1} recon {recon:.3f} l1 {sparsity:.3f}")
        report("  eval")

for k in (5, 10):
    pca = PCA(k).fit(train.numpy())
    print(f"PCA with {k} numbers per sample: FVU {1 - pca.explained_variance_ratio_.sum():.3f}")
