"""Mixture density network for a multi-valued inverse problem: x -> several possible y."""
import math
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

torch.set_num_threads(1)
torch.manual_seed(0)

EPOCHS = 20
BATCH = 64
K = 5


def make_data(n=2000):
    # Bishop's example, the inverse of x = y + 0.3 sin(2 pi y) + noise
    y = torch.rand(n, 1)
    x = y + 0.3 * torch.sin(2 * math.pi * y) + 0.03 * torch.randn(n, 1)
    x = (x - x.mean()) / x.std()
    y = (y - y.mean()) / y.std()
    return x, y


class MDN(nn.Module):
    def __init__(self, hidden=48, k=K):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(1, hidden), nn.Tanh(),
            nn.Linear(hidden, hidden), nn.Tanh(),
        )
        self.pi = nn.Linear(hidden, k)
        self.mu = nn.Linear(hidden, k)
        self.log_sigma = nn.Linear(hidden, k)

    def forward(self, x):
        h = self.body(x)
        log_pi = torch.log_softmax(self.pi(h), dim=1)
        return log_pi, self.mu(h), self.log_sigma(h).clamp(-4, 3)


def nll(params, y):
    log_pi, mu, log_sigma = params
    z = (y - mu) / log_sigma.exp()
    comp = log_pi - 0.5 * z ** 2 - log_sigma - 0.5 * math.log(2 * math.pi)
    # log-sum-exp over the components by hand
    m = comp.max(dim=1, keepdim=True).values
    log_like = m.squeeze(1) + torch.log(torch.exp(comp - m).sum(dim=1))
    return -log_like.mean()


def evaluate(model, loader):
    model.eval()
    total, n = 0.0, 0
    with torch.no_grad():
        for xb, yb in loader:
            total += nll(model(xb), yb).item() * len(xb)
            n += len(xb)
    return total / n


def main():
    x, y = make_data()
    data = TensorDataset(x, y)
    train_set, val_set = random_split(data, [1600, 400])
    train_loader = DataLoader(train_set, batch_size=BATCH, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=200)

    model = MDN()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)

    for epoch in range(EPOCHS):
        model.train()
        running = 0.0
        for xb, yb in train_loader:
            optimizer.zero_grad()
            loss = nll(model(xb), yb)
            loss.backward()
            optimizer.step()
            running += loss.item()
        scheduler.step()
        val = evaluate(model, val_loader)
        print(f"epoch {epoch + 1:2d} train nll {running / len(train_loader):.4f} val nll {val:.4f}")


if __name__ == "__main__":
    main()
