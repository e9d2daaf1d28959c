"""Mean teacher (Tarvainen & Valpola) on digits: 100 labelled images, the rest unlabelled."""
import copy
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class SmallNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * 16, 64)
        self.fc2 = nn.Linear(64, 10)
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(self.drop(x))


def augment(x):
    """Random shift by up to one pixel and a bit of noise."""
    padded = F.pad(x, (1, 1, 1, 1))
    dx, dy = torch.randint(0, 3, (2,)).tolist()
    return padded[:, :, dy:dy + 8, dx:dx + 8] + 0.08 * torch.randn_like(x)


@torch.no_grad()
def update_teacher(student, teacher, step, max_decay=0.98):
    decay = min(max_decay, 1 - 1 / (step + 1))
    for pt, ps in zip(teacher.parameters(), student.parameters()):
        pt.mul_(decay).add_(ps, alpha=1 - decay)


class Trainer:
    def __init__(self, steps=400, labelled_bs=32, unlabelled_bs=64, weight=6.0):
        self.steps, self.lbs, self.ubs, self.weight = steps, labelled_bs, unlabelled_bs, weight
        self.load()
        self.student = SmallNet()
        self.teacher = copy.deepcopy(self.student)
        self.teacher.requires_grad_(False)
        self.teacher.eval()
        self.opt = torch.optim.Adam(self.student.parameters(), lr=3e-3)

    def load(self):
        x, y = load_digits(return_X_y=True)
        x = torch.tensor(x / 16.0, dtype=torch.float32).view(-1, 1, 8, 8)
        y = torch.tensor(y)
        x, self.x_test, y, self.y_test = train_test_split(x, y, test_size=450, stratify=y, random_state=4)
        x, self.x_val, y, self.y_val = train_test_split(x, y, test_size=200, stratify=y, random_state=4)
        # labels of the unlabelled part are thrown away
        self.x_lab, self.x_unl, self.y_lab, _ = train_test_split(x, y, train_size=100, stratify=y, random_state=4)

    def batches(self, n, size):
        while True:
            for b in torch.randperm(n).split(size):
                if len(b) == size:
                    yield b

    @torch.no_grad()
    def accuracy(self, net, x, y):
        was = net.training
        net.eval()
        acc = (net(x).argmax(1) == y).float().mean().item()
        net.train(was)
        return acc

    def run(self):
        lab, unl = self.batches(len(self.x_lab), self.lbs), self.batches(len(self.x_unl), self.ubs)
        self.student.train()
        for step in range(1, self.steps + 1):
            il, iu = next(lab), next(unl)
            xl, yl, xu = self.x_lab[il], self.y_lab[il], self.x_unl[iu]
            both = torch.cat([xl, xu])
            out = self.student(augment(both))
            with torch.no_grad():
                target = self.teacher(augment(both)).softmax(1)
            ce = F.cross_entropy(out[:len(xl)], yl)
            consistency = F.mse_loss(out.softmax(1), target)
            ramp = math.exp(-5 * (1 - min(1.0, step / 200)) ** 2)
            loss = ce + self.weight * ramp * consistency
            self.opt.zero_grad()
            loss.backward()
            self.opt.step()
            update_teacher(self.student, self.teacher, step)
            if step % 50 == 0:
                print(f"step {step:3d} ce {ce.item():.3f} cons {consistency.item():.4f} "
                      f"val student {self.accuracy(self.student, self.x_val, self.y_val):.3f} "
                      f"teacher {self.accuracy(self.teacher, self.x_val, self.y_val):.3f}")
        acc = self.accuracy(self.teacher, self.x_test, self.y_test)
        base = (self.y_test == self.y_lab.mode().values).float().mean().item()
        d = torch.cdist(self.x_test.flatten(1), self.x_lab.flatten(1)).argmin(1)
        knn = (self.y_lab[d] == self.y_test).float().mean().item()
        print(f"test accuracy of the teacher {acc:.4f}  |  1-NN on the 100 labels {knn:.4f}  |  one class {base:.4f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(4)
    Trainer().run()
