"""The doctor: histories, the rules that read them, and what was found.

It takes events (live, or from a recorded run), asks the rules that the news concerns, and reports each id once, at its
onset. It never touches a tensor, and knows nothing of where the events come from.

    >>> doctor = Doctor(on_finding=print)
    >>> for event in run.events(): doctor.see(event)
    >>> doctor.end()
    >>> [finding.id for finding in doctor.findings()]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from wellfit.doctor.finding import Finding, ranked
from wellfit.doctor.history import History
from wellfit.doctor.rules import EXPLAINS, RULES, Rule
from wellfit.events import Ended, Event, Noted, Saved, Stepped, Vitals

EVERY = 16  # steps between two askings of the rules on whole curves, at first


class Doctor:
    """Findings on one program or run."""

    def __init__(self, on_finding: Callable[[Finding], None] | None = None):
        self.on_finding = on_finding
        self.histories: dict[str, History] = {}
        self.failures: list[str] = []
        self._found: dict[str, Finding] = {}
        self._news: dict[str, set[str]] = {}
        self._next: dict[str, int] = {}
        self._level: dict[str, float] = {}
        self._swing: dict[str, float] = {}
        self._odd: dict[str, int] = {}

    # ---- what happens

    def see(self, event: Event, of: str = "") -> None:
        """Takes an event of the training named `of`."""
        if isinstance(event, Ended):
            self.finished(of)
        elif isinstance(event, Vitals):
            name = of or event.of
            self.history(name).add(event)
            self._news.setdefault(name, set()).add(event.about)
        elif not isinstance(event, Saved | Noted):
            self.history(of).add(event)
            if isinstance(event, Stepped):
                self.odd(of, event.loss)
                self.examine(of)

    def stepped(self, of: str, event: Stepped, seconds: float, waited: float) -> None:
        """A step of a watched program, with the time it took and the part of it spent on waiting for data."""
        history = self.history(of)
        history.add(event)
        if event.step > 4 and math.isfinite(seconds):
            waited = min(seconds, max(waited, history.gap))
            history.spent, history.waited, history.waited_steps = (
                history.spent + seconds,
                history.waited + waited,
                history.waited_steps + 1,
            )
        history.gap = 0.0

    def passed(self, of: str, steps: list[tuple[int, float, float]]) -> None:
        """Steps of a watched program in which nothing but step, loss and learning rate were read."""
        self.history(of).passed(steps)

    def waited(self, of: str, seconds: float) -> None:
        """Time between the end of a step and the first forward pass of the next."""
        self.history(of).gap = seconds

    def odd(self, of: str, loss: float) -> bool:
        """Whether a loss is far from the ones before, so that the next steps deserve a look."""
        level = self._level.get(of)
        if not math.isfinite(loss):
            self._odd[of] = self._odd.get(of, 0) + 1
            return self._odd[of] < 24
        self._level[of] = loss if level is None else 0.9 * level + 0.1 * loss
        away, swing = abs(loss - level) if level is not None else 0.0, self._swing.get(of, 0.0)
        self._swing[of] = 0.9 * swing + 0.1 * away
        far = level is not None and abs(loss) > 3 * abs(level) + 1e-3 and away > 6 * swing
        if far and self._odd.get(of, 0) < 24:
            self._odd[of] = self._odd.get(of, 0) + 1
            self._next[of] = min(self._next.get(of, 0), self.history(of).step + 5)
            return True
        return False

    def history(self, of: str) -> History:
        """What is remembered of a training."""
        if of not in self.histories:
            self.histories[of] = History(of)
        return self.histories[of]

    def examine(self, of: str) -> None:
        """Asks the rules that have news, and now and then those on whole curves."""
        history = self.histories.get(of)
        if history is None:
            return
        news = self._news.get(of)
        if news:
            self._news[of] = set()
            for about in sorted(news):
                self._ask(RULES.get(about, ()), history)
        if history.step >= self._next.get(of, EVERY):
            self._next[of] = history.step + max(EVERY, history.step // 2)
            self._ask(RULES["step"], history)

    def finished(self, of: str) -> None:
        """A training is over: what can be said of the whole is said."""
        history = self.histories.get(of)
        if history is None or history.ended:
            return
        history.ended = True
        history.evaluated_elsewhere = any(h is not history and h.names("evaluation") for h in self.histories.values())
        for about in (*history.told, "step", "end"):
            self._ask(RULES.get(about, ()), history)

    def end(self) -> None:
        """Everything is over."""
        for of in list(self.histories):
            self.finished(of)

    def failed(self, text: str) -> None:
        """The watching itself failed."""
        self.failures.append(text)

    # ---- what was found

    def findings(self) -> list[Finding]:
        """Causes first, the most important first, symptoms under them."""
        found = [f for f in self._found.values() if f.id != "loss-not-decreasing" or not self._explained(f)]
        return ranked(found, EXPLAINS)

    def trouble(self) -> bool:
        """Whether an error or warning was found."""
        return any(f.severity != "advice" for f in self._found.values())

    def _explained(self, flat: Finding) -> bool:
        """Whether another finding of the same training makes `loss-not-decreasing`, which is for no known cause, superfluous."""
        return any(
            f is not flat and f.severity != "advice" and flat.id not in EXPLAINS.get(f.id, ())
            for f in self._found.values()
        )

    def _ask(self, rules: tuple[Rule, ...], history: History) -> None:
        for rule in rules:
            for finding in rule(history):
                if finding.id not in self._found:
                    self._found[finding.id] = finding = replace(finding, of=history.of)
                    if self.on_finding is not None:
                        self.on_finding(finding)
