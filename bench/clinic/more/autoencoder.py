import torch
from torch import nn, optim
from torch.utils.data import DataLoader, random_split
from sklearn.datasets import load_digits

torch.set_num_threads(1)
torch.manual_seed(11)

# pixels to [0, 1]
X = torch.tensor(load_digits().data, dtype=torch.float32) / 16.0
train_set, test_set = random_split(X, [1437, 360])
train_loader = DataLoader(train_set, batch_size=48, shuffle=True)
test_loader = DataLoader(test_set, batch_size=180)


class AutoEncoder(nn.Module):
    def __init__(self, code=12):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(64, 96),
            nn.LeakyReLU(0.1),
            nn.Linear(96, code),
        )
        self.decoder = nn.Sequential(
            nn.Linear(code, 96),
            nn.LeakyReLU(0.1),
            nn.Linear(96, 64),
            nn.Sigmoid(),
        )

    def forward(self, x):
        z = self.encoder(x)
        return self.decoder(z)


model = AutoEncoder()
mse = nn.MSELoss()
optimizer = optim.Adam(model.parameters(), lr=3e-3)
epochs = 16
scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)

for epoch in range(1, epochs + 1):
    model.train()
    train_loss = 0.0
    for x in train_loader:
        recon = model(x)
        loss = mse(recon, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        train_loss += loss.item() * x.size(0)
    scheduler.step()

    model.eval()
    test_loss = 0.0
    with torch.no_grad():
        for x in test_loader:
            test_loss += mse(model(x), x).item() * x.size(0)
    print(f"====> Epoch {epoch}: train {train_loss / len(train_set):.5f}  test {test_loss / len(test_set):.5f}")
