"""The ConvNet's own claims: nothing that CUDA cannot do deterministically, and what its page says of convolutions."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from wellfit.models.convnet import Quarters, block, convnet
from wellfit.recipe import ConvNet

# torch.use_deterministic_algorithms' list of what raises on CUDA, as far as a network of images could meet it.
REFUSED = {
    "_adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d_backward",
    "fractional_max_pool2d_backward",
    "max_unpool2d",
    "nll_loss2d_forward",
    "reflection_pad2d_backward",
    "replication_pad2d_backward",
    "upsample_bicubic2d_backward",
}


class Recorded(TorchDispatchMode):
    """The names of all operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def ran(model: nn.Module, x: torch.Tensor) -> set[str]:
    """Operators of a forward and a backward pass."""
    with Recorded() as recorded:
        model(x).sum().backward()
    return recorded.names


@pytest.mark.parametrize("size", [4, 7, 8, 28])
def test_no_operator_that_deterministic_cuda_refuses(size) -> None:
    names = ran(convnet(ConvNet(channels=(2, 3, 4)), channels=1, outputs=2), torch.randn(2, 1, size, size))
    assert "convolution_backward" in names
    assert not names & REFUSED
    # The check can fail: the pool that one would take first is refused.
    assert ran(nn.AdaptiveAvgPool2d(2), torch.randn(1, 1, size, size, requires_grad=True)) & REFUSED


def test_gradients_of_the_pool_are_torchs() -> None:
    for shape in ((2, 3, 7, 4), (1, 2, 1, 5)):
        ours = torch.randn(shape, requires_grad=True)
        theirs = ours.detach().clone().requires_grad_()
        pooled = Quarters()(ours)
        out = torch.randn_like(pooled)
        pooled.backward(out)
        nn.AdaptiveAvgPool2d(2)(theirs).backward(out)
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_what_is_learnt_in_one_place_is_known_in_all() -> None:
    """Away from the edges, a moved image gives the same features, moved."""
    torch.manual_seed(0)
    layers = block(ConvNet(), 1, 6, halve=False).eval()
    x = torch.zeros(1, 1, 20, 20)
    x[..., 6:10, 6:10] = torch.randn(4, 4)
    moved = torch.roll(x, (3, 2), (-2, -1))
    torch.testing.assert_close(layers(moved), torch.roll(layers(x), (3, 2), (-2, -1)))


def test_a_block_sees_five_by_five_pixels() -> None:
    layers = block(ConvNet(activation="tanh"), 1, 3, halve=False).eval()
    x = torch.randn(1, 1, 11, 11, requires_grad=True)
    layers(x)[..., 5, 5].sum().backward()
    seen = x.grad[0, 0].nonzero()
    assert seen.amin(0).tolist() == [3, 3]
    assert seen.amax(0).tolist() == [7, 7]


@pytest.mark.parametrize(("size", "halved"), [(28, 14), (7, 4), (1, 1)])
def test_halving_keeps_an_odd_pixel(size, halved) -> None:
    layers = block(ConvNet(), 1, 2, halve=True)
    assert layers(torch.randn(3, 1, size, size)).shape == (3, 2, halved, halved)
