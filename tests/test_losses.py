"""A loss over uneven parts adds up to the loss in one piece, equals torch's mean, and refuses what does not fit."""

import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellfit import losses, recipe
from wellfit.errors import ModelError, RecipeError
from wellfit.losses import L1, MSE, NLL, BCEWithLogits, CrossEntropy, Focal, Given, Huber, SmoothL1, adapt, build, check

CLASSES = 5
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0])
PARTS = (1, 7, 2, 10)  # uneven micro-batches


def class_batch(*more: int, masked: bool = False) -> tuple[Tensor, Tensor]:
    """Logits [20, C, ...] and labels [20, ...]; masked: about a third ignored, and the whole first part."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, CLASSES, *more, generator=generator) * 2
    labels = torch.randint(CLASSES, (20, *more), generator=generator)
    if masked:
        labels[torch.rand(labels.shape, generator=generator) < 0.3] = -100
        labels[0] = -100
    return logits, labels


def number_batch(shape=(20, 3), dtype=torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=dtype) * 2, torch.rand(shape, generator=generator, dtype=dtype)


def mean(loss, outputs: Tensor, targets: Tensor) -> Tensor:
    return loss(outputs, targets) / loss.weight(targets)


def gradient(loss, outputs: Tensor, targets: Tensor, parts=(20,)) -> Tensor:
    """d mean / d outputs, as the loop makes it: the sum of each part over the weight of all."""
    outputs = outputs.clone().requires_grad_()
    weight = sum(loss.weight(part) for part in targets.split(parts))
    for o, t in zip(outputs.split(parts), targets.split(parts), strict=True):
        (loss(o, t) / weight).backward()
    return outputs.grad


def named(value: object) -> str:
    """The id of a case: without addresses, so that every process that runs tests has the same."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


OF_CLASSES = [
    CrossEntropy(masked=False),
    CrossEntropy(),
    CrossEntropy(label_smoothing=0.1, class_weights=WEIGHTS),
    Focal(),
    Focal(gamma=0.5, class_weights=WEIGHTS),
    NLL(class_weights=WEIGHTS),
    adapt(nn.CrossEntropyLoss(reduction="sum")),
    adapt(lambda o, t: F.cross_entropy(o, t, reduction="none")),
]
OF_NUMBERS = [
    MSE(),
    L1(),
    Huber(0.3),
    SmoothL1(0.3),
    BCEWithLogits(),
    BCEWithLogits(class_weights=torch.tensor([1.0, 2.0, 3.0]), pos_weights=torch.tensor([2.0, 1.0, 0.1])),
    adapt(nn.SoftMarginLoss()),
    adapt(nn.MSELoss(reduction="sum")),
    adapt(lambda o, t: (o - t).square().mean()),
    adapt(lambda o, t: (o - t).abs().mean(1)),
]


# ---- accumulation


@pytest.mark.parametrize("loss", OF_CLASSES, ids=named)
def test_uneven_parts_of_classes_equal_the_whole(loss) -> None:
    masked = getattr(loss, "masked", False)
    outputs, targets = class_batch(masked=masked)
    whole = gradient(loss, outputs, targets)
    torch.testing.assert_close(gradient(loss, outputs, targets, PARTS), whole, rtol=0, atol=1e-6)
    assert whole.abs().max() > 1e-3
    if masked:
        assert (whole[targets == -100] == 0).all()


@pytest.mark.parametrize("loss", OF_NUMBERS, ids=named)
def test_uneven_parts_of_numbers_equal_the_whole(loss) -> None:
    outputs, targets = number_batch()
    whole = gradient(loss, outputs, targets)
    torch.testing.assert_close(gradient(loss, outputs, targets, PARTS), whole, rtol=0, atol=1e-6)
    assert whole.abs().max() > 1e-3


def test_a_mean_of_means_would_not_be_equal() -> None:
    """What the sums are for."""
    outputs, targets = class_batch(masked=True)
    parts = [F.cross_entropy(o, t) for o, t in zip(outputs.split(5), targets.split(5), strict=True)]
    loss = CrossEntropy()
    assert abs(sum(parts) / 4 - mean(loss, outputs, targets)) > 1e-3


# ---- torch's means, values and gradients


@pytest.mark.parametrize("more", [(), (4,), (2, 3)])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("ignored", [-100, 2])
def test_cross_entropy_is_torchs_mean(more, weights, smoothing, ignored) -> None:
    outputs, targets = class_batch(*more, masked=True)
    targets = targets.masked_fill(targets == -100, ignored)
    theirs = nn.CrossEntropyLoss(weights, ignore_index=ignored, label_smoothing=smoothing)
    _same(adapt(theirs), theirs, outputs, targets)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_nll_is_torchs_mean(weights) -> None:
    outputs, targets = class_batch(4, masked=True)
    theirs = nn.NLLLoss(weights)
    _same(adapt(theirs), theirs, outputs.log_softmax(1), targets)


@pytest.mark.parametrize(
    "theirs",
    [
        nn.MSELoss(),
        nn.L1Loss(),
        nn.HuberLoss(delta=0.3),
        nn.SmoothL1Loss(beta=0.3),
        nn.SmoothL1Loss(beta=0.0),
        nn.BCEWithLogitsLoss(),
        nn.BCEWithLogitsLoss(torch.tensor([1.0, 2.0, 3.0]), pos_weight=torch.tensor([3.0, 1.0, 0.5])),
        nn.SoftMarginLoss(),
    ],
    ids=named,
)
def test_losses_of_numbers_are_torchs_means(theirs) -> None:
    _same(adapt(theirs), theirs, *number_batch())


def _same(ours, theirs, outputs: Tensor, targets: Tensor) -> None:
    value = mean(ours, outputs, targets)
    torch.testing.assert_close(value, theirs(outputs, targets), rtol=1e-6, atol=1e-6)
    leaf = outputs.clone().requires_grad_()
    theirs(leaf, targets).backward()
    torch.testing.assert_close(gradient(ours, outputs, targets, PARTS), leaf.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_torchs_functions_of_classes_are_known(name) -> None:
    outputs, targets = class_batch(masked=True)
    _same(adapt(getattr(F, name)), getattr(F, name), outputs, targets)


@pytest.mark.parametrize(
    "name", ["mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits"]
)
def test_torchs_functions_of_numbers_are_known(name) -> None:
    ours = adapt(getattr(F, name))
    assert not isinstance(ours, Given)
    _same(ours, getattr(F, name), *number_batch())


# ---- focal


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("more", [(), (4,)])
def test_focal_at_gamma_0_is_cross_entropy(weights, more) -> None:
    outputs, targets = class_batch(*more, masked=True)
    ours, theirs = Focal(gamma=0.0, class_weights=weights), CrossEntropy(class_weights=weights)
    torch.testing.assert_close(mean(ours, outputs, targets), mean(theirs, outputs, targets))
    torch.testing.assert_close(
        gradient(ours, outputs, targets), gradient(theirs, outputs, targets), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_is_the_papers_formula(gamma) -> None:
    outputs, targets = class_batch()
    p = outputs.double().softmax(1)[torch.arange(20), targets]
    expected = -WEIGHTS.double()[targets] * (1 - p) ** gamma * p.log()
    got = Focal(gamma=gamma, class_weights=WEIGHTS)(outputs, targets)
    torch.testing.assert_close(got.double(), expected.sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focals_gradient_is_finite_where_the_net_is_certain(gamma) -> None:
    outputs = torch.tensor([[200.0, 0.0], [0.0, 200.0], [0.0, 1.0]])
    got = gradient(Focal(gamma=gamma), outputs, torch.tensor([0, 0, -100]), (3,))
    assert got.isfinite().all()
    assert (got[2] == 0).all()


# ---- weights


def test_the_weight_without_masks_is_a_number_and_with_masks_stays_a_tensor() -> None:
    outputs, targets = class_batch(masked=True)
    assert CrossEntropy(masked=False).weight(targets) == 20
    assert isinstance(CrossEntropy(masked=False).weight(targets), int)
    counted = CrossEntropy().weight(targets)
    assert isinstance(counted, Tensor)
    assert int(counted) == int((targets != -100).sum()) < 20
    assert isinstance(MSE().weight(outputs), int)


def test_everything_ignored_weighs_nothing_and_pulls_nowhere() -> None:
    outputs, targets = class_batch()
    targets[:] = -100
    for loss in (CrossEntropy(label_smoothing=0.1), CrossEntropy(class_weights=WEIGHTS), Focal()):
        assert loss.weight(targets) == 0
        assert loss(outputs, targets) == 0


def test_class_weights_of_another_precision_are_brought_beside_the_outputs_once() -> None:
    outputs, targets = class_batch()
    loss = CrossEntropy(class_weights=WEIGHTS)
    expected = F.cross_entropy(outputs.double(), targets, WEIGHTS.double(), reduction="sum")
    for _ in range(3):
        torch.testing.assert_close(loss(outputs.double(), targets), expected)
    assert len(loss.copies) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_half_precision_outputs_are_made_in_single(dtype) -> None:
    outputs = torch.full((3000, 3), 8.0, dtype=dtype, requires_grad=True)
    loss = MSE()(outputs, torch.zeros(3000, 3))
    assert loss.dtype is torch.float32
    assert loss == 3000 * 3 * 64  # beyond the range of fp16, and beyond the digits of bf16
    loss.backward()
    assert outputs.grad.dtype is dtype
    logits = torch.zeros(70_000, 2, dtype=dtype)
    assert CrossEntropy()(logits, torch.zeros(70_000, dtype=torch.int64)) == pytest.approx(70_000 * 0.6931472, rel=1e-5)


def test_integer_labels_of_any_size_and_float64_numbers_are_taken() -> None:
    outputs, targets = class_batch()
    for dtype in (torch.uint8, torch.int32):
        assert CrossEntropy()(outputs, targets.to(dtype)) == CrossEntropy()(outputs, targets)
    o, t = number_batch()
    assert MSE()(o, t.double()).dtype is torch.float32
    assert BCEWithLogits()(o, (t > 0.5).long()) == BCEWithLogits()(o, (t > 0.5).float())


# ---- from a recipe


def test_build_makes_each_kind() -> None:
    def built(classes=None, counts=None, **settings):
        return build(recipe.Loss(**settings), classes, counts)

    smooth = built(3, [1, 1, 1], kind="cross-entropy", label_smoothing=0.1)
    assert isinstance(smooth, CrossEntropy)
    assert (smooth.label_smoothing, smooth.masked) == (0.1, False)
    assert built(kind="cross-entropy").masked, "without counts nobody has said that nothing is ignored"
    assert built(kind="focal", gamma=1.5).gamma == 1.5
    assert built(kind="mse") == MSE()
    assert built(kind="huber", delta=2.0) == Huber(2.0)
    assert built(kind="smooth-l1", delta=2.0) == SmoothL1(2.0)
    assert torch.equal(built(kind="bce-with-logits", class_weights=(1.0, 2.0)).class_weights, torch.tensor([1.0, 2.0]))
    kinds = {kind for kind in recipe.Loss.model_fields["kind"].annotation.__args__[0].__args__ if kind != "given"}
    assert kinds == losses.FOR_CLASSES.keys() | losses.FOR_NUMBERS.keys()


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 3)
    loss = build(recipe.Loss(kind="cross-entropy", class_weights="balanced"), 3, labels.bincount())
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    torch.testing.assert_close(loss.class_weights, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize(
    ("settings", "classes", "counts", "says"),
    [
        ({"kind": None}, None, None, "no loss"),
        ({"kind": "given"}, None, None, "no loss"),
        ({"kind": "mse"}, 3, None, r"'mse'.*3 classes.*cross-entropy"),
        ({"kind": "focal", "label_smoothing": 0.1}, 3, None, r"label_smoothing.*0\.1.*'focal'"),
        ({"kind": "mse", "class_weights": (1.0,)}, None, None, r"class_weights.*'mse'.*null"),
        ({"kind": "cross-entropy", "class_weights": "balanced"}, 3, None, "counts"),
        ({"kind": "cross-entropy", "class_weights": "balanced"}, 3, [4, 0, 2], "class 1 has no training sample"),
        ({"kind": "cross-entropy", "class_weights": (1.0, 2.0)}, 3, None, "2 numbers for 3 classes"),
        ({"kind": "cross-entropy", "class_weights": (1.0, -2.0)}, 2, None, r"-2\.0.*0 or more"),
        ({"kind": "cross-entropy", "class_weights": (0.0, 0.0)}, 2, None, "not all 0"),
    ],
)
def test_settings_that_contradict_are_refused(settings, classes, counts, says) -> None:
    with pytest.raises(RecipeError, match=says):
        build(recipe.Loss(**settings), classes, counts)


# ---- from the caller


def test_adapt_takes_names_and_what_is_a_loss_already() -> None:
    assert adapt("mse") == MSE()
    assert isinstance(adapt("cross-entropy"), CrossEntropy)
    ours = Huber(3.0)
    assert adapt(ours) is ours


def test_a_scalar_is_a_mean_and_a_vector_is_one_value_per_sample() -> None:
    o, t = number_batch()
    for function in (lambda o, t: ((o - t) ** 2).mean(), lambda o, t: ((o - t) ** 2).mean(1)):
        loss = adapt(function)
        assert loss.weight(t) == 20
        torch.testing.assert_close(loss(o, t), 20 * F.mse_loss(o, t))
    many = {"boxes": t, "labels": t[:, 0]}
    assert adapt(lambda o, t: (o - t["boxes"]).mean()).weight(many) == 20


def test_reduction_sum_keeps_the_sum_and_weighs_samples() -> None:
    o, t = number_batch()
    loss = adapt(nn.MSELoss(reduction="sum"))
    torch.testing.assert_close(mean(loss, o, t), ((o - t) ** 2).sum() / 20)
    other = adapt(nn.SoftMarginLoss(reduction="sum"))
    torch.testing.assert_close(mean(other, o, t), nn.SoftMarginLoss(reduction="sum")(o, t) / 20)
    with pytest.raises(ModelError, match="broadcast"):
        check(loss, torch.zeros(32, 1), torch.zeros(32))


def test_reduction_none_is_the_mean() -> None:
    o, t = number_batch()
    torch.testing.assert_close(mean(adapt(nn.MSELoss(reduction="none")), o, t), F.mse_loss(o, t))


class Learnt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, o: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(o / self.temperature, t)


def test_a_subclass_may_do_anything_and_is_not_replaced() -> None:
    class Doubled(nn.MSELoss):
        def forward(self, o: Tensor, t: Tensor) -> Tensor:
            return 2 * super().forward(o, t)

    o, t = number_batch()
    torch.testing.assert_close(mean(adapt(Doubled()), o, t), 2 * F.mse_loss(o, t))


def keras_loss(y_true, y_pred):
    raise AssertionError(y_true, y_pred)


keras_loss.__module__ = "keras.src.losses.losses"


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (None, "no loss"),
        ("cross_entropy", "Did you mean `cross-entropy`"),
        ("given", "can be cross-entropy"),
        (nn.MSELoss, r"class MSELoss itself.*`MSELoss\(\)`"),
        (3.0, r"3\.0, which cannot be called"),
        (Learnt(), "Learnt has trainable parameters"),
        (keras_loss, "other way round"),
    ],
    ids=named,
)
def test_adapt_refuses_what_cannot_be_a_loss(loss, says) -> None:
    with pytest.raises(RecipeError, match=says):
        adapt(loss)


# ---- what does not fit


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "says"),
    [
        (MSE(), torch.zeros(32, 1), torch.zeros(32), r"\[32, 1\].*\[32\].*broadcast to \[32, 32\].*unsqueeze\(-1\)"),
        (Huber(), torch.zeros(32), torch.zeros(32, 1), r"targets \[32, 1\].*targets\.squeeze\(-1\)"),
        (MSE(), torch.zeros(32, 2), torch.zeros(32, 3), r"cannot be compared.*one number for each"),
        (BCEWithLogits(), torch.zeros(4, 1), torch.zeros(4), "broadcast"),
        (CrossEntropy(), torch.zeros(4, 3), torch.zeros(4, 1).long(), r"targets \[4, 1\].*targets\.squeeze\(1\)"),
        (CrossEntropy(), torch.zeros(4, 3), torch.zeros(4, 3).long(), r"argmax\(1\)"),
        (CrossEntropy(), torch.zeros(4, 7, 3), torch.zeros(4, 7).long(), r"movedim\(-1, 1\)"),
        (CrossEntropy(), torch.zeros(4, 3), torch.zeros(5).long(), r"must be \[4\]"),
        (Focal(), torch.zeros(4), torch.zeros(4).long(), r"one logit for each class"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_at_every_call(loss, outputs, targets, says) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in (loss, lambda o, t: check(loss, o, t), lambda o, t: check(adapt(loss), o, t)):
            with pytest.raises(ModelError, match=says):
                call(outputs, targets)


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "says"),
    [
        (CrossEntropy(), torch.zeros(2, 3), torch.tensor([0, 3]), r"class 3.*3 outputs.*0 to 2.*-100 is ignored"),
        (CrossEntropy(), torch.zeros(2, 3), torch.tensor([0, -1]), "class -1"),
        (CrossEntropy(masked=False), torch.zeros(2, 3), torch.tensor([0, -100]), "class -100.*told that none"),
        (CrossEntropy(), torch.zeros(2, 3), torch.zeros(2), r"float32.*targets\.long\(\)"),
        (CrossEntropy(), torch.zeros(2, 1), torch.zeros(2).long(), "one output.*always 0"),
        (
            CrossEntropy(class_weights=torch.ones(4)),
            torch.zeros(2, 3),
            torch.zeros(2).long(),
            "4 class weights.*3 outp",
        ),
        (CrossEntropy(), torch.zeros(2, 3).long(), torch.zeros(2).long(), "int64.*argmax"),
        (MSE(), (torch.zeros(2), torch.zeros(2)), torch.zeros(2), "returned tuple"),
        (MSE(), torch.zeros(2), [0.0, 0.0], "targets are list"),
        (BCEWithLogits(), torch.zeros(2), torch.tensor([0, 2]), r"is 2, but.*from 0.*cross-entropy"),
        (Given(lambda *_: 3.0), torch.zeros(2), torch.zeros(2), r"returned float.*\.item\(\)"),
        (Given(lambda o, _: o), torch.zeros(2, 3), torch.zeros(2), r"shape \[2, 3\] for 2 samples"),
        (Given(lambda o, _: o.mean()), torch.zeros(2, 3), None, "targets are NoneType"),
    ],
)
def test_check_refuses_what_does_not_fit(loss, outputs, targets, says) -> None:
    with pytest.raises(ModelError, match=says):
        check(loss, outputs, targets)


def test_check_passes_what_fits() -> None:
    for loss in (*OF_CLASSES, *OF_CLASSES[:6]):
        check(loss, *class_batch(masked=getattr(loss, "masked", False)))
        if not isinstance(loss, Given):
            check(loss, *class_batch(2, 3))
    for loss in OF_NUMBERS:
        check(loss, *number_batch())


def test_float_labels_are_refused_at_every_call() -> None:
    with pytest.raises(ModelError, match="float32"):
        CrossEntropy()(torch.zeros(2, 3), torch.zeros(2))


@pytest.mark.parametrize("loss", [*OF_CLASSES[:6], *OF_NUMBERS[:6]], ids=named)
def test_a_loss_compiles_into_one_graph(loss) -> None:
    batch = class_batch() if loss in OF_CLASSES else number_batch()
    torch._dynamo.reset()
    graph = torch.compile(lambda o, t: loss(o, t), backend="eager", fullgraph=True)
    torch.testing.assert_close(graph(*batch), loss(*batch))


def shares(*more: int) -> tuple[Tensor, Tensor]:
    """Logits [20, C, ...] and, for each, probabilities of the classes."""
    logits, _ = class_batch(*more)
    return logits, torch.rand(logits.shape, generator=torch.Generator().manual_seed(2)).softmax(1)


@pytest.mark.parametrize("more", [(), (2, 3)])
@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}, {"class_weights": WEIGHTS}])
def test_cross_entropy_of_probabilities_is_torchs_mean_however_it_is_cut(more, settings) -> None:
    loss, (logits, targets) = CrossEntropy(**settings), shares(*more)
    smoothing, weights = settings.get("label_smoothing", 0.0), settings.get("class_weights")
    reference = F.cross_entropy(logits, targets, weights, label_smoothing=smoothing)
    torch.testing.assert_close(mean(loss, logits, targets), reference)
    torch.testing.assert_close(gradient(loss, logits, targets, PARTS), gradient(loss, logits, targets))
    check(loss, logits, targets)


def test_a_label_and_all_probability_on_it_are_the_same() -> None:
    logits, labels = class_batch()
    one_hot = F.one_hot(labels, CLASSES).float()
    for loss in (CrossEntropy(), CrossEntropy(label_smoothing=0.2)):
        torch.testing.assert_close(loss(logits, one_hot), loss(logits, labels))
        assert loss.weight(one_hot) == loss.weight(labels)


def test_two_labels_by_their_shares_are_the_weighted_sum_of_their_losses() -> None:
    logits, labels = class_batch()
    other, kept = labels.roll(1), torch.linspace(0, 1, 20)[:, None]
    mixed = kept * F.one_hot(labels, CLASSES) + (1 - kept) * F.one_hot(other, CLASSES)
    each = [F.cross_entropy(logits, one, reduction="none") for one in (labels, other)]
    torch.testing.assert_close(CrossEntropy()(logits, mixed), (kept[:, 0] * each[0] + (1 - kept[:, 0]) * each[1]).sum())


def test_what_is_no_probability_is_refused() -> None:
    logits, targets = shares()
    for wrong in (targets * 2, targets - 0.5):
        with pytest.raises(ModelError, match="add up to 1"):
            check(CrossEntropy(), logits, wrong)
    with pytest.raises(ModelError, match=r"\[20, 5\]"):
        check(Focal(), logits, targets)
