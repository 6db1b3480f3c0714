"""Where a step's body may have parts of its work done: other workers of the same step, if any.

A body asks for what it was given; without anything it does all by itself. Parts are functions from
bytes and text to bytes, found by name, so that nothing is pickled that a body made. Light.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Protocol

from primum.domain.errors import InvalidValue


class FanOut(Protocol):
    """Other workers of the step."""

    def workers(self) -> int:
        """How many parts are worked on at once; 1 where nobody helps."""

    def map(self, entry: str, shared: bytes, items: Sequence[str]) -> list[bytes]:
        """Have a function called for every item.

        Args:
            entry: ``package.module:function``, from (shared, item) to bytes. It may run twice for
                one item, so it must have no effect besides its answer.
            shared: Handed out once per worker, not per item.
            items: One text per part.

        Returns:
            The answers, in the order of the items.

        Raises:
            Unavailable: If a part could not be done.
        """

    def map_once(self, entry: str, shared: bytes, items: Sequence[str]) -> list[bytes]:
        """As ``map``, but no item is ever begun twice: for parts that touch private data.

        Raises:
            Unavailable: If a part failed or was lost; the others are ended.
        """


class Alone:
    """Nobody helps: parts are done here, one after another."""

    def workers(self) -> int:
        """One."""
        return 1

    def map(self, entry: str, shared: bytes, items: Sequence[str]) -> list[bytes]:
        """See the protocol."""
        function = part_named(entry)
        return [function(shared, item) for item in items]

    def map_once(self, entry: str, shared: bytes, items: Sequence[str]) -> list[bytes]:
        """See the protocol."""
        return self.map(entry, shared, items)


_CURRENT: ContextVar[FanOut | None] = ContextVar("fan_out", default=None)


def current() -> FanOut:
    """What the body that runs here was given."""
    return _CURRENT.get() or Alone()


@contextlib.contextmanager
def using(fan_out: FanOut | None) -> Iterator[None]:
    """Give a body other workers for as long as the block takes."""
    held = _CURRENT.set(fan_out)
    try:
        yield
    finally:
        _CURRENT.reset(held)


def part_named(entry: str) -> Callable[[bytes, str], bytes]:
    """The function that does a part.

    Raises:
        InvalidValue: If the entry names none.
    """
    module, _, name = entry.partition(":")
    if not module or not name.isidentifier():
        raise InvalidValue("entry", "must be package.module:function", entry)
    function: Callable[[bytes, str], bytes] = getattr(importlib.import_module(module), name)
    return function


def work_part(entry: str, shared: bytes, item: str) -> bytes:
    """Do one part in a worker: what ``primum.step_runtime`` registers as ``work_part``."""
    return part_named(entry)(shared, item)
