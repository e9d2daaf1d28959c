"""What is said of a learning rate that is too low: no loss falls by less than nothing."""

import pytest

from wellfit.doctor.history import History
from wellfit.doctor.rules.rate import learning_rate_too_low
from wellfit.events import Stepped, Vitals


def history(first: float, last: float, steps: int = 64) -> History:
    """Weights that hardly move, and a loss that goes evenly from one number to the other."""
    found = History()
    for step in range(1, steps + 1):
        loss = first + (last - first) * (step - 1) / (steps - 1)
        found.add(Stepped(step, loss, 1.0, 1e-7, skipped=False))
    for step in (1, 20, 40, 60):
        values = {"weight_norm": 10.0, "numel": 100.0, "ratio": 1e-6}
        found.add(Vitals(step, "layer", "layer.weight", values, {"kind": "weight"}))
    return found


@pytest.mark.parametrize(
    ("last", "says"),
    [
        (2.3, "The loss did not fall."),
        (2.3001, "The loss did not fall."),
        (2.3 - 1e-5, "The loss did not fall."),
        (2.38, "The loss did not fall."),
        (2.2, "The loss fell by 3.9%."),
    ],
)
def test_a_loss_that_stands_or_rises_did_not_fall(last: float, says: str) -> None:
    (finding,) = learning_rate_too_low(history(2.3, last))
    assert finding.id == "learning-rate-too-low"
    assert finding.says.endswith(says)
    assert "-0.0" not in finding.says
