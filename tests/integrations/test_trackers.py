"""Trackers: what is live and what is replayed agree, a resume doubles and loses nothing, and a tracker that fails harms no training."""

import contextlib
import json
import math
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import wellfit as library
from commands import wellfit
from journals import BEGAN, FINDING, WHOLE, made, started, stepped, valid
from wellfit.errors import MissingExtra, RecipeError, TrackerError
from wellfit.events import Ended, Event
from wellfit.integrations import trackers
from wellfit.integrations.trackers import Tracker, following, track, tracker
from wellfit.integrations.trackers.telling import Teller
from wellfit.run import EVENTS, Journal, Run

KEYS = {"train/loss", "train/grad_norm", "train/learning_rate", "valid/loss", "valid/accuracy", "test/accuracy"}
DROPPED = "test/accuracy/logistic regression"


@pytest.fixture(autouse=True)
def nothing_leaves(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))  # nobody is logged in
    monkeypatch.setenv("HOME", str(tmp_path))
    yield
    for name in list(os.environ):  # what the adapters have set for their libraries
        if name.startswith(("WANDB_", "MLFLOW_")):
            del os.environ[name]


def live(run: Run, events: list[Event], *observers: Tracker, findings: tuple[dict, ...] = ()) -> None:
    """The events as a training tells them: into the journal, then to each observer, and at the end the findings."""
    with following(observers, run):
        journal = Journal(run)
        for event in events:
            journal.write([event])
            for one in observers:
                one(event)
        journal.close()
        if findings:
            run.keep_findings(findings)


class Heard:
    """A place that keeps what it is told."""

    where = "here"

    def __init__(self) -> None:
        self.told: list[tuple] = []

    def begin(self, story) -> None:
        self.story = story

    def row(self, step, time, values) -> None:
        self.told += [("row", step, time, name, repr(value)) for name, value in values.items()]

    def text(self, step, time, name, text) -> None:
        self.told.append(("text", step, time, name, text))

    def back_to(self, step, time) -> None:
        self.told.append(("back", step, time))

    def flush(self) -> None: ...

    def end(self, ending) -> None:
        self.ending = ending


def heard(run: Run) -> Heard:
    place = Heard()
    teller = Teller(run, place)
    for event in run.events():
        teller.see(event)
    teller.end()
    return place


# ---- what is told


def test_everything_is_told_with_the_journals_own_times(tmp_path) -> None:
    place = heard(made(tmp_path, findings=(FINDING,)))
    rows = {(name, step): (time, value) for kind, step, time, name, value in place.told if kind == "row"}
    assert {name for name, _ in rows} >= KEYS | {DROPPED, "speed/samples_per_second", "speed/memory_bytes"}
    assert rows["train/loss", 4] == (BEGAN + 2.0, "0.25")
    assert rows["valid/loss", 6] == (BEGAN + 3.0, "nan")
    assert [step for name, step in rows if name == "train/loss"] == [1, 2, 3, 4, 5, 6]
    texts = {name: text for kind, _, _, name, text in place.told if kind == "text"}
    assert "Stop earlier." in texts["findings/overfitting"]
    notes = [text for kind, _, _, name, text in place.told if kind == "text" and name == "notes"]
    assert notes == ["The set is small.", "Doctor, warning from step 3: overfitting. The gap grows."]
    assert (place.ending.reason, place.ending.best_step, place.ending.best_value) == ("finished", 3, 0.9)
    assert place.ending.scores["test/accuracy"] == 0.7
    assert place.story.recipe["optimizer.kind"] == "adamw"
    assert place.story.facts["train_samples"] == 8


def test_a_run_keeps_its_name_for_trackers_when_it_moves(tmp_path) -> None:
    run = made(tmp_path)
    before = heard(run).story.id
    run.folder.rename(tmp_path / "elsewhere")
    assert heard(Run.open(tmp_path / "elsewhere")).story.id == before
    assert heard(made(tmp_path, name="other")).story.id != before


def test_a_run_that_was_killed_is_told_as_far_as_it_came(tmp_path) -> None:
    place = heard(made(tmp_path, WHOLE[:5], torn='{"event": "Step'))
    assert place.ending.reason == ""
    assert place.ending.step == 3
    assert heard(made(tmp_path, [], name="empty")).ending.step == 0


def test_going_back_voids_what_came_after(tmp_path) -> None:
    run = made(tmp_path, [])
    place = Heard()
    teller = Teller(run, place)
    for event in [started(), *stepped(1, 2, 3), started(1, went_back=True), *stepped(2, 3)]:
        teller.see(event)
    kinds = [one[:2] for one in place.told if one[0] == "back" or one[3:4] == ("train/loss",)]
    assert kinds == [("row", 1), ("row", 2), ("row", 3), ("back", 1), ("row", 2), ("row", 3)]


# ---- TensorBoard


def tensorboard(folder: Path) -> tuple[dict, dict]:
    """Scalars and texts as TensorBoard's own reader sees them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    read.Reload()
    scalars = {tag: [(e.step, e.wall_time, repr(e.value)) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    texts = {
        tag: [(e.step, e.wall_time, e.tensor_proto.string_val[0].decode()) for e in read.Tensors(tag)]
        for tag in read.Tags()["tensors"]
        if not tag.startswith("_hparams_")
    }
    return scalars, texts


def steps(scalars: dict, tag: str = "train/loss") -> list[int]:
    return [step for step, _, _ in scalars[tag]]


def test_tensorboard_live_and_replayed_are_the_same(tmp_path) -> None:
    run = made(tmp_path, [])
    one = Tracker("tensorboard", tmp_path / "tb")
    live(run, WHOLE, one, findings=(FINDING,))
    assert one.trouble == ""
    assert one.where == f"tensorboard --logdir {tmp_path / 'tb' / 'toy'}"
    told, texts = tensorboard(tmp_path / "tb" / "toy")
    assert set(told) >= KEYS | {DROPPED, "best/step"}
    assert steps(told) == [1, 2, 3, 4, 5, 6]
    assert told["valid/loss"][1][2] == "nan"
    assert told["test/accuracy"][0][0] == 3
    assert "overfitting" in texts["end"][0][2]
    assert "| `optimizer.kind` | adamw |" in texts["run"][0][2]
    assert track(run, "tensorboard") == f"tensorboard --logdir {run.folder / 'tensorboard'}"
    assert tensorboard(run.folder / "tensorboard") == (told, texts)
    track(run, "tensorboard")  # again
    assert tensorboard(run.folder / "tensorboard") == (told, texts)
    assert len(list((run.folder / "tensorboard").iterdir())) == 1


def test_tensorboard_goes_on_after_a_kill_without_doubling_or_losing(tmp_path) -> None:
    run = made(tmp_path, [])
    first = Tracker("tensorboard")
    live(run, [started(), *stepped(1, 2, 3), valid(3, 0.9, 0.6), *stepped(4, 5)], first)
    journal = Journal(run)  # steps that were journalled and never told: the process beside it was killed, too
    journal.write([*stepped(6), valid(6, 0.7, 0.7)])
    journal.close()
    assert steps(tensorboard(run.folder / "tensorboard")[0]) == [1, 2, 3, 4, 5]
    live(run, [started(4), *stepped(5, 6, 7), valid(6, 0.7, 0.7), Ended(7, "finished", 1.0)], Tracker("tensorboard"))
    told, _ = tensorboard(run.folder / "tensorboard")
    assert steps(told) == [1, 2, 3, 4, 5, 6, 7]
    assert steps(told, "valid/loss") == [3, 6]
    track(run, "tensorboard", tmp_path / "again")
    assert tensorboard(tmp_path / "again" / "toy")[0] == told


def test_tensorboard_shows_redone_steps_once(tmp_path) -> None:
    run = made(tmp_path, [])
    again = [started(2, went_back=True), *stepped(3, 4, loss=8.0)]
    live(run, [started(), *stepped(1, 2, 3, 4), *again, Ended(4, "finished", 1.0)], Tracker("tensorboard"))
    told, _ = tensorboard(run.folder / "tensorboard")
    assert [(step, value) for step, _, value in told["train/loss"]][1:] == [
        (2, "0.5"),
        (3, repr(_single(8 / 3))),
        (4, "2.0"),
    ]


def _single(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


# ---- MLflow


def mlflow(uri: str, experiment: str) -> tuple[dict, dict, dict, str]:
    """Metrics with their histories, parameters, tags and status of the one run of an experiment."""
    client = pytest.importorskip("mlflow").MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    histories = {
        name: sorted((m.step, m.timestamp, repr(m.value)) for m in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }
    tags = {name: value for name, value in run.data.tags.items() if name != "mlflow.user"}
    return histories, run.data.params, tags, run.info.status


def test_names_that_mlflow_does_not_take_are_changed_and_stay_apart() -> None:
    from wellfit.integrations.trackers.mlflow import _name

    names = ["a/../b", "<script>", "ä", "ö", "/x", "x//y", "é" * 300, "a\x1b[31m"]
    made_of_them = [_name(name) for name in names]
    validation = pytest.importorskip("mlflow.utils.validation")
    for name in made_of_them:
        validation._validate_metric_name(name)
    assert len(set(made_of_them)) == len(names)
    assert _name("test/accuracy/logistic regression") == "test/accuracy/logistic regression"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real `mlflow server`: its address, its process and its database."""
    pytest.importorskip("mlflow")
    pytest.importorskip("flask")
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-W", "ignore", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'a.db'}",
        "--default-artifact-root",
        str(folder / "artifacts"),
    ]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        [sys.executable, *words, *stores], env={**os.environ, **quiet}, cwd=folder, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    for _ in range(1000):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
            break
        assert process.poll() is None, "the server did not start"
        time.sleep(0.25)
    yield address, process, folder / "a.db"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


def killed_and_resumed(run: Run) -> Iterator[None]:
    """Journals a training that is killed, and, when asked again, what its resume adds."""
    journal = Journal(run)
    journal.write([started(), *stepped(1, 2, 3), valid(3, 0.9, 0.6), *stepped(4, 5, 6)])
    journal.close()
    yield
    journal = Journal(run)
    journal.write([started(4), *stepped(5, 6), *WHOLE[-4:]])
    journal.close()
    run.keep_findings([FINDING])
    yield


@pytest.mark.filterwarnings("ignore")
def test_mlflow_live_replayed_and_resumed(tmp_path, server) -> None:
    address, _, database = server
    run = made(tmp_path, [])
    one = Tracker("mlflow", address, project="live")
    live(run, WHOLE, one, findings=(FINDING,))
    assert one.trouble == ""
    assert one.where.startswith(f"{address}/#/experiments/")
    told = mlflow(address, "live")
    histories, chosen, tags, status = told
    assert set(histories) >= KEYS | {DROPPED, "best/step", "speed/data_wait"}
    assert steps(histories) == [1, 2, 3, 4, 5, 6]
    assert histories["train/loss"][3] == (4, round(1000 * (BEGAN + 2)), "0.25")
    assert [value for _, _, value in histories["valid/loss"]] == ["0.9", "nan"]
    assert chosen["optimizer.kind"] == "adamw"
    assert "Stop earlier." in tags["finding.overfitting"]
    assert "The set is small." in tags["mlflow.note.content"]
    assert (status, tags["wellfit.end"], tags["wellfit.best_step"]) == ("FINISHED", "finished", "3")

    track(run, "mlflow", address, project="live")  # again: nothing is doubled
    assert mlflow(address, "live") == told
    track(run, "mlflow", address, project="replay")
    assert mlflow(address, "replay") == told

    other = made(tmp_path, [], name="other")
    for reached, end in zip(killed_and_resumed(other), ("KILLED", "FINISHED"), strict=True):
        assert reached is None
        track(other, "mlflow", address, project="resumed")
        histories, _, _, status = mlflow(address, "resumed")
        assert (steps(histories), status) == ([1, 2, 3, 4, 5, 6], end)
    assert steps(histories, "valid/loss") == [3, 6]

    (tmp_path / "ml").mkdir()
    shutil.copy(database, tmp_path / "ml" / "mlflow.db")
    track(run, "mlflow", tmp_path / "ml", project="folder")
    assert mlflow(f"sqlite:///{tmp_path / 'ml' / 'mlflow.db'}", "folder") == told


@pytest.mark.filterwarnings("ignore")
def test_a_server_that_goes_away_ends_no_training_and_is_said_once(tmp_path, server, capsys) -> None:
    address, process, _ = server
    run = made(tmp_path, [])
    lost = Tracker("mlflow", address, project="lost")
    with following([lost], run):
        journal = Journal(run)
        for event in WHOLE[:5]:
            journal.write([event])
            lost(event)
        client = pytest.importorskip("mlflow").MlflowClient(tracking_uri=address)
        while client.get_experiment_by_name("lost") is None:  # it has begun
            time.sleep(0.2)
        os.killpg(process.pid, 9)
        process.wait()
        said = []
        for event in WHOLE[5:]:
            journal.write([event])
            try:
                lost(event)
            except TrackerError as error:  # which the record notes, and goes on
                said.append(str(error))
        journal.close()
    said += capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "MLflow could not be told of the run" in said[0]
    again = f"`wellfit.track({str(run.folder)!r}, \"mlflow\", {address!r}, project='lost')` in Python sends what is missing."
    assert again in said[0]


# ---- Weights & Biases


def wandb(folder: Path) -> list[tuple[dict, dict, object]]:
    """Of each offline part, oldest first: rows by step, the summary, and the run as it was declared at last."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    parts = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        rows: dict = {}
        summary: dict = {}
        declared = None
        for data in _records(file.read_bytes()):
            record = messages.Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "history":
                row = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                del row["_runtime"]  # of this process
                rows.setdefault(row["_step"], {}).update({k: math.nan if v == "NaN" else v for k, v in row.items()})
            elif kind == "summary":
                summary |= {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.summary.update}
            elif kind == "run":
                declared = record.run
        parts.append((rows, summary, declared))
    return parts


def _records(content: bytes) -> list[bytes]:
    """Records of a log in blocks of 32 kB, each piece with its checksum, length and kind before it."""
    found, part, at = [], b"", 7
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        if not kind:
            break
        part += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            found.append(part)
            part = b""
    return found


def test_wandb_offline_live_replayed_and_resumed(tmp_path) -> None:
    library = pytest.importorskip("wandb")
    run = made(tmp_path, [])
    one = Tracker("wandb")
    live(run, [started(), *stepped(1, 2, 3), valid(3, 0.9, 0.6), *stepped(4), *stepped(5)], one)
    assert one.trouble == ""
    assert one.where.startswith("wandb sync ")
    journal = Journal(run)
    journal.write([started(4), *stepped(5, 6), *WHOLE[-4:]])
    journal.close()
    run.keep_findings([FINDING])
    time.sleep(1.1)  # W&B names its folders by the second
    track(run, "wandb")
    library.teardown()
    (first, _, declared), (rows, summary, again) = wandb(run.folder)
    assert sorted(first) == [1, 2, 3, 4, 5]
    assert sorted(rows) == [1, 2, 3, 4, 5, 6], "each part holds the whole run"
    assert [first[step] for step in (1, 2, 3, 4)] == [rows[step] for step in (1, 2, 3, 4)]
    assert [rows[step]["train/loss"] for step in sorted(rows)] == [1 / step for step in range(1, 7)]
    assert rows[3]["valid/accuracy"] == 0.6
    assert math.isnan(rows[6]["valid/loss"])
    assert rows[4]["_timestamp"] == pytest.approx(BEGAN + 2.0)
    assert declared.run_id == again.run_id
    assert {"finished", "overfitting"} <= set(again.tags)
    assert "Stop earlier." in again.notes
    assert summary["end"] == "finished"
    assert summary["test/accuracy"] == 0.7
    assert summary[DROPPED] == 0.75
    assert summary["best/step"] == 3


@pytest.mark.parametrize(
    ("environment", "login", "mode"),
    [({}, "", "offline"), ({"WANDB_MODE": "offline"}, "yes", "offline"), ({}, "yes", "online"), ({"WANDB_API_KEY": "0" * 40}, "", "online")],
)  # fmt: skip
def test_wandb_sends_only_where_the_user_has_said_so(tmp_path, monkeypatch, environment, login, mode) -> None:
    from wellfit.integrations.trackers.wandb import WeightsAndBiases

    pytest.importorskip("wandb").teardown()  # it remembers what was set
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if login:
        (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {'0' * 40}\n")
    assert WeightsAndBiases(tmp_path, "")._mode() == mode


# ---- beside a training


def test_a_training_has_the_same_bits_beside_a_tracker_that_works_and_one_that_fails(tmp_path, capsys) -> None:
    import torch
    from torch import nn

    (tmp_path / "file").write_text("no folder")

    def trained(folder: str, *observers: Tracker) -> dict:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))
        x = torch.randn(64, 4)
        data = (x, (x[:, 0] > 0).long())
        settings = {"training.epochs": 3, "training.log_every": 1}
        run = library.fit(
            model,
            data,
            data,
            loss="cross-entropy",
            set=settings,
            folder=tmp_path / folder,
            quiet=True,
            observers=observers,
        )
        return run.best_weights()

    alone = trained("alone")
    good, bad = Tracker("tensorboard"), Tracker("tensorboard", tmp_path / "file" / "below")
    beside = trained("beside", good, bad)
    assert alone.keys() == beside.keys()
    assert all(torch.equal(alone[name], beside[name]) for name in alone)
    run = Run.open(tmp_path / "beside")
    assert steps(tensorboard(run.folder / "tensorboard")[0]) == run.metrics()["step"]
    assert good.trouble == ""
    notes = [event.text for event in run.events() if type(event).__name__ == "Noted"]
    told = [line for line in [*notes, *capsys.readouterr().err.splitlines()] if "could not be told" in line]
    assert len({line.removeprefix("wellfit: ") for line in told}) == 1
    assert "Not a directory" in told[0] or "File exists" in told[0] or "NotADirectory" in told[0]


def test_a_tracker_that_hangs_is_waited_for_within_reason(tmp_path, monkeypatch, capsys) -> None:
    def hanging(run: Run, *_: str) -> subprocess.Popen[bytes]:
        del run
        return subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    monkeypatch.setattr(trackers, "started", hanging)
    one = Tracker("tensorboard")
    one.patience = 0.3
    began = time.monotonic()
    live(made(tmp_path, []), WHOLE, one)
    assert time.monotonic() - began < 20
    assert capsys.readouterr().err.count("had not taken everything 0.3 seconds after the end") == 1


def test_a_tracker_that_dies_in_the_middle_is_said_by_the_record(tmp_path, monkeypatch) -> None:
    answer = "import json; print(json.dumps({'trouble': 'The disk is full.'})); raise SystemExit(1)"
    monkeypatch.setattr(
        trackers, "started",
        lambda *_: subprocess.Popen([sys.executable, "-c", answer], stdin=subprocess.PIPE, stdout=subprocess.PIPE),
    )  # fmt: skip
    run, one = made(tmp_path, []), Tracker("tensorboard")
    with following([one], run):
        one(started())
        assert one._process is not None
        one._process.wait()
        with pytest.raises(TrackerError, match="The disk is full"):
            one(stepped(1)[-1])
        one(stepped(2)[-1])  # it is silent from then on
    assert one.trouble.startswith("The disk is full. `wellfit track ")


def test_only_the_first_rank_tracks(tmp_path, monkeypatch) -> None:
    from wellfit.train import record

    monkeypatch.setattr(record, "rank", lambda: 1)
    one = Tracker("tensorboard")
    made_here = record.Record(made(tmp_path, []), [one], device="cpu", keep=1, minutes=None, batch_size=1)
    with following([one], made_here.run):
        made_here.emit(started())
    assert one._process is None
    assert one.where == ""


def test_the_process_beside_ends_with_a_training_that_was_killed(tmp_path) -> None:
    run = made(tmp_path, WHOLE[:5])
    process = trackers.started(run, "tensorboard", "", "")
    assert process.stdin is not None
    process.stdin.close()  # what a kill does
    assert process.wait(60) == 0
    assert process.stdout is not None
    assert "where" in json.loads(process.stdout.read())
    process.stdout.close()
    assert steps(tensorboard(run.folder / "tensorboard")[0]) == [1, 2, 3]


# ---- words


@pytest.mark.parametrize(("given", "says"), [
    (("mlflow", "http://me:word@host"), "mlflow=http://…@host"), (("tensorboard",), "tensorboard"), (("wandb", "mine"), "wandb=mine"),
    (("wandb", None, "mine"), "wandb=mine"), (("mlflow", None, "mine"), "project='mine'"),
])  # fmt: skip
def test_how_to_send_the_rest_names_the_place(tmp_path, given, says) -> None:
    told = Tracker(given[0], given[1] if len(given) > 1 else None, project=given[2] if len(given) > 2 else None)
    told.run = made(tmp_path, [])
    assert says in told._again()
    assert "word" not in told._again()


def test_what_can_be_named(monkeypatch) -> None:
    one = tracker("tensorboard=a=b")
    assert (one.kind, one.place) == ("tensorboard", "a=b")
    with pytest.raises(RecipeError, match=r"`tensorboard`"):
        tracker("tensorbord")
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"pip install 'wellfit\[wandb\]'"):
        Tracker("wandb")


def test_the_command_line_tracks_a_training_and_a_run_that_exists(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    few = ["--set", "training.epochs=1", "--set", "data.test_share=0"]
    done = wellfit("train", "wine", *few, "--folder", "runs/a", "--track", "tensorboard", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Track:  tensorboard --logdir runs/a/tensorboard" in done.stdout
    again = wellfit("track", "runs/a", "tensorboard=tb", folder=tmp_path)
    assert again.stdout == "TensorBoard: tensorboard --logdir tb/a\n", again.stderr
    assert tensorboard(tmp_path / "tb" / "a") == tensorboard(tmp_path / "runs" / "a" / "tensorboard")
    wrong = wellfit("train", "wine", "--track", "tensorbord", folder=tmp_path)
    assert (wrong.returncode, "Did you mean `tensorboard`?" in wrong.stderr) == (2, True)
    gone = wellfit("track", "runs/nothing", "tensorboard", folder=tmp_path)
    assert (gone.returncode, "There is no run at" in gone.stderr) == (2, True)


def test_the_journal_is_read_as_it_grows(tmp_path) -> None:
    from wellfit.integrations.trackers import follow

    run = made(tmp_path, WHOLE[:3], torn='{"event": "Noted", "step": 1, "te')

    class Soon:
        times = 0

        def wait(self, _: float) -> bool:
            self.times += 1
            with (run.folder / EVENTS).open("a") as file:
                file.write('xt": "late"}\n{"event": "Noted", "st' if self.times == 1 else 'ep": 2, "text": "last"}\n')
            return self.times == 2

    batches = list(follow.growing(run.folder / EVENTS, Soon()))  # type: ignore[arg-type]
    assert batches[0] == WHOLE[:3]
    assert [event.text for batch in batches[1:] for event in batch] == ["late", "last"]  # type: ignore[union-attr]
