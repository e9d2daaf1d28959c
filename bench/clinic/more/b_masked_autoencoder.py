import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

torch.set_num_threads(1)


class MaskedAutoencoder(nn.Module):
    """Tiny MAE: 8x8 image -> 16 patches of 2x2, hide some, rebuild them."""

    def __init__(self, dim=32, heads=4, depth=2, n_patches=16, patch_dim=4):
        super().__init__()
        self.embed = nn.Linear(patch_dim, dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, dim) * 0.5)
        self.pos = nn.Parameter(torch.randn(1, n_patches, dim) * 0.5)
        layer = nn.TransformerEncoderLayer(dim, heads, dim * 2, dropout=0.05,
                                           batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)
        self.decoder = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, patch_dim))

    def forward(self, patches, mask):
        tokens = self.embed(patches)
        tokens = torch.where(mask.unsqueeze(-1), self.mask_token, tokens)
        h = self.encoder(tokens + self.pos)
        return self.decoder(self.norm(h))


def patchify(images):
    n = len(images)
    p = images.reshape(n, 4, 2, 4, 2).permute(0, 1, 3, 2, 4)
    return p.reshape(n, 16, 4)


def random_mask(n, ratio, generator=None):
    noise = torch.rand(n, 16, generator=generator)
    k = int(16 * ratio)
    ids = noise.argsort(dim=1)[:, :k]
    mask = torch.zeros(n, 16, dtype=torch.bool)
    mask.scatter_(1, ids, True)
    return mask


def masked_loss(pred, target, mask):
    err = F.mse_loss(pred, target, reduction="none").mean(-1)
    return (err * mask).sum() / mask.sum()


def validate(model, x, mask):
    model.eval()
    with torch.no_grad():
        loss = masked_loss(model(x, mask), x, mask).item()
    model.train()
    return loss


def main():
    torch.manual_seed(3)
    np.random.seed(3)
    images = load_digits().images.astype(np.float32)
    train_img, val_img = train_test_split(images, test_size=0.2, random_state=0)
    mean, std = train_img.mean(), train_img.std()
    train = patchify(torch.tensor((train_img - mean) / std))
    val = patchify(torch.tensor((val_img - mean) / std))
    val_mask = random_mask(len(val), 0.5)

    model = MaskedAutoencoder()
    opt = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.01)
    steps, batch_size, warmup = 300, 32, 20
    sched = torch.optim.lr_scheduler.LambdaLR(
        opt, lambda s: min((s + 1) / warmup, 0.5 * (1 + np.cos(np.pi * s / steps))))

    order, cursor = torch.randperm(len(train)), 0
    for step in range(steps):
        if cursor + batch_size > len(order):
            order, cursor = torch.randperm(len(train)), 0
        batch = train[order[cursor:cursor + batch_size]]
        cursor += batch_size

        mask = random_mask(batch_size, 0.5)
        loss = masked_loss(model(batch, mask), batch, mask)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        sched.step()

        if (step + 1) % 25 == 0:
            print(f"step {step + 1} train {loss.item():.4f} val {validate(model, val, val_mask):.4f}")


if __name__ == "__main__":
    main()
