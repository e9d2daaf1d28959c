"""Which curves a run has, as figures: what the page draws as SVG and the script draws live.

Nothing is judged here and nothing is drawn; a figure without anything to show is left out.

    >>> [figure.title for figure in figures(run.recipe, run.events())]
    ['Loss', 'Validation accuracy', 'Learning rate', 'Gradient norm, before clipping', 'Samples per second', ...]
"""

from collections.abc import Sequence

from wellfit.events import Evaluated, Event, Paced, Stepped
from wellfit.recipe import Recipe
from wellfit.report import curves, words
from wellfit.report.curves import Figure, Line, Point


def figures(recipe: Recipe, events: Sequence[Event]) -> list[Figure]:
    """Loss, validation metrics, learning rate, gradient norm, throughput: those of which there is something to show."""
    steps = [event for event in events if isinstance(event, Stepped)]
    paces = [event for event in events if isinstance(event, Paced)]
    valid = words.evaluations(events)
    scores: dict[str, list[Point]] = {}
    for event in valid:
        for name, value in event.metrics.items():
            scores.setdefault(name, []).append((event.step, value))

    loss = _with_mean("training", [(s.step, s.loss) for s in steps], "training, ")
    norms = _with_mean("gradient norm", [(s.step, s.grad_norm) for s in steps])
    held_out = (Line("validation", scores.pop("loss"), "accent"),) if "loss" in scores else ()
    limit = recipe.training.max_grad_norm
    rates = Line("learning rate", [(s.step, s.learning_rate) for s in steps])
    pace = Line("samples per second", [(p.step, p.samples_per_second) for p in paces])
    wait = Line("waiting", [(p.step, p.data_wait) for p in paces])
    memory = Line("memory", [(p.step, p.memory_bytes / 1e9) for p in paces if p.memory_bytes])

    measured: list[Stepped | Paced | Evaluated] = [*steps, *paces, *valid]
    span = (min(event.step for event in measured), max(event.step for event in measured)) if measured else None
    best = words.best_step(recipe, events)
    mark = (best, "best") if best is not None else None
    clipped = (limit, f"clipped to {words.number(limit)}") if limit else None
    drawn = [Figure("Loss", (*loss, *held_out), may_be_log=True, span=span, mark=mark)]
    for name, points in scores.items():
        told = words.plain(name)
        share = name in words.METRICS and words.METRICS[name].share
        drawn.append(Figure(f"Validation {told}", (Line(told, points, "accent"),), share, span=span, mark=mark))
    drawn += [
        Figure("Learning rate", (rates,), span=span),
        Figure("Gradient norm, before clipping", norms, may_be_log=True, span=span, level=clipped),
        Figure("Samples per second", (pace,), span=span),
        Figure("Time spent waiting for data", (wait,), share=True, span=span),
        Figure("Peak memory, GB", (memory,), span=span),
    ]
    return [figure for figure in drawn if any(line.points for line in figure.lines)]


# ---- inside


def _with_mean(label: str, points: list[Point], prefix: str = "") -> tuple[Line, ...]:
    """The curve, and its running mean where it is long enough to have one."""
    mean = curves.smooth(points)
    if mean == points:
        return (Line(label, points),)
    return Line(f"{prefix}each step", points, "faint"), Line(f"{prefix}smoothed", mean)
