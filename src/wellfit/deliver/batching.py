"""Requests that come at the same time go through the network together.

One thread owns the network. Whenever it is free it takes what is waiting, up to so many inputs, and waits a moment for more
where there is room. Each asker gets the answers to its own inputs. What one of them asked is no concern of the others: where
a batch raises an error, or leaves a remark, it is taken apart and each request is answered by itself, so that the error or
remark goes to the one whom it concerns.

Nothing here knows of HTTP, nor of what is answered.

    >>> batcher = Batcher(lambda inputs, choices: [x * 2 for x in inputs], most=64, wait=0.002, room=1000)
    >>> answers, remarks = await batcher.ask([1, 2])
"""

import asyncio
import contextlib
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Answers = tuple[list[Any], list[str]]  # one answer for each input, and what is to be known of them


class Overloaded(Exception):
    """There is no room for one more to wait."""


@dataclass
class Asked:
    """What one asks, and where the answer is awaited."""

    inputs: Sequence[Any]
    choices: Mapping[str, Any]
    future: "asyncio.Future[Answers]"
    loop: asyncio.AbstractEventLoop


@dataclass
class Counts:
    """What was done so far."""

    batches: int = 0
    together: dict[int, int] = field(default_factory=dict)  # inputs in a batch -> how many such batches


class Batcher:
    """`answer(inputs, choices)` in a thread of its own, for many askers at once.

    `most`: inputs that go together; one request with more goes alone. `wait`: seconds to wait for more. `room`: inputs that
    may wait. `apart`: requests are never put together.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Any], Mapping[str, Any]], list[Any]],
        *,
        most: int,
        wait: float,
        room: int,
        apart: bool = False,
    ):
        self.answer, self.most, self.wait, self.room, self.apart = answer, most, wait, room, apart
        self.counts = Counts()
        self._waiting: deque[Asked] = deque()
        self._inputs = 0  # that are waiting
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="network", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Inputs that wait for the network."""
        return self._inputs

    async def ask(self, inputs: Sequence[Any], choices: Mapping[str, Any] | None = None) -> Answers:
        """The answers to these inputs. Raises Overloaded, or what `answer` raises of them alone."""
        loop = asyncio.get_running_loop()
        asked = Asked(inputs, choices or {}, loop.create_future(), loop)
        with self._changed:
            if self._closing or (self._waiting and self._inputs + len(inputs) > self.room):
                raise Overloaded
            self._waiting.append(asked)
            self._inputs += len(inputs)
            self._changed.notify()
        return await asked.future

    def close(self) -> None:
        """Answers what is waiting, and ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    # ---- in the network's thread

    def _work(self) -> None:
        while True:
            together = self._next()
            if not together:
                return
            self._tell(self._answered(together))

    def _next(self) -> list[Asked]:
        """The requests of the next batch; none when it is time to end."""
        with self._changed:
            while not self._waiting:
                if self._closing:
                    return []
                self._changed.wait()
            first = self._taken()
            together, count = [first], len(first.inputs)
            until = time.monotonic() + self.wait
            while count < self.most and not self.apart:
                if not self._waiting:
                    left = until - time.monotonic()
                    if left <= 0 or self._closing or not self._changed.wait(left):
                        break
                    continue
                following = self._waiting[0]
                if following.choices != first.choices or count + len(following.inputs) > self.most:
                    break
                together.append(self._taken())
                count += len(following.inputs)
        self.counts.batches += 1
        self.counts.together[count] = self.counts.together.get(count, 0) + 1
        return together

    def _taken(self) -> Asked:
        asked = self._waiting.popleft()
        self._inputs -= len(asked.inputs)
        return asked

    def _answered(self, together: list[Asked]) -> list[tuple[Asked, Answers | Exception]]:
        whole = self._called([one for asked in together for one in asked.inputs], together[0].choices)
        if len(together) == 1:
            return [(together[0], whole)]
        if isinstance(whole, Exception) or whole[1]:  # whose it is shows when each is asked alone
            return [(asked, self._called(asked.inputs, asked.choices)) for asked in together]
        told: list[tuple[Asked, Answers | Exception]] = []
        start = 0
        for asked in together:
            told.append((asked, (whole[0][start : start + len(asked.inputs)], [])))
            start += len(asked.inputs)
        return told

    def _called(self, inputs: Sequence[Any], choices: Mapping[str, Any]) -> Answers | Exception:
        """Answers and remarks, or what went wrong; as many answers as inputs."""
        try:
            with _remarks() as remarks:
                answers = self.answer(inputs, choices)
        except Exception as error:  # it is the asker's, whatever it is
            return error
        return answers, list(dict.fromkeys(remarks))

    def _tell(self, told: list[tuple[Asked, Answers | Exception]]) -> None:
        """Each its own, in the loop that it waits in; one call a batch, for each costs a wake-up."""

        def tell() -> None:
            for asked, answers in told:
                if asked.future.done():  # nobody waits any more
                    continue
                if isinstance(answers, Exception):
                    asked.future.set_exception(answers)
                else:
                    asked.future.set_result(answers)

        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it all who waited
            told[0][0].loop.call_soon_threadsafe(tell)


@contextlib.contextmanager
def _remarks() -> Iterator[list[str]]:
    """What this thread warns of meanwhile. Python's warnings are the process's: those of other threads go where they went before."""
    told: list[str] = []
    here, elsewhere = threading.get_ident(), warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if threading.get_ident() != here:
            elsewhere(message, category, *where, **more)
        elif issubclass(category, UserWarning):
            told.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield told
