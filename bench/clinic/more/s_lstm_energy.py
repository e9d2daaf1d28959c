"""Hourly electricity load forecasting with an LSTM and MinMax scaling (Kaggle style)."""
import numpy as np
import pandas as pd
import torch
import torch.nn as nn
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import MinMaxScaler
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)
np.random.seed(11)
torch.manual_seed(11)

# make a load curve: daily double hump, week-ends lower, temperature drift, AR(1) noise
hours = pd.date_range("2022-01-01", periods=24 * 120, freq="h")
hod, dow = hours.hour.to_numpy(), hours.day_of_week.to_numpy()
t = np.arange(len(hours))
shape = 6 * np.exp(-((hod - 8) / 2.5) ** 2) + 9 * np.exp(-((hod - 19) / 3.0) ** 2)
noise = np.zeros(len(t))
for i in range(1, len(t)):
    noise[i] = 0.85 * noise[i - 1] + np.random.randn() * 0.45
load = 30 + shape * np.where(dow >= 5, 0.6, 1.0) + 1.0 * np.cos(2 * np.pi * t / (24 * 365)) + noise
df = pd.DataFrame({"load": load}, index=hours)
df["hour_sin"] = np.sin(2 * np.pi * hod / 24)
df["hour_cos"] = np.cos(2 * np.pi * hod / 24)
df["weekend"] = (dow >= 5).astype(float)

SEQ = 24
n_train, n_val = int(len(df) * 0.7), int(len(df) * 0.15)
scaler = MinMaxScaler()
scaler.fit(df[["load"]].iloc[:n_train])
df["load"] = scaler.transform(df[["load"]])
values = df.to_numpy(dtype=np.float32)


class WindowDataset(Dataset):
    def __init__(self, array, seq_len):
        self.array = torch.from_numpy(array.copy())
        self.seq_len = seq_len

    def __len__(self):
        return len(self.array) - self.seq_len

    def __getitem__(self, i):
        return self.array[i:i + self.seq_len], self.array[i + self.seq_len, :1]


train_loader = DataLoader(WindowDataset(values[:n_train], SEQ), batch_size=48, shuffle=True)
val_loader = DataLoader(WindowDataset(values[n_train:n_train + n_val], SEQ), batch_size=256)
test_loader = DataLoader(WindowDataset(values[n_train + n_val:], SEQ), batch_size=256)


class LSTMForecaster(nn.Module):
    def __init__(self, input_size=4, hidden_size=32, num_layers=1):
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, batch_first=True)
        self.fc = nn.Linear(hidden_size, 1)

    def forward(self, x):
        out, (h_n, c_n) = self.lstm(x)
        return x[:, -1, :1] + self.fc(out[:, -1, :])      # forecast the change


def run_epoch(model, loader, criterion, optimizer=None):
    training = optimizer is not None
    model.train(training)
    losses = []
    with torch.set_grad_enabled(training):
        for xb, yb in loader:
            loss = criterion(model(xb), yb)
            if training:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            losses.append(loss.item())
    return float(np.mean(losses))


model = LSTMForecaster()
criterion = nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.8)
for epoch in range(1, 13):
    tr = run_epoch(model, train_loader, criterion, optimizer)
    va = run_epoch(model, val_loader, criterion)
    scheduler.step()
    if epoch % 2 == 0:
        print(f"Epoch {epoch:2d} | train MSE {tr:.5f} | val MSE {va:.5f}")

model.eval()
with torch.no_grad():
    pred, true, last = [], [], []
    for xb, yb in test_loader:
        pred.append(model(xb)); true.append(yb); last.append(xb[:, -1, :1])
w = WindowDataset(values[:n_train], SEQ)
ols = LinearRegression().fit(torch.stack([x.flatten() for x, _ in w]), torch.stack([y for _, y in w]))
lin = ols.predict(torch.cat([x.flatten(1) for x, _ in test_loader]))
lin = scaler.inverse_transform(lin)
inv = lambda parts: scaler.inverse_transform(torch.cat(parts).numpy())
pred, true, last = inv(pred), inv(true), inv(last)
print("test RMSE  lstm %.3f | persistence %.3f | OLS %.3f | noise floor 0.45" % (
    np.sqrt(((pred - true) ** 2).mean()), np.sqrt(((last - true) ** 2).mean()),
    np.sqrt(((lin - true) ** 2).mean())))
