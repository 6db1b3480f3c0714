"""Group commit: what several threads want written at the same time becomes one transaction.

Whoever comes while nobody writes, writes at once: for itself and for everybody who waits by then.
No timer, so that a single writer waits for nobody. Nobody may be answered before the transaction of
their work is durable, and nothing here knows what is written.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from primum.domain.errors import Conflict, PrimumError, Tampered, Unavailable

GROUP_MAX = 256  # Works of one transaction: other processes wait for its end.

Work = TypeVar("Work")


@dataclass(frozen=True, slots=True)
class Done:
    """What a work came to: an answer, or the exception that it raised.

    Args:
        answer: What it returned.
        error: What it raised instead, or ``None``.
    """

    answer: Any = None
    error: BaseException | None = None


class Order(Generic[Work]):
    """One thread's work, from the moment it is handed in until it is answered.

    Args:
        work: What to write, as the writer of the group understands it.
    """

    __slots__ = ("_bell", "done", "leads", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.done: Done | None = None
        self.leads = False
        self._bell = threading.Lock()
        self._bell.acquire()

    def wait(self) -> None:
        """Sleep until somebody rings."""
        self._bell.acquire()

    def ring(self) -> None:
        """Wake the thread that waits; once."""
        self._bell.release()


class Grouping(Generic[Work]):
    """Lets one thread at a time write for all who wait.

    Guarantees:
        Works are written in the order in which they were handed in. An answer is given after
        ``write`` and what it returned have ended: the next group may be written meanwhile. Whatever
        happens to the thread that writes, everybody whose work it took gets an answer or an error,
        and the next one may write.

    Args:
        write: Writes a group's works as one transaction and sets each order's ``done``; what it
            raises is everybody's. Returns what is still to be done before anybody is answered, and
            needs no turn.
    """

    def __init__(self, write: Callable[[Sequence[Order[Work]]], Callable[[], None]]) -> None:
        self._write = write
        self._mutex = threading.Lock()
        self._waiting: deque[Order[Work]] = deque()
        self._led = False

    def submit(self, work: Work) -> Any:
        """Have a work written; returns its answer, or raises what it raised.

        Raises:
            PrimumError: What ``write`` raised, for everybody in the group.
            Unavailable: If the thread that wrote for this one was interrupted.
        """
        order = Order(work)
        with self._mutex:
            order.leads = not self._led
            self._led = True
            if not order.leads:
                self._waiting.append(order)
        try:
            if not order.leads:
                order.wait()
            if order.leads:
                self._lead(order)
        except BaseException:  # Also an interrupt of a thread that waits: it must not hold others.
            self._leave(order)
            raise
        if order.done is None:
            raise _for_others(None)
        if order.done.error is not None:
            raise order.done.error
        return order.done.answer

    def _lead(self, leader: Order[Work]) -> None:
        with self._mutex:
            others = [
                self._waiting.popleft() for _ in range(min(len(self._waiting), GROUP_MAX - 1))
            ]
        group = [leader, *others]
        try:
            try:
                finish = self._write(group)
            finally:
                self._hand_on(leader)
            finish()
        except BaseException as error:
            for order in others:  # Nothing may be answered; each thread raises an error of its own.
                order.done = Done(error=_for_others(error))
            raise
        finally:
            for order in others:
                order.ring()

    def _hand_on(self, leader: Order[Work]) -> None:
        """Let the one that has waited longest write next."""
        with self._mutex:
            leader.leads = False
            following = self._waiting.popleft() if self._waiting else None
            self._led = following is not None
            if following is not None:
                following.leads = True
        if following is not None:
            following.ring()

    def _leave(self, order: Order[Work]) -> None:
        with self._mutex:
            if order in self._waiting:
                self._waiting.remove(order)
                return
        if order.leads:
            self._hand_on(order)


def _for_others(error: BaseException | None) -> PrimumError:
    """What one thread's error is to the others of its group."""
    if isinstance(error, Conflict | Tampered | Unavailable):
        return type(error)(str(error))
    return Unavailable("The write was interrupted. The same command may be repeated.")
