"""A process that replays the entries of some accounts, for one verification; see ``sharding``.

Started as ``python -m primum.adapters.sql.shard_process``; reads its job from standard input and
answers on standard output. Ends with the process that started it. It must not write anything else,
anywhere.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from typing import BinaryIO

import sqlalchemy as sa

from primum.adapters.processes import short_lived
from primum.adapters.sql import replaying, tables
from primum.adapters.sql.engine import Database
from primum.adapters.sql.sharding import Changed, Depth, Failed, Job, job_from, send
from primum.domain.budget import shards
from primum.domain.budget.lines import Line
from primum.domain.budget.shards import Chained, Ending, Shard
from primum.domain.errors import PrimumError, Unavailable

_ALIVE_EVERY = 2000  # Entries; some hundredths of a second.
_NO_PLACE = 0
_HEAD = sa.select(tables.head.c.seq).where(tables.head.c.id == 1)


def main() -> None:
    """Do the job on standard input."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Whatever a library prints must not be taken for an answer.
    job = job_from(sys.stdin.buffer)
    threading.Thread(target=_end_with_caller, daemon=True).start()
    with short_lived():
        answer: Ending | Failed
        try:
            answer = _replayed(job, answers)
        except PrimumError as error:
            answer = Failed(type(error).__name__, str(error))
        except Exception as error:  # noqa: BLE001 - its kind is told, and never its content
            answer = Failed(
                "", f"A part of the ledger could not be verified: {type(error).__name__}."
            )
        send(answers, answer)
    answers.close()


def _replayed(job: Job, answers: BinaryIO) -> Ending:
    database = Database(job.url)
    started = False

    def work(connection: sa.Connection) -> Ending:
        nonlocal started
        if started:
            raise Unavailable("A part of the ledger could not be read at once. Verify it again.")
        started = True
        return _replay(connection, job, answers)

    try:
        return database.read(work)
    finally:
        database.close()


def _replay(connection: sa.Connection, job: Job, answers: BinaryIO) -> Ending:
    reached = connection.execute(_HEAD).scalar() or 0
    if max(reached, replaying.last_entry(connection)) < job.end:
        raise Unavailable(
            f"Every process must see the ledger up to entry {job.end}; found its end before. "
            "Verify it again."
        )
    meaning = job.depth is Depth.MEANING
    shard = Shard(replaying.stored_in(connection)) if meaning else Chained()
    lines = _alive(replaying.lines_of(connection, job.accounts, end=job.end), answers)
    for place, texts in shards.replayed(shard, lines, job.places):
        send(answers, Changed(place, texts))
    return shard.finish()


def _alive(lines: Iterator[Line], answers: BinaryIO) -> Iterator[Line]:
    """The same lines; says every now and then that more come."""
    for number, line in enumerate(lines):
        if number % _ALIVE_EVERY == 0:
            send(answers, Changed(_NO_PLACE, {}))
        yield line


def _end_with_caller() -> None:
    sys.stdin.buffer.read(1)
    os._exit(1)


if __name__ == "__main__":
    main()
