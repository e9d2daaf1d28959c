"""Semi-supervised digits with a mean teacher: few labels, many unlabelled images."""
import copy

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(11)
rng = np.random.default_rng(11)

N_LABELLED = 150
STEPS = 400
LABELLED_BATCH, UNLABELLED_BATCH = 32, 64
CONSISTENCY = 5.0
EMA = 0.98

digits = load_digits()
X = (digits.data / 16.0).astype(np.float32)
y = digits.target
X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=500, stratify=y, random_state=0)
mu, sigma = X_train.mean(), X_train.std()
X_train = torch.from_numpy((X_train - mu) / sigma)
X_val = torch.from_numpy((X_val - mu) / sigma)
y_train, y_val = torch.from_numpy(y_train), torch.from_numpy(y_val)
labelled = torch.from_numpy(rng.permutation(len(X_train))[:N_LABELLED])


class Classifier(nn.Module):
    def __init__(self, hidden=96, classes=10):
        super().__init__()
        self.fc1 = nn.Linear(64, hidden)
        self.bn = nn.BatchNorm1d(hidden)
        self.drop = nn.Dropout(0.3)
        self.fc2 = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, classes)

    def forward(self, x):
        x = self.drop(F.relu(self.bn(self.fc1(x))))
        return self.out(F.relu(self.fc2(x)))


def augment(x):
    return x + 0.15 * torch.randn_like(x)


student = Classifier()
teacher = copy.deepcopy(student)
for p in teacher.parameters():
    p.requires_grad_(False)

optimizer = torch.optim.Adam(student.parameters(), lr=2e-3, weight_decay=1e-4)


def update_teacher(step):
    decay = min(EMA, 1 - 1 / (step + 1))
    with torch.no_grad():
        for pt, ps in zip(teacher.parameters(), student.parameters()):
            pt.mul_(decay).add_(ps, alpha=1 - decay)


def evaluate(net):
    was_training = net.training
    net.eval()
    with torch.no_grad():
        logits = net(X_val)
        loss = F.cross_entropy(logits, y_val).item()
        acc = (logits.argmax(1) == y_val).float().mean().item()
    net.train(was_training)
    return loss, acc


student.train()
teacher.train()  # its batch norm follows the data, its dropout makes targets noisy: as in the paper
for step in range(STEPS):
    pick = labelled[torch.randint(0, len(labelled), (LABELLED_BATCH,))]
    xl, yl = augment(X_train[pick]), y_train[pick]
    xu = X_train[torch.randint(0, len(X_train), (UNLABELLED_BATCH,))]

    x = torch.cat([xl, augment(xu)])
    logits = student(x)
    supervised = F.cross_entropy(logits[:LABELLED_BATCH], yl)

    with torch.no_grad():
        guess = F.softmax(teacher(torch.cat([xl, augment(xu)])), dim=1)
    ramp = min(1.0, step / 150)
    agree = F.mse_loss(F.softmax(logits, dim=1), guess)
    loss = supervised + CONSISTENCY * ramp * agree

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    update_teacher(step)

    if step % 25 == 24:
        s_loss, s_acc = evaluate(student)
        t_loss, t_acc = evaluate(teacher)
        print(f"step {step + 1} loss {loss.item():.3f} (supervised {supervised.item():.3f}, agree {agree.item():.4f}) "
              f"student val {s_loss:.3f} {s_acc:.3f} teacher val {t_loss:.3f} {t_acc:.3f}")
