"""A position is a number: any source goes on from any position with what would have come."""

import random
import time

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import wellfit
from wellfit.data import batches, given
from wellfit.data.batches import FromDataset, FromIterable, InMemory, Order
from wellfit.errors import DataError, RecipeError
from wellfit.recipe import Recipe

X, Y = torch.arange(103.0)[:, None], torch.arange(103)


class Noisy(Dataset):
    """Draws from every global generator, as augmentation in a user's dataset does."""

    def __len__(self):
        return 23

    def __getitem__(self, i):
        return torch.tensor([i + torch.rand(()).item(), np.random.rand(), random.random()]), i


def in_memory(**settings):
    return InMemory((X, Y), Order(103, **{"batch_size": 8, "seed": 5} | settings))


SOURCES = {
    "in memory": lambda: in_memory(),
    "accumulating": lambda: in_memory(accumulation=4),
    "dataset": lambda: FromDataset(Noisy(), Order(23, 4, seed=1)),
    "iterable": lambda: FromIterable([(X[i : i + 8], Y[i : i + 8]) for i in range(0, 103, 8)], seed=0, accumulation=3),
}


def flat(micros):
    return [part.flatten().tolist() for micro in micros for part in micro]


@pytest.mark.parametrize("source", SOURCES)
def test_any_position_can_be_gone_back_to(source) -> None:
    whole = SOURCES[source]()
    taken, states = [], []
    for _ in range(2 * whole.steps_per_epoch + 3):
        states.append(whole.state_dict())
        taken.append(flat(whole.take()))
    for k in (0, 1, whole.steps_per_epoch - 1, whole.steps_per_epoch, whole.steps_per_epoch + 2):
        resumed = SOURCES[source]()
        resumed.load_state_dict(states[k])
        assert [flat(resumed.take()) for _ in range(3)] == taken[k : k + 3]


@pytest.mark.parametrize("source", SOURCES)
def test_a_peek_moves_nothing(source) -> None:
    peeked, plain = SOURCES[source](), SOURCES[source]()
    for _ in range(3):
        first = peeked.peek()
        micros = peeked.take()
        assert flat(micros) == flat(plain.take())
        if source != "iterable":  # which can only show its first
            assert flat([first]) == flat(micros[:1])


@pytest.mark.parametrize(
    ("samples", "size", "accumulation"), [(103, 8, 1), (103, 8, 2), (17, 16, 4), (16, 16, 1), (33, 8, 8), (5, 1, 1)]
)
def test_every_sample_once_an_epoch(samples, size, accumulation) -> None:
    batches = InMemory((torch.arange(samples),), Order(samples, size, seed=0, accumulation=accumulation))
    for _ in range(2):
        micros = [micro for _ in range(batches.steps_per_epoch) for micro in batches.take()]
        seen = torch.cat([samples for (samples,) in micros])
        assert sorted(seen.tolist()) == list(range(samples))
        assert min(len(m[0]) for m in micros) >= 1


def test_a_last_batch_of_one_joins_the_one_before() -> None:
    batches = InMemory((torch.arange(17),), Order(17, 8))
    assert [len(batches.take()[0][0]) for _ in range(batches.steps_per_epoch)] == [8, 9]


def test_epochs_differ_and_seeds_differ() -> None:
    order = Order(50, 5, seed=0)
    assert not torch.equal(order.epoch(0), order.epoch(1))
    assert not torch.equal(order.epoch(0), Order(50, 5, seed=1).epoch(0))
    assert torch.equal(order.epoch(3), Order(50, 5, seed=0).epoch(3))
    assert torch.equal(Order(50, 5, shuffle=False).epoch(2), torch.arange(50))


def test_workers_make_the_same_samples() -> None:
    alone = FromDataset(Noisy(), Order(23, 4, seed=1))
    together = FromDataset(Noisy(), Order(23, 4, seed=1), workers=2)
    assert [flat(alone.take()) for _ in range(7)] == [flat(together.take()) for _ in range(7)]


def test_loading_draws_nothing_global() -> None:
    batches = FromDataset(Noisy(), Order(23, 4, seed=1))
    states = torch.get_rng_state(), random.getstate()
    batches.take()
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()


def test_bad_sizes_say_what_to_do() -> None:
    with pytest.raises(DataError, match=r"only 10 training samples.*[Tt]ry"):
        Order(10, 11)
    with pytest.raises(DataError, match="96 or 104"):
        Order(500, 100, accumulation=8)
    with pytest.raises(DataError, match="empty"):
        Order(0, 1)


def test_iterables_say_what_they_lack() -> None:
    with pytest.raises(DataError, match="empty"):
        FromIterable([], seed=0)
    with pytest.raises(DataError, match=r"training\.steps"):
        FromIterable((x for x in [1]), seed=0)
    once = FromIterable(((X[:2], Y[:2]) for _ in range(3)), seed=0, steps=5)
    once.peek()
    for _ in range(3):
        once.take()
    with pytest.raises(DataError, match="ended after 3 batches"):
        once.take()


def test_a_copy_to_a_gpu_goes_ahead_and_what_uses_it_waits(monkeypatch) -> None:
    """No GPU is needed to see what is asked of it, and in which order."""
    asked: list[str] = []

    class Stream:
        def __init__(self, name: str):
            self.name = name

        def wait_stream(self, other) -> None:
            asked.append(f"{self.name} waits for {other.name}")

        def __enter__(self):
            asked.append(f"on {self.name}")

        def __exit__(self, *_):
            asked.append(f"off {self.name}")

    class OnHost:
        def __init__(self, pinned: bool):
            self.pinned = pinned

        def is_pinned(self) -> bool:
            return self.pinned

        def pin_memory(self):
            asked.append("pinned")
            return OnHost(True)

        def to(self, device, non_blocking):
            asked.append(f"copied to {device}" if self.pinned and non_blocking else "waited for")
            return self

        def record_stream(self, stream) -> None:
            asked.append(f"kept for {stream.name}")

    batches._copying.cache_clear()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream("steps"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: Stream("copies"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    order = ["on copies", "copied to cuda", "off copies", "steps waits for copies", "kept for steps"]
    batches._ahead(OnHost(False), "cuda")
    assert asked == ["pinned", *order]
    asked.clear()
    batches._ahead(OnHost(True), "cuda")
    assert asked == order
    batches._copying.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_busy_gpu_the_batches_are_those_of_the_cpu() -> None:
    x, y = torch.randn(4096, 3, 32, 32), torch.arange(4096)
    order = Order(4096, 256, seed=3, accumulation=2)
    here, there = InMemory((x, y), order), InMemory((x, y), order, "cuda")
    busy = torch.randn(4096, 4096, device="cuda")
    sums, expected = [], []
    for _ in range(40):
        for _ in range(4):
            busy = (busy @ busy).clamp(-1, 1)
        for (images, numbers), (own, own_numbers) in zip(there.take(), here.take(), strict=True):
            assert images.device.type == "cuda"
            weighed = (images * images).sum((1, 2, 3)).double() * numbers
            sums.append(weighed.sum())  # nobody waits
            expected.append(((own * own).sum((1, 2, 3)).double() * own_numbers).sum())
    torch.testing.assert_close(torch.stack(sums).cpu(), torch.stack(expected), rtol=1e-4, atol=1.0)


class Slow(Noisy):
    def __getitem__(self, i):
        time.sleep(2e-3)
        return super().__getitem__(i)


def test_workers_are_as_many_as_samples_take_time(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(given, "cores", lambda: {0, 1, 2})
    model = torch.nn.Linear(3, 23)
    asked = {"data.workers": "auto", "training.epochs": 1, "training.batch_size": 4}
    before = torch.get_rng_state()
    assert given.read(Noisy()).workers_wanted()[0] == 0
    workers, why = given.read(Slow()).workers_wanted()
    assert torch.equal(torch.get_rng_state(), before)
    assert workers == 2
    assert "us to load" in why
    assert given.read((X, Y)).workers_wanted()[0] == 0
    run = wellfit.fit(model, Slow(), loss="cross-entropy", set=asked, folder=tmp_path / "auto", quiet=True)
    assert run.recipe.data.workers == 2
    assert run.recipe.origin("data.workers").by == "derived"
    again = wellfit.fit(
        torch.nn.Linear(3, 23), Noisy(), loss="cross-entropy", set=asked, folder=tmp_path / "none", quiet=True
    )
    assert again.recipe.data.workers == 0
    for wrong in ("some", "-1", "1.5", "true"):
        with pytest.raises(RecipeError, match="whole number from 0 up, or auto"):
            Recipe().override([f"data.workers={wrong}"])
