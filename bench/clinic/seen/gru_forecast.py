# hourly demand, one step ahead, from the last 24 hours
import numpy as np
import torch
import torch.nn as nn

torch.set_num_threads(1)
torch.manual_seed(2)
rs = np.random.RandomState(2)

hours = np.arange(1800)
weekly = 0.15 * np.sin(2 * np.pi * hours / 168)
daily = 0.35 * np.sin(2 * np.pi * hours / 24) + 0.2 * np.sin(2 * np.pi * hours / 12 + 0.7)
noise = np.zeros(1800)
for t in range(1, 1800):
    noise[t] = 0.6 * noise[t - 1] + 0.03 * rs.randn()
series = (500.0 * np.exp((weekly + daily) * (1.0 + 0.5 * np.sin(2 * np.pi * hours / 168)) + noise)).astype(np.float32)

WINDOW = 24
SPLIT = 1400
mean, std = series[:SPLIT].mean(), series[:SPLIT].std()
scaled = (series - mean) / std


def windows(values):
    xs = [values[i:i + WINDOW] for i in range(len(values) - WINDOW)]
    ys = [values[i + WINDOW] for i in range(len(values) - WINDOW)]
    return torch.tensor(np.array(xs)).unsqueeze(-1), torch.tensor(np.array(ys)).unsqueeze(-1)


x_train, y_train = windows(scaled[:SPLIT])
x_val, y_val = windows(scaled[SPLIT:])


class Forecaster(nn.Module):
    def __init__(self, hidden=32):
        super().__init__()
        self.gru = nn.GRU(1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x):
        out, _ = self.gru(x)
        return self.head(out[:, -1])


model = Forecaster()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.75)
criterion = nn.MSELoss()

for epoch in range(10):
    model.train()
    order = np.random.RandomState(epoch).permutation(len(x_train))
    total = 0.0
    for start in range(0, len(order), 32):
        batch = order[start:start + 32]
        x, y = x_train[batch], y_train[batch]
        optimizer.zero_grad()
        pred = model(x)
        loss = criterion(pred, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item() * len(batch)
    scheduler.step()
    model.eval()
    with torch.no_grad():
        pred = model(x_val)
        val = criterion(pred, y_val).item()
    naive = criterion(x_val[:, -1], y_val).item()
    print(f"epoch {epoch + 1} train {total / len(order):.4f} val {val:.4f} (last value: {naive:.4f})")
