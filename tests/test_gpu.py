"""The doctor on an accelerator: right, silent on healthy programs, the same bits, and no waiting for the device between looks.

Skipped aloud where there is none. `python bench/resume.py` tries resuming on whatever device is there.
"""

import copy
import time
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wellfit.doctor.doctor import Doctor
from wellfit.doctor.watch import Watch

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    pytest.mark.filterwarnings("ignore"),  # those of the compiler and of the debug mode
]
DRAW = torch.Generator().manual_seed(0)
X = torch.randn(512, 1, 12, 12, generator=DRAW)
Y = (X[:, 0, :6].mean((1, 2)) > X[:, 0, 6:].mean((1, 2))).long() + 2 * (X[:, 0, 3:9, 3:9].mean((1, 2)) > 0).long()


def network() -> nn.Module:
    torch.manual_seed(0)
    parts = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(576, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 4)).cuda()


def batches(steps: int):
    x, y = X.cuda(), Y.cuda()
    for _ in range(steps):
        chosen = torch.randint(0, 400, (32,), device="cuda")
        yield x[chosen], y[chosen]


def evaluate(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        loss = F.cross_entropy(model(X[400:].cuda()), Y[400:].cuda()).item()
    model.train()
    return loss


def plain(steps: int = 160, rate: float = 1e-3) -> nn.Module:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step, (x, y) in enumerate(batches(steps)):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if step % 40 == 39:
            evaluate(model)
    return model


def half_precision() -> None:
    model, scaler = network(), torch.amp.GradScaler("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step, (x, y) in enumerate(batches(240)):
        with torch.autocast("cuda", torch.float16):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        scaler.step(optimizer)
        scaler.update()
        if step % 40 == 39:
            evaluate(model)


def brain_float() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for step, (x, y) in enumerate(batches(240)):
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 40 == 39:
            evaluate(model)


def compiled() -> None:
    model = network()
    fast = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step, (x, y) in enumerate(batches(120)):
        optimizer.zero_grad()
        F.cross_entropy(fast(x), y).backward()
        optimizer.step()
        if step % 40 == 39:
            evaluate(model)


def never_cleared() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for x, y in batches(60):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def softmax_twice() -> None:
    model = nn.Sequential(network(), nn.Softmax(dim=1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for x, y in batches(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def by_heart() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, y = torch.randn(80, 1, 12, 12, device="cuda"), torch.randint(0, 4, (80,), device="cuda")
    for step in range(300):
        chosen = torch.randint(0, 40, (20,), device="cuda")
        optimizer.zero_grad()
        F.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
        if step % 15 == 14:
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x[40:]), y[40:])
            model.train()


def log_of_zero() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step, (x, y) in enumerate(batches(30)):
        optimizer.zero_grad()
        x = x if step != 10 else (x - x).log()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def starving() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for x, y in batches(200):
        time.sleep(0.02)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def watched(program) -> Doctor:
    doctor = Doctor()
    with Watch(doctor):
        program()
    doctor.end()
    assert doctor.failures == []
    return doctor


@pytest.mark.parametrize("program", [plain, half_precision, brain_float, compiled])
def test_silent_on_healthy_programs(program) -> None:
    alarms = [f for f in watched(program).findings() if f.severity != "advice"]
    assert not alarms


@pytest.mark.parametrize(
    ("program", "finding"),
    [
        (never_cleared, "gradients-not-cleared"), (softmax_twice, "softmax-before-cross-entropy"), (by_heart, "overfitting"),
        (log_of_zero, "inputs-not-finite"), (lambda: plain(rate=3.0), "learning-rate-too-high"), (starving, "accelerator-idle"),
    ],
)  # fmt: skip
def test_names_what_is_wrong(program, finding) -> None:
    if finding == "accelerator-idle":
        pytest.importorskip("pynvml", reason="without NVML the accelerator does not say how busy it is")
    assert finding in {f.id for found in watched(program).findings() for f in (found, *found.symptoms)}


def test_weights_come_out_the_same_with_the_doctor_on() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone = copy.deepcopy(plain().state_dict())
            with Watch(Doctor()):
                observed = plain().state_dict()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(alone[name], observed[name]) for name in alone)


def test_nothing_waits_for_the_device_between_looks() -> None:
    waits: list[int] = []

    def program() -> None:
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
        for x, y in batches(600):
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                told.clear()
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            torch.cuda.set_sync_debug_mode("default")
            waits.append(len(told))

    watched(program)
    assert len(waits) == 600
    assert sum(count > 0 for count in waits[300:]) <= 4, waits
