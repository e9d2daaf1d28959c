"""Many ranks against one: the same numbers, the same bits after a kill, on other numbers of ranks, on two hosts, and the cost of a step.

    python bench/distributed.py                       # all rows
    python bench/distributed.py kill --trials 6       # one of them

Ranks are processes of `torchrun` over gloo, one thread each; `wellfit` is called as anybody would call it, by its command line, on
the embedded digits. `hosts` makes two machines of network namespaces, with a wire between them and no network but that, for which
it needs the right to make some (root on Linux). Each row prints what it found and whether its bar is met. Exits with 1 if one is missed.
"""

import argparse
import contextlib
import importlib.util
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wellfit.checkpoint import Checkpoints
from wellfit.events import Evaluated, Stepped
from wellfit.run import Run

Said = tuple[bool, str]
SETTINGS = {
    "model.kind": "convnet", "model.channels": [8, 16], "training.steps": 120, "training.batch_size": 64, "training.log_every": 1,
    "evaluation.every": 20, "checkpoints.every": 5, "hardware.device": "cpu", "training.doctor": False,
}  # fmt: skip
PARALLEL = ("ddp", "fsdp", *(("zero1", "zero2") if importlib.util.find_spec("deepspeed") else ()))


# ---- starting ranks


def command(verb: str, *words: object, **settings: Any) -> list[str]:
    """`-m wellfit VERB ...` with these settings."""
    chosen = [part for name, value in settings.items() for part in ("--set", f"{name}={_plain(value)}")]
    return ["-m", "wellfit", verb, *map(str, words), *chosen]


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def started(ways: int, what: list[str], *launcher: str) -> "subprocess.Popen[str]":
    """`what` in so many ranks, or in this many processes without a launcher if it is one."""
    start = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ways}",
        "--monitor-interval=0.1",
        *launcher,
    ]
    return subprocess.Popen(
        [sys.executable, *(start if ways > 1 else []), *what],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def done(process: "subprocess.Popen[str]") -> str:
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args} left with {process.returncode}:\n{said}")
    return said


def apart(one: Run, other: Run) -> float:
    """The largest difference of any loss, gradient norm, score or weight of two runs; infinite where they differ in kind."""
    told = [[e for e in run.events() if isinstance(e, (Stepped, Evaluated))] for run in (one, other)]
    if len(told[0]) != len(told[1]):
        return float("inf")
    worst = 0.0
    for a, b in zip(*told, strict=True):
        if isinstance(a, Stepped) and isinstance(b, Stepped):
            worst = max(worst, abs(a.loss - b.loss), abs(a.grad_norm - b.grad_norm))
        elif isinstance(a, Evaluated) and isinstance(b, Evaluated):
            worst = max(worst, *(abs(value - b.metrics[name]) for name, value in a.metrics.items()))
    weights = other.best_weights()
    return max(worst, *(float((value - weights[name]).abs().max()) for name, value in one.best_weights().items()))


def same_bits(one: Run, other: Run) -> bool:
    """Every recorded number, the weights and all state of the last checkpoints."""
    last = [Checkpoints(run.folder / "checkpoints").latest() for run in (one, other)]
    assert last[0] is not None
    assert last[1] is not None
    return (
        apart(one, other) == 0.0 and _equal(last[0].weights, last[1].weights) and _equal(last[0].state, last[1].state)
    )


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


# ---- the rows


def equal(asked: argparse.Namespace) -> Said:
    """Losses, gradient norms, scores and weights of 2 and 4 ranks within 1e-6 of one process's, fp32, 30 steps."""
    del asked
    worst = 0.0
    with tempfile.TemporaryDirectory() as root:
        settings = {**SETTINGS, "training.steps": 30, "model": "{kind: mlp, widths: [64, 64], norm: layer, dropout: 0}"}
        del settings["model.kind"], settings["model.channels"]
        done(started(1, command("train", "digits", "--folder", f"{root}/one", **settings)))
        for parallel in PARALLEL:
            for ways in (2, 4):
                folder = f"{root}/{parallel}-{ways}"
                done(
                    started(
                        ways,
                        command("train", "digits", "--folder", folder, **settings, **{"hardware.parallel": parallel}),
                    )
                )
                found = apart(Run.open(f"{root}/one"), Run.open(folder))
                print(f"    {parallel} on {ways} ranks: {found:.1e} apart", flush=True)
                worst = max(worst, found)
    return worst <= 1e-6, f"{worst:.1e} apart at most; bar 1e-6"


def kill(asked: argparse.Namespace) -> Said:
    """One of two ranks killed (SIGKILL) at a random step; torchrun starts them again; every bit as in a run that was left alone."""
    right, draw = 0, random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as root:
        for parallel in PARALLEL:
            settings = {**SETTINGS, "hardware.parallel": parallel}
            done(started(2, command("train", "digits", "--folder", f"{root}/{parallel}", **settings)))
            for trial in range(asked.trials):
                folder, at, rank = Path(f"{root}/{parallel}-{trial}"), draw.randrange(1, 118), draw.randrange(2)
                process = started(2, command("train", "digits", "--folder", folder, **settings), "--max-restarts=3")
                killed = kill_rank(process.pid, rank, folder, at)
                done(process)
                run = Run.open(folder)
                again, same = starts(run), same_bits(Run.open(f"{root}/{parallel}"), run)
                right += same and killed and again > 1
                print(
                    f"    {parallel}: rank {rank} killed behind step {at}, started {again} times: {'same bits' if same else 'DIFFERENT'}",
                    flush=True,
                )
    tried = asked.trials * len(PARALLEL)
    return right == tried, f"{right} of {tried} bit-identical"


def kill_rank(launcher: int, rank: int, folder: Path, at: int) -> bool:
    """Kills a rank as soon as the run tells of a step behind `at`."""
    ends = time.monotonic() + 300
    while time.monotonic() < ends:
        if (folder / "events.jsonl").exists() and step_of(folder) >= at:
            for pid in children(launcher):
                if environment_of(pid).get("RANK") == str(rank):
                    os.kill(pid, signal.SIGKILL)
                    return True
            return False
        time.sleep(0.02)
    return False


def starts(run: Run) -> int:
    """How often a run was begun or gone on with, by its whole journal."""
    return sum(
        '"Started"' in line or '"started"' in line for line in (run.folder / "events.jsonl").read_text().splitlines()
    )


def step_of(folder: Path) -> int:
    return max((e.step for e in Run(folder).events() if isinstance(e, Stepped)), default=0)


def children(pid: int) -> list[int]:
    """All processes below one."""
    found = []
    with contextlib.suppress(OSError):
        for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(word), *children(int(word))]
    return found


def environment_of(pid: int) -> dict[str, str]:
    with contextlib.suppress(OSError):
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        return dict(entry.split("=", 1) for entry in entries if "=" in entry)
    return {}


def reshard(asked: argparse.Namespace) -> Said:
    """Stopped with 4 ranks, gone on with 2 and with 1: losses within 1e-6 of the run that kept its 4, for each kind."""
    del asked
    worst = 0.0
    with tempfile.TemporaryDirectory() as root:
        for parallel in PARALLEL:
            settings = {
                **SETTINGS,
                "hardware.parallel": parallel,
                "training.steps": 40,
                "model": "{kind: mlp, widths: [64, 64], norm: layer, dropout: 0}",
            }
            del settings["model.kind"], settings["model.channels"]
            done(started(4, command("train", "digits", "--folder", f"{root}/{parallel}", **settings)))
            half = Path(f"{root}/{parallel}-half")
            process = started(4, command("train", "digits", "--folder", half, **settings))
            ends = time.monotonic() + 300
            while not (half / "events.jsonl").exists() or step_of(half) < 12:
                assert time.monotonic() < ends, "the training does not begin"
                time.sleep(0.02)
            for pid in (*children(process.pid), process.pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            process.communicate()
            for ways in (2, 1):
                folder = Path(f"{root}/{parallel}-on-{ways}")
                shutil.copytree(half, folder)
                done(started(ways, command("resume", folder)))
                found = apart(Run.open(f"{root}/{parallel}"), Run.open(folder))
                print(f"    {parallel}: killed on 4, gone on with {ways}: {found:.1e} apart", flush=True)
                worst = max(worst, found)
    return worst <= 1e-6, f"{worst:.1e} apart at most; bar 1e-6"


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a wire between them: 10.66.0.1 and 10.66.0.2."""
    names, ends = ("wellfit-a", "wellfit-b"), ("wfa", "wfb")
    _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
    try:
        for i, (name, end) in enumerate(zip(names, ends, strict=True), start=1):
            _ip("netns", "add", name)
            _ip("link", "set", end, "netns", name)
            for words in (
                ("addr", "add", f"10.66.0.{i}/24", "dev", end),
                ("link", "set", end, "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-n", name, *words)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", ends[0]], check=False, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def hosts(asked: argparse.Namespace) -> Said:
    """Two hosts train together; one is lost with all its processes and comes back: every bit as in a run that was left alone."""
    del asked
    try:
        with two_hosts():
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        return False, f"not run: network namespaces cannot be made here ({error})"
    with tempfile.TemporaryDirectory() as root, two_hosts() as (first, second):
        what = {parallel: {**SETTINGS, "hardware.parallel": parallel} for parallel in PARALLEL}
        same = {}
        for parallel, settings in what.items():
            for name in ("alone", "lost"):
                folder = Path(f"{root}/{parallel}-{name}")
                words = command("train", "digits", "--folder", folder, **settings)
                nodes = [on(host, 1 + i, words, f"{parallel}-{name}") for i, host in enumerate((first, second))]
                if name == "lost":
                    ends = time.monotonic() + 300
                    while not (folder / "events.jsonl").exists() or step_of(folder) < 40:
                        assert time.monotonic() < ends, "the training does not begin"
                        time.sleep(0.02)
                    for pid in (*children(nodes[1].pid), nodes[1].pid):
                        with contextlib.suppress(OSError):
                            os.kill(pid, signal.SIGKILL)
                    nodes[1].communicate()
                    at = step_of(folder)
                    time.sleep(5)
                    nodes[1] = on(second, 2, words, f"{parallel}-{name}")
                for node in nodes:
                    done(node)
            runs = [Run.open(f"{root}/{parallel}-{name}") for name in ("alone", "lost")]
            same[parallel] = same_bits(*runs) and starts(runs[1]) > 1 and starts(runs[0]) == 1
            print(f"    {parallel}: the second host was lost behind step {at} and came back, started {starts(runs[1])} times: "
                  f"{'same bits' if same[parallel] else 'DIFFERENT'}", flush=True)  # fmt: skip
    return all(same.values()), f"{sum(same.values())} of {len(same)} bit-identical"


def on(host: str, number: int, what: list[str], name: str) -> "subprocess.Popen[str]":
    """A node of a launch of two, on one of the hosts; they meet at the first, whose launcher keeps the store.

    torch's launcher tells the address of the ranks' own store once in its life, so a node that comes back would wait for it in vain,
    unless each round has a store of its own (TORCH_DISABLE_SHARE_RDZV_TCP_STORE).
    """
    launcher = [
        "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-id={name}",
        "--rdzv-endpoint=10.66.0.1:29400", f"--local-addr=10.66.0.{number}",
        f"--rdzv-conf=is_host={int(number == 1)},join_timeout=300", "--max-restarts=5", "--monitor-interval=0.2",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "wfa" if number == 1 else "wfb",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    return subprocess.Popen(
        ["ip", "netns", "exec", host, sys.executable, *launcher, *what],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


# ---- the cost of a step

LENGTH, WARM, BATCH = 400, 100, 64  # steps, steps before the clock, samples of both ranks


def convnet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 14 * 14, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


MODELS: dict[str, Callable[[], nn.Module]] = {"MLP 784-512-512-10": mlp, "ConvNet": convnet}


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(6400, 1, 28, 28, generator=draw), torch.randint(0, 10, (6400,), generator=draw)


def tutorial(model: nn.Module) -> float:
    """The loop of torch's tutorial on DDP: a sampler that shares out, a loader, a wrapped model. Seconds a step."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.data import DataLoader, TensorDataset
    from torch.utils.data.distributed import DistributedSampler

    dist.init_process_group("gloo")
    data = TensorDataset(*_data())
    sampler = DistributedSampler(data)
    loader = DataLoader(data, batch_size=BATCH // dist.get_world_size(), shuffle=False, sampler=sampler)
    replica = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(replica.parameters(), lr=1e-3)
    step, epoch, began = 0, 0, 0.0
    while step < LENGTH:
        sampler.set_epoch(epoch)
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(replica(inputs), targets)
            loss.backward()
            optimizer.step()
            step += 1
            if step == WARM:
                began = time.perf_counter()
            if step == LENGTH:
                break
        epoch += 1
    seconds = time.perf_counter() - began
    dist.destroy_process_group()
    return seconds / (LENGTH - WARM)


def ours(model: nn.Module) -> float:
    """The same with everything on: clipping, schedule, metrics, events and a checkpoint on disk, the doctor."""
    import wellfit

    seen: dict[int, float] = {}

    def clock(event: object) -> None:
        if isinstance(event, Stepped) and event.step in (WARM, LENGTH):
            seen[event.step] = time.perf_counter()

    with tempfile.TemporaryDirectory() as root:
        settings = {
            "training.steps": LENGTH, "training.batch_size": BATCH, "training.log_every": 50, "optimizer.learning_rate": 1e-3,
            "optimizer.kind": "adamw", "hardware.device": "cpu",
        }  # fmt: skip
        wellfit.fit(model, _data(), loss="cross-entropy", set=settings, root=root, observers=[clock], quiet=True)
    return (seen[LENGTH] - seen[WARM]) / (LENGTH - WARM) if seen else 0.0


def overhead(asked: argparse.Namespace) -> Said:
    """A step of two ranks over torch's own tutorial loop, interleaved: at most 1.03 x."""
    ratios = {}
    for name in MODELS:
        found: dict[str, list[float]] = {"tutorial": [], "ours": []}
        for _ in range(asked.rounds):
            for kind, seconds in found.items():
                said = done(started(2, [__file__, "--child", kind, "--model", name]))
                seconds.append(
                    float(next(line for line in said.splitlines() if line.startswith("seconds ")).split()[1])
                )
        each = [b / a for a, b in zip(found["tutorial"], found["ours"], strict=True)]
        ratios[name] = statistics.median(each)
        print(f"    {name}: tutorial {1e6 * statistics.median(found['tutorial']):,.0f} us a step, wellfit "
              f"{1e6 * statistics.median(found['ours']):,.0f}: {ratios[name]:.3f} x ({min(each):.3f} to {max(each):.3f})", flush=True)  # fmt: skip
    worst = max(ratios.values())
    return worst <= 1.03, f"{worst:.3f} x; bar 1.03"


ROWS: dict[str, Callable[[argparse.Namespace], Said]] = {
    "equal": equal, "kill": kill, "reshard": reshard, "hosts": hosts, "overhead": overhead,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--trials", type=int, default=5, help="kills of each kind (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants of the kills")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison of steps (default 5)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        torch.set_num_threads(1)
        seconds = {"tutorial": tutorial, "ours": ours}[asked.child](MODELS[asked.model]())
        if os.environ["RANK"] == "0":
            print(f"seconds {seconds}")
        return
    unknown = set(asked.rows) - set(ROWS)
    if unknown:
        parser.error(f"there is no row {', '.join(sorted(unknown))}; the rows are {', '.join(ROWS)}")
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, gloo", flush=True)
    missed = 0
    for name in asked.rows or ROWS:
        print(f"{name}: {(ROWS[name].__doc__ or '').splitlines()[0]}", flush=True)
        met, said = ROWS[name](asked)
        missed += not met
        print(f"  {'met' if met else 'MISSED'}: {said}", flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
