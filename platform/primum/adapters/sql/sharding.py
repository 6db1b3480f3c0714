"""Verifies a long ledger in several processes, each of which replays the entries of some accounts.

Every process reads for itself, in a transaction that begins after the caller's: entries are never
changed, and neither is a reservation that has ended, so that all of them see the same up to the
caller's last entry. What may still change is compared by the caller alone, in its own transaction.
A process that fails, dies or falls silent is an error, never a part that was intact.
"""

from __future__ import annotations

import contextlib
import enum
import os
import pickle
import selectors
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import sqlalchemy as sa

from primum.adapters.sql import replaying
from primum.adapters.sql.replaying import Accounts
from primum.domain.budget import verification
from primum.domain.budget.book import Head
from primum.domain.budget.shards import Ending
from primum.domain.budget.verification import Replay, Stated
from primum.domain.errors import Conflict, InvalidValue, PrimumError, Tampered, Unavailable

# Below, starting processes takes longer than what they save.
ENTRIES_FROM = 50_000
PROCESSES_MAX = 4  # Each takes a core and some 100 MB.
SILENT_SECONDS = 300.0  # A process says that it lives many times a second.
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_LENGTH = struct.Struct(">Q")
_READ_AT_ONCE = 1 << 16
_CHILD = ("-P", "-m", "primum.adapters.sql.shard_process")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # Nothing here uses more.
_KINDS = {kind.__name__: kind for kind in (Conflict, Tampered, Unavailable)}


@dataclass(frozen=True, slots=True)
class Sharding:
    """When and how far a verification is shared out.

    Args:
        processes: At most so many; 1 to stay in the caller's.
        entries_from: Shorter ledgers stay in the caller's process.
        silent_seconds: How long a process may say nothing.

    Raises:
        InvalidValue: If there would be no process.
    """

    processes: int
    entries_from: int = ENTRIES_FROM
    silent_seconds: float = SILENT_SECONDS

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise InvalidValue("processes", "must be at least 1", self.processes)


IN_PROCESS = Sharding(1)


def by_cores(limit: Path = _CONTAINER_LIMIT) -> Sharding:
    """As many processes as this one may use whole cores, up to 4.

    Args:
        limit: Where Linux says how much of the machine a container may use (cgroup v2).
    """
    usable = getattr(os, "sched_getaffinity", None)
    cores = float(len(usable(0)) if usable is not None else os.cpu_count() or 1)
    # A file that is not there, or says "max", limits nothing.
    with contextlib.suppress(OSError, ValueError):
        quota, period = map(int, limit.read_text(encoding="ascii").split())
        cores = min(cores, quota / period)
    return Sharding(max(1, min(int(cores), PROCESSES_MAX)))


class Depth(enum.Enum):
    """How much of an entry is looked at."""

    CHAIN = "Chain"  # numbers, links, times, keys and hashes
    MEANING = "Meaning"  # and what it makes of accounts and reservations


@dataclass(frozen=True, slots=True)
class Job:
    """What a process is to replay.

    Args:
        url: The database, with its password.
        accounts: Whose entries.
        end: Number of the last entry to look at.
        places: After which entries to say what balances are; ascending.
        depth: How much of each entry to look at.
    """

    url: str
    accounts: Accounts
    end: int
    places: tuple[int, ...]
    depth: Depth


@dataclass(frozen=True, slots=True)
class Changed:
    """Balances that changed since the last one, after an entry; none to say that it lives."""

    place: int
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a process could not go on."""

    kind: str
    text: str


def contradictions(
    connection: sa.Connection, head: Head, stated: Sequence[Stated], sharding: Sharding
) -> tuple[str, ...]:
    """What ``verification.contradictions`` finds in everything stored.

    Args:
        connection: A transaction that has been read in: it is older than those of the processes.
        head: The end of the chain in it.
        stated: Signed checkpoints.
        sharding: When and how far to share out.

    Raises:
        Unavailable: If a process or the database did not answer.
        Tampered: If the database's file is damaged.
    """
    end = replaying.last_entry(connection)
    places = tuple(sorted({i.checkpoint.seq for i in stated if 0 < i.checkpoint.seq <= end}))
    jobs = _jobs(connection, sharding, Depth.MEANING, end=end, places=places)
    with _started(jobs, silent_seconds=sharding.silent_seconds) as shards:
        cached = replaying.cached(connection, head)
        if not shards:
            return verification.contradictions(replaying.lines(connection), cached, stated)
        replay = Replay(shards, stated)
        replay.run(replaying.links(connection))
        return replay.conclusion(cached)


def chain_faults(connection: sa.Connection, head: Head, sharding: Sharding) -> tuple[str, ...]:
    """What ``verification.chain_faults`` finds; see ``contradictions``."""
    end = replaying.last_entry(connection)
    jobs = _jobs(connection, sharding, Depth.CHAIN, end=end)
    with _started(jobs, silent_seconds=sharding.silent_seconds) as shards:
        if not shards:
            return verification.chain_faults(replaying.lines(connection), head)
        replay = Replay(shards)
        replay.run(replaying.links(connection))
        return replay.conclusion(end=head)


def _jobs(
    connection: sa.Connection,
    sharding: Sharding,
    depth: Depth,
    *,
    end: int,
    places: tuple[int, ...] = (),
) -> list[Job]:
    """What each process is to do; nothing where the caller's is enough."""
    if sharding.processes == 1 or end < sharding.entries_from:
        return []
    ranges = replaying.accounts_shared(connection, shards=sharding.processes)
    url = connection.engine.url.render_as_string(hide_password=False)
    return [Job(url, accounts, end, places, depth) for accounts in ranges if len(ranges) > 1]


class _Elsewhere:
    """A shard that another process replays."""

    def __init__(self, *, silent_seconds: float) -> None:
        self._silent = silent_seconds
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, *_CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD},
                start_new_session=True,  # An interrupt is the caller's, who ends it.
            )
        except OSError as error:
            raise _unfinished(f"one that cannot be started ({error.strerror})") from None
        self._buffer = bytearray()
        self._ending: Ending | None = None

    def begin(self, job: Job) -> None:
        """Hand over what to do."""
        # The pipe stays open: its end tells the process that the caller is gone.
        try:
            send(cast(BinaryIO, self._process.stdin), job)
        except BrokenPipeError:
            raise _unfinished(f"one that ended with status {self._process.wait()}") from None

    def changed(self, seq: int) -> Mapping[str, str] | None:
        found: dict[str, str] = {}
        while (message := self._next()) is not None:
            found.update(message.texts)
            if message.place == seq:
                return found
        return None

    def ending(self) -> Ending:
        while self._ending is None:
            self._next()
        return self._ending

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _next(self) -> Changed | None:
        """What it says next; ``None`` after its ending."""
        if self._ending is not None:
            return None
        (size,) = _LENGTH.unpack(self._bytes(_LENGTH.size))
        message: Changed | Ending | Failed = pickle.loads(self._bytes(size))  # noqa: S301 - ours
        if isinstance(message, Failed):
            raise _KINDS.get(message.kind, Unavailable)(message.text)
        if isinstance(message, Changed):
            return message
        self._ending = message
        return None

    def _bytes(self, size: int) -> bytes:
        source = cast(BinaryIO, self._process.stdout).fileno()
        with selectors.DefaultSelector() as ready:
            ready.register(source, selectors.EVENT_READ)
            while len(self._buffer) < size:
                if not ready.select(self._silent):
                    raise _unfinished(f"one that said nothing for {self._silent:g} s")
                more = os.read(source, _READ_AT_ONCE)
                if not more:
                    raise _unfinished(f"one that ended with status {self._process.wait()}")
                self._buffer += more
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found


@contextlib.contextmanager
def _started(jobs: Sequence[Job], *, silent_seconds: float) -> Iterator[list[_Elsewhere]]:
    """Processes at work; ended afterwards, whatever happened."""
    shards: list[_Elsewhere] = []
    try:
        for _ in jobs:
            shards.append(_Elsewhere(silent_seconds=silent_seconds))
        for shard, job in zip(shards, jobs, strict=True):
            shard.begin(job)
        yield shards
    finally:
        for shard in shards:
            shard.end()


def send(target: BinaryIO, message: object) -> None:
    """Write a message so that its end can be told."""
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    target.write(_LENGTH.pack(len(content)) + content)
    target.flush()


def job_from(source: BinaryIO) -> Job:
    """Read the job that ``send`` wrote; waits for it."""
    (size,) = _LENGTH.unpack(source.read(_LENGTH.size))
    job: Job = pickle.loads(source.read(size))  # noqa: S301 - of the process that started this one
    return job


def _unfinished(found: str) -> PrimumError:
    return Unavailable(
        f"Processes that verify a part of the ledger must run to their end; found {found}. "
        "Nothing is known about it: verify it again."
    )
