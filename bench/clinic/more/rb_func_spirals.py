# Functional training loop: torch.func only, no torch.optim, no .backward()
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad_and_value

torch.manual_seed(0)


def spirals(n_per_arm, arms=3, noise=0.3):
    xs, ys = [], []
    for k in range(arms):
        r = torch.sqrt(torch.rand(n_per_arm)) * 0.9 + 0.1
        ang = 3.5 * r + 2 * torch.pi * k / arms + noise * torch.randn(n_per_arm)
        xs.append(torch.stack([r * ang.cos(), r * ang.sin()], dim=1))
        ys.append(torch.full((n_per_arm,), k))
    x, y = torch.cat(xs), torch.cat(ys)
    order = torch.randperm(len(x))
    return x[order], y[order]


x_train, y_train = spirals(800)
x_test, y_test = spirals(300)
m, s = x_train.mean(0), x_train.std(0)
x_train, x_test = (x_train - m) / s, (x_test - m) / s

net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))

# the module is only the recipe, the state lives in these two dicts
params = {k: v.detach().clone() for k, v in net.named_parameters()}
velocity = {k: torch.zeros_like(v) for k, v in params.items()}


def loss_fn(params, x, y):
    return F.cross_entropy(functional_call(net, params, (x,)), y)


grad_fn = grad_and_value(loss_fn)


def accuracy(params, x, y):
    with torch.no_grad():
        return (functional_call(net, params, (x,)).argmax(1) == y).float().mean().item()


lr, mom, batch = 0.1, 0.9, 64
for epoch in range(20):
    order = torch.randperm(len(x_train))
    total = 0.0
    for i in range(0, len(order), batch):
        idx = order[i:i + batch]
        grads, loss = grad_fn(params, x_train[idx], y_train[idx])
        with torch.no_grad():
            for k in params:
                velocity[k].mul_(mom).add_(grads[k])
                params[k].sub_(lr * velocity[k])
        total += loss.item() * len(idx)
    if epoch == 13:
        lr = 0.02
    if epoch % 4 == 3:
        print(f"epoch {epoch + 1}: loss {total / len(x_train):.4f}, test acc {accuracy(params, x_test, y_test):.4f}")

print(f"final test accuracy {accuracy(params, x_test, y_test):.4f}, chance {1 / 3:.4f}")
