"""The written-out recurrent networks against torch's kernels; padding; gradients through time."""

import doctest
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from wellfit.errors import ModelError
from wellfit.models import recurrent
from wellfit.models.recurrent import GRUCell, LSTMCell, Recurrent, RNNCell, Unrolled, through_time, unroll

KINDS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
LENGTHS = torch.tensor([3, 7, 1, 6])


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "unequal"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_gates_are_torchs(kind, layers, bidirectional, lengths) -> None:
    """Outputs, last states, and the gradients of the inputs and of every weight."""
    torch.manual_seed(0)
    theirs = KINDS[kind](5, 6, layers, batch_first=True, bidirectional=bidirectional)
    ours = Unrolled.of(theirs)
    x = torch.randn(4, 7, 5)
    x_ours, x_theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y_ours, last_ours = ours(x_ours, lengths)
    if lengths is None:
        y_theirs, last_theirs = theirs(x_theirs)
    else:
        packed, last_theirs = theirs(pack_padded_sequence(x_theirs, lengths, batch_first=True, enforce_sorted=False))
        y_theirs, _ = pad_packed_sequence(packed, batch_first=True, total_length=7)
    last_theirs = last_theirs if isinstance(last_theirs, tuple) else (last_theirs,)
    close(y_ours, y_theirs)
    for a, b in zip(last_ours, last_theirs, strict=True):
        close(a, b)

    pull_y, pull_last = torch.randn_like(y_ours), [torch.randn_like(a) for a in last_ours]
    for y, last in ((y_ours, last_ours), (y_theirs, last_theirs)):
        ((y * pull_y).sum() + sum((a * b).sum() for a, b in zip(last, pull_last, strict=True))).backward()
    close(x_ours.grad, x_theirs.grad)
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for number, directions in enumerate(ours.cells):
        for cell, way in zip(directions, ("", "_reverse"), strict=False):
            for part, name in ((cell.from_x, "ih"), (cell.from_h, "hh")):
                close(part.weight.grad, gradients.pop(f"weight_{name}_l{number}{way}"))
                close(part.bias.grad, gradients.pop(f"bias_{name}_l{number}{way}"))
    assert not gradients


def test_what_is_not_written_out_cannot_be_unrolled() -> None:
    for layer in (nn.RNN(2, 3, nonlinearity="relu"), nn.GRU(2, 3, bias=False), nn.LSTM(2, 3, proj_size=2)):
        with pytest.raises(ModelError, match="proj_size"):
            Unrolled.of(layer)


def test_dropout_is_between_layers_only() -> None:
    torch.manual_seed(0)
    model = Unrolled(GRUCell, 3, 50, layers=2, dropout=0.4)
    seen = []
    model.cells[1][0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x = torch.randn(20, 6, 3)
    y, _ = model(x)
    below, _ = unroll(model.cells[0][0], x)
    read = torch.stack(seen, 1)
    kept = read != 0
    torch.testing.assert_close(read[kept], below[kept] / 0.6)
    assert abs(kept.float().mean() - 0.6) < 0.02
    assert (y != 0).all()
    seen.clear()
    model.eval()(x)
    torch.testing.assert_close(torch.stack(seen, 1), below, rtol=0, atol=0)


def test_the_papers_gru_resets_before_the_matrix_and_agrees_with_torchs_where_that_is_diagonal() -> None:
    torch.manual_seed(0)
    after, before = GRUCell(3, 4), GRUCell(3, 4, reset_after=False)
    before.load_state_dict(after.state_dict())
    x, state = torch.randn(5, 3), (torch.randn(5, 4),)
    assert (after(x, state)[0] - before(x, state)[0]).abs().max() > 0.01
    with torch.no_grad():
        for cell in (after, before):
            cell.from_h.weight[8:] = torch.diag(torch.tensor([0.3, -1.0, 2.0, 0.5]))
            cell.from_h.bias[8:] = 0
    torch.testing.assert_close(after(x, state), before(x, state))
    # Equation 8 of the paper by hand, with a full matrix and one sample.
    with torch.no_grad():
        before.from_h.weight[8:] = torch.randn(4, 4)
    W, b, U, d = (p.double() for p in (*before.from_x.parameters(), *before.from_h.parameters()))
    x1, h1 = x[0].double(), state[0][0].double()
    r = 1 / (1 + torch.exp(-(W[:4] @ x1 + b[:4] + U[:4] @ h1 + d[:4])))
    z = 1 / (1 + torch.exp(-(W[4:8] @ x1 + b[4:8] + U[4:8] @ h1 + d[4:8])))
    n = torch.tanh(W[8:] @ x1 + b[8:] + U[8:] @ (r * h1) + d[8:])
    torch.testing.assert_close(before(x, state)[0][0].double(), z * h1 + (1 - z) * n, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("each_step", [False, True], ids=["last", "steps"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_sample_gives_what_it_gives_alone(kind, bidirectional, each_step) -> None:
    torch.manual_seed(0)
    model = Recurrent(5, 6, kind=kind, layers=2, bidirectional=bidirectional, each_step=each_step)
    x = torch.randn(4, 7, 5)
    padded = torch.arange(7) >= LENGTHS[:, None]
    x[padded] = torch.nan  # what padding holds does not matter, even this
    x.requires_grad_()
    y = model(x, LENGTHS)
    assert y.shape == ((4, 7, model.features) if each_step else (4, model.features))
    y.sum().backward()
    assert (x.grad[padded] == 0).all()
    for sample, length in enumerate(LENGTHS):
        alone = x[sample : sample + 1, :length].detach().requires_grad_()
        y_alone = model(alone)
        y_alone.sum().backward()
        torch.testing.assert_close(y[sample, :length] if each_step else y[sample], y_alone[0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(x.grad[sample, :length], alone.grad[0], rtol=1e-5, atol=1e-6)
        if each_step:
            assert (y[sample, length:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_unrolled_padding_is_the_fast_paths(kind) -> None:
    """The two paths agree, and NaN in the padding leaves the slow one's gradients alone too."""
    torch.manual_seed(0)
    fast = Recurrent(5, 6, kind=kind, layers=2, bidirectional=True, each_step=True)
    slow = Unrolled.of(fast.layers)
    x = torch.randn(4, 7, 5).masked_fill((torch.arange(7) >= LENGTHS[:, None])[:, :, None], torch.nan).requires_grad_()
    y, (h, *_) = slow(x, LENGTHS)
    close(y, fast(x, LENGTHS))
    fast.each_step = False
    close(torch.cat([h[-2], h[-1]], dim=-1), fast(x, LENGTHS))
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_the_last_state_is_the_last_valid_step() -> None:
    torch.manual_seed(0)
    last = Recurrent(3, 4, kind="gru")
    steps = Recurrent(3, 4, kind="gru", each_step=True)
    steps.load_state_dict(last.state_dict())
    x = torch.randn(4, 7, 3)
    torch.testing.assert_close(last(x, LENGTHS), steps(x)[torch.arange(4), LENGTHS - 1])
    torch.testing.assert_close(last(x), steps(x)[:, -1])


def test_the_forget_gate_starts_open() -> None:
    for layer in (Recurrent(3, 4, layers=2, bidirectional=True, forget_bias=2.5), Recurrent(3, 4, forget_bias=2.5)):
        parameters = dict(layer.layers.named_parameters())
        biases = {name: p for name, p in parameters.items() if name.startswith("bias_ih")}
        assert len(biases) == layer.layers.num_layers * (1 + layer.layers.bidirectional)
        for name, bias in biases.items():
            total = bias + parameters[name.replace("ih", "hh")]
            assert (total[4:8] == 2.5).all()
            assert (total[:4].abs() <= 1).all()
    cell = LSTMCell(3, 4)
    assert ((cell.from_x.bias + cell.from_h.bias)[4:8] == 1).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradients_vanish_through_time_and_the_lstms_much_slower(seed) -> None:
    """The RNN's fall by a constant factor a step, a straight line in the logarithm. What helps the LSTM is its open gate."""
    T = 30
    t = torch.arange(T, dtype=torch.float64)
    states, straight, kept = {}, {}, {}
    for name, cell in {
        "rnn": RNNCell,
        "half open": partial(LSTMCell, forget_bias=0.0),
        "lstm": LSTMCell,
        "wide open": partial(LSTMCell, forget_bias=3.0),
    }.items():
        torch.manual_seed(seed)
        inputs, states[name] = through_time(cell(8, 24), T)
        assert inputs.shape == states[name].shape == (T,)
        log_t = torch.stack([t, states[name].log()])
        straight[name] = torch.corrcoef(log_t)[0, 1]
        kept[name] = float((-torch.cov(log_t)[0, 1] / t.var()).exp())  # of the gradient, per step back
    assert straight["rnn"] > 0.998
    assert kept["rnn"] < 0.62
    assert kept["half open"] < 0.65
    assert 0.78 < kept["lstm"] < 0.9
    assert kept["wide open"] > 0.98
    assert states["lstm"][0] > 1000 * states["rnn"][0]


def test_through_time_is_the_jacobians_norm() -> None:
    """A linear network's Jacobian is a power of its matrix: tanh of tiny inputs, and the full one by finite differences."""
    torch.manual_seed(0)
    cell = RNNCell(2, 3).double()
    with torch.no_grad():
        cell.from_x.weight.mul_(1e-6)
        cell.from_x.bias.zero_()
        cell.from_h.bias.zero_()
    inputs, states = through_time(cell, 5)
    U, W = cell.from_h.weight.detach(), cell.from_x.weight.detach()
    powers = [torch.linalg.matrix_power(U, 5 - t) for t in range(5)]
    torch.testing.assert_close(states, torch.stack([power.norm() for power in powers]))
    torch.testing.assert_close(inputs[:4], torch.stack([(power @ W).norm() for power in powers[1:]]))
    # The LSTM's state is h and c together.
    lstm = LSTMCell(2, 3).double()
    _, states = through_time(lstm, 1, samples=1, seed=5)
    x = torch.randn(1, 1, 2, generator=torch.Generator().manual_seed(5)).double()[:, 0]
    start = torch.zeros(1, 6, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda hc: lstm(x, hc.chunk(2, -1))[0], start)
    torch.testing.assert_close(states[0], jacobian.norm())


def test_through_time_leaves_the_cell_and_the_generator_alone() -> None:
    cell = GRUCell(2, 3)
    before = torch.get_rng_state()
    with torch.no_grad():
        first = through_time(cell, 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in cell.parameters())
    assert torch.equal(first.inputs_T, through_time(cell, 4).inputs_T)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Recurrent(0, 4), r"`inputs` is 0.*at least 1"),
        (lambda: Recurrent(3, 4, kind="lstn"), r"`kind` is 'lstn'; it can be lstm, gru, rnn"),
        (lambda: Recurrent(3, 4, dropout=0.5), r"`layers` is 1\. Use `layers=2`"),
        (lambda: Unrolled(RNNCell, 3, 4, layers=2, dropout=1.0), "below 1"),
        (lambda: Recurrent(3, 4)(torch.zeros(2, 5)), r"\[B, T, 3\].*\[2, 5\]"),
        (lambda: Recurrent(3, 4)(torch.zeros(2, 5, 2)), r"\[B, T, 3\]"),
        (lambda: Recurrent(3, 4)(torch.zeros(2, 5, 3), torch.tensor([5])), r"shape \[2\]"),
        (lambda: Recurrent(3, 4)(torch.zeros(2, 5, 3), torch.tensor([5.0, 1.0])), "whole numbers"),
        (lambda: Recurrent(3, 4)(torch.zeros(2, 5, 3), torch.tensor([0, 5])), "from 0 to 5.*leave empty"),
        (lambda: Recurrent(3, 4)(torch.zeros(2, 5, 3), torch.tensor([1, 6])), "from 1 to 6"),
        (lambda: through_time(RNNCell(2, 3), 0), "`T` is 0"),
    ],
)
def test_errors_help(make, says) -> None:
    with pytest.raises(ModelError, match=says):
        make()


def test_the_pages_examples_run() -> None:
    results = doctest.testmod(recurrent)
    assert results.attempted >= 3
    assert results.failed == 0
