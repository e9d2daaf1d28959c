"""A served run under many clients, some of whom send what cannot be understood, beside the same run served one request at a time.

    python bench/serve.py                       # trains digits for a few epochs, then 50 clients with 10 % malformed requests
    python bench/serve.py --run runs/first      # of a run of digits that is there

Both servers are `wellfit serve` in a process of its own, with one thread for the network: one as it is, and one that puts no
requests together (`--max-batch 1`) and is asked by one client, one request after another. They are asked in turns. Each client
has its own connection and sends its next request when it has its answer. Every answer is checked: of what is valid against
`wellfit.predict`, of what is malformed that it is told with 4xx. Leaves with 1 where there is a 5xx, a wrong answer, or less
than three times the throughput; what counts are valid answers in a second.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn import datasets

import wellfit

FASTER, CLOSE = 3.0, 2e-3
HEAD = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


class Request(NamedTuple):
    """What is sent, and the class and confidence that are right; None: it is malformed."""

    content: bytes
    right: tuple[str, float] | None


class Answer(NamedTuple):
    """What came back."""

    request: Request
    status: int
    body: bytes
    seconds: float


def request(body: bytes, right: tuple[str, float] | None = None) -> Request:
    return Request(HEAD.format(len(body)).encode() + body, right)


def asked(run: str, count: int, malformed: float) -> list[Request]:
    """Digits one by one with their right answers, and among them, evenly, what is malformed in different ways."""
    images = datasets.load_digits().images.astype(np.uint8)
    told = wellfit.predict(run, list(images))
    broken = [
        b"{", b"", b"[]", b'{"inputs": []}', b'{"input": [[1]]}', b'{"inputs": "abc"}', b'{"inputs": ["not base64"]}',
        b'{"inputs": [[[1, 2], [3]]]}', b'{"inputs": [[["x"]]]}', b'{"inputs": [[[1, 2], [3, 4]]]}', b"\xff\xfe", b"[" * 5000,
        b'{"inputs": [null]}', b'{"inputs": [[[NaN]]]}', b'{"inputs": [[[300, 1], [2, 3]]]}',
        json.dumps({"inputs": [images[0].tolist()], "choices": {"top": 0}}).encode(),
        json.dumps({"inputs": [images[0].tolist()], "more": 1}).encode(),
    ]  # fmt: skip
    made, every = [], round(1 / malformed) if malformed else 0
    for i in range(count):
        if every and i % every == every - 1:
            made.append(request(broken[i // every % len(broken)]))
        else:
            number = i % len(images)
            body = json.dumps({"inputs": [images[number].tolist()]}).encode()
            made.append(request(body, (told[number]["class"], told[number]["confidence"])))
    return made


# ---- clients


async def client(port: int, mine: list[Request], answers: list[Answer]) -> None:
    """One connection, one request after another."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for one in mine:
        began = time.perf_counter()
        writer.write(one.content)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line[:15].lower() == b"content-length:")
        body = await reader.readexactly(length)
        answers.append(Answer(one, int(lines[0].split()[1]), body, time.perf_counter() - began))
        if b"connection: close" in head.lower():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def clients(port: int, requests: list[Request], count: int) -> tuple[list[Answer], float]:
    """The answers to all requests, shared out over so many clients, and how many seconds that took."""
    answers: list[Answer] = []
    began = time.perf_counter()
    await asyncio.gather(*(client(port, requests[i::count], answers) for i in range(count)))
    return answers, time.perf_counter() - began


# ---- servers


def started(run: str, *options: str) -> tuple[subprocess.Popen, int]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "wellfit", "serve", run, "--port", "0", *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    line = server.stdout.readline()
    return server, int(line.split("http://127.0.0.1:")[1].split(";")[0])


def used(server: subprocess.Popen) -> float:
    """Seconds that a server has had a processor; 0 where Linux does not tell."""
    try:
        parts = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def wrong(answers: list[Answer]) -> list[str]:
    """What is not as it must be."""
    told = []
    for one in answers:
        if one.status >= 500:
            told.append(f"{one.status}: {one.body[:200]!r} to {one.request.content[-80:]!r}")
        elif one.request.right is None:
            if not 400 <= one.status < 500 or "error" not in json.loads(one.body):
                told.append(f"{one.status} to the malformed {one.request.content[-80:]!r}")
        elif one.status != 200:
            told.append(f"{one.status} to a valid request: {one.body[:200]!r}")
        else:
            found = json.loads(one.body)["predictions"][0]
            name, sure = one.request.right
            if found["class"] != name or abs(found["confidence"] - sure) > CLOSE:
                told.append(f"{found} instead of {one.request.right}")
    return told


def valid(answers: list[Answer]) -> list[Answer]:
    return [one for one in answers if one.request.right is not None]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--run", help="a run of digits")
    arguments.add_argument("--clients", type=int, default=50)
    arguments.add_argument("--requests", type=int, default=3000, help="of all clients, a round")
    arguments.add_argument("--alone", type=int, default=400, help="of the one client, a round")
    arguments.add_argument("--malformed", type=float, default=0.1)
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        run = chosen.run or str(
            wellfit.fit_recipe("digits", set={"training.epochs": 5}, folder=Path(place) / "digits", quiet=True).folder
        )
        many, single = asked(run, chosen.requests, chosen.malformed), asked(run, chosen.alone, 0)
        together, port = started(run)
        apart, port_apart = started(run, "--max-batch", "1", "--max-wait-ms", "0")
        try:
            for warm in (port, port_apart):
                asyncio.run(clients(warm, single[:100], 1))
            answers, ratios = [], []
            spent = [used(together), used(apart)]
            for number in range(chosen.rounds):
                alone, seconds = asyncio.run(clients(port_apart, single, 1))
                slow = len(alone) / seconds
                found, seconds = asyncio.run(clients(port, many, chosen.clients))
                fast = len(valid(found)) / seconds
                print(
                    f"round {number + 1}: {fast:,.0f} valid answers a second, one at a time {slow:,.0f}: {fast / slow:.2f} times"
                )
                answers += [*found, *alone]
                ratios.append(fast / slow)
            late = sorted(one.seconds for one in valid(found))
            once = sorted(one.seconds for one in alone)
            counts = (len(many) * chosen.rounds, len(single) * chosen.rounds)
            costs = [1000 * (used(s) - t) / n for s, t, n in zip((together, apart), spent, counts, strict=True)]
        finally:
            for server in (together, apart):
                server.send_signal(signal.SIGTERM)
        left = [server.wait(60) for server in (together, apart)]
    faults, ratio = wrong(answers), statistics.median(ratios)
    statuses: dict[int, int] = {}
    for one in answers:
        statuses[one.status] = statuses.get(one.status, 0) + 1
    print(f"{chosen.clients} clients, {chosen.malformed:.0%} malformed; statuses: {dict(sorted(statuses.items()))}")
    for name, times, cost in (("together", late, costs[0]), ("one at a time", once, costs[1])):
        p50, p99 = (1000 * times[min(len(times) - 1, int(share * len(times)))] for share in (0.5, 0.99))
        print(f"{name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms; {cost:.2f} ms of a processor for each request")
    print(f"ended by SIGTERM with {left[0]} and {left[1]}; {os.cpu_count()} cores, torch {torch.__version__}")
    for fault in faults[:10]:
        print(f"WRONG: {fault}")
    passed = {
        "no 5xx": not any(one.status >= 500 for one in answers),
        f"all {len(answers):,} answers right": not faults,
        f"throughput {ratio:.2f} times (median of {chosen.rounds}, at least {FASTER:g})": ratio >= FASTER,
        "leaves with 0": left == [0, 0],
    }
    for what, good in passed.items():
        print(f"{'pass' if good else 'FAIL'}: {what}")
    return int(not all(passed.values()))


if __name__ == "__main__":
    sys.exit(main())
