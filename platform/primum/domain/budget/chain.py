"""The chain that entries form: numbers, links, times and hashes, as they come by in order.

What is found carries its place, so that several lookers at parts of one ledger together say what
one alone would say. Nothing here knows what an entry means, and nothing stops at the first fault.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from primum.domain.budget.book import HASH_OF_NOTHING, Head

FAULTS_MAX = 1000  # Sentences kept: a destroyed ledger needs no longer list.
AFTER_ALL = 1 << 61  # Places from here on are behind every entry.
_HASH_LETTERS = 64
_SUMMED_AT_ONCE = 1024  # Hashes; numpy adds them up in a tenth of the time.


class Fault(NamedTuple):
    """A contradiction, and where among the others it is told.

    Args:
        place: Sequence number of its entry; ``AFTER_ALL`` and more for what only the end shows.
        stage: Which of the looks at that entry found it.
        text: A sentence.
    """

    place: int
    stage: int
    text: str


class Link(NamedTuple):
    """What of an entry makes the chain."""

    seq: int
    prev_hash: str
    time: str
    hash: str


class Links:
    """Numbers, links and times of every entry, as they come by."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._seq, self._hash, self._time = 0, HASH_OF_NOTHING, ""

    @property
    def seq(self) -> int:
        """Number of the last entry."""
        return self._seq

    @property
    def head(self) -> Head:
        """Where the entries stand."""
        return Head(self._seq, self._hash, self._time)

    def take(self, link: Link) -> None:
        """Look at the next entry."""
        seq, before, time, digest = link
        # The recorded hash is carried on, so that one changed entry is one fault and not a fault in
        # all that follow.
        try:
            fits = seq == self._seq + 1 and before == self._hash and time >= self._time
            if not fits:
                self._differ(link)
            self._time = max(time, self._time)
        except TypeError:
            self.faults.append(damaged(seq))
        self._seq, self._hash = seq, digest

    def _differ(self, link: Link) -> None:
        seq = link.seq
        if seq != self._seq + 1:
            text = f"Entry {self._seq + 1} must be there; found entry {seq} after {self._seq}."
            self.faults.append(Fault(seq, 0, text))
        if link.prev_hash != self._hash:
            text = f"Entry {seq} must follow the hash of the entry before; found another."
            self.faults.append(Fault(seq, 0, text))
        if link.time < self._time:
            text = f"Entry {seq} must not be older than the entry before; found {link.time[:40]}."
            self.faults.append(Fault(seq, 0, text))


class Seen:
    """How many entries were looked at, and a fingerprint of which.

    Whoever looks at all of them in order, and those who share them out, come to the same one only
    if each entry was looked at once: it is the sum of their hashes, eight letters by eight, modulo
    2^64.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sums = np.zeros(8, np.uint64)
        self._new: list[str] = []

    def add(self, digest: str) -> None:
        """Count an entry by its recorded hash."""
        self._new.append(digest)
        if len(self._new) >= _SUMMED_AT_ONCE:
            self._sum()

    def join(self, other: Seen) -> None:
        """Count what another one looked at too."""
        other._sum()
        self._count += other._count
        self._sums = self._sums + other._sums

    def agrees(self, other: Seen) -> bool:
        """Whether the other one looked at exactly these entries, each once."""
        self._sum()
        other._sum()
        return self._count == other._count and bool((self._sums == other._sums).all())

    def _sum(self) -> None:
        new, self._new = self._new, []
        self._count += len(new)
        # Hashes that are none are damage that whoever looks at the entry says.
        text = b"".join([_letters(digest) for digest in new])
        words = np.frombuffer(text, np.uint64).reshape(-1, 8)
        self._sums = self._sums + words.sum(axis=0, dtype=np.uint64)


class Once:
    """Words that may come once each; kept as 24 bytes, so that a million take 24 MB.

    Equal words always have equal hashes.
    """

    def __init__(self) -> None:
        self._seqs = array("q")
        self._words = array("q")

    def add(self, seq: int, word: str) -> None:
        """Note the word of an entry.

        Python's hashes are keyed, so that nobody can make up words that share one; no other process
        has the same, and what was added so must not be joined.
        """
        self._words.append(hash(word))
        self._words.append(hash(f"{word}\0"))
        self._seqs.append(seq)

    def add_alike(self, seq: int, word: str) -> None:
        """Note the word of an entry, in every process alike: with 128 bits of BLAKE2b."""
        self._words.frombytes(hashlib.blake2b(word.encode(), digest_size=16).digest())
        self._seqs.append(seq)

    def join(self, other: Once) -> None:
        """Note every word that was added alike in another process."""
        self._words += other._words
        self._seqs += other._seqs

    def repeated(self) -> Iterator[tuple[int, int]]:
        """(Number of an entry, number of the entry that had its word before), by number."""
        words = np.frombuffer(self._words, dtype=np.int64).reshape(-1, 2)
        seqs = np.frombuffer(self._seqs, dtype=np.int64)
        order = np.lexsort((seqs, words[:, 1], words[:, 0]))
        same = (words[order[1:]] == words[order[:-1]]).all(axis=1)
        places = np.flatnonzero(same)
        yield from sorted((int(seqs[order[at + 1]]), int(seqs[order[at]])) for at in places)


def _letters(digest: str) -> bytes:
    if type(digest) is str and len(digest) == _HASH_LETTERS and digest.isascii():
        return digest.encode()
    return hashlib.sha256(repr(digest).encode()).hexdigest().encode()


def damaged(seq: int) -> Fault:
    """An entry holds something else than text."""
    return Fault(seq, 0, f"Entry {seq} must be readable; found damaged text.")


def told(faults: Iterable[Fault]) -> list[str]:
    """Sentences in the order in which one looker finds them, each once, at most 1000."""
    ordered = sorted(faults, key=lambda fault: fault[:2])
    return list(dict.fromkeys(fault.text for fault in ordered))[:FAULTS_MAX]


def is_enough(faults: Sequence[Fault]) -> bool:
    """Whether nobody needs to look further."""
    return len(faults) >= FAULTS_MAX
