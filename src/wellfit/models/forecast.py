"""Forecasting: from the last T steps of C series to the next H, x [B, T, C] -> y [B, H, C]. Two baselines and four models.

- `last_value` and `seasonal` repeat what was seen. A model that does not beat them has learnt nothing.
- `DLinear` (Zeng et al. 2023) is a moving average and two linear maps over time. It was published to ask whether
  Transformers are worth their cost on the usual benchmarks, and there it is hard to beat.
- `PatchTST` (Nie et al. 2023) is a Transformer that took the hint: it reads *patches* of a series as words, so that
  attention has T / stride tokens instead of T and each means something, and treats channels one by one with shared weights.
- `TFT` (Lim et al. 2021) is for forecasts that know more than the past: covariates known ahead (weekday, price), facts about
  each series, and quantiles instead of one number. It shows which variables and which steps it looked at.
- `RecurrentForecaster` reads with an LSTM or GRU and answers for all H steps at once.

Series drift, so a model fitted on one level meets another; `RevIN` (Kim et al. 2022) takes each sample's own mean and
spread out before the model and puts them back after it.

Letters: B samples, T past steps, H future steps, S = T + H, C channels, D width, N patches, P steps of a patch,
M = B C series, V variables, K covariates known ahead, I facts about a series, Q quantiles.

    >>> x_BTC = torch.randn(5, 96, 7)
    >>> PatchTST(length=96, horizon=24, channels=7)(x_BTC).shape
    torch.Size([5, 24, 7])
    >>> TFT(length=96, horizon=24, channels=7, known=2, width=16)(x_BTC, torch.zeros(5, 120, 2)).shape
    torch.Size([5, 24, 7, 3])
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wellfit.errors import ModelError
from wellfit.models.recurrent import Recurrent, at_least_one

# ---- baselines


def last_value(x_BTC: Tensor, H: int) -> Tensor:
    """The last step, H times over: [B, T, C] -> [B, H, C]. The best there is for a random walk."""
    at_least_one(H=H)
    return x_BTC[:, -1:].expand(-1, H, -1)


def seasonal(x_BTC: Tensor, H: int, period: int) -> Tensor:
    """The last `period` steps, over and over: [B, T, C] -> [B, H, C]. Raises ModelError if there are fewer."""
    at_least_one(H=H, period=period)
    T = x_BTC.shape[1]
    if period > T:
        raise ModelError(f"`period` is {period}, but there are only {T} steps; it can be at most that.")
    return x_BTC[:, T - period + torch.arange(H, device=x_BTC.device) % period]


# ---- DLinear


class DLinear(nn.Module):
    """A linear map of the trend plus a linear map of what is left: [B, T, C] -> [B, H, C] (Zeng et al. 2023, section 4).

    The trend is a moving average over `kernel` steps (odd). The maps are shared by all channels, or with `per_channel` each
    has its own. As a whole it is linear in x, and the split is only a start that suits series with a trend; it can still
    express any trend and season that two periods of the past determine.

    Both maps start as the mean over the past, 1 / T, so the untrained model forecasts the mean. No instance normalisation,
    as in the paper: standardise the series. Raises ModelError for sizes below 1 and an even kernel.
    """

    def __init__(self, length: int, horizon: int, channels: int, *, kernel: int = 25, per_channel: bool = False):
        super().__init__()
        at_least_one(length=length, horizon=horizon, channels=channels, kernel=kernel)
        if kernel % 2 == 0:
            raise ModelError(f"`kernel` is {kernel}; it must be odd, to have a middle. Use {kernel + 1}.")
        self.length, self.channels, self.kernel = length, channels, kernel
        maps = channels if per_channel else 1
        self.trend_weight = nn.Parameter(torch.full((maps, horizon, length), 1 / length))
        self.trend_bias = nn.Parameter(torch.zeros(maps, horizon))
        self.season_weight = nn.Parameter(torch.full((maps, horizon, length), 1 / length))
        self.season_bias = nn.Parameter(torch.zeros(maps, horizon))

    def forward(self, x_BTC: Tensor) -> Tensor:
        expect(x_BTC, self.length, self.channels)
        x_BCT = x_BTC.transpose(1, 2)
        trend_BCT = moving_average(x_BCT, self.kernel)
        trend_BCH = per_channel_linear(trend_BCT, self.trend_weight, self.trend_bias)
        season_BCH = per_channel_linear(x_BCT - trend_BCT, self.season_weight, self.season_bias)
        return (trend_BCH + season_BCH).transpose(1, 2)


def moving_average(x_BCT: Tensor, kernel: int) -> Tensor:
    """The mean of the `kernel` steps around each; beyond the ends the first and the last value go on. [B, C, T] -> same."""
    # By hand: `replicate` padding has no deterministic gradient on CUDA.
    half = (kernel - 1) // 2
    before, after = x_BCT[..., :1].expand(-1, -1, half), x_BCT[..., -1:].expand(-1, -1, half)
    return F.avg_pool1d(torch.cat([before, x_BCT, after], dim=-1), kernel, stride=1)


def per_channel_linear(x_BCT: Tensor, weight_CHT: Tensor, bias_CH: Tensor) -> Tensor:
    """[B, C, T] -> [B, C, H] with a map for each channel, or one for all of them."""
    if len(weight_CHT) == 1:
        return F.linear(x_BCT, weight_CHT[0], bias_CH[0])
    return torch.einsum("bct,cht->bch", x_BCT, weight_CHT) + bias_CH


# ---- RevIN


class RevIN(nn.Module):
    """Reversible instance normalisation (Kim et al. 2022): each sample and channel by its own mean and deviation over time.

    With `affine`, a scale and a shift of each channel follow, learnt, and undone by `restore`. `eps` is a variance and
    keeps a constant channel from being divided by 0; series far smaller than its root (0.003) should be standardised first,
    since to them it is not small.
    """

    def __init__(self, channels: int, *, affine: bool = True, eps: float = 1e-5):
        super().__init__()
        at_least_one(channels=channels)
        self.eps = eps
        self.scale_C = nn.Parameter(torch.ones(channels)) if affine else None
        self.shift_C = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, C] -> x normalised, its mean and its deviation, both [B, 1, C]."""
        mean_B1C = x_BTC.mean(1, keepdim=True)
        deviation_B1C = (x_BTC.var(1, keepdim=True, correction=0) + self.eps).sqrt()
        z_BTC = (x_BTC - mean_B1C) / deviation_B1C
        if self.scale_C is not None and self.shift_C is not None:
            z_BTC = z_BTC * self.scale_C + self.shift_C
        return z_BTC, mean_B1C, deviation_B1C

    def restore(self, y_BHC: Tensor, mean_B1C: Tensor, deviation_B1C: Tensor) -> Tensor:
        """The way back for a forecast [B, H, C]."""
        if self.scale_C is not None and self.shift_C is not None:
            # A scale that training brings to 0 would divide by it; eps^2 is what the paper's code adds.
            y_BHC = (y_BHC - self.shift_C) / (self.scale_C + self.eps**2)
        return y_BHC * deviation_B1C + mean_B1C


# ---- PatchTST


class PatchTST(nn.Module):
    """A Transformer encoder over patches of one series at a time: [B, T, C] -> [B, H, C] (Nie et al. 2023, section 3).

    A patch is `patch` steps, a new one starts every `stride`. With `pad_end` the last value is first repeated `stride`
    times, as in the paper, so the newest steps are in as many patches as others; without it the oldest steps are left out
    where patches do not fill the length. Channels share all weights and do not see each other. The head reads all patches
    at once. Defaults are the paper's (width 128, 16 heads, 3 layers, patches of 16, stride 8).

    Raises ModelError for sizes below 1, a patch longer than the past, a width that heads do not divide, a dropout outside
    [0, 1). Not here: pretraining on masked patches, and the authors' code's residual attention, which the paper lacks.
    """

    def __init__(
        self,
        length: int,
        horizon: int,
        channels: int,
        *,
        patch: int = 16,
        stride: int = 8,
        width: int = 128,
        heads: int = 16,
        layers: int = 3,
        feedforward: int = 256,
        dropout: float = 0.2,
        normalize: bool = True,
        pad_end: bool = True,
    ):
        super().__init__()
        at_least_one(length=length, horizon=horizon, channels=channels, patch=patch, stride=stride, width=width)
        at_least_one(heads=heads, layers=layers, feedforward=feedforward)
        check_dropout(dropout)
        check_heads(width, heads)
        if patch > length:
            raise ModelError(f"`patch` is {patch}, longer than the `length` of {length} steps; use {length} or less.")
        self.length, self.channels, self.patch, self.stride, self.pad_end = length, channels, patch, stride, pad_end
        N = (length - patch) // stride + 1 + pad_end
        self.revin = RevIN(channels) if normalize else None
        self.embed = nn.Linear(patch, width)
        self.position_ND = nn.Parameter(0.02 * torch.randn(N, width))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(PatchLayer(width, heads, feedforward, dropout) for _ in range(layers))
        self.head = nn.Linear(N * width, horizon)

    def forward(self, x_BTC: Tensor) -> Tensor:
        expect(x_BTC, self.length, self.channels)
        if self.revin is None:
            y_BCH: Tensor = self.head(self.encode(x_BTC).flatten(2))
            return y_BCH.transpose(1, 2)
        z_BTC, mean_B1C, deviation_B1C = self.revin(x_BTC)
        return self.revin.restore(self.head(self.encode(z_BTC).flatten(2)).transpose(1, 2), mean_B1C, deviation_B1C)

    def encode(self, x_BTC: Tensor) -> Tensor:
        """[B, T, C] -> the states of all patches, [B, C, N, D]."""
        B, T, C = x_BTC.shape
        series_MT = x_BTC.transpose(1, 2).reshape(B * C, T)
        oldest = 0 if self.pad_end else (T - self.patch) % self.stride
        end_MS = series_MT[:, -1:].expand(-1, self.stride if self.pad_end else 0)
        series_MT = torch.cat([series_MT[:, oldest:], end_MS], dim=1)
        patches_MNP = series_MT.unfold(1, self.patch, self.stride)
        x_MND: Tensor = self.dropout(self.embed(patches_MNP) + self.position_ND)
        for layer in self.layers:
            x_MND = layer(x_MND)
        return x_MND.view(B, C, *x_MND.shape[1:])


class PatchLayer(nn.Module):
    """Attention and a feed-forward network, each added to its input and then batch-normalised: [M, N, D] -> same.

    Batch norm instead of layer norm: time series have outliers, and it worked better (Zerveas et al. 2021).
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        # No dropout of attention weights, as in the authors' code: there are more of them than of anything else.
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_1 = nn.BatchNorm1d(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.GELU(), nn.Dropout(dropout), nn.Linear(feedforward, width)
        )
        self.norm_2 = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_MND: Tensor) -> Tensor:
        attended_MND, _ = self.attention(x_MND, x_MND, x_MND, need_weights=False)
        x_MND = each_feature(self.norm_1, x_MND + self.dropout(attended_MND))
        return each_feature(self.norm_2, x_MND + self.dropout(self.feedforward(x_MND)))


def each_feature(norm: nn.BatchNorm1d, x_MND: Tensor) -> Tensor:
    """Batch norm of each of the D features, over all patches of all series."""
    y: Tensor = norm(x_MND.flatten(0, 1))
    return y.view_as(x_MND)


# ---- the Temporal Fusion Transformer


class Explanation(NamedTuple):
    """What a TFT looked at; every last axis sums to 1."""

    past_BTV: Tensor  # weights of the variables at each past step: the C channels, the position, the K known ahead
    future_BHV: Tensor  # at each future step: the position, the K known ahead
    facts_BI: Tensor | None  # of the facts about the series, if it has any
    attention_BHS: Tensor  # of each future step on all S steps, averaged over heads; 0 for steps after it


class TFT(nn.Module):
    """The Temporal Fusion Transformer: x [B, T, C] -> quantiles [B, H, C, Q] (Lim et al. 2021, figure 2).

    With `known` covariates, `forward` takes them for past and future steps, [B, S, K]; with `facts`, [B, I]. The number
    of steps from now is always known. In order: each step's variables are weighed and merged (variable selection); an LSTM
    reads the past, another goes on into the future; facts enrich each step; every future step attends to all before it
    and itself; a linear layer gives the quantiles. Each stage can be skipped by its gate. A forecast for a step depends on
    no covariate after it.

    Reduced from the paper: all variables are numbers (embed categories beforehand), all channels are both observed and
    forecast, and variable selection has no layer norm before its softmax, because over two variables that would leave
    nothing but their order. Quantiles may cross; sort them if that matters. With `normalize`, each sample is brought to
    mean 0 and deviation 1 and back (`RevIN`); the paper standardises the data instead. Train with the pinball loss.

    Raises ModelError for sizes below 1, a width that heads do not divide, quantiles that do not rise inside (0, 1), a
    dropout outside [0, 1), and covariates that do not fit.
    """

    position_S: Tensor

    def __init__(
        self,
        length: int,
        horizon: int,
        channels: int,
        *,
        known: int = 0,
        facts: int = 0,
        width: int = 64,
        heads: int = 4,
        quantiles: tuple[float, ...] = (0.1, 0.5, 0.9),
        dropout: float = 0.1,
        normalize: bool = False,
    ):
        super().__init__()
        at_least_one(length=length, horizon=horizon, channels=channels, width=width, heads=heads)
        check_dropout(dropout)
        check_heads(width, heads)
        if known < 0 or facts < 0:
            raise ModelError(f"`known` is {known} and `facts` {facts}; neither can be below 0.")
        rising = all(a < b for a, b in zip((0.0, *quantiles), (*quantiles, 1.0), strict=True))
        if not quantiles or not rising:
            raise ModelError(
                f"`quantiles` is {quantiles!r}; it must be numbers between 0 and 1 that rise: (0.1, 0.5, 0.9)."
            )
        self.length, self.horizon, self.channels, self.known, self.facts = length, horizon, channels, known, facts
        self.quantiles = quantiles
        self.register_buffer("position_S", torch.arange(1 - length, horizon + 1) / length, persistent=False)
        self.revin = RevIN(channels, affine=False) if normalize else None
        D = width
        context = D if facts else 0
        if facts:
            self.select_facts = VariableSelection(facts, D, dropout=dropout)
            self.for_selection = GatedResidual(D, D, dropout=dropout)
            self.for_h = GatedResidual(D, D, dropout=dropout)
            self.for_c = GatedResidual(D, D, dropout=dropout)
            self.for_enrichment = GatedResidual(D, D, dropout=dropout)
        self.select_past = VariableSelection(channels + 1 + known, D, context=context, dropout=dropout)
        self.select_future = VariableSelection(1 + known, D, context=context, dropout=dropout)
        self.encoder = nn.LSTM(D, D, batch_first=True)
        self.decoder = nn.LSTM(D, D, batch_first=True)
        self.skip_recurrence = GatedSkip(D, D, dropout=dropout)
        self.enrich = GatedResidual(D, D, context=context, dropout=dropout)
        self.attention = InterpretableAttention(D, heads, dropout=dropout)
        self.skip_attention = GatedSkip(D, D, dropout=dropout)
        self.feedforward = GatedResidual(D, D, dropout=dropout)
        self.skip_all = GatedSkip(D, D, dropout=0.0)
        self.head = nn.Linear(D, channels * len(quantiles))

    def forward(self, x_BTC: Tensor, known_BSK: Tensor | None = None, facts_BI: Tensor | None = None) -> Tensor:
        y_BHCQ, _ = self.look(x_BTC, known_BSK, facts_BI)
        return y_BHCQ

    def look(
        self, x_BTC: Tensor, known_BSK: Tensor | None = None, facts_BI: Tensor | None = None
    ) -> tuple[Tensor, Explanation]:
        """The forecast [B, H, C, Q], and what it looked at."""
        known_BSK = self.check(x_BTC, known_BSK, facts_BI)
        B, T, C = x_BTC.shape
        mean_B1C = deviation_B1C = None
        if self.revin is not None:
            x_BTC, mean_B1C, deviation_B1C = self.revin(x_BTC)
        position_BS1 = self.position_S.to(x_BTC.dtype).expand(B, -1)[:, :, None]
        ahead_BSV = torch.cat([position_BS1, known_BSK], dim=-1)

        # Facts about the series, in four versions for the four places that need them; a missing one is None.
        selection_B1D = enrichment_B1D = state = facts_weights_BI = None
        if facts_BI is not None:
            facts_BD, facts_weights_BI = self.select_facts(facts_BI)
            selection_B1D = self.for_selection(facts_BD)[:, None]
            enrichment_B1D = self.for_enrichment(facts_BD)[:, None]
            state = (self.for_h(facts_BD)[None], self.for_c(facts_BD)[None])

        past_BTD, past_BTV = self.select_past(torch.cat([x_BTC, ahead_BSV[:, :T]], dim=-1), selection_B1D)
        future_BHD, future_BHV = self.select_future(ahead_BSV[:, T:], selection_B1D)
        read_BTD, state = self.encoder(past_BTD, state)
        imagined_BHD, _ = self.decoder(future_BHD, state)
        steps_BSD = self.skip_recurrence(
            torch.cat([read_BTD, imagined_BHD], dim=1), torch.cat([past_BTD, future_BHD], dim=1)
        )

        enriched_BSD = self.enrich(steps_BSD, enrichment_B1D)
        attended_BHD, attention_BHS = self.attention(enriched_BSD, self.horizon)
        z_BHD = self.feedforward(self.skip_attention(attended_BHD, enriched_BSD[:, T:]))
        z_BHD = self.skip_all(z_BHD, steps_BSD[:, T:])

        y_BHCQ: Tensor = self.head(z_BHD).view(B, self.horizon, C, len(self.quantiles))
        if mean_B1C is not None and deviation_B1C is not None:
            y_BHCQ = y_BHCQ * deviation_B1C[..., None] + mean_B1C[..., None]
        return y_BHCQ, Explanation(past_BTV, future_BHV, facts_weights_BI, attention_BHS)

    def check(self, x_BTC: Tensor, known_BSK: Tensor | None, facts_BI: Tensor | None) -> Tensor:
        """The covariates known ahead, [B, S, 0] if there are none; raises ModelError for what does not fit."""
        expect(x_BTC, self.length, self.channels)
        B, S = x_BTC.shape[0], self.length + self.horizon
        if known_BSK is None and self.known == 0:
            known_BSK = x_BTC.new_zeros(B, S, 0)
        if known_BSK is None or known_BSK.shape != (B, S, self.known):
            raise ModelError(
                f"Covariates known ahead must have the shape {[B, S, self.known]}, for {self.length} past and {self.horizon} "
                f"future steps, but got {None if known_BSK is None else list(known_BSK.shape)}."
            )
        if (facts_BI is None) != (self.facts == 0) or (facts_BI is not None and facts_BI.shape != (B, self.facts)):
            raise ModelError(
                f"`facts` is {self.facts}, so facts about the series must be "
                f"{f'a tensor of shape {[B, self.facts]}' if self.facts else 'None'}, but got "
                f"{None if facts_BI is None else list(facts_BI.shape)}."
            )
        return known_BSK


class GatedSkip(nn.Module):
    """LayerNorm(x + GLU(y)): a gate for each feature says how much of y is added (Lim et al. 2021, eq. 5 and 17)."""

    def __init__(self, inputs: int, outputs: int, *, dropout: float, norm: bool = True):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(inputs, 2 * outputs)
        self.norm = nn.LayerNorm(outputs) if norm else nn.Identity()

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x + F.glu(self.gate(self.dropout(y)), dim=-1))
        return out


class GatedResidual(nn.Module):
    """LayerNorm(a + GLU(W1 ELU(W2 a + W3 c))), the gated residual network (Lim et al. 2021, eq. 2 to 4).

    a [..., inputs] and a context c [..., context] -> [..., outputs]. Where outputs are not as many as inputs, a linear
    map of a is what is added to.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int | None = None,
        *,
        context: int = 0,
        dropout: float,
        norm: bool = True,
    ):
        super().__init__()
        outputs = width if outputs is None else outputs
        self.from_input = nn.Linear(inputs, width)
        self.from_context = nn.Linear(context, width, bias=False) if context else None
        self.hidden = nn.Linear(width, width)
        self.straight = nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs)
        self.skip = GatedSkip(width, outputs, dropout=dropout, norm=norm)

    def forward(self, a: Tensor, c: Tensor | None = None) -> Tensor:
        hidden = self.from_input(a)
        if self.from_context is not None and c is not None:
            hidden = hidden + self.from_context(c)
        out: Tensor = self.skip(self.hidden(F.elu(hidden)), self.straight(a))
        return out


class VariableSelection(nn.Module):
    """V numbers -> one state of width D, a weighted sum of what each says, and the weights (Lim et al. 2021, eq. 6 to 8).

    x [..., V] and a context [..., D] -> [..., D] and weights [..., V] that sum to 1. The weights depend on all variables,
    so a variable can be useless on one day and decisive on another. With one variable there is nothing to weigh.
    """

    def __init__(self, variables: int, width: int, *, context: int = 0, dropout: float):
        super().__init__()
        V, D = variables, width
        self.embed_VD = nn.Parameter(torch.randn(V, D))
        self.shift_VD = nn.Parameter(torch.zeros(V, D))
        self.each = nn.ModuleList(GatedResidual(D, D, dropout=dropout) for _ in range(V))
        # Without layer norm, which would turn two values into +-1 and their gradient into 0.
        weigh = GatedResidual(V * D, D, V, context=context, dropout=dropout, norm=False) if V > 1 else None
        self.weigh = weigh

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        states_VD = x[..., None] * self.embed_VD + self.shift_VD
        weights_V = torch.ones_like(x) if self.weigh is None else self.weigh(states_VD.flatten(-2), c).softmax(-1)
        said_VD = torch.stack([grn(states_VD[..., v, :]) for v, grn in enumerate(self.each)], dim=-2)
        return (weights_V[..., None] * said_VD).sum(-2), weights_V


class InterpretableAttention(nn.Module):
    """Multi-head attention whose heads share their values, so that their mean is *the* attention (Lim et al. 2021, eq. 13-16).

    States [B, S, D] -> for the last `queries` steps the result [B, H, D] and the weights [B, H, S]. A step sees those
    before it and itself.
    """

    def __init__(self, width: int, heads: int, *, dropout: float):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # a bias would add the same to all scores of a query
        self.value = nn.Linear(width, width // heads)
        self.out = nn.Linear(width // heads, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BSD: Tensor, queries: int) -> tuple[Tensor, Tensor]:
        B, S, D = x_BSD.shape
        H, d = queries, D // self.heads
        q_BmHd = self.query(x_BSD[:, S - H :]).view(B, H, self.heads, d).transpose(1, 2)
        k_BmSd = self.key(x_BSD).view(B, S, self.heads, d).transpose(1, 2)
        later_HS = torch.ones(H, S, dtype=torch.bool, device=x_BSD.device).triu(S - H + 1)
        scores_BmHS = (q_BmHd @ k_BmSd.transpose(-1, -2) / math.sqrt(d)).masked_fill(later_HS, -torch.inf)
        # Values are shared, so the mean of the heads' results is the result of their mean: one product instead of many.
        weights_BHS = scores_BmHS.softmax(-1).mean(1)
        out_BHD: Tensor = self.out(self.dropout(weights_BHS) @ self.value(x_BSD))
        return out_BHD, weights_BHS


# ---- a recurrent forecaster


class RecurrentForecaster(nn.Module):
    """An LSTM or GRU reads the past, a linear layer answers for all H steps at once: [B, T, C] -> [B, H, C].

    At once, since a network that feeds on its own forecasts adds up its errors (Taieb et al. 2012 compare the two). For
    `kind`, `units`, `layers`, `dropout` see `Recurrent`. With `normalize`, `RevIN` around it.
    """

    def __init__(
        self,
        length: int,
        horizon: int,
        channels: int,
        *,
        units: int = 128,
        kind: str = "lstm",
        layers: int = 1,
        dropout: float = 0.0,
        normalize: bool = True,
    ):
        super().__init__()
        at_least_one(length=length, horizon=horizon, channels=channels)
        self.length, self.horizon, self.channels = length, horizon, channels
        self.revin = RevIN(channels) if normalize else None
        self.read = Recurrent(channels, units, kind=kind, layers=layers, dropout=dropout)
        self.head = nn.Linear(units, horizon * channels)

    def forward(self, x_BTC: Tensor) -> Tensor:
        expect(x_BTC, self.length, self.channels)
        shape = (x_BTC.shape[0], self.horizon, self.channels)
        if self.revin is None:
            y_BHC: Tensor = self.head(self.read(x_BTC)).view(shape)
            return y_BHC
        z_BTC, mean_B1C, deviation_B1C = self.revin(x_BTC)
        return self.revin.restore(self.head(self.read(z_BTC)).view(shape), mean_B1C, deviation_B1C)


# ---- checks


def expect(x_BTC: Tensor, length: int, channels: int) -> None:
    """Raises ModelError if these are not series of that length and number of channels."""
    if x_BTC.ndim != 3 or x_BTC.shape[1:] != (length, channels):
        raise ModelError(
            f"The model was made for series [B, {length}, {channels}] (samples, steps, channels), but got "
            f"{list(x_BTC.shape)}."
        )


def check_dropout(dropout: float) -> None:
    """Raises ModelError for a dropout outside [0, 1)."""
    if not 0 <= dropout < 1:
        raise ModelError(f"`dropout` is {dropout!r}; it must be at least 0 and below 1.")


def check_heads(width: int, heads: int) -> None:
    """Raises ModelError where heads do not share the width evenly."""
    if width % heads:
        near = max(1, round(width / heads)) * heads
        raise ModelError(f"`width` {width} is not divisible by `heads` {heads}; try a width of {near}.")
