"""Physics-informed network for the 1-D heat equation

    u_t = a u_xx   on  0 < x < 1, 0 < t < 1,   a = 0.1
    u(x, 0) = sin(pi x) + 0.5 sin(2 pi x),   u(0, t) = u(1, t) = 0

No solution data is used in training, only the residual, the initial and the
boundary conditions. The exact solution is known and used for the test.
"""
import math

import torch
import torch.nn as nn

A = 0.1
STEPS = 800


def initial(x):
    return torch.sin(math.pi * x) + 0.5 * torch.sin(2 * math.pi * x)


def exact(x, t):
    return (torch.exp(-A * math.pi ** 2 * t) * torch.sin(math.pi * x)
            + 0.5 * torch.exp(-4 * A * math.pi ** 2 * t) * torch.sin(2 * math.pi * x))


class PINN(nn.Module):
    def __init__(self, width=32, depth=3):
        super().__init__()
        layers = [nn.Linear(2, width), nn.Tanh()]
        for _ in range(depth - 1):
            layers += [nn.Linear(width, width), nn.Tanh()]
        layers.append(nn.Linear(width, 1))
        self.net = nn.Sequential(*layers)
        for m in self.net:
            if isinstance(m, nn.Linear):
                nn.init.xavier_normal_(m.weight)
                nn.init.zeros_(m.bias)

    def forward(self, x, t):
        # inputs to [-1, 1]
        return self.net(torch.cat([2 * x - 1, 2 * t - 1], dim=1))


def residual(model, x, t):
    x.requires_grad_(True)
    t.requires_grad_(True)
    u = model(x, t)
    ones = torch.ones_like(u)
    u_t = torch.autograd.grad(u, t, ones, create_graph=True)[0]
    u_x = torch.autograd.grad(u, x, ones, create_graph=True)[0]
    u_xx = torch.autograd.grad(u_x, x, ones, create_graph=True)[0]
    return u_t - A * u_xx


def rel_l2(model, x, t):
    model.eval()
    with torch.no_grad():
        e = model(x, t) - exact(x, t)
    model.train()
    return (e.norm() / exact(x, t).norm()).item()


def main():
    torch.manual_seed(11)
    model = PINN()
    opt = torch.optim.Adam(model.parameters(), lr=5e-3)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, STEPS, eta_min=5e-5)

    xg, tg = torch.meshgrid(torch.linspace(0, 1, 61), torch.linspace(0, 1, 51), indexing="ij")
    x_test, t_test = xg.reshape(-1, 1), tg.reshape(-1, 1)

    for step in range(1, STEPS + 1):
        # new collocation points in every step
        x, t = torch.rand(256, 1), torch.rand(256, 1)
        x0, tb = torch.rand(64, 1), torch.rand(64, 1)
        xb = (torch.rand(64, 1) > 0.5).float()

        loss_pde = residual(model, x, t).pow(2).mean()
        loss_ic = (model(x0, torch.zeros_like(x0)) - initial(x0)).pow(2).mean()
        loss_bc = model(xb, tb).pow(2).mean()
        loss = loss_pde + 10 * loss_ic + 10 * loss_bc

        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
        if step % 100 == 0:
            print(f"{step:4d} loss {loss.item():.2e} (pde {loss_pde.item():.2e}, ic {loss_ic.item():.2e}, "
                  f"bc {loss_bc.item():.2e})  rel. L2 error {rel_l2(model, x_test, t_test):.4f}")

    frozen = (initial(x_test) - exact(x_test, t_test)).norm() / exact(x_test, t_test).norm()
    print(f"relative L2 error on the test grid: {rel_l2(model, x_test, t_test):.4f}  "
          f"(u = 0: 1.0000, initial state kept: {frozen:.4f})")


if __name__ == "__main__":
    main()
