"""Several workers that make one training: what they share, and how they know that they agree.

Every unit is at exactly one worker. The first worker alone draws: one Poisson sample over the units
of all workers, and the noise, once, on the sum of all workers' clipped sums. Everybody moves by the
same bits, and a fingerprint of the weights shows after each step that they did. Nothing depends on
how many workers there are but the order of floating-point sums, and therefore no epsilon does.

Gradients before clipping never leave a worker: this is no data-parallel wrapper. Must not decide
about clipping, noise or data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import distributed, nn

from primum.domain.errors import InvalidValue, Unavailable

_FIRST = 0
_CPU = torch.device("cpu")
_CHUNK = 1 << 20  # Numbers of a fingerprint at once: 8 MB of products.
_ODD_MULTIPLIER = 2654435761  # Knuth's: far apart for neighbors, odd, so that no bit is lost.
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True)
class Place:
    """Which of all workers' units are here: those from ``first`` to ``first + own - 1``.

    Args:
        first: Number of the first.
        own: How many.
        total: Units of all workers together.
    """

    first: int
    own: int
    total: int

    def here(self, numbers: torch.Tensor) -> torch.Tensor:
        """Of some units those that are here, as they are numbered here.

        Args:
            numbers: int64 ``(k,)``, from 0 to ``total - 1``, rising.
        """
        ends = torch.tensor([self.first, self.first + self.own])
        low, high = torch.searchsorted(numbers, ends).tolist()
        return numbers[low:high] - self.first


class Group(Protocol):
    """The workers of one training, as one of them sees them. Everybody asks the same in turn."""

    rank: int
    count: int

    def place(self, own: int) -> Place:
        """Number the units of all workers, worker by worker."""

    def drawn(self, draw: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What the first worker draws; int64 ``(k,)``. Nobody else draws."""

    def sum_at_first(self, values: Sequence[torch.Tensor]) -> None:
        """Add everybody's tensors at the first worker, in place; elsewhere they are used up."""

    def spread(self, values: Sequence[torch.Tensor]) -> None:
        """Give everybody the first worker's tensors, in place, bit by bit."""

    def rows_at_first(self, values: torch.Tensor, place: Place) -> torch.Tensor:
        """Everybody's rows, one for each unit, in the order of all units; right at the first."""

    def told(self, say: Callable[[], bytes]) -> bytes:
        """What the first worker says. Nobody else is asked."""

    def tally(self, figures: Sequence[int]) -> list[list[int]]:
        """Everybody's whole numbers, worker by worker."""


class Alone:
    """One worker: a group without anybody to talk to."""

    rank = 0
    count = 1

    def place(self, own: int) -> Place:
        """All units are here."""
        return Place(0, own, own)

    def drawn(self, draw: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What it draws."""
        return draw()

    def sum_at_first(self, values: Sequence[torch.Tensor]) -> None:
        """They are the sum."""

    def spread(self, values: Sequence[torch.Tensor]) -> None:
        """They are there."""

    def rows_at_first(self, values: torch.Tensor, place: Place) -> torch.Tensor:  # noqa: ARG002
        """They are all rows."""
        return values

    def told(self, say: Callable[[], bytes]) -> bytes:
        """What it says."""
        return say()

    def tally(self, figures: Sequence[int]) -> list[list[int]]:
        """Its own numbers."""
        return [list(figures)]


class TorchGroup:
    """The workers of this process' ``torch.distributed`` group.

    With NCCL everything stays on the GPUs. Gloo gets copies in the CPU's memory, so that workers
    that share a GPU can talk, which NCCL refuses.

    Every call raises ``Unavailable`` where another worker is lost.
    """

    def __init__(self) -> None:
        self.rank = int(distributed.get_rank())
        self.count = int(distributed.get_world_size())
        on_gpu = "nccl" in str(distributed.get_backend())
        self._device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else _CPU

    def place(self, own: int) -> Place:
        """Number the units of all workers, worker by worker."""
        counts = [found[0] for found in self.tally([own])]
        return Place(sum(counts[: self.rank]), own, sum(counts))

    def drawn(self, draw: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What the first worker draws, sent to all."""
        numbers = draw() if self.rank == _FIRST else None
        size = self._sent(torch.tensor([0 if numbers is None else len(numbers)]))
        values = torch.empty(int(size), dtype=torch.int64) if numbers is None else numbers
        return self._sent(values)

    def sum_at_first(self, values: Sequence[torch.Tensor]) -> None:
        """One reduction for each kind of number."""
        for same in _by_kind(values):
            flat = self._flat(same)
            _asked(partial(distributed.reduce, flat, dst=_FIRST))
            if self.rank == _FIRST:
                _unflatten(flat, same)

    def spread(self, values: Sequence[torch.Tensor]) -> None:
        """One broadcast for each kind of number."""
        for same in _by_kind(values):
            flat = self._flat(same)
            _asked(partial(distributed.broadcast, flat, src=_FIRST))
            _unflatten(flat, same)

    def rows_at_first(self, values: torch.Tensor, place: Place) -> torch.Tensor:
        """Each worker's rows at their place among zeros, added: integers, so exact."""
        whole = torch.zeros((place.total, *values.shape[1:]), dtype=torch.int64)
        whole[place.first : place.first + place.own] = values.to(torch.int64)
        self.sum_at_first([whole])
        return whole.to(values.dtype)

    def told(self, say: Callable[[], bytes]) -> bytes:
        """What the first worker says, sent to all."""

        def said() -> torch.Tensor:
            return torch.tensor(list(say()), dtype=torch.int64)

        return bytes(self.drawn(said).tolist())

    def tally(self, figures: Sequence[int]) -> list[list[int]]:
        """Everybody's whole numbers below 2^63."""
        own = torch.tensor(list(figures), dtype=torch.int64, device=self._device)
        found = [torch.zeros_like(own) for _ in range(self.count)]
        _asked(partial(distributed.all_gather, found, own))
        return [item.tolist() for item in found]

    def _sent(self, values: torch.Tensor) -> torch.Tensor:
        held = values.to(self._device)
        _asked(partial(distributed.broadcast, held, src=_FIRST))
        return held.cpu()

    def _flat(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat([_plain(value).reshape(-1).to(self._device) for value in values])


def joined(*, workers: int) -> Group:
    """The group that this process is a worker of.

    Args:
        workers: How many the training was planned with.

    Raises:
        InvalidValue: If there are more or fewer, or the data-parallel group was never made.
    """
    there = distributed.is_available() and distributed.is_initialized()
    group: Group = TorchGroup() if there and distributed.get_world_size() > 1 else Alone()
    if group.count != workers:
        raise InvalidValue("workers", f"must be the {workers} that the Study asks for", group.count)
    return group


def begin(group: Group, module: nn.Module) -> None:
    """Give everybody the first worker's weights: nobody's own random ones, nor a plug-in's."""
    state = module.state_dict()
    group.spread([state[name] for name in sorted(state)])


def require_same(group: Group, figures: Sequence[int], *, what: str) -> None:
    """Refuse workers that do not see the same.

    Args:
        group: The workers.
        figures: Whole numbers that stand for what all must see, such as bytes of a digest.
        what: Its name, for people.

    Raises:
        InvalidValue: If one of them sees something else.
    """
    found = group.tally(figures)
    if any(item != found[_FIRST] for item in found):
        raise InvalidValue(what, "must be the same for every worker", "another at some worker")


def agree(
    group: Group,
    weights: Sequence[torch.Tensor],
    *,
    units: tuple[int, int],
    figures: Sequence[int],
) -> list[int]:
    """Give everybody the first worker's weights after a step, and see that all went as it must.

    Args:
        group: The workers.
        weights: What the first worker has moved.
        units: Units of the batch that were here, and those of the whole batch.
        figures: Whole numbers to add up.

    Returns:
        The sums of the figures.

    Raises:
        Unavailable: If weights differ, or the batch was not summed as it was drawn, each unit once.
    """
    if group.count == 1:
        return list(figures)
    group.spread(weights)
    found = group.tally([fingerprint(weights), units[1], units[0], *figures])
    if any(item[:2] != found[_FIRST][:2] for item in found):
        raise Unavailable("workers must hold the same weights after a step; found others")
    if sum(item[2] for item in found) != units[1]:
        raise Unavailable("workers must sum every drawn unit once; found another number")
    return [sum(item[3 + place] for item in found) for place in range(len(figures))]


def share(units: int, *, rank: int, count: int) -> range:
    """Numbers of the units that a worker gets: equal parts, each unit in exactly one.

    Args:
        units: Units of all workers.
        rank: Which worker, from 0.
        count: How many workers; no more than units.

    Raises:
        InvalidValue: If a worker would have none.
    """
    if units < count:
        raise InvalidValue("workers", "must be at most one for each unit", count)
    return range(units * rank // count, units * (rank + 1) // count)


def fingerprint(values: Iterable[torch.Tensor]) -> int:
    """A number over all bits of tensors, by whole numbers on their own device: exact anywhere.

    A checksum against workers that drift apart, not against somebody who wants a collision.
    """
    total = 0
    for place, value in enumerate(values):
        plain = _plain(value.detach()).contiguous().reshape(-1)
        bits = plain.view(_INTEGERS[plain.element_size()])
        found = torch.zeros((), dtype=torch.int64, device=bits.device)
        for start in range(0, len(bits), _CHUNK):
            piece = bits[start : start + _CHUNK].to(torch.int64)
            numbers = torch.arange(start + 1, start + 1 + len(piece), device=bits.device)
            found += (piece * (numbers * _ODD_MULTIPLIER | 1)).sum()
        total = (total * 31 + place + int(found)) & (2**63 - 1)
    return total


def _asked(ask: Callable[[], Any]) -> None:
    try:
        ask()
    except RuntimeError as error:
        # The library's text names addresses of machines.
        kind = type(error).__name__
        raise Unavailable(f"a worker of the training was lost ({kind})") from None


def _plain(value: torch.Tensor) -> torch.Tensor:
    """Complex numbers as pairs of real ones."""
    return torch.view_as_real(value) if value.is_complex() else value


def _by_kind(values: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    kinds: dict[torch.dtype, list[torch.Tensor]] = {}
    for value in values:
        kinds.setdefault(value.dtype, []).append(value)
    return list(kinds.values())


def _unflatten(flat: torch.Tensor, values: Sequence[torch.Tensor]) -> None:
    start = 0
    with torch.no_grad():
        for value in values:
            plain = _plain(value)
            plain.copy_(flat[start : start + plain.numel()].view(plain.shape))
            start += plain.numel()
