"""Commands that share a transaction: each as if alone, all durable or none, and faults to whom they
belong.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa
from ledger_groups import in_one_group
from ledger_words import (
    EVENT,
    HALF,
    HUGE,
    charge,
    expose,
    request,
    reserve,
    state,
    state_of_everything,
    terms,
)

from primum.domain.accounting.events import Repeated
from primum.domain.budget.book import Head
from primum.domain.budget.entries import EntryKind, ReservationState, ResultCode
from primum.domain.errors import Conflict, InvalidValue, Unavailable


@pytest.fixture
def shared(stores):
    """Stores whose writers share transactions."""
    if stores.kind == "memory":
        pytest.skip("memory has no transaction to share: each command is one by itself")
    return stores


def reserving(ledger, account, name, event=HALF):
    return lambda: reserve(ledger, request(account, name, event))


def transactions(stores):
    """Counts commits of what runs inside."""
    return _Counted(stores.database.engine)


class _Counted:
    def __init__(self, engine):
        self.engine, self.commits, self.statements = engine, 0, 0

    def __enter__(self):
        sa.event.listen(self.engine, "commit", self._commit)
        sa.event.listen(self.engine, "after_cursor_execute", self._statement)
        return self

    def __exit__(self, *_):
        sa.event.remove(self.engine, "commit", self._commit)
        sa.event.remove(self.engine, "after_cursor_execute", self._statement)

    def _commit(self, _connection):
        self.commits += 1

    def _statement(self, *_):
        self.statements += 1


def test_a_group_is_one_transaction_and_its_commands_follow_one_another(ledger, account, shared):
    room = ledger.fits(account, HALF)
    names = [f"r{number}" for number in range(room + 3)]
    with transactions(shared) as counted:
        results = in_one_group(shared, *[reserving(ledger, account, name) for name in names])
    assert counted.commits == 2, "the one that held the turn, and the group"
    codes = [result.code for result in results]
    assert codes == [ResultCode.ACCEPTED] * room + [ResultCode.OVER_BUDGET] * 3
    assert ledger.fits(account, HALF) == 0
    assert [result.seq for result in results] == list(range(2, 2 + len(names)))


def test_the_statements_of_a_group_do_not_grow_with_it(ledger, account, shared):
    """What a command will look at is read for all of them at once."""
    counts = []
    for size in (2, 20):
        names = [f"g{size}-{number}" for number in range(size)]
        steps = [
            [reserving(ledger, account, name, Repeated(EVENT.event, 1)) for name in names],
            [lambda n=name: expose(ledger, n) for name in names],
            [lambda n=name: charge(ledger, n) for name in names],
        ]
        for commands in steps:
            expected = [ledger.reservation(name) for name in names]  # Reads of the helpers.
            del expected
            with transactions(shared) as counted:
                outcomes = in_one_group(shared, *commands)
            assert all(outcome.stands for outcome in outcomes)
            counts.append((size, counted.statements))
    few = [count for size, count in counts if size == 2]
    many = [count for size, count in counts if size == 20]
    # ``expose`` of the helpers reads the fence first, once per command.
    assert many[0] == few[0]
    assert many[1] <= few[1] + 2 * 18
    assert many[2] == few[2]


def test_commands_see_what_those_before_them_in_the_group_wrote(ledger, account, shared):
    reserve(ledger, request(account, "held", HALF))
    fence = ledger.reservation("held").fence

    def exposing(access):
        return lambda: ledger.expose("held", access=access, fence=fence, actor="step")

    results = in_one_group(
        shared,
        exposing("train"),
        exposing("train"),
        lambda: charge(ledger, "held"),
        exposing("late"),
        reserving(ledger, account, "new"),
        reserving(ledger, account, "new"),
        lambda: ledger.give_back("new", reason="r", actor="s"),
        lambda: ledger.give_back("new", reason="r", actor="s"),
    )
    assert [result.code for result in results] == [
        ResultCode.ACCEPTED,
        ResultCode.REPEATED,
        ResultCode.ACCEPTED,
        ResultCode.ALREADY_RESOLVED,
        ResultCode.ACCEPTED,
        ResultCode.REPEATED,
        ResultCode.ACCEPTED,
        ResultCode.REPEATED,
    ]
    assert state(ledger, "held") is ReservationState.CHARGED
    assert state(ledger, "new") is ReservationState.RETURNED


def test_what_one_command_raises_touches_no_other(ledger, account, shared):
    results = in_one_group(
        shared,
        reserving(ledger, account, "a"),
        lambda: reserve(ledger, request(account, "b"), request(account, "b")),
        lambda: reserve(ledger, request(account, "c"), lease_seconds=-1),
        reserving(ledger, account, "d"),
        lambda: reserve(ledger, request("nobody", "e")),
    )
    assert isinstance(results[1], InvalidValue)
    assert isinstance(results[2], InvalidValue)
    assert [results[0].code, results[3].code, results[4].code] == [
        ResultCode.ACCEPTED,
        ResultCode.ACCEPTED,
        ResultCode.ACCOUNT_UNKNOWN,
    ]
    assert [item.reservation_id for item in ledger.reservations()] == ["a", "d"]


@pytest.mark.parametrize("looks", ["it looked", "it did not look"])
def test_a_work_that_fails_after_writing_leaves_nothing(ledger, account, shared, looks):
    """Also where its writes had got into the database, because it looked for them there."""
    rows = ledger._rows
    reserve(ledger, request(account, "known", HALF))
    before = state_of_everything(ledger)

    def bad(pen):
        pen.put_reservation(replace(pen.reservation("known"), reservation_id="stray", fence=999))
        pen.put_account(replace(pen.account(account), frozen="by mistake"))
        pen.put_head(Head(77, "f" * 64, "2030-01-01T00:00:00.000000Z"))
        if looks == "it looked":
            assert len(pen.reservations(account_id="", study_uid="")) == 2 + pending
            assert pen.accounts()[0].frozen == "by mistake"
        raise RuntimeError("after writing")

    pending = 1  # The reservation of the command before it in the group.
    results = in_one_group(
        shared,
        reserving(ledger, account, "first"),
        lambda: rows.write(bad),
        reserving(ledger, account, "second"),
    )
    assert isinstance(results[1], RuntimeError)
    assert results[0].stands
    assert results[2].stands
    assert (results[0].seq, results[2].seq) == (3, 4)
    assert ledger.reservation("stray") is None
    assert ledger.account(account).frozen == ""
    assert ledger.account(account).terms == before[0][0].terms


def test_a_work_that_looks_finds_what_was_written_before_it_in_the_group(ledger, account, shared):
    seen = []

    def look(pen):
        seen.append([item.reservation_id for item in pen.reservations(account_id="", study_uid="")])
        seen.append([line.seq for line in pen.lines(after=0, limit=10)])
        seen.append(pen.hash_at(3) == pen.head().hash)

    results = in_one_group(
        shared,
        reserving(ledger, account, "a"),
        reserving(ledger, account, "b"),
        lambda: ledger._rows.write(look),
        reserving(ledger, account, "c"),
    )
    assert seen == [["a", "b"], [1, 2, 3], True]
    assert results[3].seq == 4


def test_an_entry_is_appended_once_in_a_group(ledger, account, shared):
    def again(pen):
        pen.append(pen.earlier(account, "reserve/a"))

    results = in_one_group(
        shared, reserving(ledger, account, "a"), lambda: ledger._rows.write(again)
    )
    assert results[0].stands
    assert isinstance(results[1], Conflict)


def test_what_the_database_refuses_is_the_fault_of_one_command_alone(ledger, account, shared):
    too_large = 2**70
    results = in_one_group(
        shared,
        reserving(ledger, account, "a"),
        lambda: reserve(ledger, request(account, "b", HALF, generation=too_large)),
        reserving(ledger, account, "c"),
    )
    assert isinstance(results[1], InvalidValue), results[1]
    assert str(too_large) not in str(results[1])
    assert results[0].stands
    assert results[2].stands
    assert [item.reservation_id for item in ledger.reservations()] == ["a", "c"]


def test_a_failed_commit_is_an_error_for_everybody_and_nothing_stands(ledger, account, shared):
    before = state_of_everything(ledger)
    engine = shared.database.engine
    commit, commits = engine.dialect.do_commit, []

    def failing(connection):
        commits.append(1)
        if len(commits) > 1:  # The first belongs to the one that held the turn.
            raise (
                sqlite3.OperationalError("disk I/O error")
                if shared.kind == "sqlite"
                else (engine.dialect.dbapi.OperationalError("server closed the connection"))
            )
        commit(connection)

    engine.dialect.do_commit = failing
    try:
        results = in_one_group(shared, *[reserving(ledger, account, n) for n in "abc"])
    finally:
        engine.dialect.do_commit = commit
    assert all(isinstance(result, Unavailable) for result in results)
    assert len({id(result) for result in results}) == 3
    assert state_of_everything(ledger) == before
    assert reserve(ledger, request(account, "a", HALF)).code is ResultCode.ACCEPTED


def test_a_lost_anchor_is_an_error_for_everybody_and_repeating_is_safe(ledger, account, shared):
    anchor = shared.anchor
    move, lost = anchor.write, []

    def failing(seq, digest):
        lost.append(seq)
        raise Unavailable("The ledger's anchor cannot be written.")

    anchor.write = failing
    try:
        results = in_one_group(shared, *[reserving(ledger, account, n) for n in "abc"])
    finally:
        anchor.write = move
    assert all(isinstance(result, Unavailable) for result in results)
    assert lost == [4], "moved once for the group, to its end"
    again = in_one_group(shared, *[reserving(ledger, account, n) for n in "abc"])
    assert [result.code for result in again] == [ResultCode.REPEATED] * 3


def test_the_anchor_moves_once_for_a_group_before_anybody_is_answered(ledger, account, shared):
    anchor = shared.anchor
    move, moves = anchor.write, []

    def noted(seq, digest):
        moves.append((seq, threading.get_ident()))
        move(seq, digest)

    anchor.write = noted
    results = in_one_group(shared, *[reserving(ledger, account, n) for n in "abc"])
    anchor.write = move
    assert [seq for seq, _ in moves] == [4]
    assert all(result.seq <= anchor.read()[0] for result in results)


def test_a_denial_in_a_group_is_written_and_final(ledger, account, shared):
    results = in_one_group(
        shared,
        lambda: reserve(ledger, request(account, "huge", HUGE)),
        reserving(ledger, account, "small"),
        lambda: reserve(ledger, request(account, "huge", HUGE)),
    )
    assert results[0].code is results[2].code is ResultCode.OVER_BUDGET
    assert results[0].seq == results[2].seq
    assert results[1].stands
    kinds = [entry.kind for entry in ledger.entries()]
    assert kinds == [EntryKind.OPENED, EntryKind.DENIED, EntryKind.RESERVED]


def test_many_accounts_of_one_group_keep_their_own_balances(ledger, shared):
    names = [
        ledger.open_account(terms(dataset_uri=f"file:///{n}", dataset_digest=""), actor="s")[0]
        for n in range(5)
    ]
    commands = [
        reserving(ledger, account, f"{account[:6]}-{number}")
        for number in range(3)
        for account in names
    ]
    assert all(result.stands for result in in_one_group(shared, *commands))
    held = {ledger.account(name).blocks[0].reserved for name in names}
    assert len(held) == 1
    assert all(ledger.account(name).entries == 4 for name in names)


def test_a_full_disk_is_told_to_everybody_and_leaves_the_balances(ledger, account, shared):
    if shared.kind != "sqlite":
        pytest.skip("the server's disk cannot be filled; a failed commit is tested for both")
    reserve(ledger, request(account, "before", HALF))
    before = state_of_everything(ledger)
    prose = [f"{number}" * 900 for number in range(9)]

    def pages(connection, limit):
        return connection.exec_driver_sql(f"PRAGMA max_page_count={limit}").scalar()

    now = shared.database.read(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())
    shared.database.read(lambda c: pages(c, now + 1))
    results = in_one_group(
        shared,
        *[
            lambda n=number, p=purpose: reserve(
                ledger, request(account, f"r{n}", HALF, purpose=p, study=p)
            )
            for number, purpose in enumerate(prose)
        ],
    )
    assert all(isinstance(result, Unavailable) for result in results), results
    assert "full" in str(results[0])
    assert state_of_everything(ledger) == before
    shared.database.read(lambda c: pages(c, 2**30))
    assert reserve(ledger, request(account, "after", HALF)).code is ResultCode.ACCEPTED


def test_a_connection_that_dies_in_a_transaction_is_told_to_everybody(ledger, account, shared):
    if shared.kind != "postgresql":
        pytest.skip("SQLite has no connection that somebody else could end")
    import psycopg

    reserve(ledger, request(account, "before", HALF))
    before = state_of_everything(ledger)

    def killer(pen):
        pen.reservations(account_id="", study_uid="")  # What was written so far is on its way.
        url = shared.url.replace("+psycopg", "")
        with contextlib.closing(psycopg.connect(url, autocommit=True)) as other:
            ended = other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE state = 'idle in transaction' AND application_name = 'primum'"
            ).fetchall()
        assert ended

    results = in_one_group(
        shared,
        reserving(ledger, account, "a"),
        lambda: ledger._rows.write(killer),
        reserving(ledger, account, "b"),
    )
    assert all(isinstance(result, Unavailable) for result in results), results
    assert state_of_everything(ledger) == before
    assert reserve(ledger, request(account, "a", HALF)).code is ResultCode.ACCEPTED
