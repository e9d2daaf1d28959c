"""Forecast a noisy sine of unknown frequency a few samples ahead with a vanilla RNN (sequence to one)."""
import math
import torch
import torch.nn as nn

torch.set_num_threads(1)
torch.manual_seed(3)

WINDOW = 20
AHEAD = 4
HIDDEN = 32
STEPS = 600
BATCH = 64


def make_windows(n):
    freq = torch.rand(n, 1) * 0.2 + 0.3
    phase = torch.rand(n, 1) * 2 * math.pi
    t = torch.arange(WINDOW + AHEAD).float()
    wave = torch.sin(freq * t + phase) + 0.3 * torch.randn(n, WINDOW + AHEAD)
    inputs = wave[:, :WINDOW].unsqueeze(-1)
    target = torch.sin(freq * (WINDOW + AHEAD - 1) + phase)
    return inputs, target


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(1, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, x):
        states, _ = self.rnn(x)
        last = states[:, -1]
        return self.head(last)


train_x, train_y = make_windows(1000)
val_x, val_y = make_windows(500)

model = Forecaster()
loss_fn = nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS, eta_min=1e-4)

running = 0.0
for step in range(1, STEPS + 1):
    idx = torch.randint(0, len(train_x), (BATCH,))
    xb, yb = train_x[idx], train_y[idx]
    optimizer.zero_grad()
    pred = model(xb)
    loss = loss_fn(pred, yb)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    scheduler.step()
    running += loss.item()

    if step % 50 == 0:
        model.eval()
        with torch.no_grad():
            val_loss = loss_fn(model(val_x), val_y).item()
        model.train()
        print(f"step {step:4d}  train mse {running / 50:.5f}  val mse {val_loss:.5f}")
        running = 0.0

print(f"final validation rmse: {math.sqrt(val_loss):.4f}  (predicting the mean would give {val_y.std().item():.4f})")
