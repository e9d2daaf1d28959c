# beta-VAE on the 8x8 digits (exported from a notebook)
# %%
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

torch.set_num_threads(1)
torch.manual_seed(0)
np.random.seed(0)

# %% data: pixels in [0, 1]
digits = load_digits()
X = torch.tensor(digits.data / 16.0, dtype=torch.float32)
y = digits.target
perm = torch.randperm(len(X), generator=torch.Generator().manual_seed(1))
train_idx, val_idx = perm[:1400], perm[1400:]
x_train, x_val = X[train_idx], X[val_idx]
y_train, y_val = y[train_idx.numpy()], y[val_idx.numpy()]

# %% model
n_latent = 8
n_hidden = 96
beta = 0.25

enc = nn.Sequential(
    nn.Linear(64, n_hidden),
    nn.Tanh(),
    nn.Dropout(0.05),
    nn.Linear(n_hidden, n_hidden),
    nn.Tanh(),
    nn.Linear(n_hidden, 2 * n_latent),
)
dec = nn.Sequential(
    nn.Linear(n_latent, n_hidden),
    nn.ReLU(),
    nn.Linear(n_hidden, n_hidden),
    nn.ReLU(),
    nn.Linear(n_hidden, 64),
)

epochs = 32
batch = 70
params = list(enc.parameters()) + list(dec.parameters())
opt = torch.optim.Adam(params, lr=4e-3)
sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: min(1.0, (step + 1) / 40))


# %% loss
def neg_elbo(x, beta):
    mu, logvar = enc(x).chunk(2, dim=1)
    z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
    out = dec(z)
    recon = F.binary_cross_entropy_with_logits(out, x, reduction="none").sum(1)
    kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1)
    return (recon + beta * kl).mean(), recon.mean(), kl.mean()


# %% training
for epoch in range(epochs):
    enc.train()
    dec.train()
    order = torch.randperm(len(x_train))
    sums = np.zeros(3)
    for start in range(0, len(order), batch):
        xb = x_train[order[start:start + batch]]
        loss, recon, kl = neg_elbo(xb, beta)
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
        sums += loss.item(), recon.item(), kl.item()
    sums /= len(range(0, len(order), batch))

    enc.eval()
    dec.eval()
    with torch.no_grad():
        v_loss, v_recon, v_kl = neg_elbo(x_val, beta)
    if epoch % 2 == 1:
        print(f"{epoch + 1:3d} | train {sums[0]:.3f} (rec {sums[1]:.3f} kl {sums[2]:.3f}) | val {v_loss:.3f} (rec {v_recon:.3f} kl {v_kl:.3f})")

# %% how good are the codes, and the reconstructions?
with torch.no_grad():
    code_train = enc(x_train)[:, :n_latent]
    code_val = enc(x_val)[:, :n_latent]
    mse = (torch.sigmoid(dec(code_val)) - x_val).pow(2).mean().item()
print(f"reconstruction explains {1 - mse / x_val.var(0).mean().item():.3f} of the pixel variance")
if torch.isfinite(code_train).all() and len(code_train) == len(y_train):
    probe = LogisticRegression(max_iter=300).fit(code_train.numpy(), y_train)
    print(f"linear probe on the codes: accuracy {probe.score(code_val.numpy(), y_val):.3f}")
