"""The work queue: names to look at, each once, each by one worker at a time.

The order of arrival within a due time; a name that is added while it is worked on is worked on
again afterwards. It knows no more of the names than that they are equal or not.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)
BACKOFF_SECONDS = 1.0
BACKOFF_SECONDS_MAX = 60.0  # A fault that lasts is not helped by asking more often.
_EXPONENT_MAX = 10


class WorkQueue(Generic[Item]):
    """A set of names with due times; safe to use from many threads.

    Args:
        monotonic: Seconds that only go forward.
        jitter: Factor by which waiting is spread, so that what failed together comes back apart.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),  # noqa: S311 - a jitter
    ) -> None:
        self._monotonic, self._jitter = monotonic, jitter
        self._due: dict[Item, float] = {}
        self._heap: list[tuple[float, int, Item]] = []
        self._numbers = itertools.count()
        self._working: set[Item] = set()
        self._failures: dict[Item, int] = {}
        self._changed = threading.Condition()
        self._closed = False

    def add(self, item: Item, *, seconds: float = 0.0) -> None:
        """Have a name looked at after that many seconds; an earlier due time stands."""
        with self._changed:
            due = self._monotonic() + seconds
            if due < self._due.get(item, float("inf")):
                self._due[item] = due
                heapq.heappush(self._heap, (due, next(self._numbers), item))
                self._changed.notify()

    def take(self, *, seconds: float) -> Item | None:
        """The next due name, which this worker now has; ``None`` if none came due in time."""
        end = self._monotonic() + seconds
        with self._changed:
            while not self._closed:
                found, wait = self._next()
                if found is not None:
                    self._working.add(found)
                    return found
                left = min(wait, end - self._monotonic())
                if left <= 0:
                    return None
                self._changed.wait(left)
            return None

    def done(self, item: Item) -> None:
        """This worker is through with a name, and it went well."""
        with self._changed:
            self._failures.pop(item, None)
            self._let_go(item)

    def failed(self, item: Item, *, seconds: float = 0.0) -> float:
        """This worker failed at a name: it comes back later, and later each time.

        Returns:
            In how many seconds, at least those asked for.
        """
        with self._changed:
            count = self._failures.get(item, 0)
            self._failures[item] = count + 1
            self._let_go(item)
            wait = BACKOFF_SECONDS * 2.0 ** min(count, _EXPONENT_MAX)
        wait = max(min(wait, BACKOFF_SECONDS_MAX) * self._jitter(), seconds)
        self._due.pop(item, None)  # What was heard meanwhile does not shorten the wait.
        self.add(item, seconds=wait)
        return wait

    def forget(self) -> None:
        """Drop everything that is not being worked on."""
        with self._changed:
            self._due.clear()
            self._heap.clear()
            self._failures.clear()

    def close(self) -> None:
        """Nobody is given anything any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def depth(self) -> int:
        """How many names are due now and not being worked on."""
        with self._changed:
            now = self._monotonic()
            return sum(1 for due in self._due.values() if due <= now)

    def _let_go(self, item: Item) -> None:
        self._working.discard(item)
        if item in self._due:
            self._changed.notify()

    def _next(self) -> tuple[Item | None, float]:
        """A name that is due and free, or how long until one may be."""
        held = []
        found, wait = None, float("inf")
        while self._heap:
            due, number, item = self._heap[0]
            if self._due.get(item) != due:
                heapq.heappop(self._heap)  # It was given an earlier time, or forgotten.
                continue
            if due > self._monotonic():
                wait = due - self._monotonic()
                break
            heapq.heappop(self._heap)
            if item in self._working:
                held.append((due, number, item))  # Its worker notifies when it is through.
                continue
            del self._due[item]
            found = item
            break
        for entry in held:
            heapq.heappush(self._heap, entry)
        return found, wait
