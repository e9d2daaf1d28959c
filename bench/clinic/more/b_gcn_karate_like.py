import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)


def stochastic_block_model(sizes, p_in, p_out, rng):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    prob = np.where(labels[:, None] == labels[None, :], p_in, p_out)
    upper = np.triu(rng.random(prob.shape) < prob, 1)
    adj = (upper | upper.T).astype(np.float32)
    return adj, labels


def normalise_adjacency(adj):
    a = adj + np.eye(len(adj), dtype=np.float32)
    d = 1.0 / np.sqrt(a.sum(1))
    return torch.from_numpy(a * d[:, None] * d[None, :])


class GraphConv(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x, a_hat):
        return a_hat @ (x @ self.weight) + self.bias


class GCN(nn.Module):
    def __init__(self, n_in, n_hidden, n_classes, dropout=0.3):
        super().__init__()
        self.conv1 = GraphConv(n_in, n_hidden)
        self.conv2 = GraphConv(n_hidden, n_classes)
        self.dropout = dropout

    def forward(self, x, a_hat):
        h = torch.relu(self.conv1(x, a_hat))
        h = F.dropout(h, self.dropout, training=self.training)
        return self.conv2(h, a_hat)


rng = np.random.default_rng(5)
torch.manual_seed(5)

adj, labels = stochastic_block_model([90, 90, 90, 90], p_in=0.06, p_out=0.012, rng=rng)
n = len(labels)
centers = rng.standard_normal((4, 16))
features = centers[labels] + 1.5 * rng.standard_normal((n, 16))
features = (features - features.mean(0)) / features.std(0)

a_hat = normalise_adjacency(adj)
x = torch.tensor(features, dtype=torch.float32)
y = torch.tensor(labels)

order = torch.randperm(n)
train_mask = torch.zeros(n, dtype=torch.bool)
val_mask = torch.zeros(n, dtype=torch.bool)
train_mask[order[:180]] = True
val_mask[order[180:]] = True

model = GCN(16, 32, 4)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-3)

for epoch in range(1, 201):
    model.train()
    optimizer.zero_grad()
    out = model(x, a_hat)
    loss = F.cross_entropy(out[train_mask], y[train_mask])
    loss.backward()
    optimizer.step()

    if epoch % 10 == 0:
        model.eval()
        with torch.no_grad():
            out = model(x, a_hat)
            val_loss = F.cross_entropy(out[val_mask], y[val_mask])
            acc = (out[val_mask].argmax(1) == y[val_mask]).float().mean()
        print(f"epoch {epoch:3d}  loss {loss.item():.4f}  val loss {val_loss.item():.4f}  val acc {acc.item():.3f}")
