"""Which of three cultivars is a wine from? Small MLP, scored by stratified 5-fold cross-validation."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_wine
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

torch.set_num_threads(1)
torch.manual_seed(0)

EPOCHS = 24
BATCH_SIZE = 16
LR = 3e-3

X, y = load_wine(return_X_y=True)
criterion = nn.CrossEntropyLoss(label_smoothing=0.05)


def build_model():
    return nn.Sequential(
        nn.Linear(13, 32),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )


def make_optimizer(model):
    return torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.1)


def make_scheduler(opt):
    return torch.optim.lr_scheduler.StepLR(opt, step_size=12, gamma=0.3)


def train_epoch(model, loader, opt):
    model.train()
    total = 0.0
    for xb, yb in loader:
        opt.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        opt.step()
        total += loss.item() * len(xb)
    return total / len(loader.dataset)


def evaluate(model, loader):
    model.eval()
    loss, hits = 0.0, 0
    with torch.no_grad():
        for xb, yb in loader:
            out = model(xb)
            loss += criterion(out, yb).item() * len(xb)
            hits += (out.argmax(1) == yb).sum().item()
    return loss / len(loader.dataset), hits / len(loader.dataset)


def main():
    scores = []
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    for k, (tr, va) in enumerate(folds.split(X, y)):
        scaler = StandardScaler().fit(X[tr])
        x_tr = torch.tensor(scaler.transform(X[tr]), dtype=torch.float32)
        x_va = torch.tensor(scaler.transform(X[va]), dtype=torch.float32)
        train_set = TensorDataset(x_tr, torch.tensor(y[tr]))
        val_set = TensorDataset(x_va, torch.tensor(y[va]))
        train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)
        val_loader = DataLoader(val_set, batch_size=64)

        model = build_model()
        opt = make_optimizer(model)
        sched = make_scheduler(opt)
        for epoch in range(EPOCHS):
            train_loss = train_epoch(model, train_loader, opt)
            val_loss, val_acc = evaluate(model, val_loader)
            sched.step()
            if epoch % 3 == 2:
                print(f"fold {k} epoch {epoch + 1:2d}: train {train_loss:.4f} val {val_loss:.4f} acc {val_acc:.3f}")
        scores.append(val_acc)
    print("mean accuracy over folds: %.3f" % (sum(scores) / len(scores)))


if __name__ == "__main__":
    main()
