"""Resources: memory that grows, steps that wait, an accelerator that idles."""

import itertools
import statistics
from collections.abc import Iterator

from wellfit.doctor.finding import Finding, find
from wellfit.doctor.history import History

STRAIGHT = (
    0.95  # how much of the growth a straight line explains: what is kept at every step grows so, an allocator does not
)


def memory_growing(h: History) -> Iterator[Finding]:
    seen = [(v.values["steps"], v.values["resident"]) for v in h.all("memory", "process") if v.values["resident"] > 0]
    seen = [pair for pair in seen if pair[0] > 4]
    if len(seen) < 8:
        return
    late = seen[len(seen) // 3 :]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(late) if b[0] > a[0]]
    grew = sum(gain > 0 for _, gain in steps)
    total, span = late[-1][1] - late[0][1], late[-1][0] - late[0][0]
    half = len(late) // 2
    first, second = late[half][1] - late[0][1], late[-1][1] - late[half][1]
    straight = statistics.correlation([float(s) for s, _ in late], [b for _, b in late]) ** 2 if total > 0 else 0.0
    if (
        len(steps) >= 5
        and straight > STRAIGHT
        and grew >= 0.8 * len(steps)
        and total > 24e6
        and first > 0.25 * total
        and second > 0.25 * total
    ):
        yield find(
            "memory-growing", int(late[0][0]),
            f"The process's memory grew by {total / 1e6:.0f} MB in {span:.0f} steps ({total / span / 1e3:.0f} kB a step), and goes on growing.",
            {"bytes": total, "steps": span, "bytes_per_step": total / span}, confidence=0.85,
        )  # fmt: skip


def input_pipeline_slow(h: History) -> Iterator[Finding]:
    if h.waited_steps < 20:
        return
    spent, waited = h.spent / h.waited_steps, h.waited / h.waited_steps
    share = waited / spent if spent else 0.0
    process = h.latest("memory", "process")
    if process is not None:  # what other programs took of the processor is not the pipeline's
        waited *= max(0.0, 1 - process.values.get("crowded", 0.0))
    if share > 0.5 and waited > 0.003:
        yield find(
            "input-pipeline-slow", 1,
            f"{share:.0%} of the time of a step, {waited * 1e3:.1f} of {spent * 1e3:.1f} ms, passes waiting for the batch.",
            {"share": share, "wait_seconds": waited, "step_seconds": spent, "threshold": 0.5}, confidence=0.9,
            severity="warning" if share > 0.6 and waited > 0.01 else "",
        )  # fmt: skip


def accelerator_idle(h: History) -> Iterator[Finding]:
    used = [p.utilization for p in h.paces if p.utilization is not None]
    used += [v.values["utilization"] for v in h.all("accelerator")]
    if len(used) >= 5 and statistics.median(used) < 0.4:
        yield find(
            "accelerator-idle", 1, f"The accelerator was busy {statistics.median(used):.0%} of the time.",
            {"utilization": statistics.median(used), "threshold": 0.4}, confidence=0.8,
        )  # fmt: skip
