"""Every trainable parameter is in exactly one group, at the right rate, and only weights are decayed."""

import io

import pytest
import torch
from torch import nn

from wellfit.errors import ModelError, RecipeError
from wellfit.optim.groups import assert_complete, parameter_groups, undecayed
from wellfit.recipe import Optimizer


class Net(nn.Module):
    """A bit of everything, with the output tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.attend = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.conv = nn.Conv1d(8, 8, 3)
        self.batch = nn.BatchNorm1d(8)
        self.layer = nn.LayerNorm((4, 8))  # two dimensions, and still a norm
        self.rms = MyRMSNorm(8)
        self.rnn = nn.GRU(8, 8)
        self.scale = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight


class MyRMSNorm(nn.Module):
    """Somebody's own norm, with a matrix in it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, width))


class Listed(nn.Module):
    """Keeps its parameters in lists, as Keras's layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = ListedNorm()
        self.more = nn.ParameterList([nn.Parameter(torch.ones(2, 2))])


class ListedNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.held = nn.ParameterDict({"gain": nn.Parameter(torch.ones(2, 2))})


def names(group) -> set[str]:
    return {name for name, _ in group["params"]}


def decayed(groups) -> set[str]:
    return {name for group in groups if group["weight_decay"] for name in names(group)}


WEIGHTS = {"attend.in_proj_weight", "attend.out_proj.weight", "conv.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0"}


@pytest.mark.parametrize("embeddings", [True, False])
def test_only_weights_are_decayed(embeddings) -> None:
    groups = parameter_groups(Net(), Optimizer(decay_embeddings=embeddings), 1e-3, 0.1)
    assert decayed(groups) == (WEIGHTS | {"embed.weight"} if embeddings else WEIGHTS)
    assert len(groups) == 2
    assert {(g["lr"], g["peak"]) for g in groups} == {(1e-3, 1e-3)}


def test_every_parameter_is_in_exactly_one_group_and_a_tied_one_once() -> None:
    model = Net()
    groups = parameter_groups(model, Optimizer(), 1e-3, 0.1)
    listed = [id(p) for group in groups for _, p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    assert "head.weight" not in set().union(*map(names, groups))
    optimizer = torch.optim.AdamW(groups)
    assert_complete(model, optimizer)


def test_equal_groups_are_merged() -> None:
    assert len(parameter_groups(Net(), Optimizer(), 1e-3, 0.0)) == 1


def test_parameters_in_lists_belong_to_their_holder_if_it_is_a_layer() -> None:
    model = Listed()
    assert undecayed(model) == {id(model.norm.held["gain"])}


def test_assert_complete_can_fail() -> None:
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(AssertionError, match="bias"):
        assert_complete(model, torch.optim.SGD([model.weight], lr=1.0))
    with pytest.raises(AssertionError, match="foreign"):
        assert_complete(model, torch.optim.SGD([*model.parameters(), *other.parameters()], lr=1.0))
    twice = torch.optim.SGD(model.parameters(), lr=1.0)
    twice.param_groups.append(twice.param_groups[0])
    with pytest.raises(AssertionError, match="twice"):
        assert_complete(model, twice)


def test_the_first_pattern_that_matches_decides_the_rate() -> None:
    settings = Optimizer(learning_rates={"attend.out_*": 1e-5, "attend.*": 1e-4, "*.bias": 0.0})
    rates = {name: g["peak"] for g in parameter_groups(Net(), settings, 1e-3, 0.1) for name, _ in g["params"]}
    assert rates["attend.out_proj.weight"] == rates["attend.out_proj.bias"] == 1e-5
    assert rates["attend.in_proj_weight"] == 1e-4
    assert rates["conv.bias"] == 0.0
    assert rates["conv.weight"] == rates["scale"] == 1e-3


@pytest.mark.parametrize(
    ("rates", "says"),
    [
        ({"backbone.*": 1e-4}, r"'backbone\.\*'.*matches no trainable parameter.*scale"),
        ({"*": 1e-4, "conv.*": 1e-3}, r"'conv\.\*'.*earlier one already takes.*first match"),
        ({"conv.*": -1.0}, r"'conv\.\*'.*-1\.0.*0 or more"),
    ],
)
def test_a_rate_that_decides_nothing_is_refused(rates, says) -> None:
    with pytest.raises(RecipeError, match=says):
        parameter_groups(Net(), Optimizer(learning_rates=rates), 1e-3, 0.1)


def test_frozen_parameters_get_no_group() -> None:
    model = Net()
    model.conv.requires_grad_(False)
    groups = parameter_groups(model, Optimizer(), 1e-3, 0.1)
    assert not [name for g in groups for name in names(g) if name.startswith("conv")]
    with pytest.raises(RecipeError, match="matches no trainable"):
        parameter_groups(model, Optimizer(learning_rates={"conv.*": 1e-3}), 1e-3, 0.1)


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(ModelError, match="frozen"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), Optimizer(), 1e-3, 0.1)
    with pytest.raises(ModelError, match="Register its layers"):
        parameter_groups(nn.ReLU(), Optimizer(), 1e-3, 0.1)


def test_the_state_of_the_groups_loads_as_plain_weights() -> None:
    model = Net()
    state = torch.optim.AdamW(parameter_groups(model, Optimizer(), 1e-3, 0.1)).state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert [g["peak"] for g in loaded["param_groups"]] == [1e-3, 1e-3]
    assert "conv.weight" in loaded["param_groups"][0]["param_names"] + loaded["param_groups"][1]["param_names"]
