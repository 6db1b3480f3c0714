"""Is the record intact? Recomputes the chain and all that follows from it; names what contradicts.

It must not trust anything but the entries and what was signed elsewhere, and must go on after the
first fault, so that an officer sees the extent. What entries mean is replayed in shards of accounts
(``shards``); here they are joined, and held against what stands beside the entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from primum.domain.budget.book import Account, Head
from primum.domain.budget.chain import (
    FAULTS_MAX,
    Fault,
    Link,
    Links,
    Seen,
    is_enough,
    told,
)
from primum.domain.budget.checkpoints import AccountsDigest, Checkpoint
from primum.domain.budget.lines import Line
from primum.domain.budget.shards import Chained, Ending, Shard, Stored, compared, joined

_MET = 4  # After what the entry itself shows.


@dataclass(frozen=True, slots=True)
class Cached:
    """What a store keeps beside the entries, to be compared with their replay.

    Args:
        head: The end of the chain.
        accounts: Every account.
        reservations_of: The reservations of these ids, by id, those that are there; an error in
            place of one that cannot be read.
        strays: Ids of reservations that no entry names.
        identities: Every (identity, account id) under which a dataset is looked up.
        faults: What could not be read at all, as sentences.
    """

    head: Head
    accounts: Sequence[Account]
    reservations_of: Stored
    strays: Sequence[str]
    identities: Sequence[tuple[str, str]]
    faults: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Stated:
    """A checkpoint whose signature holds, and where it was found."""

    checkpoint: Checkpoint
    source: str


class Replayed(Protocol):
    """A shard that is replayed here or in another process."""

    def changed(self, seq: int) -> Mapping[str, str] | None:
        """What balances are after an entry, as ``Shard.changed`` says; in order of the entries.

        Returns:
            ``None`` if the shard had found enough before.
        """
        ...

    def ending(self) -> Ending:
        """What it has come to after its last entry."""
        ...


class Here:
    """Replays entries in this process: one shard of every account.

    Args:
        shard: What replays them.
    """

    def __init__(self, shard: Shard | Chained) -> None:
        self._shard = shard

    def fed(self, lines: Iterable[Line]) -> Iterator[Link]:
        """The links of entries, each after the shard has looked at it; until that has enough."""
        shard = self._shard
        for line in lines:
            shard.take(line)
            yield link_of(line)
            if shard.has_enough:
                return

    def changed(self, seq: int) -> Mapping[str, str]:
        """What balances changed since the last call."""
        del seq
        return self._shard.changed()

    def ending(self) -> Ending:
        """What the shard has come to."""
        return self._shard.finish()


class Replay:
    """Every entry of a ledger: their links one after another, and what their shards make of them.

    Args:
        shards: What replays the entries; each entry belongs to one of them.
        stated: Signed checkpoints to be met on the way.
    """

    def __init__(self, shards: Sequence[Replayed], stated: Sequence[Stated] = ()) -> None:
        self._shards = shards
        self._links = Links()
        self._seen = Seen()
        self._digest = AccountsDigest()
        self._met: list[Fault] = []
        self._stopped = False
        self._stated: dict[int, list[Stated]] = {}
        for item in stated:
            self._stated.setdefault(item.checkpoint.seq, []).append(item)
        self._meet()

    @property
    def head(self) -> Head:
        """Where the entries stand."""
        return self._links.head

    @property
    def found(self) -> int:
        """How many contradictions were found so far, but for those within shards."""
        return len(self._links.faults) + len(self._met)

    def run(self, links: Iterable[Link]) -> None:
        """Look at every entry, until enough is found."""
        for link in links:
            self.take(link)
            if self._stopped:
                return

    def take(self, link: Link) -> None:
        """Look at the next entry."""
        self._links.take(link)
        self._seen.add(link.hash)
        if link.seq in self._stated:
            for shard in self._shards:
                texts = shard.changed(link.seq)
                self._stopped |= texts is None
                self._digest.put(texts or {})
            if not self._stopped:
                self._meet()
        if is_enough(self._links.faults):
            self._stopped = True

    def conclusion(
        self, cached: Cached | None = None, *, end: Head | None = None
    ) -> tuple[str, ...]:
        """Every contradiction, after the last entry.

        Args:
            cached: What a store keeps beside the entries; ``None`` where there is nothing else, or
                where it is not asked.
            end: Where the entries have to end where nothing is cached; ``None`` where nothing says
                so.

        Returns:
            Sentences, at most 1000; nothing for an intact ledger. The same for the same entries,
            however they are shared out among shards.
        """
        whole = joined([shard.ending() for shard in self._shards])
        found = told([*self._links.faults, *whole.faults, *self._met])
        if not self._stopped and not whole.stopped and not self._seen.agrees(whole.seen):
            found.append("Every entry must be read alike; found others at a second reading.")
        if cached is not None:
            found += [text for _, text in compared(whole.still_open, cached.reservations_of)]
        found += self._missed()
        if cached is not None:
            end = cached.head
            found += cached.faults
        if end is not None and (end.seq, end.hash) != (self.head.seq, self.head.hash):
            found.append(
                f"The chain must end at entry {end.seq} as the head says; found its end at "
                f"{self.head.seq}."
            )
        if cached is not None:
            found += _differences(whole.accounts, cached)
        return tuple(found[:FAULTS_MAX])

    def _meet(self) -> None:
        """Compare with what was stated about this place."""
        head = self._links.head
        for item in self._stated.pop(head.seq, ()):
            if item.checkpoint.hash != head.hash:
                text = (
                    f"Entry {head.seq} must be the one that {item.source} states; "
                    "found another hash."
                )
                self._met.append(Fault(head.seq, _MET, text))
            elif item.checkpoint.accounts != self._digest.value():
                text = (
                    f"Balances after entry {head.seq} must be what {item.source} states; "
                    "found others."
                )
                self._met.append(Fault(head.seq, _MET, text))

    def _missed(self) -> Iterator[str]:
        end = self._links.seq
        for seq in sorted(self._stated):
            for item in self._stated[seq]:
                found = f"its end at {end}" if seq > end else "none"
                yield (
                    f"The ledger must hold entry {seq}, which {item.source} states; found {found}."
                )


def link_of(line: Line) -> Link:
    """What of a stored entry makes the chain."""
    return Link(line.seq, line.prev_hash, line.time, line.hash)


def chain_faults(lines: Iterable[Line], end: Head | None = None) -> tuple[str, ...]:
    """What contradicts in the entries' numbers, links, times, keys and hashes alone.

    Args:
        lines: Every entry, by sequence number.
        end: Where they have to end; ``None`` where nothing says so.

    Returns:
        Sentences, at most 1000.
    """
    here = Here(Chained())
    replay = Replay([here])
    replay.run(here.fed(lines))
    return replay.conclusion(end=end)


def contradictions(
    lines: Iterable[Line], cached: Cached, stated: Sequence[Stated] = ()
) -> tuple[str, ...]:
    """Every contradiction between the entries themselves and between them and what is cached.

    Args:
        lines: Every entry, by sequence number.
        cached: What the store keeps beside them.
        stated: Signed checkpoints, from entries and from outside.

    Returns:
        Sentences, at most 1000; nothing for an intact ledger.
    """
    here = Here(Shard(cached.reservations_of))
    replay = Replay([here], stated)
    replay.run(here.fed(lines))
    return replay.conclusion(cached)


def _differences(replayed: Mapping[str, Account], cached: Cached) -> Iterator[str]:
    accounts = {account.account_id: account for account in cached.accounts}
    for account_id in sorted({*accounts, *replayed}, key=str):
        if accounts.get(account_id) != replayed.get(account_id):
            yield f"Account {account_id} must be what its entries say; found another balance."
    for reservation_id in cached.strays:
        yield (
            f"Reservation {reservation_id} must be what its entries say; found one without entries."
        )
    wanted = {(item, a.account_id) for a in replayed.values() for item in a.identities}
    if wanted != set(cached.identities):
        yield "Datasets must be looked up under the identities their entries say; found others."
