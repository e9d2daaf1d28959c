# small GAN: learn to sample points on a noisy ring
import math
import torch
from torch import nn

torch.manual_seed(0)


def real_points(n):
    t = torch.rand(n) * 2 * math.pi
    r = 1.4 + 0.12 * torch.randn(n)
    return torch.stack([r * t.cos(), r * t.sin()], 1)


def energy_distance(a, b):
    n, m = len(a), len(b)
    ab = torch.cdist(a, b).mean()
    aa = torch.cdist(a, a).sum() / (n * (n - 1))
    bb = torch.cdist(b, b).sum() / (m * (m - 1))
    return (2 * ab - aa - bb).item()


train = real_points(20000)
test = real_points(2000)

Z = 8
G = nn.Sequential(nn.Linear(Z, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 2))
D = nn.Sequential(nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
opt_g = torch.optim.Adam(G.parameters(), lr=4e-3, betas=(0.5, 0.99))
opt_d = torch.optim.Adam(D.parameters(), lr=4e-3, betas=(0.5, 0.99))
bce = nn.BCEWithLogitsLoss()

# averaged copy of the generator, used for sampling
G_avg = torch.optim.swa_utils.AveragedModel(G, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.97))

B = 256
steps = 390
order = torch.randperm(len(train))
pos = 0
for step in range(1, steps + 1):
    if pos + B > len(order):
        order, pos = torch.randperm(len(train)), 0
    real = train[order[pos:pos + B]]
    pos += B

    # discriminator
    with torch.no_grad():
        fake = G(torch.randn(B, Z))
    d_loss = bce(D(real), torch.ones(B, 1)) + bce(D(fake), torch.zeros(B, 1))
    opt_d.zero_grad()
    d_loss.backward()
    opt_d.step()

    # generator (non-saturating)
    D.requires_grad_(False)
    g_loss = bce(D(G(torch.randn(B, Z))), torch.ones(B, 1))
    opt_g.zero_grad()
    g_loss.backward()
    opt_g.step()
    D.requires_grad_(True)
    G_avg.update_parameters(G)

    if step % 30 == 0:
        print(f"step {step}: d_loss {d_loss.item():.3f}  g_loss {g_loss.item():.3f}")

G_avg.eval()
with torch.no_grad():
    samples = G_avg(torch.randn(2000, Z))
gauss = torch.distributions.MultivariateNormal(train.mean(0), torch.cov(train.T)).sample((2000,))
print("energy distance to held-out points (lower is better)")
print(f"  GAN samples      {energy_distance(samples, test):.4f}")
print(f"  fitted Gaussian  {energy_distance(gauss, test):.4f}")
print(f"  real train pts   {energy_distance(train[:2000], test):.4f}")
rad = samples.norm(dim=1)
print(f"  radius of samples {rad.mean():.2f} +- {rad.std():.2f}  (real {test.norm(dim=1).mean():.2f} +- {test.norm(dim=1).std():.2f})")
