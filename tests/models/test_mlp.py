"""The MLP against the formulas of its page."""

import torch

from wellfit.models.mlp import mlp
from wellfit.models.recompute import recompute
from wellfit.recipe import MLP


def test_it_is_the_formula() -> None:
    """Y = f(X W^T + b), layer by layer, in plain matrix products."""
    model = mlp(MLP(widths=(6, 5), activation="tanh", dropout=0.5), inputs=4, outputs=3).eval()
    h = X = torch.randn(7, 4)
    for layer in model.blocks:
        linear = layer[0]
        torch.nn.init.normal_(linear.bias)
        h = torch.tanh(h @ linear.weight.T + linear.bias)
    torch.testing.assert_close(model(X), h @ model.head.weight.T + model.head.bias)


def test_without_hidden_layers_it_is_linear() -> None:
    model = mlp(MLP(widths=()), inputs=4, outputs=2)
    x, y = torch.randn(2, 5, 4)
    bias = model.head.bias
    torch.testing.assert_close(model(x + y) - bias, (model(x) - bias) + (model(y) - bias))


def test_dropout_silences_its_share_while_training_only() -> None:
    torch.manual_seed(0)
    layer = mlp(MLP(widths=(2000,), activation="sigmoid", dropout=0.3), inputs=4, outputs=2).blocks[0]
    x = torch.randn(5, 4)
    assert abs((layer(x) == 0).float().mean().item() - 0.3) < 0.03
    assert (layer.eval()(x) != 0).all()


def test_blocks_can_be_recomputed_to_the_same_bits() -> None:
    found = []
    for every in (0, 1):
        torch.manual_seed(0)
        model = mlp(MLP(widths=(8, 8, 8), norm="batch", dropout=0.3), inputs=4, outputs=2)
        if every:
            assert recompute(model, every) == 3
        model(torch.randn(16, 4)).square().sum().backward()
        found.append([p.grad for p in model.parameters()] + [b.clone() for b in model.buffers()])
    assert all(torch.equal(plain, again) for plain, again in zip(*found, strict=True))
