"""Concurrent commands of several processes: every answer as if they had come one after another."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal

import pytest
from linearizing import Command, faults

from primum.adapters.sql import open_stores
from primum.adapters.system import SystemClock
from primum.domain.accounting.events import Gaussian
from primum.domain.budget.entries import AccountTerms
from primum.domain.quantities import Neighbors, PrivacyUnit

PROCESSES, THREADS, COMMANDS, NAMES = 3, 5, 30, 60
EVENT = Gaussian(Decimal("2"))
SEEDS = (1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8)))


def recorded(url, account, seed):
    script = str(pathlib.Path(__file__).with_name("racing_commands.py"))
    arguments = [str(number) for number in (THREADS, COMMANDS, NAMES)]
    children = [
        subprocess.Popen(
            [sys.executable, script, url, account, f"{seed}-{number}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    history = []
    for child in children:
        out, _ = child.communicate(timeout=120)
        assert child.returncode == 0
        for line in out.splitlines():
            began, ended, verb, name, argument, code, seq = json.loads(line)
            history.append(Command(began, ended, verb, name, tuple(argument), code, seq))
    return history


@pytest.mark.parametrize("seed", SEEDS)
def test_concurrent_commands_are_linearizable(database, seed):
    stores = open_stores(database, SystemClock())
    terms = AccountTerms(
        dataset_uri="file:///a",
        dataset_digest="",
        unit=PrivacyUnit.PATIENT,
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
        epsilon=Decimal("8"),
        delta=Decimal("1e-5"),
        policy="GDP",
        units=569,
    )
    account, _ = stores.ledger.open_account(terms, actor="s")
    room = stores.ledger.fits(account, EVENT)
    assert 3 < room < NAMES, "budget must run out while they race"
    history = recorded(database, account, seed)
    assert len(history) == PROCESSES * THREADS * COMMANDS
    entries = stores.ledger.entries(after=1, limit=10_000)
    chain = [(entry.seq, entry.kind.value, entry.reservation_id) for entry in entries]
    assert faults(history, chain, room=room) == []
    assert stores.ledger.verify() == ()
    stores.close()
    overlapping = sum(
        any(o is not c and o.began < c.ended and c.began < o.ended for o in history)
        for c in history
    )
    assert overlapping > len(history) / 2, "they must really have raced"
    codes = {command.code for command in history}
    assert codes >= {"Accepted", "Repeated", "OverBudget", "AlreadyResolved", "FenceStale"}


# The checker itself: histories that must be refused.


def accepted(began, ended, verb, name, seq, argument=()):
    return Command(began, ended, verb, name, argument, "Accepted", seq)


FINE = [
    accepted(0, 10, "reserve", "a", 2),
    accepted(5, 15, "reserve", "b", 3),
    accepted(20, 30, "expose", "a", 4, ("train", 2)),
    Command(40, 50, "give_back", "a", (), "AlreadyExposed"),
    accepted(60, 70, "charge", "a", 5),
    Command(62, 72, "charge", "a", (), "Repeated", 5),
    Command(80, 90, "reserve", "c", (), "OverBudget", 6),
    Command(81, 95, "reserve", "c", (), "OverBudget", 6),
]
CHAIN = [
    (2, "Reserved", "a"),
    (3, "Reserved", "b"),
    (4, "Exposed", "a"),
    (5, "Charged", "a"),
    (6, "Denied", "c"),
]


def test_the_checker_accepts_what_is_linearizable():
    assert faults(FINE, CHAIN, room=2) == []


def test_the_checker_refuses_a_grant_beyond_the_room():
    assert faults(FINE, CHAIN, room=1)
    granted = [
        *FINE[:6],
        replace(FINE[6], code="Accepted"),
    ]
    chain = [*CHAIN[:4], (6, "Reserved", "c")]
    assert faults(granted, chain, room=2)


def test_the_checker_refuses_an_order_against_real_time():
    late = [replace(FINE[0], began=16, ended=19), *FINE[1:]]
    assert any("must come after" in fault for fault in faults(late, CHAIN, room=2))


def test_the_checker_refuses_a_stale_answer():
    stale = [*FINE, Command(100, 110, "charge", "a", (), "NotExposed")]
    assert any("NotExposed" in fault for fault in faults(stale, CHAIN, room=2))
    early = [*FINE, Command(1, 3, "charge", "a", (), "Repeated", 5)]
    assert any("Repeated" in fault for fault in faults(early, CHAIN, room=2))


def test_the_checker_refuses_answers_that_contradict_each_other_in_time():
    """Each fits somewhere, but the one that came first saw what came later."""
    base = [accepted(0, 100, "reserve", "a", 2), accepted(0, 100, "reserve", "b", 3)]
    chain = CHAIN[:2]
    saw_b = Command(10, 20, "charge", "b", (), "NotExposed")
    saw_nothing = Command(30, 40, "charge", "a", (), "ReservationUnknown")
    assert faults([*base, saw_b], chain, room=2) == []
    assert faults([*base, saw_nothing], chain, room=2) == []
    assert faults([*base, saw_b, saw_nothing], chain, room=2)


def test_the_checker_refuses_a_lost_or_invented_entry():
    assert faults(FINE[:-2], CHAIN, room=2)
    assert faults(FINE, CHAIN[:-1], room=2)
    assert faults([*FINE, replace(FINE[0], name="z")], CHAIN, room=2)
