"""Recurrent networks, gate by gate: the vanilla RNN (Elman 1990), LSTM (Hochreiter & Schmidhuber 1997) and GRU (Cho 2014).

A recurrent network reads a sequence one step at a time and keeps what it has read in a *state*: h' = f(x, h). The same
weights serve every step, so the length does not matter. The trouble is training: the gradient of the last state with
respect to a step k earlier is a product of k Jacobians, which shrinks or grows exponentially with k (Bengio, Simard &
Frasconi 1994); `through_time` measures it. The LSTM's answer is a second state c that is *added to* instead of rewritten,
c' = f c + i g: where the forget gate f is near 1 the gradient passes almost untouched. The GRU has one state, a blend of
the old one and a proposal, which does the same where the blend keeps the old, with a quarter fewer weights.

There are two paths with equal results. The cells, `unroll` and `Unrolled` are to be read: every gate is a line, every step
a turn of a loop. `Recurrent` is to be used: torch's kernels (cuDNN's on a GPU), sequences of unequal length, nothing else.

Letters: B samples, T steps, F inputs of a step, D units of a state, L layers, S directions (1 or 2), K = S D outputs.

    >>> Recurrent(inputs=3, units=16)(torch.zeros(5, 7, 3), lengths_B=torch.tensor([7, 2, 1, 4, 7])).shape
    torch.Size([5, 16])
    >>> outputs, (h, c) = Unrolled(LSTMCell, inputs=3, units=16, layers=2, bidirectional=True)(torch.zeros(5, 7, 3))
    >>> outputs.shape, h.shape
    (torch.Size([5, 7, 32]), torch.Size([4, 5, 16]))
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from wellfit.errors import ModelError

State = tuple[Tensor, ...]  # (h,) or the LSTM's (h, c), each [B, D]


# ---- cells: one step, (x [B, F], state) -> state


class RNNCell(nn.Module):
    """h' = tanh(W x + b + U h + d): the state is rewritten at every step (Elman 1990).

    x [B, F] and state (h [B, D],) -> (h' [B, D],). Weights start uniform in +-1 / sqrt(D), as torch's do.
    """

    states = 1

    def __init__(self, inputs: int, units: int):
        super().__init__()
        at_least_one(inputs=inputs, units=units)
        self.inputs, self.units = inputs, units
        self.from_x = linear(inputs, units, units)
        self.from_h = linear(units, units, units)

    def forward(self, x_BF: Tensor, state: State) -> State:
        (h_BD,) = state
        return (torch.tanh(self.from_x(x_BF) + self.from_h(h_BD)),)


class LSTMCell(nn.Module):
    """c' = f c + i g and h' = o tanh(c'): what is kept is added to (Hochreiter & Schmidhuber 1997; f from Gers et al. 2000).

    x [B, F] and state (h [B, D], c [B, D]) -> the next (h', c'). The rows of the weights [4 D, F] and [4 D, D] hold the
    gates in torch's order: input i, forget f, proposal g, output o. There are no peepholes; torch has none either.

    `forget_bias` is where the forget gate's bias starts. At 0 the gate is half open and c is halved at each step; at 1,
    the usual choice (Jozefowicz, Zaremba & Sutskever 2015), sigmoid(1) = 0.73 of it stays. torch starts near 0.
    """

    states = 2

    def __init__(self, inputs: int, units: int, *, forget_bias: float = 1.0):
        super().__init__()
        at_least_one(inputs=inputs, units=units)
        self.inputs, self.units = inputs, units
        self.from_x = linear(inputs, 4 * units, units)
        self.from_h = linear(units, 4 * units, units)
        remember(self.from_x.bias, self.from_h.bias, forget_bias)

    def forward(self, x_BF: Tensor, state: State) -> State:
        h_BD, c_BD = state
        i_BD, f_BD, g_BD, o_BD = (self.from_x(x_BF) + self.from_h(h_BD)).chunk(4, dim=-1)
        i_BD = torch.sigmoid(i_BD)  # how much of the proposal to write
        f_BD = torch.sigmoid(f_BD)  # how much of the old memory to keep
        g_BD = torch.tanh(g_BD)  # what to write
        o_BD = torch.sigmoid(o_BD)  # how much of the memory to show
        c_BD = f_BD * c_BD + i_BD * g_BD
        return o_BD * torch.tanh(c_BD), c_BD


class GRUCell(nn.Module):
    """h' = z h + (1 - z) n: a blend of the old state and a proposal n (Cho et al. 2014, eq. 5 to 8).

    x [B, F] and state (h [B, D],) -> (h' [B, D],). The rows of the weights [3 D, F] and [3 D, D] hold the gates in torch's
    order: reset r, update z, proposal n.

    The paper resets the state *before* its matrix, n = tanh(W x + U (r h)); torch and cuDNN reset *after* it,
    n = tanh(W x + b + r (U h + d)), because then U h of all gates is one product. The two agree only where U is diagonal
    and d zero. `reset_after=False` is the paper's; the default is torch's, so that weights can be exchanged.
    """

    states = 1

    def __init__(self, inputs: int, units: int, *, reset_after: bool = True):
        super().__init__()
        at_least_one(inputs=inputs, units=units)
        self.inputs, self.units, self.reset_after = inputs, units, reset_after
        self.from_x = linear(inputs, 3 * units, units)
        self.from_h = linear(units, 3 * units, units)

    def forward(self, x_BF: Tensor, state: State) -> State:
        (h_BD,) = state
        r_x, z_x, n_x = self.from_x(x_BF).chunk(3, dim=-1)
        r_h, z_h, n_h = self.from_h(h_BD).chunk(3, dim=-1)
        r_BD = torch.sigmoid(r_x + r_h)  # how much of the old state the proposal may see
        z_BD = torch.sigmoid(z_x + z_h)  # how much of the old state to keep
        if self.reset_after:
            n_BD = torch.tanh(n_x + r_BD * n_h)
        else:
            _, _, U_DD = self.from_h.weight.chunk(3)
            _, _, d_D = self.from_h.bias.chunk(3)
            n_BD = torch.tanh(n_x + nn.functional.linear(r_BD * h_BD, U_DD, d_D))
        return (z_BD * h_BD + (1 - z_BD) * n_BD,)


Cell = RNNCell | LSTMCell | GRUCell


def linear(inputs: int, outputs: int, units: int) -> nn.Linear:
    """A linear layer with weights and bias uniform in +-1 / sqrt(units), which is how torch starts recurrent layers."""
    layer = nn.Linear(inputs, outputs)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(units**-0.5), units**-0.5)
    return layer


def remember(bias_ih: Tensor, bias_hh: Tensor, forget_bias: float) -> None:
    """Sets the forget gate's bias of an LSTM. torch has two biases [4 D] and adds them, so the second is made 0."""
    D = len(bias_ih) // 4
    with torch.no_grad():
        bias_ih[D : 2 * D].fill_(forget_bias)
        bias_hh[D : 2 * D].zero_()


# ---- layers: a cell over time, both ways, and layer upon layer


def unroll(
    cell: Cell, x_BTF: Tensor, lengths_B: Tensor | None = None, *, backwards: bool = False
) -> tuple[Tensor, State]:
    """x [B, T, F] -> outputs [B, T, D], the h of every step, and the state after the last one; it starts at zero.

    With lengths [B] (1 to T), outputs at padded steps are 0 and a sample's last state is that of its own last step.
    Backwards, a sample starts at its own last step too, and outputs stay where their inputs are.
    """
    B, T, _ = x_BTF.shape
    state: State = tuple(x_BTF.new_zeros(B, cell.units) for _ in range(cell.states))
    padded_BT1 = None
    if lengths_B is not None:
        padded_BT1 = (torch.arange(T, device=x_BTF.device) >= lengths_B.to(x_BTF.device)[:, None])[:, :, None]
        # Not only the outputs: a NaN in the padding would come back as a gradient of 0 * NaN.
        x_BTF = x_BTF.masked_fill(padded_BT1, 0.0)
    outputs: list[Tensor] = []
    for t in reversed(range(T)) if backwards else range(T):
        after: State = cell(x_BTF[:, t], state)
        if padded_BT1 is not None:
            after = tuple(torch.where(padded_BT1[:, t], old, new) for old, new in zip(state, after, strict=True))
        state = after
        outputs.append(state[0])
    y_BTD = torch.stack(outputs[::-1] if backwards else outputs, dim=1)
    return (y_BTD if padded_BT1 is None else y_BTD.masked_fill(padded_BT1, 0.0)), state


class Unrolled(nn.Module):
    """Layers of cells, each reading the outputs of the one below, forwards or both ways (Schuster & Paliwal 1997).

    x [B, T, F] and perhaps lengths [B] -> outputs [B, T, K] of the last layer, and the last states, each [L S, B, D] in
    torch's order: layer by layer, forwards before backwards. Dropout is between layers, not after the last nor from step
    to step, since what is dropped over time is forgotten (Zaremba, Sutskever & Vinyals 2014).

    `cell` makes a cell from (inputs, units): `RNNCell`, `LSTMCell`, `GRUCell`, or such a class with choices made.
    Raises ModelError for sizes below 1 and a dropout outside [0, 1) or without a second layer.
    """

    def __init__(
        self,
        cell: Callable[[int, int], Cell],
        inputs: int,
        units: int,
        *,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        at_least_one(inputs=inputs, units=units, layers=layers)
        check_dropout(dropout, layers)
        S = 2 if bidirectional else 1
        widths = [inputs] + [S * units] * (layers - 1)
        self.cells = nn.ModuleList(nn.ModuleList(cell(F, units) for _ in range(S)) for F in widths)
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def of(cls, layer: nn.RNNBase) -> "Unrolled":
        """The same network as torch's `nn.RNN`, `nn.LSTM` or `nn.GRU`, with a copy of its weights.

        Raises ModelError for what is not written out here: ReLU, no biases, projections.
        """
        cells: dict[str, type[Cell]] = {"RNN_TANH": RNNCell, "LSTM": LSTMCell, "GRU": GRUCell}
        if layer.mode not in cells or not layer.bias or layer.proj_size:
            raise ModelError(
                f"{layer} cannot be unrolled here: it can be an RNN with tanh, an LSTM or a GRU, with biases and without "
                "`proj_size`."
            )
        ours = cls(
            cells[layer.mode],
            layer.input_size,
            layer.hidden_size,
            layers=layer.num_layers,
            bidirectional=layer.bidirectional,
            dropout=layer.dropout if layer.num_layers > 1 else 0.0,
        )
        theirs = layer.state_dict()
        ours.to(theirs["weight_ih_l0"])
        with torch.no_grad():
            for number, directions in enumerate(ours.cells):
                assert isinstance(directions, nn.ModuleList)
                for cell, way in zip(directions, ("", "_reverse"), strict=False):
                    assert isinstance(cell, Cell)
                    for part, name in ((cell.from_x, "ih"), (cell.from_h, "hh")):
                        part.weight.copy_(theirs[f"weight_{name}_l{number}{way}"])
                        part.bias.copy_(theirs[f"bias_{name}_l{number}{way}"])
        return ours

    def forward(self, x_BTF: Tensor, lengths_B: Tensor | None = None) -> tuple[Tensor, State]:
        lengths_B = checked(x_BTF, lengths_B)
        y = x_BTF
        last: list[State] = []
        for number, directions in enumerate(self.cells):
            if number > 0:
                y = self.dropout(y)
            assert isinstance(directions, nn.ModuleList)
            ways: list[tuple[Tensor, State]] = []
            for way, cell in enumerate(directions):
                assert isinstance(cell, Cell)
                ways.append(unroll(cell, y, lengths_B, backwards=way == 1))
            y = torch.cat([outputs for outputs, _ in ways], dim=-1)
            last += [state for _, state in ways]
        return y, tuple(torch.stack(part) for part in zip(*last, strict=True))


# ---- the fast path


class Recurrent(nn.Module):
    """x [B, T, F] and lengths [B] -> the last valid state [B, K], or with `each_step` the outputs [B, T, K]; K = S D.

    The last state of a bidirectional network is the forward one after a sample's last step beside the backward one after
    its first, so each has read all of it. A sample gives what it would give alone, whatever the padding holds: padded
    steps are never computed. Without lengths every step counts. Outputs at padded steps are 0.

    `kind` is "lstm", "gru" or "rnn"; for `forget_bias` see `LSTMCell`. `features` is K. Raises ModelError for sizes below
    1, an unknown kind, a dropout without a second layer, and sequences or lengths that do not fit.
    """

    def __init__(
        self,
        inputs: int,
        units: int = 128,
        *,
        kind: str = "lstm",
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        each_step: bool = False,
        forget_bias: float = 1.0,
    ):
        super().__init__()
        at_least_one(inputs=inputs, units=units, layers=layers)
        check_dropout(dropout, layers)
        kinds: dict[str, type[nn.RNN | nn.LSTM | nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
        if kind not in kinds:
            raise ModelError(f"`kind` is {kind!r}; it can be {', '.join(kinds)}.")
        self.each_step = each_step
        self.features = units * (2 if bidirectional else 1)
        self.layers = kinds[kind](inputs, units, layers, batch_first=True, bidirectional=bidirectional, dropout=dropout)
        if kind == "lstm":
            named = dict(self.layers.named_parameters())
            for name in named:
                if name.startswith("bias_ih"):
                    remember(named[name], named[name.replace("bias_ih", "bias_hh")], forget_bias)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        lengths_B = checked(x_BTF, lengths_B, self.layers.input_size)
        if lengths_B is None:
            y_BTK, last = self.layers(x_BTF)
        else:
            # The lengths must be on the CPU, since they decide which kernels run: on a GPU this waits for it.
            packed = pack_padded_sequence(x_BTF, lengths_B.cpu(), batch_first=True, enforce_sorted=False)
            y_packed, last = self.layers(packed)
        if not self.each_step:
            h_LBD: Tensor = last[0] if isinstance(last, tuple) else last
            S = 2 if self.layers.bidirectional else 1
            return h_LBD[-S:].transpose(0, 1).flatten(1)
        if lengths_B is not None:
            y_BTK, _ = pad_packed_sequence(y_packed, batch_first=True, total_length=x_BTF.shape[1])
        y: Tensor = y_BTK
        return y


# ---- gradients through time


class ThroughTime(NamedTuple):
    """How much the last h depends on what step t is given, as the Frobenius norm of its Jacobian; both are [T]."""

    inputs_T: Tensor  # ||d h_T / d x_t||
    states_T: Tensor  # ||d h_T / d (state before step t)||, with the LSTM's h and c taken together; t = 0 is the start


def through_time(cell: Cell, T: int, *, samples: int = 8, seed: int = 0) -> ThroughTime:
    """The norms of d h_T with respect to every input and state before it, over T steps of standard normal inputs.

    Means over `samples` sequences that start at zero. Norms that fall by a constant factor per step towards t = 0 are a
    vanishing gradient, norms that rise an exploding one (Pascanu, Mikolov & Bengio 2013). Costs D backward passes.
    """
    at_least_one(T=T, samples=samples)
    weight = next(cell.parameters())
    x_BTF = torch.randn(samples, T, cell.inputs, generator=torch.Generator().manual_seed(seed)).to(weight)
    with torch.enable_grad():
        state: State = tuple(weight.new_zeros(samples, cell.units, requires_grad=True) for _ in range(cell.states))
        given: list[State] = []
        for t in range(T):
            x_BF = x_BTF[:, t].clone().requires_grad_()
            given.append((x_BF, *state))
            state = cell(x_BF, state)
        flat = [tensor for step in given for tensor in step]
        squares = weight.new_zeros(len(flat), samples, dtype=torch.float64)
        for d in range(cell.units):  # row d of every Jacobian; samples do not mix, so their sum has all their rows
            rows = torch.autograd.grad(state[0][:, d].sum(), flat, retain_graph=True)
            squares += torch.stack([row.double().square().sum(-1) for row in rows])
    squares_TPB = squares.view(T, 1 + cell.states, samples)
    return ThroughTime(squares_TPB[:, 0].sqrt().mean(-1), squares_TPB[:, 1:].sum(1).sqrt().mean(-1))


# ---- checks


def at_least_one(**sizes: int) -> None:
    """Raises ModelError for a size that is not a whole number from 1 up."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ModelError(f"`{name}` is {size!r}; it must be a whole number, at least 1.")


def check_dropout(dropout: float, layers: int) -> None:
    """Raises ModelError for a dropout outside [0, 1), or between layers of which there is only one."""
    if not 0 <= dropout < 1:
        raise ModelError(f"`dropout` is {dropout!r}; it must be at least 0 and below 1.")
    if dropout > 0 and layers == 1:
        raise ModelError(
            f"`dropout` is {dropout!r}, but it acts between layers and `layers` is 1. Use `layers=2` or `dropout=0`."
        )


def checked(x_BTF: Tensor, lengths_B: Tensor | None, inputs: int | None = None) -> Tensor | None:
    """The lengths, if these are sequences with `inputs` values a step and the lengths fit; else raises ModelError."""
    if x_BTF.ndim != 3 or x_BTF.shape[1] < 1 or (inputs is not None and x_BTF.shape[2] != inputs):
        raise ModelError(
            f"Sequences must have the shape [B, T, {inputs or 'F'}] with at least one step, but these have "
            f"{list(x_BTF.shape)}."
        )
    if lengths_B is None:
        return None
    B, T, _ = x_BTF.shape
    if lengths_B.shape != (B,) or lengths_B.is_floating_point():
        raise ModelError(
            f"Lengths must be whole numbers of shape [{B}], one for each sample, but these are {lengths_B.dtype} of shape "
            f"{list(lengths_B.shape)}."
        )
    shortest, longest = (int(length) for length in lengths_B.aminmax()) if B else (1, T)
    if shortest < 1 or longest > T:
        raise ModelError(
            f"Lengths run from {shortest} to {longest}, but must be from 1 to the {T} steps there are; leave empty "
            "sequences out."
        )
    return lengths_B
