"""Matrix factorization of user/item scores, trained with plain SGD.

The loss is the SUM of the squared errors over the mini-batch: every rating only
touches its own user and item row, so each row gets the classic per-rating update
(Funk SGD) whatever the batch size is. The learning rate is chosen for that.
"""
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class RatingsData:
    """Synthetic ratings, a low rank table plus noise, one third of the cells observed."""

    def __init__(self, n_users=250, n_items=150, rank=3, n_obs=12000, noise=0.3, seed=1):
        rng = np.random.default_rng(seed)
        U = rng.normal(0, 0.75, (n_users, rank))
        V = rng.normal(0, 0.75, (n_items, rank))
        table = 3.4 + rng.normal(0, 0.4, (n_users, 1)) + rng.normal(0, 0.5, (1, n_items)) + U @ V.T
        cells = rng.choice(n_users * n_items, size=n_obs, replace=False)
        users, items = cells // n_items, cells % n_items
        scores = table[users, items] + rng.normal(0, noise, n_obs)
        self.n_users, self.n_items = n_users, n_items
        ds = TensorDataset(torch.as_tensor(users), torch.as_tensor(items),
                           torch.as_tensor(scores, dtype=torch.float32))
        g = torch.Generator().manual_seed(seed)
        self.train, self.val, self.test = torch.utils.data.random_split(ds, [0.8, 0.1, 0.1], generator=g)


class MF(nn.Module):
    def __init__(self, n_users, n_items, k, mean):
        super().__init__()
        self.user = nn.Embedding(n_users, k)
        self.item = nn.Embedding(n_items, k)
        self.user_bias = nn.Embedding(n_users, 1)
        self.item_bias = nn.Embedding(n_items, 1)
        self.register_buffer("mean", torch.tensor(mean))
        for e in (self.user, self.item):
            nn.init.normal_(e.weight, std=0.2)
        for e in (self.user_bias, self.item_bias):
            nn.init.zeros_(e.weight)

    def forward(self, u, i):
        dot = (self.user(u) * self.item(i)).sum(1)
        return self.mean + self.user_bias(u).squeeze(1) + self.item_bias(i).squeeze(1) + dot


class Trainer:
    def __init__(self, model, data, lr=0.02, weight_decay=2e-2, batch_size=128):
        self.model = model
        self.data = data
        self.criterion = nn.MSELoss(reduction="sum")
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=weight_decay)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=7, gamma=0.3)
        self.train_loader = DataLoader(data.train, batch_size=batch_size, shuffle=True)

    def rmse(self, split):
        self.model.eval()
        sse = 0.0
        with torch.no_grad():
            for u, i, r in DataLoader(split, batch_size=1000):
                sse += self.criterion(self.model(u, i), r).item()
        return (sse / len(split)) ** 0.5

    def fit(self, epochs):
        for epoch in range(1, epochs + 1):
            self.model.train()
            total = 0.0
            for u, i, r in self.train_loader:
                loss = self.criterion(self.model(u, i), r)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                total += loss.item()
            self.scheduler.step()
            print(f"epoch {epoch:2d}  train sum of squares {total:9.1f}  val rmse {self.rmse(self.data.val):.4f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    data = RatingsData()
    train_scores = data.train.dataset.tensors[2][data.train.indices]
    test_scores = data.test.dataset.tensors[2][data.test.indices]
    model = MF(data.n_users, data.n_items, k=3, mean=train_scores.mean().item())
    trainer = Trainer(model, data)
    trainer.fit(epochs=10)
    base = (test_scores - train_scores.mean()).pow(2).mean().sqrt().item()
    print(f"test RMSE {trainer.rmse(data.test):.4f}  (global mean {base:.4f}, noise in the data 0.30)")
