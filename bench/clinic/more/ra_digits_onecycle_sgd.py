import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

torch.manual_seed(1)

X, y = load_digits(return_X_y=True)
X = torch.tensor(X / 16.0, dtype=torch.float32).view(-1, 1, 8, 8)
y = torch.tensor(y)
idx = list(range(len(y)))
trainval, test = train_test_split(idx, test_size=0.2, stratify=y, random_state=1)
train, val = train_test_split(trainval, test_size=0.15, stratify=y[trainval], random_state=1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(1, 24, 3, padding=1, bias=False)
        self.b1 = nn.BatchNorm2d(24)
        self.c2 = nn.Conv2d(24, 48, 3, padding=1, bias=False)
        self.b2 = nn.BatchNorm2d(48)
        self.fc = nn.Linear(48 * 4, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.b1(self.c1(x))), 2)
        x = F.max_pool2d(F.relu(self.b2(self.c2(x))), 2)
        return self.fc(x.flatten(1))


def evaluate(model, ids):
    model.eval()
    with torch.no_grad():
        out = model(X[ids])
        return F.cross_entropy(out, y[ids]).item(), (out.argmax(1) == y[ids]).float().mean().item()


EPOCHS, BS, MAX_LR = 12, 48, 0.1
model = Net()
train = torch.tensor(train)
steps_per_epoch = (len(train) + BS - 1) // BS
opt = torch.optim.SGD(model.parameters(), lr=MAX_LR, momentum=0.9, nesterov=True, weight_decay=5e-4)
sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=MAX_LR, total_steps=EPOCHS * steps_per_epoch,
                                            pct_start=0.3, cycle_momentum=False)

for ep in range(EPOCHS):
    model.train()
    shuffled = train[torch.randperm(len(train))]
    tot = 0
    for b in shuffled.split(BS):
        opt.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(X[b]), y[b])
        loss.backward()
        opt.step()
        sched.step()
        tot += loss.item() * len(b)
    vl, va = evaluate(model, val)
    print(f"{ep + 1:2d} lr {sched.get_last_lr()[0]:.4f} train {tot / len(train):.4f} val {vl:.4f} acc {va:.3f}")

tl, ta = evaluate(model, test)
majority = y[train].mode().values
print(f"test accuracy {ta:.4f}, majority class {(y[test] == majority).float().mean():.4f}")
