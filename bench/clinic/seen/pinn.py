"""Physics-informed network for a damped oscillator: u'' + 2*d*u' + w^2*u = 0, u(0) = 1, u'(0) = 0, on [0, 1]."""
import torch
import torch.nn as nn

torch.set_num_threads(1)
torch.manual_seed(7)

D, W = 2.0, 8.0
OMEGA = (W ** 2 - D ** 2) ** 0.5


def exact(t):
    return torch.exp(-D * t) * (torch.cos(OMEGA * t) + D / OMEGA * torch.sin(OMEGA * t))


class PINN(nn.Module):
    def __init__(self, width=32, depth=3):
        super().__init__()
        layers = []
        fan_in = 1
        for _ in range(depth):
            lin = nn.Linear(fan_in, width)
            nn.init.xavier_normal_(lin.weight)
            nn.init.uniform_(lin.bias, -1, 1)
            layers += [lin, nn.Tanh()]
            fan_in = width
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Linear(width, 1)

    def forward(self, t):
        x = 2 * t - 1
        return self.out(self.hidden(x))


def derivative(y, x):
    return torch.autograd.grad(y, x, grad_outputs=torch.ones_like(y), create_graph=True)[0]


def pinn_loss(model, t):
    t = t.clone().requires_grad_(True)
    u = model(t)
    du = derivative(u, t)
    ddu = derivative(du, t)
    residual = ddu + 2 * D * du + W ** 2 * u
    physics = (residual / W ** 2).pow(2).mean()

    t0 = torch.zeros(1, 1, requires_grad=True)
    u0 = model(t0)
    du0 = derivative(u0, t0)
    start = (u0 - 1).pow(2).mean() + (du0 / W).pow(2).mean()
    return 10 * physics + start


t_train = torch.linspace(0, 1, 64).unsqueeze(1)
t_val = (t_train[1:] + t_train[:-1]) / 2  # points between the training points

model = PINN()
n_steps = 900
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.996)

for step in range(1, n_steps + 1):
    optimizer.zero_grad()
    loss = pinn_loss(model, t_train)
    loss.backward()
    optimizer.step()
    scheduler.step()

    if step % 75 == 0:
        model.eval()
        val_loss = pinn_loss(model, t_val).item()
        with torch.no_grad():
            error = (model(t_val) - exact(t_val)).abs().max().item()
        model.train()
        print(f"step {step}: loss {loss.item():.2e}  val loss {val_loss:.2e}  max error {error:.4f}")
