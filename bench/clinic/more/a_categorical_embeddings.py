import math

import numpy as np
import torch
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import KBinsDiscretizer
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)
torch.manual_seed(0)
np.random.seed(0)

N_CLASSES = 4
CARDINALITIES = [6, 8, 12, 5]


def load_table():
    X, y = make_classification(n_samples=3000, n_features=14, n_informative=10, n_redundant=2, n_classes=N_CLASSES,
                               n_clusters_per_class=1, class_sep=1.6, flip_y=0.02, random_state=3)
    numeric = X[:, :10] * np.linspace(0.5, 20, 10) + np.linspace(0, 100, 10)
    codes = [KBinsDiscretizer(k, encode="ordinal", strategy="quantile", quantile_method="averaged_inverted_cdf")
             .fit_transform(X[:, 10 + i:11 + i]) for i, k in enumerate(CARDINALITIES)]
    categorical = np.concatenate(codes, axis=1).astype(np.int64)
    return numeric.astype(np.float32), categorical, y.astype(np.int64)


class TableDataset(Dataset):
    def __init__(self, numeric, categorical, target):
        self.numeric = torch.as_tensor(numeric)
        self.categorical = torch.as_tensor(categorical)
        self.target = torch.as_tensor(target)

    def __len__(self):
        return len(self.target)

    def __getitem__(self, i):
        return self.numeric[i], self.categorical[i], self.target[i]


class TabularNet(nn.Module):
    def __init__(self, cardinalities, n_numeric, n_classes, hidden=64, p=0.25):
        super().__init__()
        dims = [min(8, math.ceil(c / 2)) for c in cardinalities]
        self.embeddings = nn.ModuleList([nn.Embedding(c, d) for c, d in zip(cardinalities, dims)])
        self.body = nn.Sequential(
            nn.Linear(n_numeric + sum(dims), hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(p),
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(p),
        )
        self.head = nn.Linear(hidden, n_classes)

    def forward(self, numeric, categorical):
        embedded = [emb(categorical[:, i]) for i, emb in enumerate(self.embeddings)]
        x = torch.cat([numeric] + embedded, dim=1)
        return self.head(self.body(x))


class Trainer:
    def __init__(self, model, train_loader, valid_loader, lr=2e-3, epochs=10):
        self.model = model
        self.train_loader, self.valid_loader = train_loader, valid_loader
        self.epochs = epochs
        self.loss_fn = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2)

    def train_step(self, numeric, categorical, target):
        self.optimizer.zero_grad()
        logits = self.model(numeric, categorical)
        loss = self.loss_fn(logits, target)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def evaluate(self):
        self.model.eval()
        losses, hits, count = 0.0, 0, 0
        with torch.no_grad():
            for numeric, categorical, target in self.valid_loader:
                logits = self.model(numeric, categorical)
                losses += self.loss_fn(logits, target).item() * len(target)
                hits += (logits.argmax(1) == target).sum().item()
                count += len(target)
        return losses / count, hits / count

    def fit(self):
        for epoch in range(1, self.epochs + 1):
            self.model.train()
            history = [self.train_step(*batch) for batch in self.train_loader]
            valid_loss, accuracy = self.evaluate()
            print(f"[{epoch:02d}] train {np.mean(history):.4f} | valid {valid_loss:.4f} | acc {accuracy:.3f}")


def main():
    numeric, categorical, y = load_table()
    idx_train, idx_valid = train_test_split(np.arange(len(y)), test_size=0.25, stratify=y, random_state=0)
    mean, std = numeric[idx_train].mean(0), numeric[idx_train].std(0)
    numeric = (numeric - mean) / std
    train_set = TableDataset(numeric[idx_train], categorical[idx_train], y[idx_train])
    valid_set = TableDataset(numeric[idx_valid], categorical[idx_valid], y[idx_valid])
    train_loader = DataLoader(train_set, batch_size=64, shuffle=True, drop_last=True)
    valid_loader = DataLoader(valid_set, batch_size=256)
    model = TabularNet(CARDINALITIES, numeric.shape[1], N_CLASSES)
    trainer = Trainer(model, train_loader, valid_loader)
    trainer.fit()
    print("final: loss %.4f accuracy %.3f" % trainer.evaluate())


if __name__ == "__main__":
    main()
