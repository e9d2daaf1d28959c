"""Node classification with a two-layer GCN (Kipf & Welling style) on a synthetic citation-like graph."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)


def make_graph(n_per_class, n_classes, p_in, p_out, n_feat, generator):
    """Stochastic block model; the node features are a weak, noisy hint of the class."""
    n = n_per_class * n_classes
    y = torch.arange(n_classes).repeat_interleave(n_per_class)
    same = (y[:, None] == y[None, :]).float()
    prob = same * p_in + (1 - same) * p_out
    upper = torch.triu(torch.rand(n, n, generator=generator) < prob, diagonal=1).float()
    adj = upper + upper.t()
    centers = torch.randn(n_classes, n_feat, generator=generator)
    x = 0.45 * centers[y] + torch.randn(n, n_feat, generator=generator)
    # raw features live on their own scales (counts, years, prices ...)
    scale = 10 ** torch.linspace(-2, 4, n_feat)
    offset = 3 * scale * torch.rand(n_feat, generator=generator)
    return x * scale + offset, adj, y


def normalise_adjacency(adj):
    adj = adj + torch.eye(adj.shape[0])
    d = adj.sum(1).pow(-0.5)
    return d[:, None] * adj * d[None, :]


def make_masks(n, generator, n_train=280, n_val=160):
    perm = torch.randperm(n, generator=generator)
    masks = [torch.zeros(n, dtype=torch.bool) for _ in range(3)]
    for mask, idx in zip(masks, perm.split([n_train, n_val, n - n_train - n_val])):
        mask[idx] = True
    return masks


class GraphConv(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x, a_hat):
        return a_hat @ (x @ self.weight) + self.bias


class GCN(nn.Module):
    def __init__(self, n_feat, n_hidden, n_classes, dropout):
        super().__init__()
        self.conv1 = GraphConv(n_feat, n_hidden)
        self.conv2 = GraphConv(n_hidden, n_classes)
        self.dropout = dropout

    def forward(self, x, a_hat):
        h = F.relu(self.conv1(x, a_hat))
        h = F.dropout(h, self.dropout, training=self.training)
        return self.conv2(h, a_hat)


@torch.no_grad()
def evaluate(model, x, a_hat, y, mask):
    model.eval()
    logits = model(x, a_hat)[mask]
    loss = F.cross_entropy(logits, y[mask])
    return loss.item(), (logits.argmax(1) == y[mask]).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--epochs", type=int, default=200)
    ap.add_argument("--lr", type=float, default=0.01)
    ap.add_argument("--hidden", type=int, default=64)
    ap.add_argument("--dropout", type=float, default=0.5)
    ap.add_argument("--weight-decay", type=float, default=5e-3)
    ap.add_argument("--classes", type=int, default=4)
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()

    torch.manual_seed(args.seed)
    g = torch.Generator().manual_seed(args.seed)
    x, adj, y = make_graph(150, args.classes, 0.04, 0.008, 24, g)
    train_mask, val_mask, test_mask = make_masks(len(y), g)
    x = (x - x[train_mask].mean(0)) / x[train_mask].std(0)
    a_hat = normalise_adjacency(adj)

    model = GCN(x.shape[1], args.hidden, args.classes, args.dropout)
    opt = torch.optim.Adam(model.parameters(), lr=args.lr, weight_decay=args.weight_decay)

    history = []
    for epoch in range(1, args.epochs + 1):
        model.train()
        opt.zero_grad()
        logits = model(x, a_hat)
        loss = F.cross_entropy(logits[train_mask], y[train_mask])
        loss.backward()
        opt.step()
        if epoch % 10 == 0:
            val_loss, val_acc = evaluate(model, x, a_hat, y, val_mask)
            history.append((epoch, loss.item(), val_loss))
            print(f"epoch {epoch:3d}  train {loss.item():.4f}  val {val_loss:.4f}  acc {val_acc:.3f}")

    test_loss, test_acc = evaluate(model, x, a_hat, y, test_mask)
    print(f"chance {math.log(args.classes):.3f}  test loss {test_loss:.4f}  test accuracy {test_acc:.3f}")


if __name__ == "__main__":
    main()
