# Knowledge distillation on digits: a convolutional teacher, then a small student that imitates it.
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

torch.set_num_threads(1)
torch.manual_seed(11)

TEMPERATURE = 3.0
ALPHA = 0.6
TEACHER_EPOCHS = 5
STUDENT_EPOCHS = 14
BATCH = 64

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0
labels = torch.tensor(digits.target)
tr, va = train_test_split(np.arange(len(labels)), test_size=0.25, random_state=1, stratify=digits.target)
mean, std = images[tr].mean(), images[tr].std()
images = (images - mean) / std
x_train, y_train = images[tr], labels[tr]
x_valid, y_valid = images[va], labels[va]


def make_teacher():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 10),
    )


def make_student():
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Dropout(0.05),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def batches(x, y, size=BATCH):
    order = torch.randperm(len(x))
    for i in range(0, len(x), size):
        j = order[i:i + size]
        yield x[j], y[j]


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return (net(x).argmax(1) == y).float().mean().item()


def distillation_loss(student_logits, teacher_logits, target):
    soft_target = F.softmax(teacher_logits / TEMPERATURE, dim=1)
    log_student = F.log_softmax(student_logits / TEMPERATURE, dim=1)
    soft = F.kl_div(log_student, soft_target, reduction="batchmean") * TEMPERATURE ** 2
    hard = F.cross_entropy(student_logits, target)
    return ALPHA * soft + (1 - ALPHA) * hard


# ---- teacher -------------------------------------------------------------------------------
teacher = make_teacher()
opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
for epoch in range(TEACHER_EPOCHS):
    teacher.train()
    for xb, yb in batches(x_train, y_train):
        opt.zero_grad()
        F.cross_entropy(teacher(xb), yb).backward()
        opt.step()
    teacher.eval()
    with torch.no_grad():
        loss = F.cross_entropy(teacher(x_valid), y_valid).item()
    print(f"teacher epoch {epoch + 1} valid loss {loss:.4f} acc {accuracy(teacher, x_valid, y_valid):.3f}")

# ---- student -------------------------------------------------------------------------------
teacher.eval()
for p in teacher.parameters():
    p.requires_grad_(False)

student = make_student()
optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)

for epoch in range(STUDENT_EPOCHS):
    student.train()
    total, count = 0.0, 0
    for xb, yb in batches(x_train, y_train):
        with torch.no_grad():
            t_logits = teacher(xb)
        s_logits = student(xb)
        loss = distillation_loss(s_logits, t_logits, yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(xb)
        count += len(xb)
    student.eval()
    with torch.no_grad():
        vloss = distillation_loss(student(x_valid), teacher(x_valid), y_valid).item()
    print(f"student epoch {epoch + 1:2d} train {total / count:.4f} valid {vloss:.4f} "
          f"acc {accuracy(student, x_valid, y_valid):.3f}")

print(f"teacher {accuracy(teacher, x_valid, y_valid):.3f}  student {accuracy(student, x_valid, y_valid):.3f}")
