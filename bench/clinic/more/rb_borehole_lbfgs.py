# Neural surrogate of the borehole function (8 inputs, a standard test case in
# uncertainty quantification). Smooth, noise-free, so double precision + L-BFGS.
import numpy as np
import torch
from scipy.stats import qmc

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)

#        rw     r       Tu      Hu    Tl     Hl   L     Kw
lo = [0.05,   100,  63070,  990, 63.1,  700, 1120,  9855]
hi = [0.15, 50000, 115600, 1110,  116,  820, 1680, 12045]


def borehole(x):
    rw, r, Tu, Hu, Tl, Hl, L, Kw = x.T
    lg = np.log(r / rw)
    return 2 * np.pi * Tu * (Hu - Hl) / (lg * (1 + 2 * L * Tu / (lg * rw**2 * Kw) + Tu / Tl))


def design(n, seed):
    u = qmc.LatinHypercube(d=8, seed=seed).random(n)
    flow = borehole(qmc.scale(u, lo, hi))
    return torch.tensor(2 * u - 1), torch.tensor(flow).unsqueeze(1)


x_train, y_train = design(800, 1)
x_val, y_val = design(200, 2)
x_test, y_test = design(500, 3)
mu, sd = y_train.mean(), y_train.std()
t_train, t_val = (y_train - mu) / sd, (y_val - mu) / sd

net = torch.nn.Sequential(
    torch.nn.Linear(8, 16), torch.nn.Tanh(),
    torch.nn.Linear(16, 16), torch.nn.Tanh(),
    torch.nn.Linear(16, 1),
)
opt = torch.optim.LBFGS(net.parameters(), lr=1.0, max_iter=4, history_size=20, line_search_fn="strong_wolfe")


def closure():
    opt.zero_grad()
    mse = ((net(x_train) - t_train) ** 2).mean()
    l2 = sum((p ** 2).sum() for p in net.parameters())
    loss = mse + 1e-7 * l2
    loss.backward()
    return loss


for it in range(1, 121):
    loss = opt.step(closure)
    if it == 1 or it % 10 == 0:
        with torch.no_grad():
            val = ((net(x_val) - t_val) ** 2).mean()
        print(f"{it:4d}  train {loss.item():.3e}  val {val.item():.3e}")

net.eval()
with torch.no_grad():
    pred = net(x_test) * sd + mu
rmse = ((pred - y_test) ** 2).mean().sqrt().item()
base = ((y_test - mu) ** 2).mean().sqrt().item()
print(f"test RMSE {rmse:.4f} m3/yr, predicting the mean {base:.4f}, R2 {1 - (rmse / base) ** 2:.6f}")
