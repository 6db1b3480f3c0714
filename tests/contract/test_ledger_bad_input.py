"""Whatever is put in, whatever breaks: a typed refusal or a clear error, and no balance moves."""

from __future__ import annotations

import contextlib
import datetime
from decimal import Decimal

import pytest
import sqlalchemy as sa
from ledger_crashes import crashed
from ledger_shares import (
    ALL,
    DAY,
    RULES,
    claim,
    configure,
    cost,
    divided,
    held,
    opened,
    queueing,
    scheduled,
    states,
    steps,
    unlocked,
)
from ledger_words import (
    HALF,
    LEASE,
    charge,
    expose,
    request,
    reserve,
    state,
    state_of_everything,
    terms,
)

from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.charges import AMOUNT_MAX, Charge, cost_units
from primum.domain.accounting.events import (
    Composed,
    Gaussian,
    IndividuallyFiltered,
    Laplace,
    Repeated,
    SubsampledGaussian,
)
from primum.domain.accounting.mechanisms import NOISE_MULTIPLIER_MAX, NOISE_MULTIPLIER_MIN
from primum.domain.accounting.policies import RdpPolicy, policy_named
from primum.domain.budget.entries import ReservationState, ResultCode
from primum.domain.budget.layout import BlockLayout, BlockSelection, Division, Period
from primum.domain.budget.rules import (
    Quota,
    QuotaScope,
    SchedulerName,
    Scheduling,
    Unlocking,
    UnlockingRule,
)
from primum.domain.errors import InvalidValue, Unavailable
from primum.domain.quantities import Neighbors, PrivacyUnit

NAN, INFINITE = Decimal("NaN"), Decimal("Infinity")
SUBNORMAL = Decimal("4.9E-324")
POLICIES = ["RDP", "GDP", "Basic", "Mixture"]


@pytest.fixture
def account(ledger):
    account = opened(ledger)
    reserve(ledger, claim(account, "before", 10))
    return account


# Amounts.


@pytest.mark.parametrize("amount", [-2, 1.0, float("nan"), float("inf"), True, "1", None])
def test_an_amount_is_a_whole_number(amount):
    with pytest.raises(InvalidValue, match="whole number"):
        Charge.of({"mu2": amount})


@pytest.mark.parametrize("text", ["", "-", "1.5", "NaN", "1e3", "0x1", " 1", "¹"])
def test_a_stored_amount_is_a_string_of_digits(text):
    with pytest.raises(InvalidValue, match="digits"):
        Charge.from_json({"mu2": text})


@pytest.mark.parametrize("value", [-1e-300, -1.0, float("-inf"), float("nan")])
def test_a_cost_is_at_least_zero(value):
    with pytest.raises(InvalidValue, match="cost"):
        cost_units(value)


@pytest.mark.parametrize("value", [5e-324, 1e-308, 1e-30, 1e-13])
def test_nothing_that_costs_rounds_to_nothing(value):
    assert cost_units(value) == 1


@pytest.mark.parametrize("value", [float("inf"), 1e300, 1e18])
def test_a_cost_beyond_every_capacity_is_stored_as_such(value):
    assert cost_units(value) == AMOUNT_MAX


@pytest.mark.parametrize(
    "noise",
    [NAN, INFINITE, Decimal(0), Decimal(-1), Decimal("-0"), SUBNORMAL, Decimal("1E+300")],
    ids=str,
)
@pytest.mark.parametrize("mechanism", [Gaussian, Laplace])
def test_noise_that_is_none_makes_no_plan(mechanism, noise):
    with pytest.raises(InvalidValue, match="noise_multiplier"):
        mechanism(noise)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_least_noise_there_is_never_fits(ledger, policy):
    account, _ = ledger.open_account(terms(policy=policy), actor="s")
    result = reserve(ledger, request(account, "r", Gaussian(NOISE_MULTIPLIER_MIN)))
    assert result.code is ResultCode.OVER_BUDGET
    assert ledger.account(account).epsilon_reserved == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_plan_whose_cost_is_next_to_nothing_is_charged_something(ledger, policy):
    """Its true squared mu is far below the unit in which the ledger counts."""
    account, _ = ledger.open_account(terms(policy=policy), actor="s")
    assert reserve(ledger, request(account, "r", Gaussian(NOISE_MULTIPLIER_MAX))).stands
    (whole,) = ledger.account(account).blocks
    assert all(amount >= 1 for _, amount in whole.reserved.amounts)
    assert ledger.account(account).epsilon_reserved > 0


@pytest.mark.parametrize("rate", [NAN, INFINITE, Decimal(-1), Decimal("1.1"), Decimal("-1E-30")])
def test_a_sampling_rate_is_a_part(rate):
    with pytest.raises(InvalidValue):
        SubsampledGaussian(Decimal(2), rate)


@pytest.mark.parametrize("count", [-1, 1.5, float("nan"), None, True, "3"])
def test_a_plan_is_repeated_a_whole_number_of_times(count):
    with pytest.raises(InvalidValue):
        Repeated(Gaussian(Decimal(2)), count)


# Orders.


@pytest.mark.parametrize("order", ["1", "0.5", "-3", "4097", "NaN"])
def test_an_order_outside_the_range_makes_no_grid(order):
    with pytest.raises((InvalidValue, ArithmeticError)):
        RdpPolicy(((Decimal(order), Decimal(1)),))


@pytest.mark.parametrize("keys", [("4", "5"), ("1.5",), (), ("mu2",)], ids=str)
def test_amounts_at_orders_outside_the_grid_are_never_mixed_in(keys):
    policy = policy_named("RDP")
    odd = Charge.of(dict.fromkeys(keys, 0))
    capacity = policy.capacity(Guarantee(terms().epsilon, terms().delta))
    with pytest.raises(InvalidValue, match="must have the keys"):
        policy.admits(capacity=capacity, used=odd, request=odd)
    with pytest.raises(InvalidValue, match="must have the keys"):
        assert capacity + odd


def test_filters_at_other_orders_than_the_budgets_never_certify(ledger):
    """Beyond its last order an individual filter promises nothing: nothing fits there."""
    account, _ = ledger.open_account(terms(), actor="s")
    bound = Repeated(SubsampledGaussian(Decimal(2), Decimal("0.1")), 10)
    low = IndividuallyFiltered(bound, (2,))
    result = reserve(ledger, request(account, "r", low))
    assert result.code is ResultCode.OVER_BUDGET
    assert set(ledger.reservation("r").charge.as_dict.values()) == {AMOUNT_MAX}
    assert ledger.account(account).epsilon_reserved == 0


# Names: blocks, fences, units.


def test_an_unknown_block_moves_nothing(ledger):
    account = divided(ledger)
    before = state_of_everything(ledger)
    for wanted in (("atlantis",), ("north", "atlantis"), ("North",), ("north ",), ("",)):
        result = reserve(ledger, claim(account, "r", 1, blocks=wanted))
        assert result.code is ResultCode.BLOCK_UNKNOWN
    assert state_of_everything(ledger) == before


@pytest.mark.parametrize("off", [-1, 1, 10**9, -(10**9)])
def test_a_stale_fence_moves_nothing(ledger, account, off):
    """P18."""
    before = state_of_everything(ledger)
    fence = ledger.reservation("before").fence + off
    for result in (
        ledger.expose("before", access="train", fence=fence, actor="s"),
        ledger.extend("before", fence=fence, lease_seconds=LEASE, actor="s"),
    ):
        assert result.code is ResultCode.FENCE_STALE
    assert state_of_everything(ledger) == before


@pytest.mark.parametrize(
    "change",
    [{"unit": PrivacyUnit.IMAGE}, {"neighbors": Neighbors.REPLACE_ONE}],
    ids=["unit", "neighbors"],
)
def test_a_foreign_unit_never_shares_a_balance(ledger, account, change):
    """The same data in another unit is another account; neither moves the other."""
    other = opened(ledger, **change)
    assert other != account
    assert reserve(ledger, claim(other, "r", 50)).stands
    assert held(ledger, account) == (cost(10), 0)
    moved = reserve(ledger, claim(other, "before", 10))
    assert (moved.code, moved.message.split()[0]) == (ResultCode.KEY_REUSED, "accountId")


@pytest.mark.parametrize(
    "change",
    [{"unit": PrivacyUnit.IMAGE}, {"neighbors": Neighbors.REPLACE_ONE}],
    ids=["unit", "neighbors"],
)
def test_a_plan_for_a_foreign_unit_is_refused(ledger, account, change):
    before = state_of_everything(ledger)
    result = reserve(ledger, claim(account, "r", 1, **change))
    assert result.code is ResultCode.UNIT_MISMATCH
    assert terms().unit.value in result.message
    assert state_of_everything(ledger) == before
    same = {"unit": terms().unit, "neighbors": terms().neighbors}
    assert reserve(ledger, claim(account, "r", 1, **same)).stands


@pytest.mark.parametrize(
    "changes",
    [
        {"study_uid": ""},
        {"requester": ""},
        {"requester": "a\nb"},
        {"reservation_id": "x" * 300},
        {"generation": -1},
        {"generation": 1.5},
    ],
    ids=str,
)
def test_a_request_without_proper_names_is_refused(ledger, account, changes):
    before = state_of_everything(ledger)
    with pytest.raises(InvalidValue, match=next(iter(changes))):
        reserve(ledger, claim(account, "r", 1, **changes))
    assert state_of_everything(ledger) == before


def test_a_plan_too_large_to_read_is_refused(ledger, account):
    before = state_of_everything(ledger)
    parts = tuple(
        SubsampledGaussian(Decimal(f"2.{n:039d}"), Decimal(f"0.1{n:039d}")) for n in range(1000)
    )
    with pytest.raises(InvalidValue, match="bytes"):
        reserve(ledger, request(account, "r", Composed((Composed(parts), Composed(parts)))))
    assert state_of_everything(ledger) == before


# Rules and layouts.


@pytest.mark.parametrize(
    "make",
    [
        lambda: Unlocking(UnlockingRule.PER_TIME, days=NAN),
        lambda: Unlocking(UnlockingRule.PER_TIME, days=INFINITE),
        lambda: Unlocking(UnlockingRule.PER_TIME, days=Decimal(0)),
        lambda: Unlocking(UnlockingRule.PER_TIME, days=Decimal(-1)),
        lambda: Unlocking(UnlockingRule.PER_TIME, days=SUBNORMAL),
        lambda: Unlocking(UnlockingRule.PER_TIME, days=Decimal(1), claims=3),
        lambda: Unlocking(UnlockingRule.PER_CLAIM, claims=0),
        lambda: Unlocking(UnlockingRule.PER_CLAIM, claims=-5),
        lambda: Unlocking(UnlockingRule.PER_CLAIM, claims=10**9),
        lambda: Unlocking(UnlockingRule.ROUNDS, days=Decimal(1), rounds=3),
        lambda: Unlocking(UnlockingRule.ROUNDS, days=Decimal(1), rounds=4, slack=NAN),
        lambda: Unlocking(UnlockingRule.ROUNDS, days=Decimal(1), rounds=4, slack=Decimal("1.1")),
        lambda: Unlocking(UnlockingRule.ROUNDS, days=Decimal(1), rounds=4, slack=Decimal("1E-7")),
        lambda: Unlocking(slack=Decimal("0.1")),
        lambda: Scheduling(efficiency=NAN),
        lambda: Scheduling(efficiency=Decimal("-0.1")),
        lambda: Scheduling(wait_days=NAN),
        lambda: Scheduling(wait_days=Decimal(-1)),
        lambda: Scheduling(wait_days=Decimal("1E+9")),
        lambda: Quota(QuotaScope.GROUP, NAN),
        lambda: Quota(QuotaScope.GROUP, INFINITE),
        lambda: Quota(QuotaScope.GROUP, Decimal(-1)),
        lambda: Quota(QuotaScope.GROUP, Decimal(1), "a\nb"),
        lambda: BlockLayout(Division.SITE, "site"),
        lambda: BlockLayout(Division.SITE, "site", values=("a", "a")),
        lambda: BlockLayout(Division.SITE, "", values=("a",)),
        lambda: BlockLayout(Division.TIME, "day", period=Period.DAY),
        lambda: BlockSelection(start=day(2), end=day(2)),
    ],
)
def test_rules_that_make_no_sense_are_refused_by_name(make):
    with pytest.raises(InvalidValue):
        make()


def day(number):
    return datetime.date(2026, 1, number)


# Clocks.


@pytest.mark.parametrize("seconds", [-1e-6, -1.0, -3600.0, -50 * 365 * DAY])
def test_a_clock_that_goes_back_moves_nothing_back(ledger, stores, seconds):
    account = opened(ledger)
    rules = {"unlocking": RULES[UnlockingRule.PER_TIME], "scheduling": queueing(SchedulerName.DPF)}
    configure(ledger, account, **rules)
    stores.clock.advance(DAY)
    reserve(ledger, claim(account, "granted", 1))
    reserve(ledger, claim(account, "waits", ALL // 2))
    scheduled(ledger)
    until = ledger.reservation("granted").lease_until
    opened_before, time = unlocked(ledger, account), ledger.entries()[-1].time
    stores.clock.advance(seconds)
    scheduled(ledger)
    assert ledger.expire(actor="loop") == ()
    assert expose(ledger, "granted").stands
    assert reserve(ledger, claim(account, "later", 1)).code is ResultCode.QUEUED
    assert states(ledger, "granted", "waits") == ["Exposed", "Queued"]
    assert unlocked(ledger, account) == opened_before
    assert ledger.reservation("granted").lease_until == until
    assert all(entry.time == time for entry in ledger.entries()[-2:])
    assert ledger.reservation("later").lease_until >= ledger.reservation("waits").lease_until


def test_a_clock_that_leaps_ahead_loses_leases_and_grants_no_more(ledger, account, stores):
    expose(ledger, "before")
    stores.clock.advance(20 * 365 * DAY)
    assert ledger.expire(actor="loop") == ("before",)
    stores.clock.advance(-20 * 365 * DAY)
    assert state(ledger, "before") is ReservationState.CHARGED
    assert not reserve(ledger, claim(account, "r", ALL)).stands
    assert reserve(ledger, claim(account, "s", ALL - 11)).stands


# What breaks underneath.


def commands(ledger):
    """Every kind of write, each on a ledger that is prepared for it."""
    account = opened(ledger)
    configure(ledger, account, scheduling=Scheduling(wait_days=Decimal(0)))
    for name in ("exposed", "open"):
        reserve(ledger, claim(account, name, 3))
    expose(ledger, "exposed")
    return account, {
        "reserve": lambda: reserve(ledger, claim(account, "new", 5)),
        "expose": lambda: expose(ledger, "open"),
        "charge": lambda: charge(ledger, "exposed", executed=steps(1)),
        "give_back": lambda: ledger.give_back("open", reason="x", actor="s"),
        "configure": lambda: configure(ledger, account, "q", scheduling=queueing()),
    }


COMMANDS = ["reserve", "expose", "charge", "give_back", "configure"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_process_that_dies_at_a_write_leaves_nothing_or_everything(ledger, name):
    """P1, P3: nothing before the commit; all of it after; and a retry gives it once."""
    _, known = commands(ledger)
    before, at = state_of_everything(ledger), 1
    while crashed(ledger, at, known[name]):
        after = state_of_everything(ledger)
        assert ledger.verify() == ()
        if after != before:
            break
        at += 1
    assert at > 3
    assert known[name]().code is ResultCode.REPEATED
    assert state_of_everything(ledger) == after


@pytest.fixture
def full_disk(stores):
    """A function that lets the database file grow no more, and one that lets it again."""
    if stores.kind != "sqlite":
        pytest.skip("a server's disk is not ours to fill; SQLite shows the same path")
    engine = stores.database.engine
    limit = [2**31 - 1]

    def limited(connection, _record):
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count={limit[0]}")
        cursor.close()

    sa.event.listen(engine, "connect", limited)

    def set_limit(pages):
        limit[0] = pages
        engine.dispose()

    return lambda: set_limit(1), lambda: set_limit(2**31 - 1)


def test_a_full_disk_is_said_and_nothing_is_written(stores, ledger, account, full_disk):
    """The same command succeeds once there is room again."""
    fill, clear = full_disk
    fill()
    refused, number = None, 0
    while refused is None:
        before = state_of_everything(ledger)
        number += 1
        assert number < 1000, "the disk never was full"
        try:
            reserve(ledger, claim(account, f"r{number}", 1))
        except Unavailable as error:
            refused = str(error)
    assert "full" in refused
    assert state_of_everything(ledger) == before
    assert ledger.verify() == ()
    assert ledger.reservation(f"r{number}") is None
    clear()
    assert reserve(ledger, claim(account, f"r{number}", 1)).stands
    assert held(ledger, account) == (cost(10) + number * cost(1), 0)


@pytest.fixture
def severed(stores):
    """A context in which the server ends our connections from a statement of the command on."""
    if stores.kind != "postgresql":
        pytest.skip("only a server can hang up")
    import psycopg

    engine = stores.database.engine
    url = stores.url.replace("+psycopg", "")

    @contextlib.contextmanager
    def sever(at):
        count = [0]

        def before(connection, _cursor, _statement, _parameters, _context, _many):
            count[0] += 1
            if count[0] >= at:  # A read is asked once more; it is to meet the same.
                pid = connection.connection.driver_connection.info.backend_pid
                with psycopg.connect(url, autocommit=True) as other:
                    other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

        sa.event.listen(engine, "before_cursor_execute", before)
        try:
            yield count
        finally:
            sa.event.remove(engine, "before_cursor_execute", before)

    return sever


@pytest.mark.parametrize("name", COMMANDS)
def test_a_connection_lost_within_a_transaction_changes_nothing(ledger, severed, name):
    """At every statement of it; the next try does what was asked, once."""
    _, known = commands(ledger)
    before = state_of_everything(ledger)
    for at in range(1, 100):
        with severed(at) as count:
            ended = None
            with contextlib.suppress(Unavailable):
                ended = known[name]()
        if ended is not None:
            assert count[0] < at
            break
        assert state_of_everything(ledger) == before
    assert at > 3, "no statement was met"
    assert known[name]().code is ResultCode.REPEATED
    assert state_of_everything(ledger) != before


def test_an_account_nobody_opened_moves_nothing(ledger, account):
    before = state_of_everything(ledger)
    for result in (
        reserve(ledger, request("nobody", "r", HALF)),
        ledger.divide("nobody", ["a"], actor="s"),
        ledger.freeze("nobody", reason="", key="k", actor="s"),
    ):
        assert result.code is ResultCode.ACCOUNT_UNKNOWN
    assert state_of_everything(ledger) == before


def test_a_made_up_block_is_named_shortly_and_printably(ledger):
    account = opened(ledger)
    result = reserve(ledger, request(account, blocks=("\n" + "x" * 10_000,)))
    assert result.code is ResultCode.BLOCK_UNKNOWN
    assert len(result.message) < 300
    assert "\n" not in result.message
