"""A divided budget: the guarantee holds for each block, and a claim takes all of its blocks or
none.
"""

from __future__ import annotations

import pytest
from ledger_first_schema import fill
from ledger_holdings import Holdings
from ledger_shares import (
    ALL,
    LAYOUT,
    SITES,
    block,
    claim,
    configure,
    cost,
    divided,
    epsilon_of,
    held,
    opened,
    queueing,
    quota,
    scheduled,
    states,
    steps,
)
from ledger_words import HALF, charge, expose, request, reserve, state_of_everything, terms

from primum.adapters.memory import ManualClock, MemoryLedgerStore
from primum.adapters.sql import migrate, open_stores
from primum.domain.budget.entries import EntryKind, ResultCode
from primum.domain.budget.layout import BLOCKS_MAX, WHOLE, BlockLayout, BlockSelection, Division
from primum.domain.canonical import canonical_json
from primum.domain.errors import InvalidValue, NotFound, Tampered

NOTHING = (0, 0)


@pytest.fixture
def account(ledger):
    return divided(ledger)


def test_a_dataset_that_is_not_divided_is_one_block(ledger):
    whole = opened(ledger)
    assert [b.name for b in ledger.account(whole).blocks] == [WHOLE]
    reserve(ledger, claim(whole, "a", 10))
    assert ledger.reservation("a").blocks == (WHOLE,)
    assert held(ledger, whole) == (cost(10), 0)


def test_every_block_begins_with_all_of_the_guarantee(ledger, account, stores):
    blocks = ledger.account(account).blocks
    assert [b.name for b in blocks] == sorted(SITES)
    assert {(b.epsilon_left, b.added) for b in blocks} == {
        (terms().epsilon, stores.clock.now()),
    }


def test_a_claim_is_charged_to_each_of_its_blocks(ledger, account):
    assert reserve(ledger, claim(account, "a", 10, blocks=("west", "north"))).stands
    assert ledger.reservation("a").blocks == ("north", "west")
    assert held(ledger, account, "north") == held(ledger, account, "west") == (cost(10), 0)
    assert held(ledger, account, "south") == NOTHING
    expose(ledger, "a")
    charge(ledger, "a", executed=steps(4))
    assert held(ledger, account, "north") == held(ledger, account, "west") == (0, cost(4))
    assert held(ledger, account, "south") == NOTHING


def test_a_claim_that_names_no_block_takes_all_that_exist(ledger, account):
    reserve(ledger, claim(account, "a", 10))
    assert ledger.reservation("a").blocks == tuple(sorted(SITES))
    ledger.divide(account, ["east"], actor="s")
    assert held(ledger, account, "east") == NOTHING
    assert ledger.reservation("a").blocks == tuple(sorted(SITES))


def test_one_full_block_refuses_the_claim_on_all_and_is_named(ledger, account):
    """P5, and: an answer that one block cannot give is not given in part."""
    reserve(ledger, claim(account, "full", ALL, blocks=("south",)))
    before = [held(ledger, account, name) for name in SITES]
    result = reserve(ledger, claim(account, "a", 1, blocks=("north", "south")))
    assert result.code is ResultCode.OVER_BUDGET
    assert result.shortfall[account].startswith("Block south: GDP has epsilon 0")
    assert [held(ledger, account, name) for name in SITES] == before
    assert states(ledger, "a") == ["Denied"]
    assert reserve(ledger, claim(account, "b", 1, blocks=("north",))).stands


def test_balances_of_blocks_are_independent(ledger, account):
    """Each block holds as much as the whole would: nobody is in two."""
    for name in SITES:
        assert reserve(ledger, claim(account, f"full-{name}", ALL, blocks=(name,))).stands
        assert not reserve(ledger, claim(account, f"more-{name}", 1, blocks=(name,))).stands
    ledger.give_back("full-south", reason="withdrawn", actor="s")
    assert [held(ledger, account, n)[0] for n in SITES] == [cost(ALL), 0, cost(ALL)]


def test_the_view_shows_the_fullest_block(ledger, account):
    reserve(ledger, claim(account, "a", 30, blocks=("north",)))
    reserve(ledger, claim(account, "b", 20, blocks=("south",)))
    expose(ledger, "b")
    charge(ledger, "b")
    view = ledger.account(account)
    assert view.epsilon_reserved == block(ledger, account, "north").epsilon_reserved
    assert view.epsilon_reserved == epsilon_of(30)
    assert view.epsilon_spent == block(ledger, account, "south").epsilon_spent == epsilon_of(20)
    assert view.epsilon_left == terms().epsilon - epsilon_of(30)
    assert block(ledger, account, "west").epsilon_left == terms().epsilon


def test_fits_looks_at_the_fullest_block_of_a_choice(ledger, account):
    reserve(ledger, claim(account, "a", ALL - 5, blocks=("north",)))
    assert ledger.fits(account, steps(1)) == 5
    assert ledger.fits(account, steps(1), blocks=("north", "west")) == 5
    assert ledger.fits(account, steps(1), blocks=("west",)) == ALL


def test_a_block_that_does_not_exist_is_refused_and_nothing_is_written(ledger, account):
    before = state_of_everything(ledger)
    result = reserve(ledger, claim(account, "a", 1, blocks=("north", "atlantis")))
    assert result.code is ResultCode.BLOCK_UNKNOWN
    assert "atlantis" in result.message
    assert not result.stands
    with pytest.raises(NotFound, match="atlantis"):
        ledger.outlook(account, steps(1), blocks=("atlantis",))
    assert state_of_everything(ledger) == before
    ledger.divide(account, ["atlantis"], actor="s")
    assert reserve(ledger, claim(account, "a", 1, blocks=("north", "atlantis"))).stands


def test_the_blocks_of_one_account_are_not_those_of_another(ledger, account):
    other = divided(ledger, ("east",), dataset_uri="file:///other", dataset_digest="")
    result = reserve(ledger, claim(account, "a", 1, blocks=("east",)))
    assert result.code is ResultCode.BLOCK_UNKNOWN
    assert reserve(ledger, claim(other, "b", 1, blocks=("east",))).stands


def test_a_charge_to_no_block_at_all_is_impossible(ledger):
    """A divided dataset without blocks grants nothing: that would be a free query."""
    empty = opened(ledger, layout=LAYOUT)
    assert ledger.account(empty).blocks == ()
    for wanted in ((), ("north",)):
        result = reserve(ledger, claim(empty, "a", 1, blocks=wanted))
        assert result.code is ResultCode.BLOCK_UNKNOWN
    with pytest.raises(NotFound):
        ledger.fits(empty, steps(1))
    layout = BlockLayout(Division.SITE, "site", values=SITES)
    with pytest.raises(InvalidValue, match="free query"):
        layout.choose(BlockSelection(), ())


def test_the_whole_of_a_divided_dataset_is_not_a_block(ledger, account):
    result = reserve(ledger, claim(account, "a", 1, blocks=(WHOLE,)))
    assert result.code is ResultCode.BLOCK_UNKNOWN


def test_further_blocks_are_added_once(ledger, account):
    reserve(ledger, claim(account, "a", 10))
    before = [held(ledger, account, name) for name in SITES]
    assert ledger.divide(account, ["east", "north", "east"], actor="s").code is ResultCode.ACCEPTED
    assert ledger.entries()[-1].kind is EntryKind.DIVIDED
    assert ledger.entries()[-1].payload["asked"] == {"blocks": ["east"]}
    seq = ledger.head()[0]
    assert ledger.divide(account, ["north", "east"], actor="s").code is ResultCode.REPEATED
    assert ledger.head()[0] == seq
    assert [held(ledger, account, name) for name in SITES] == before
    assert held(ledger, account, "east") == NOTHING


@pytest.mark.parametrize("names", [[""], ["a\nb"], ["x" * 300]], ids=["empty", "line", "long"])
def test_a_block_has_a_name(ledger, account, names):
    before = state_of_everything(ledger)
    with pytest.raises(InvalidValue, match="blocks"):
        ledger.divide(account, names, actor="s")
    assert state_of_everything(ledger) == before


def test_blocks_cannot_be_without_number(ledger, account):
    with pytest.raises(InvalidValue, match=f"at most {BLOCKS_MAX}"):
        ledger.divide(account, [f"b{n}" for n in range(BLOCKS_MAX - 2)], actor="s")


def test_what_is_whole_is_never_divided_and_what_is_divided_never_otherwise(ledger, account):
    """Dividing anew would give everybody a fresh budget."""
    whole = opened(ledger, dataset_uri="file:///whole", dataset_digest="")
    with pytest.raises(InvalidValue, match="divided"):
        ledger.divide(whole, ["north"], actor="s")
    other = canonical_json(BlockLayout(Division.COHORT, "cohort", values=("a",)).fixed).decode()
    for layout in ("", other):
        found, result = ledger.open_account(terms(policy="GDP", layout=layout), actor="s")
        assert (found, result.code) == ("", ResultCode.LAYOUT_CHANGED)
    assert ledger.divide("nobody", ["north"], actor="s").code is ResultCode.ACCOUNT_UNKNOWN


def test_opening_a_divided_budget_again_resets_nothing(ledger, account):
    reserve(ledger, claim(account, "a", 10))
    before = ledger.account(account).blocks
    assert divided(ledger) == account
    assert ledger.account(account).blocks == before


def test_the_same_id_on_other_blocks_is_refused_by_name(ledger, account):
    reserve(ledger, claim(account, "a", 1, blocks=("north", "south")))
    before = state_of_everything(ledger)
    assert (
        reserve(ledger, claim(account, "a", 1, blocks=("south", "north"))).code
        is ResultCode.REPEATED
    )
    for other in (("north",), ("north", "west"), ()):
        result = reserve(ledger, claim(account, "a", 1, blocks=other))
        assert result.code is ResultCode.KEY_REUSED
        assert result.message.startswith("blocks")
    assert state_of_everything(ledger) == before


def test_lowering_the_guarantee_holds_for_every_block(ledger, account):
    reserve(ledger, claim(account, "a", ALL // 2, blocks=("north",)))
    ledger.open_account(terms(policy="GDP", layout=LAYOUT, epsilon=epsilon_of(ALL // 4)), actor="s")
    assert not reserve(ledger, claim(account, "b", 1, blocks=("north",))).stands
    assert reserve(ledger, claim(account, "c", ALL // 4 - 1, blocks=("south",))).stands


def test_expiry_moves_every_block_of_a_claim(ledger, account, stores):
    reserve(ledger, claim(account, "a", 5, blocks=("north", "south")))
    reserve(ledger, claim(account, "b", 7, blocks=("south", "west")))
    expose(ledger, "a")
    stores.clock.advance(60)
    assert set(ledger.expire(actor="loop")) == {"a", "b"}
    assert [held(ledger, account, name) for name in SITES] == [
        (0, cost(5)),
        (0, cost(5)),
        NOTHING,
    ]


def test_several_hundred_blocks_are_charged_in_one_transaction(ledger, account):
    days = [f"day-{n:03d}" for n in range(300)]
    ledger.divide(account, days, actor="s")
    seq = ledger.head()[0]
    assert reserve(ledger, claim(account, "a", 5, blocks=tuple(days))).stands
    assert ledger.head()[0] == seq + 1
    blocks = {b.name: b for b in ledger.account(account).blocks}
    assert {blocks[name].reserved.as_dict["mu2"] for name in days} == {cost(5)}
    assert {blocks[name].reserved.as_dict["mu2"] for name in SITES} == {0}


NORTH, ADA = ("north", ""), ("north", "Requester=user:ada")


@pytest.fixture
def holdings(stores, account):
    ledger = stores.ledger
    configure(ledger, account, quotas=(quota("Requester", ALL // 2),))
    reserve(ledger, claim(account, "a", 10))
    assert ledger.verify() == ()
    return Holdings(stores)


@pytest.mark.parametrize("key", [NORTH, ADA], ids=["a block", "a quota"])
@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("reserved", '{"mu2":"0"}'),
        ("charged", '{"mu2":"1"}'),
        ("unlocked", '{"mu2":"1"}'),
        ("arrived", '{"mu2":"1"}'),
        ("added", "2026-01-01T00:00:00.000001Z"),
    ],
)
def test_a_changed_balance_is_found(ledger, account, holdings, key, column, text):
    holdings.change(account, key, column, text)
    assert ledger.verify() == (
        f"Account {account} must be what its entries say; found another balance.",
    )


def test_every_flipped_digit_of_a_balance_is_found(ledger, account, holdings):
    text = f'{{"mu2":"{cost(10)}"}}'
    for at in [at for at, letter in enumerate(text) if letter.isdigit() and text[at - 1] != "u"]:
        digit = str((int(text[at]) + 1) % 10)
        holdings.change(account, NORTH, "reserved", text[:at] + digit + text[at + 1 :])
        assert any(account in fault for fault in ledger.verify())
    holdings.change(account, NORTH, "reserved", text)
    assert ledger.verify() == ()


@pytest.mark.parametrize(
    "key",
    [("east", ""), ("south", "Requester=user:eve"), ("south", "Group=x")],
    ids=["a block", "a quota", "a quota of no rule"],
)
def test_an_invented_balance_is_found(ledger, account, holdings, key):
    holdings.invent(account, key)
    assert any(account in fault for fault in ledger.verify())


def test_balances_of_no_account_are_found(stores, ledger, account, holdings):
    if stores.kind == "memory":
        pytest.skip("memory keeps balances within their account")
    holdings.invent("nobody", NORTH)
    assert ledger.verify() == ("Balances of account nobody must belong to one; found none.",)


def test_damaged_text_of_a_balance_is_found_and_grants_nothing(stores, ledger, account, holdings):
    if stores.kind == "memory":
        pytest.skip("memory keeps no text")
    holdings.change(account, NORTH, "reserved", '{"mu2":"4x"}')
    assert any("damaged text" in fault for fault in ledger.verify())
    fresh = open_stores(stores.url, stores.clock, stores.anchor)  # One that has read nothing yet.
    with pytest.raises(Tampered, match="damaged text"):
        reserve(fresh.ledger, claim(account, "b", 1))
    fresh.close()


def test_a_waiting_claim_takes_all_of_its_blocks_or_none(ledger, account):
    configure(ledger, account, scheduling=queueing())
    reserve(ledger, claim(account, "south", ALL - 3, blocks=("south",)))
    reserve(ledger, claim(account, "both", 4, blocks=("north", "south")))
    reserve(ledger, claim(account, "north", 4, blocks=("north",)))
    scheduled(ledger)
    assert states(ledger, "south", "both", "north") == ["Reserved", "Queued", "Reserved"]
    assert held(ledger, account, "north") == (cost(4), 0)
    ledger.give_back("south", reason="withdrawn", actor="s")
    scheduled(ledger)
    assert states(ledger, "both") == ["Reserved"]
    assert held(ledger, account, "north") == (2 * cost(4), 0)
    assert held(ledger, account, "south") == (cost(4), 0)


def before_blocks():
    """A ledger that has seen everything that there was before blocks."""
    ledger = MemoryLedgerStore(clock=ManualClock())
    account = opened(ledger)
    other, _ = ledger.open_account(terms(dataset_uri="file:///b", dataset_digest=""), actor="s")
    for name, count in (("charged", 20), ("held", 5), ("back", 7), ("denied", ALL)):
        reserve(ledger, claim(account, name, count))
    reserve(ledger, request(other, "exposed", HALF, requester="user:eve"))
    expose(ledger, "charged")
    charge(ledger, "charged", executed=steps(12))
    ledger.give_back("back", reason="withdrawn", actor="s")
    expose(ledger, "exposed")
    ledger.freeze(other, reason="an audit failed", key="k", actor="s")
    return ledger, account


def test_a_ledger_from_before_blocks_is_brought_along(empty_database):
    """Migration: nothing is lost, the record stays intact, and old spending counts in quotas."""
    old, account = before_blocks()
    fill(empty_database, old.store.rows)
    migrate(empty_database)
    stores = open_stores(empty_database, ManualClock())
    ledger = stores.ledger
    try:
        assert ledger.verify() == ()
        assert list(ledger.accounts()) == list(old.accounts())
        assert list(ledger.reservations()) == list(old.reservations())
        assert list(ledger.entries()) == list(old.entries())
        assert held(ledger, account) == (cost(5), cost(12))
        configure(ledger, account, quotas=(quota("Requester", 30),))
        assert not reserve(ledger, claim(account, "more", 14)).stands
        assert reserve(ledger, claim(account, "fits", 13)).stands
        expose(ledger, "held")
        assert charge(ledger, "held").stands
        assert ledger.verify() == ()
    finally:
        stores.close()
