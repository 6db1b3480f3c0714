"""Whether the record is intact: verification on request, and what is known since the last one.

What was found is kept by the process that looked, and by nothing else: a note beside the ledger
could be forged together with it. Whoever needs more than this process' word takes a checkpoint or
a bundle elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from primum.application import checkpointing
from primum.application.platform import Platform
from primum.application.searching import Order, Search, find
from primum.domain.budget import checkpoints
from primum.domain.budget.book import HASH_OF_NOTHING, hash_of
from primum.domain.budget.entries import Entry, EntryKind
from primum.domain.errors import Conflict, PrimumError, Tampered

SHOWN_MAX = 1000  # Contradictions kept; one is enough to act on.


@dataclass(frozen=True, slots=True)
class Verified:
    """What one verification found.

    Args:
        seq: Number of the last entry that it covers.
        head: Its hash.
        time: When it ended.
        contradictions: What contradicts; nothing for an intact record.
        found: How many contradictions there were.
    """

    seq: int
    head: str
    time: str
    contradictions: tuple[str, ...]
    found: int

    @property
    def intact(self) -> bool:
        """Whether nothing contradicts."""
        return not self.found


@dataclass(frozen=True, slots=True)
class SignedPlace:
    """The newest checkpoint in the ledger.

    Args:
        seq: The entry it states; 0 where none was found or it cannot be believed.
        time: When it was signed.
        fault: Why it cannot be believed, or empty.
    """

    seq: int
    time: str
    fault: str = ""


class Verifications:
    """Runs verifications and remembers the last one.

    Args:
        platform: The ports; nothing is written.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._running = threading.Lock()
        self._last: Verified | None = None
        self.since = platform.clock.now()

    @property
    def last(self) -> Verified | None:
        """What the last verification of this process found; ``None`` if none ran yet."""
        return self._last

    def run(self) -> Verified:
        """Recompute the chain and every balance from the entries, and meet every checkpoint.

        Raises:
            Conflict: If one is under way.
        """
        if not self._running.acquire(blocking=False):
            raise Conflict("verification must run once at a time; found one under way. Wait for it")
        try:
            ledger = self._platform.ledger
            seq, head = ledger.head()  # Before it: what comes meanwhile is not claimed.
            found = ledger.verify(public_key=self._platform.signer.public_key())
            last = Verified(
                seq, head, self._platform.clock.now(), tuple(found[:SHOWN_MAX]), len(found)
            )
            self._last = last
            return last
        finally:
            self._running.release()

    def signed(self) -> SignedPlace | None:
        """The newest checkpoint that the ledger keeps; ``None`` where none is near its end."""
        kinds = (EntryKind.CHECKPOINT,)
        try:
            page = find(self._platform.ledger, Search(kinds=kinds), order=Order.NEWEST, limit=1)
        except Tampered as error:
            return SignedPlace(0, "", str(error))
        if not page.items:
            return None
        entry = page.items[0].entry
        try:
            envelope = checkpoints.envelope_in(entry.payload, seq=entry.seq)
            stated = checkpointing.opened(envelope, self._platform.signer.public_key())
        except PrimumError as error:
            return SignedPlace(0, entry.time, str(error))
        return SignedPlace(stated.seq, stated.time)


def altered(entries: Sequence[Entry]) -> frozenset[int]:
    """Numbers of those entries whose content does not give their hash, or whose link is broken.

    A look at single entries; only a verification says that a record is intact.

    Args:
        entries: In any order; links are checked between neighbors that are both there.
    """
    by_seq = {entry.seq: entry for entry in entries}
    wrong = set()
    for entry in entries:
        before = by_seq.get(entry.seq - 1)
        link = HASH_OF_NOTHING if entry.seq == 1 else before.hash if before else entry.prev_hash
        if hash_of(entry) != entry.hash or link != entry.prev_hash:
            wrong.add(entry.seq)
    return frozenset(wrong)
