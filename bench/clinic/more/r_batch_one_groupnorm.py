import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split
from sklearn.datasets import load_digits

torch.set_num_threads(1)
torch.manual_seed(11)

ACCUM = 8


class DigitSet(Dataset):
    def __init__(self):
        b = load_digits()
        self.images, self.labels = b.images, b.target

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        img = torch.tensor(self.images[i], dtype=torch.float32).unsqueeze(0)
        return {"pixels": (img - 4.9) / 6.0, "label": int(self.labels[i])}


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.norm = nn.GroupNorm(4, c_out)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))


class SmallNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = Block(1, 16, 1)
        self.down = Block(16, 32, 2)
        self.cls = nn.Linear(32 * 4, 10)
        self.pool = nn.AdaptiveAvgPool2d(2)

    def forward(self, x):
        return self.cls(self.pool(self.down(self.stem(x))).flatten(1))


full = DigitSet()
train_set, val_set = random_split(full, [1200, 597], generator=torch.Generator().manual_seed(1))
# memory on the little board only allows one picture at a time
train_loader = DataLoader(train_set, batch_size=1, shuffle=True)
val_loader = DataLoader(val_set, batch_size=100)

net = SmallNet()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.AdamW(net.parameters(), lr=6e-3, weight_decay=0.01)
EPOCHS = 2
updates = EPOCHS * -(-len(train_loader) // ACCUM)
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=updates)


def validate():
    net.eval()
    hit, loss, n = 0, 0.0, 0
    with torch.no_grad():
        for batch in val_loader:
            out = net(batch["pixels"])
            loss += criterion(out, batch["label"]).item() * len(out)
            hit += (out.argmax(1) == batch["label"]).sum().item()
            n += len(out)
    net.train()
    return loss / n, hit / n


n_updates = 0
for epoch in range(EPOCHS):
    running = 0.0
    net.train()
    optimizer.zero_grad()
    for i, batch in enumerate(train_loader):
        # the last group of the epoch can be shorter
        first = i - i % ACCUM
        group = min(ACCUM, len(train_loader) - first)
        loss = criterion(net(batch["pixels"]), batch["label"])
        (loss / group).backward()
        running += loss.item()
        if (i + 1) % ACCUM == 0 or i + 1 == len(train_loader):
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            n_updates += 1
    vl, va = validate()
    print(f"epoch {epoch}: train {running / len(train_loader):.3f}  val {vl:.3f}  acc {va:.3f}")
print("optimizer updates:", n_updates)
