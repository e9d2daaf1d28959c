# One trunk, two heads: the machine state (4 classes) and its remaining life (a number).
import torch
import torch.nn as nn
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(0)


def load_data():
    X, state = make_classification(
        n_samples=2400, n_features=16, n_informative=8, n_redundant=2, n_classes=4,
        n_clusters_per_class=1, class_sep=1.6, flip_y=0.0, random_state=5,
    )
    X = torch.tensor(X, dtype=torch.float32)
    state = torch.tensor(state, dtype=torch.long)
    noise = torch.randn(len(X), generator=torch.Generator().manual_seed(1))
    life = 50 + 9 * torch.sin(X[:, 0]) + 5 * X[:, 1] + 3 * X[:, 2].abs() - 4 * state + noise
    return X, state, life


class MultiTaskNet(nn.Module):
    def __init__(self, n_in, n_classes, hidden=64, p_drop=0.1):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(n_in, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Dropout(p_drop),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
        )
        self.state_head = nn.Linear(hidden, n_classes)
        self.life_head = nn.Linear(hidden, 1)

    def forward(self, x):
        h = self.trunk(x)
        return self.state_head(h), self.life_head(h).squeeze(1)


class Trainer:
    def __init__(self, model, train_loader, val_loader, lr=3e-3):
        self.model = model
        self.train_loader, self.val_loader = train_loader, val_loader
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        self.ce = nn.CrossEntropyLoss()
        self.mse = nn.MSELoss()

    def losses(self, batch):
        x, state, life = batch
        logits, pred_life = self.model(x)
        return self.ce(logits, state), self.mse(pred_life, life), logits

    def train_epoch(self):
        self.model.train()
        total = 0.0
        for batch in self.train_loader:
            loss_state, loss_life, _ = self.losses(batch)
            loss = loss_state + loss_life
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total / len(self.train_loader)

    @torch.no_grad()
    def validate(self):
        self.model.eval()
        ce = mse = hits = count = 0.0
        for batch in self.val_loader:
            loss_state, loss_life, logits = self.losses(batch)
            n = len(batch[1])
            ce += loss_state.item() * n
            mse += loss_life.item() * n
            hits += (logits.argmax(1) == batch[1]).sum().item()
            count += n
        return ce / count, mse / count, hits / count


if __name__ == "__main__":
    X, state, life = load_data()
    train_ids, val_ids = train_test_split(range(len(X)), test_size=0.25, stratify=state, random_state=2)
    X = (X - X[train_ids].mean(0)) / X[train_ids].std(0)
    life = (life - life[train_ids].mean()) / life[train_ids].std()
    train_data = TensorDataset(X[train_ids], state[train_ids], life[train_ids])
    val_data = TensorDataset(X[val_ids], state[val_ids], life[val_ids])
    train_loader = DataLoader(train_data, batch_size=60, shuffle=True)
    val_loader = DataLoader(val_data, batch_size=200)

    trainer = Trainer(MultiTaskNet(X.shape[1], 4), train_loader, val_loader)
    for epoch in range(1, 16):
        train_loss = trainer.train_epoch()
        ce, mse, acc = trainer.validate()
        print(f"{epoch:3d} train {train_loss:.4f} | val total {ce + mse:.4f} ce {ce:.4f} mse {mse:.4f} acc {acc:.3f}")
