# breast cancer (tabular) with a small MLP.
# no DataLoader, no nn.CrossEntropyLoss: batches by numpy permutation, the likelihood by hand
import numpy as np
import torch
from torch import nn
from sklearn.datasets import load_breast_cancer

torch.set_num_threads(1)
torch.manual_seed(11)
rng = np.random.default_rng(2)

X, y = load_breast_cancer(return_X_y=True)
X = X.astype(np.float32)
y = y.astype(np.int64)

perm = rng.permutation(len(X))
tr, va = perm[:420], perm[420:]
mu, sd = X[tr].mean(0), X[tr].std(0)
X = (X - mu) / sd
Xtr, ytr = torch.from_numpy(X[tr]), torch.from_numpy(y[tr])
Xva, yva = torch.from_numpy(X[va]), torch.from_numpy(y[va])

n_classes = 2
hidden = 24
batch = 32
epochs = 36


def make_net(n_in, n_out):
    net = nn.Sequential(
        nn.Linear(n_in, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, n_out),
    )
    for m in net:
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            nn.init.zeros_(m.bias)
    return net


def nll(scores, target):
    # log softmax, then pick the entry of the true class
    shifted = scores - scores.max(dim=1, keepdim=True).values.detach()
    logp = shifted - torch.log(torch.exp(shifted).sum(dim=1, keepdim=True))
    return -logp[torch.arange(len(target)), target].mean()


net = make_net(X.shape[1], n_classes)
opt = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.8, weight_decay=0.02)

step = 0
for epoch in range(epochs):
    order = rng.permutation(len(Xtr))
    losses = []
    for start in range(0, len(order) - batch + 1, batch):
        idx = order[start:start + batch]
        xb, yb = Xtr[idx], ytr[idx]
        scores = net(xb)
        loss = nll(scores, yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
        step += 1

    net.eval()
    with torch.no_grad():
        val_scores = net(Xva)
        val_loss = nll(val_scores, yva).item()
        val_acc = (val_scores.argmax(1) == yva).float().mean().item()
    net.train()
    if epoch % 3 == 2:
        print("epoch %2d step %3d  train %.4f  val %.4f  acc %.3f" % (epoch + 1, step, np.mean(losses), val_loss, val_acc))

print("final validation accuracy: %.3f" % val_acc)
