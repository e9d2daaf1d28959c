"""Several ranks over gloo go through the same page and equal one; cut over ranks, too."""

import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import commands
import wellfit
from wellfit.checkpoint import Checkpoints
from wellfit.data.batches import InMemory
from wellfit.errors import CheckpointError, DataError, WellfitError
from wellfit.events import Evaluated, Noted, Started, Stepped
from wellfit.run import Run
from wellfit.train import setup

X = torch.randn(90, 5, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (90,), generator=torch.Generator().manual_seed(1))
Y[::7] = -100  # masked targets make the ranks' weights differ
SETTINGS = {
    "training.batch_size": 20, "training.epochs": 3, "training.gradient_accumulation_steps": 2,
    "evaluation.every": 4, "optimizer.learning_rate": 1e-2, "training.log_every": 3,
}  # fmt: skip
CUT = {"hardware.parallel": "fsdp"}
FOUR = {"training.gradient_accumulation_steps": 1}  # so that 20 samples can be shared out


def network(dropout: float = 0.0) -> nn.Module:
    """With dropout it draws, and batch norm keeps statistics of each rank's share: what a resume must put back."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 16), nn.LayerNorm(16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 16),
        nn.BatchNorm1d(16) if dropout else nn.Identity(), nn.Tanh(), nn.Linear(16, 3),
    )  # fmt: skip


def train(folder: str, given: dict, dropout: float = 0.0, valid: int = 31) -> wellfit.Run:
    settings, data = {**SETTINGS, **given}, ((X, Y), (X[:valid], Y[:valid]))
    return wellfit.fit(network(dropout), *data, loss="cross-entropy", set=settings, folder=folder, quiet=True)


def trained(root: Path, *runs: str) -> None:
    """Trains each of `KINDS` that is named, in this process or rank, in a folder of its name; and with three held-out samples."""
    for name in runs:
        train(str(root / name), KINDS[name])
    train(str(root / "three"), {**FOUR, "training.epochs": 5}, valid=3)


def stopped(root: Path, name: str, at: int, dropout: float = 0.3) -> None:
    """Trains one of `KINDS` as far as a step, as if asked to stop there."""
    steps = setup.Job.__post_init__
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(setup.Job, "__post_init__", lambda job: (steps(job), setattr(job, "until", at)))
        train(str(root), KINDS[name], dropout)


def resumed(root: Path, dropout: float = 0.3) -> None:
    wellfit.fit(network(dropout), (X, Y), (X[:31], Y[:31]), loss="cross-entropy", resume=str(root), quiet=True)


def one_of(rank: int, ways: int, port: int, what, args: tuple) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(ways),
        "LOCAL_RANK": str(rank),
    }
    what(*args)


def ranks(ways: int, what, *args) -> None:
    """Runs `what(*args)` in so many ranks, to their end."""
    if ways == 1:
        what(*args)
    else:
        commands.ranks(ways, one_of, ways, free_port(), what, args)


def started(ways: int, what, *args) -> list:
    port = free_port()
    processes = [commands.forks.Process(target=one_of, args=(rank, ways, port, what, args)) for rank in range(ways)]
    for process in processes:
        process.start()
    return processes


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def assert_equal(a: wellfit.Run, b: wellfit.Run, closeness: float = 1e-6) -> None:
    """Weights, losses, gradient norms and scores of two runs."""
    for name, value in a.best_weights().items():
        assert (value - b.best_weights()[name]).abs().max() <= closeness, name
    kinds = (Stepped, Evaluated)
    pairs = list(zip(*([e for e in run.events() if isinstance(e, kinds)] for run in (a, b)), strict=True))
    assert len(pairs) > 15
    for one, two in pairs:
        if isinstance(one, Stepped):
            assert one.loss == pytest.approx(two.loss, abs=closeness)
            assert one.grad_norm == pytest.approx(two.grad_norm, abs=closeness)
        else:
            assert one.metrics == pytest.approx(two.metrics, abs=closeness)


KINDS: dict[str, dict] = {
    "ddp": {},
    "fsdp": CUT,
    "fsdp-sgd": {**CUT, "optimizer.kind": "sgd"},
    "fsdp-lion": {**CUT, "training.max_grad_value": 0.01, "optimizer.kind": "lion"},
    "fsdp-recomputed": {**CUT, "hardware.activation_checkpointing": 1},
    "ddp-4": FOUR,
    "fsdp-4": {**CUT, **FOUR},
}

pytestmark = pytest.mark.filterwarnings("ignore")  # the ranks' own start-up is not ours


@pytest.mark.parametrize("ways", [2, 4])
def test_ranks_equal_one(tmp_path: Path, ways: int) -> None:
    names = [name for name in KINDS if name.endswith("-4") == (ways == 4)]
    trained(tmp_path / "one", *names)
    ranks(ways, trained, tmp_path / "many", *names)
    for name in (*names, "three"):  # of which a fourth rank holds none
        one, many = wellfit.open(tmp_path / "one" / name), wellfit.open(tmp_path / "many" / name)
        assert_equal(one, many)
        assert [e.world for e in many.events() if isinstance(e, Started)] == [ways], name


def whole_and_half(root: Path) -> None:
    train(str(root / "whole"), KINDS["fsdp"], 0.3)
    stopped(root / "half", "fsdp", 7)
    stopped(root / "undrawn", "fsdp", 7, 0.0)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two ranks that share the model: `whole`, `half` of it, and `undrawn`, half of one that draws nothing."""
    root = tmp_path_factory.mktemp("cut")
    ranks(2, whole_and_half, root)
    return root


def test_a_cut_run_goes_on_to_the_same_bits(cut: Path, tmp_path: Path) -> None:
    shutil.copytree(cut / "half", tmp_path / "half")
    files = {path.name for path in (tmp_path / "half" / "checkpoints").rglob("*") if path.is_file()}
    assert len([name for name in files if name.startswith("shard-")]) == 2
    assert "model.safetensors" not in files
    ranks(2, resumed, tmp_path / "half")
    assert_equal(wellfit.open(cut / "whole"), wellfit.open(tmp_path / "half"), closeness=0.0)


def test_it_goes_on_with_another_number_of_ranks(cut: Path, tmp_path: Path) -> None:
    for name in ("half", "undrawn"):
        shutil.copytree(cut / name, tmp_path / name)
    train(str(tmp_path / "one"), KINDS["fsdp"])
    resumed(tmp_path / "undrawn", 0.0)
    assert_equal(wellfit.open(tmp_path / "one"), wellfit.open(tmp_path / "undrawn"))  # which only rounds otherwise

    resumed(tmp_path / "half")
    run = wellfit.open(tmp_path / "half")
    notes = [event.text for event in run.events() if isinstance(event, Noted)]
    assert any("trained by 2 ranks and goes on with 1 rank" in note for note in notes)
    told = [[e.loss for e in one.events() if isinstance(e, Stepped)] for one in (run, wellfit.open(cut / "whole"))]
    assert told[0][:7] == told[1][:7]
    assert told[0][7:] != told[1][7:]  # what is drawn for dropout
    assert (ended := run.ended()) is not None
    assert ended.reason == "finished"


def test_a_damaged_shard_is_named_and_the_checkpoint_before_it_used(cut: Path, tmp_path: Path) -> None:
    shutil.copytree(cut / "half", tmp_path / "run")
    run = Run(tmp_path / "run")
    names = sorted(path.name for path in (run.folder / "checkpoints").glob("step-*"))
    assert len(names) == 2
    shard = next((run.folder / "checkpoints" / names[-1] / "shards").glob("shard-00002*"))
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    checkpoints = Checkpoints(run.folder / "checkpoints")
    with pytest.raises(CheckpointError, match=rf"{shard.name} does not match"):
        checkpoints.read(names[-1])
    found = checkpoints.latest()
    assert found is not None
    assert found.step == int(names[0].removeprefix("step-"))
    assert {name: tuple(value.shape) for name, value in found.weights.items()} == {
        name: tuple(value.shape) for name, value in network(0.3).state_dict().items()
    }


# ---- what is told


def told(folder: Path, what, *args) -> None:
    """What an error says on each rank, in files."""
    try:
        what(*args)
        said = "nothing"
    except WellfitError as error:
        said = f"{type(error).__name__} {error.told} {error}"
    (folder / os.environ["RANK"]).write_text(said)


def refused(root: Path) -> None:
    for name, given in REFUSED.items():
        (root / name).mkdir(exist_ok=True)
        told(root / name, train, str(root / f"{name}-run"), given)
    others = {
        "other-data": _other_data,
        "other-model": _other_model,
        "same-batches": _same_batches,
        "failing": _failing,
    }
    for name, what in others.items():
        (root / name).mkdir(exist_ok=True)
        told(root / name, what, root / f"{name}-run")


def _other_data(folder: Path) -> None:
    mine = X.clone()
    mine[3, 2] += float(os.environ["RANK"])
    wellfit.fit(network(), (mine, Y), loss="cross-entropy", set=SETTINGS, folder=folder, quiet=True)


def _other_model(folder: Path) -> None:
    model = network() if os.environ["RANK"] == "0" else nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    wellfit.fit(model, (X, Y), loss="cross-entropy", set=SETTINGS, folder=folder, quiet=True)


def _same_batches(folder: Path) -> None:
    batches = [(X[i : i + 10], Y[i : i + 10]) for i in range(0, 90, 10)]
    settings = {"training.epochs": 1, "optimizer.learning_rate": 0.01}
    wellfit.fit(network(), batches, loss="cross-entropy", set=settings, folder=folder, quiet=True)


def _failing(folder: Path) -> None:
    lost(folder, "failing")


REFUSED = {
    "uneven": {"training.batch_size": 21},
    "adafactor": {**CUT, "optimizer.kind": "adafactor"},
    "fp16": {**CUT, "hardware.precision": "fp16"},
    "offload": {"hardware.offload": True},
}


def test_what_cannot_be_is_one_sentence_from_one_rank(tmp_path: Path) -> None:
    ranks(2, refused, tmp_path)
    folders = [path for path in tmp_path.iterdir() if not path.name.endswith("-run")]
    said = {path.name: [(path / rank).read_text() for rank in "01"] for path in folders}
    failed, failing = said.pop("failing")
    assert failing == "DataError False The disk with the data is gone."
    assert re.search(
        r"^RankError .* rank 1 \(host \S+, process \d+\) failed: DataError: The disk with the data is gone", failed
    )
    assert set(said) == {*REFUSED, "other-data", "other-model", "same-batches"}
    for name, words in (
        (
            "uneven",
            "DataError False `training.batch_size` is 21, which cannot be shared out evenly among 2 rank(s) x 2",
        ),
        ("adafactor", "RecipeError False `hardware.parallel` is 'fsdp', and `optimizer.kind` is adafactor"),
        ("fp16", "RecipeError False `hardware.parallel` is 'fsdp', and `hardware.precision` is fp16"),
        ("offload", "RecipeError False `hardware.offload` is on, which is for a model that is cut over ranks"),
        ("other-data", "RankError False The ranks do not train the same: the training data of rank 1 is "),
        ("other-model", "RankError False The ranks do not train the same: "),
        ("same-batches", "DataError False 2 ranks begin with the same ready-made batch"),
    ):
        first, second = said[name]
        assert first.startswith(words), first
        assert second == first.replace(" False ", " True ", 1), second
    assert [path.name for path in tmp_path.glob("*-run")] == ["failing-run"]


def asked_to_stop(root: Path) -> None:
    """SIGTERM reaches rank 1 alone, in its sixth step."""
    take = InMemory.take

    def odd(batches: InMemory) -> list:
        if os.environ["RANK"] == "1" and batches.position == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(batches)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(InMemory, "take", odd)
        train(str(root), KINDS["ddp"], 0.3)


def test_one_rank_is_asked_to_stop_and_all_stop_at_one_step(tmp_path: Path) -> None:
    ranks(2, asked_to_stop, tmp_path / "run")
    run = wellfit.open(tmp_path / "run")
    assert (ended := run.ended()) is not None
    assert (ended.reason, ended.step) == ("interrupted", 7)  # what is asked in one step is answered in the next
    ranks(2, resumed, tmp_path / "run")
    ranks(2, train, str(tmp_path / "whole"), KINDS["ddp"], 0.3)
    assert_equal(wellfit.open(tmp_path / "whole"), wellfit.open(tmp_path / "run"), closeness=0.0)


def waits(root: Path) -> None:
    told(root, train, str(root / "run"), {"hardware.rank_timeout": 3})


@pytest.mark.parametrize(
    ("taken", "words"),
    [
        (False, r"RankError False Rank 0 waited 3 s at 127.0.0.1:\d+ for 2 ranks, and not all of them came"),
        (True, r"RankError False The ranks cannot meet at 127.0.0.1:\d+, because another program has that port"),
    ],
)
def test_where_ranks_do_not_meet_it_says_why(tmp_path: Path, taken: bool, words: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        if taken:
            other.listen()
        else:
            other.close()
        alone = commands.forks.Process(target=one_of, args=(0, 2, port, waits, (tmp_path,)))
        alone.start()
        alone.join()
    assert re.match(words, (tmp_path / "0").read_text()), (tmp_path / "0").read_text()


def lost(folder: Path, how: str) -> None:
    """Rank 1 leaves a training in step 6, or sleeps there."""
    take = InMemory.take

    def odd(batches: InMemory) -> list:
        if os.environ["RANK"] == "1" and batches.position == 5:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "failing":
                raise DataError("The disk with the data is gone.")
            time.sleep(60)
        return take(batches)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(InMemory, "take", odd)
        train(str(folder), {"hardware.rank_timeout": 8.0, "training.log_every": 1})


def lost_and_told(root: Path, how: str) -> None:
    began = time.monotonic()
    told(root, lost, root / "run", how)
    (root / "seconds").write_text(str(time.monotonic() - began))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("killed", r"rank 1 \(host \S+, process \d+\) is gone; it was last heard of in step \d"),
        ("hanging", r"rank 1 \(host \S+, process \d+\) hangs: it lives, and has not come to its end of step 6"),
    ],
)
def test_the_rank_that_is_missing_has_a_name(tmp_path: Path, how: str, words: str) -> None:
    processes = started(2, lost_and_told, tmp_path, how)
    processes[0].join(90)
    for process in processes:
        process.kill()
    said = (tmp_path / "0").read_text()
    assert said.startswith("RankError False Rank 0 could not go on without the others: "), said
    assert re.search(words, said), said
    assert float((tmp_path / "seconds").read_text()) < 60
