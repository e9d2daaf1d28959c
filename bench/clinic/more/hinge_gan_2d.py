"""GAN on a ring of eight 2-D Gaussians: hinge loss, three critic steps per generator step."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(42)

Z_DIM = 8
BATCH = 128
N_CRITIC = 3
STEPS = 400
LR_G, LR_D = 1e-3, 2e-3


def sample_real(n):
    angle = torch.randint(0, 8, (n,)) * (2 * math.pi / 8)
    centre = 1.4 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return centre + 0.1 * torch.randn(n, 2)


generator = nn.Sequential(
    nn.Linear(Z_DIM, 64),
    nn.ReLU(),
    nn.Linear(64, 64),
    nn.ReLU(),
    nn.Linear(64, 2),
)



def sn(layer):
    return nn.utils.parametrizations.spectral_norm(layer)


critic = nn.Sequential(
    sn(nn.Linear(2, 64)),
    nn.LeakyReLU(0.2),
    sn(nn.Linear(64, 64)),
    nn.LeakyReLU(0.2),
    nn.Linear(64, 1),
)

opt_g = torch.optim.Adam(generator.parameters(), lr=LR_G, betas=(0.5, 0.9))
opt_d = torch.optim.Adam(critic.parameters(), lr=LR_D, betas=(0.5, 0.9))

train_real = sample_real(6000)
held_out = sample_real(500)


def energy_distance(a, b):
    return (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()


history = []
for step in range(1, STEPS + 1):
    for _ in range(N_CRITIC):
        real = train_real[torch.randint(0, len(train_real), (BATCH,))]
        with torch.no_grad():
            fake = generator(torch.randn(BATCH, Z_DIM))
        loss_d = F.relu(1 - critic(real)).mean() + F.relu(1 + critic(fake)).mean()
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()

    fake = generator(torch.randn(BATCH, Z_DIM))
    loss_g = -critic(fake).mean()
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    history.append((loss_d.item(), loss_g.item()))

    if step % 40 == 0:
        generator.eval()
        with torch.no_grad():
            samples = generator(torch.randn(500, Z_DIM))
        generator.train()
        d, g = (sum(v) / 40 for v in zip(*history[-40:]))
        print(f"step {step:4d}  critic {d:.3f}  generator {g:+.3f}  energy distance {energy_distance(samples, held_out):.4f}")
