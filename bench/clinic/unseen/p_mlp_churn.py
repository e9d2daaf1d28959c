"""Which customers of a phone company will leave? MLP with embeddings for the categories."""
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

torch.set_num_threads(1)
torch.manual_seed(1)
rng = np.random.default_rng(1)

N = 4000
BATCH_SIZE = 64
EPOCHS = 9
LR = 2e-3
CARDINALITIES = [3, 4, 6]     # contract, plan, region


def make_customers():
    tenure = np.floor(rng.exponential(20, N))                 # months, 0 for new customers
    charge = rng.uniform(20, 120, N)                          # per month
    total = tenure * charge * rng.uniform(0.8, 1.1, N)        # paid so far
    calls = rng.poisson(1.5, N)
    data_gb = rng.lognormal(1.5, 1.2, N)
    age = rng.uniform(18, 80, N)
    contract = rng.integers(0, 3, N)
    plan = rng.integers(0, 4, N)
    region = rng.integers(0, 6, N)

    paid_per_month = total / np.maximum(tenure, 1)
    numeric = np.stack([tenure, charge, total, paid_per_month, calls, data_gb, age], axis=1)
    category = np.stack([contract, plan, region], axis=1)

    wants_out = (-1.6 + 0.04 * (charge - 70) - 0.06 * (tenure - 20) + 1.0 * (calls - 1.5)
                 + np.array([2.2, 0.0, -2.2])[contract]
                 + np.array([-1.5, 0.5, 1.5, -0.5])[plan] * np.where(age < 45, 1.5, -1.0)
                 + 1.2 * (np.log(data_gb) - 1.5))
    y = (wants_out + rng.logistic(0, 0.7, N) > 0).astype(np.float32)
    return numeric, category, y


def load_data():
    numeric, category, y = make_customers()
    num_train, num_val, cat_train, cat_val, y_train, y_val = train_test_split(
        numeric, category, y, test_size=0.25, stratify=y, random_state=0)
    scaler = StandardScaler()
    num_train = scaler.fit_transform(num_train)
    num_val = scaler.transform(num_val)

    def dataset(num, cat, target):
        return TensorDataset(torch.tensor(num, dtype=torch.float32),
                             torch.tensor(cat), torch.tensor(target))

    train_set = dataset(num_train, cat_train, y_train)
    train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)
    val_loader = DataLoader(dataset(num_val, cat_val, y_val), batch_size=500)
    return train_loader, val_loader


class ChurnNet(nn.Module):
    def __init__(self, n_numeric=7, hidden=64):
        super().__init__()
        self.embeds = nn.ModuleList([nn.Embedding(c, 4) for c in CARDINALITIES])
        self.body = nn.Sequential(
            nn.Linear(n_numeric + 4 * len(CARDINALITIES), hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )
        self.out = nn.Linear(hidden, 1)

    def forward(self, num, cat):
        parts = [num] + [embed(cat[:, i]) for i, embed in enumerate(self.embeds)]
        x = torch.cat(parts, dim=1)
        x = self.out(self.body(x))
        return x.squeeze(1)


@torch.no_grad()
def evaluate(model, loader, criterion):
    model.eval()
    losses, scores, truth = [], [], []
    for num, cat, y in loader:
        logits = model(num, cat)
        losses.append(criterion(logits, y).item())
        scores.append(logits.reshape(-1))
        truth.append(y)
    scores, truth = torch.cat(scores), torch.cat(truth)
    predicted = (scores > 0).float()
    accuracy = (predicted == truth).float().mean().item()
    recall = predicted[truth == 1].mean().item()
    auc = roc_auc_score(truth.numpy(), torch.nan_to_num(scores).numpy())
    return np.mean(losses), accuracy, recall, auc


def main():
    train_loader, val_loader = load_data()
    model = ChurnNet()
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=1e-3)

    for epoch in range(EPOCHS):
        model.train()
        running = 0.0
        for num, cat, y in train_loader:
            logits = model(num, cat)
            loss = criterion(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            running += loss.item()
        print(f"epoch {epoch + 1}: train loss {running / len(train_loader):.4f}")
        val_loss, acc, recall, auc = evaluate(model, val_loader, criterion)
        print(f"   validation: loss {val_loss:.4f}  accuracy {acc:.3f}  recall {recall:.3f}  auc {auc:.3f}")


if __name__ == "__main__":
    main()
