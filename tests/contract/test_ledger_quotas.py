"""Quotas share a budget out by requester, group, Study and purpose, under the guarantee."""

from __future__ import annotations

from decimal import Decimal

import pytest
from ledger_shares import (
    ALL,
    SITES,
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
from ledger_words import charge, expose, reserve, state_of_everything, terms

from primum.domain.budget.entries import ResultCode
from primum.domain.budget.rules import QUOTAS_MAX, Quota, QuotaScope, Rules
from primum.domain.errors import InvalidValue

# Per scope: who has the quota, and somebody else, as a request says it.
ASKERS = {
    "Requester": ({"requester": "user:ada"}, {"requester": "user:eve"}),
    "Group": ({"group": "oncology"}, {"group": "cardiology"}),
    "Study": ({"study": "ns/one"}, {"study": "ns/two"}),
    "Purpose": ({"purpose": "research"}, {"purpose": "billing"}),
}
SCOPES = list(ASKERS)


@pytest.fixture
def account(ledger):
    return opened(ledger)


def value_of(asker):
    return next(iter(asker.values()))


def counted(ledger, account, block="whole"):
    """What each quota counts of a block, as people see it."""
    return {q.scope: q.epsilon_used for q in ledger.account(account).quotas if q.block == block}


@pytest.mark.parametrize("per", SCOPES)
@pytest.mark.parametrize("named", ["by name", "each"])
def test_a_quota_holds_for_whom_it_names(ledger, account, per, named):
    mine, theirs = ASKERS[per]
    name = value_of(mine) if named == "by name" else ""
    configure(ledger, account, quotas=(quota(per, 20, name),))
    assert reserve(ledger, claim(account, "a", 15, **mine)).stands
    result = reserve(ledger, claim(account, "b", 6, **mine))
    assert result.code is ResultCode.OVER_QUOTA
    assert f"the quota of {per}={value_of(mine)} is epsilon" in result.shortfall[account]
    assert reserve(ledger, claim(account, "c", 5, **mine)).stands
    large = reserve(ledger, claim(account, "d", 21, **theirs))
    assert large.stands is (named == "by name")
    assert reserve(ledger, claim(account, "e", 20, **theirs)).stands


def test_a_quota_with_a_name_goes_before_one_without(ledger, account):
    quotas = (quota("Requester", 10), quota("Requester", 30, "user:ada"))
    configure(ledger, account, quotas=quotas)
    assert reserve(ledger, claim(account, "a", 30, requester="user:ada")).stands
    assert not reserve(ledger, claim(account, "b", 11, requester="user:eve")).stands
    configure(ledger, account, quotas=(quota("Requester", 10), quota("Requester", 5, "user:eve")))
    assert not reserve(ledger, claim(account, "c", 6, requester="user:eve")).stands


def test_every_quota_that_holds_must_have_room(ledger, account):
    configure(ledger, account, quotas=(quota("Requester", 30), quota("Purpose", 10, "research")))
    wide = reserve(ledger, claim(account, "a", 11, purpose="research"))
    assert wide.code is ResultCode.OVER_QUOTA
    assert "Purpose=research" in wide.message
    assert reserve(ledger, claim(account, "b", 30, purpose="care")).stands
    spent = reserve(ledger, claim(account, "c", 1, purpose="research"))
    assert "Requester=user:ada" in spent.message
    other = claim(account, "d", 10, purpose="research", requester="user:eve")
    assert reserve(ledger, other).stands


def test_what_comes_back_frees_the_quota_and_what_was_spent_does_not(ledger, account, stores):
    configure(ledger, account, quotas=(quota("Requester", 20),))
    reserve(ledger, claim(account, "a", 12))
    reserve(ledger, claim(account, "b", 8))
    assert counted(ledger, account) == {"Requester=user:ada": epsilon_of(20)}
    ledger.give_back("a", reason="withdrawn", actor="s")
    expose(ledger, "b")
    charge(ledger, "b", executed=steps(3))
    assert counted(ledger, account) == {"Requester=user:ada": epsilon_of(3)}
    assert reserve(ledger, claim(account, "c", 17)).stands
    assert not reserve(ledger, claim(account, "d", 1)).stands
    stores.clock.advance(60)
    ledger.expire(actor="loop")
    assert counted(ledger, account) == {"Requester=user:ada": epsilon_of(3)}


def test_a_quota_counts_what_came_before_it(ledger, account):
    """Whoever spent already cannot begin anew because a quota is new."""
    reserve(ledger, claim(account, "spent", 10))
    expose(ledger, "spent")
    charge(ledger, "spent", executed=steps(8))
    reserve(ledger, claim(account, "held", 7))
    reserve(ledger, claim(account, "back", 50))
    ledger.give_back("back", reason="x", actor="s")
    reserve(ledger, claim(account, "denied", ALL))
    reserve(ledger, claim(account, "hers", 9, requester="user:eve"))
    configure(ledger, account, quotas=(quota("Requester", 20),))
    assert counted(ledger, account) == {
        "Requester=user:ada": epsilon_of(15),
        "Requester=user:eve": epsilon_of(9),
    }
    assert not reserve(ledger, claim(account, "a", 6)).stands
    assert reserve(ledger, claim(account, "b", 5)).stands
    ledger.give_back("held", reason="x", actor="s")
    assert reserve(ledger, claim(account, "c", 7)).stands


def test_a_quota_that_was_gone_for_a_while_has_missed_nothing(ledger, account):
    quotas = (quota("Group", 20),)
    configure(ledger, account, quotas=quotas)
    reserve(ledger, claim(account, "a", 5, group="g"))
    configure(ledger, account)
    assert ledger.account(account).quotas == ()
    assert reserve(ledger, claim(account, "b", 30, group="g")).stands
    configure(ledger, account, quotas=quotas)
    assert counted(ledger, account) == {"Group=g": epsilon_of(35)}
    assert not reserve(ledger, claim(account, "c", 1, group="g")).stands


def test_a_quota_counts_for_each_block(ledger):
    account = divided(ledger)
    configure(ledger, account, quotas=(quota("Requester", 20),))
    assert reserve(ledger, claim(account, "a", 15, blocks=("north",))).stands
    assert reserve(ledger, claim(account, "b", 20, blocks=("south",))).stands
    both = reserve(ledger, claim(account, "c", 6, blocks=("north", "west")))
    assert both.code is ResultCode.OVER_QUOTA
    assert both.message.startswith("Block north: the quota of Requester=user:ada")
    assert reserve(ledger, claim(account, "d", 5, blocks=("north", "west"))).stands
    found = {q.block: q.epsilon_used for q in ledger.account(account).quotas}
    assert found == {
        "north": epsilon_of(20),
        "south": epsilon_of(20),
        "west": epsilon_of(5),
    }
    assert {q.block for q in ledger.account(account).quotas} == set(SITES)


def test_the_guarantee_stands_above_every_quota(ledger, account):
    """P1: quotas share out, they never add to what there is."""
    generous = Quota(QuotaScope.REQUESTER, Decimal(100))
    configure(ledger, account, quotas=(generous,))
    assert reserve(ledger, claim(account, "a", ALL, requester="user:ada")).stands
    result = reserve(ledger, claim(account, "b", 1, requester="user:eve"))
    assert result.code is ResultCode.OVER_BUDGET
    alone = reserve(ledger, claim(account, "c", ALL + 1, requester="user:bob"))
    assert alone.code is ResultCode.OVER_BUDGET


def test_a_quota_follows_a_guarantee_that_was_lowered(ledger, account):
    configure(ledger, account, quotas=(quota("Requester", 100),))
    ledger.open_account(terms(policy="GDP", epsilon=epsilon_of(50)), actor="s")
    assert reserve(ledger, claim(account, "a", 51)).code is ResultCode.OVER_BUDGET
    assert reserve(ledger, claim(account, "b", 50)).stands


def test_a_quota_of_zero_shuts_out_and_only_whom_it_names(ledger, account):
    shut = Quota(QuotaScope.REQUESTER, Decimal(0), "user:eve")
    configure(ledger, account, quotas=(shut,))
    result = reserve(ledger, claim(account, "a", 1, requester="user:eve"))
    assert result.code is ResultCode.OVER_QUOTA
    assert reserve(ledger, claim(account, "b", 1)).stands


@pytest.mark.parametrize("epsilon", ["1e-30", "1e-300"])
def test_a_quota_too_small_to_count_admits_nothing(ledger, account, epsilon):
    configure(ledger, account, quotas=(Quota(QuotaScope.REQUESTER, Decimal(epsilon)),))
    assert reserve(ledger, claim(account, "a", 1)).code is ResultCode.OVER_QUOTA


@pytest.mark.parametrize("parts", [2, 5])
def test_p14_splitting_a_claim_never_gets_more(ledger, account, parts):
    """P14: however one requester cuts a demand up, the quota counts the sum."""
    configure(ledger, account, quotas=(quota("Requester", 20),))
    pieces = [
        reserve(ledger, claim(account, f"a{n}", 40 // parts, study=f"ns/{n}", purpose=f"p{n}"))
        for n in range(parts)
    ]
    assert sum(40 // parts for piece in pieces if piece.stands) <= 20


def test_requests_that_come_together_share_one_quota(ledger, account):
    configure(ledger, account, quotas=(quota("Requester", 20),))
    result = reserve(ledger, claim(account, "a", 11), claim(account, "b", 11))
    assert result.code is ResultCode.OVER_QUOTA
    assert states(ledger, "a", "b") == ["Denied", "Denied"]
    assert held(ledger, account) == (0, 0)
    assert reserve(ledger, claim(account, "c", 11), claim(account, "d", 9)).stands


def test_a_denial_by_quota_is_final_and_takes_nothing(ledger, account):
    configure(ledger, account, quotas=(quota("Requester", 20),))
    first = reserve(ledger, claim(account, "a", 21))
    before = state_of_everything(ledger)
    assert reserve(ledger, claim(account, "a", 21)) == first
    assert state_of_everything(ledger) == before
    assert counted(ledger, account) == {}


def test_a_round_keeps_to_the_quotas(ledger, account):
    """Two claims that would each fit wait; the quota has room for one."""
    configure(ledger, account, quotas=(quota("Requester", 20),), scheduling=queueing())
    for name in ("a", "b"):
        assert reserve(ledger, claim(account, name, 15)).code is ResultCode.QUEUED
    reserve(ledger, claim(account, "c", 15, requester="user:eve"))
    (view,) = scheduled(ledger)
    assert view.granted == 2
    assert states(ledger, "a", "b", "c") == ["Reserved", "Queued", "Reserved"]
    assert held(ledger, account) == (2 * cost(15), 0)
    ledger.give_back("a", reason="withdrawn", actor="s")
    scheduled(ledger)
    assert states(ledger, "b") == ["Reserved"]


def test_a_claim_over_its_quota_does_not_wait(ledger, account):
    configure(ledger, account, quotas=(quota("Requester", 20),), scheduling=queueing())
    result = reserve(ledger, claim(account, "a", 21))
    assert result.code is ResultCode.OVER_QUOTA
    assert states(ledger, "a") == ["Denied"]


def test_a_quota_made_while_claims_wait_holds_for_them(ledger, account):
    configure(ledger, account, scheduling=queueing())
    for name in ("a", "b"):
        reserve(ledger, claim(account, name, 15))
    configure(ledger, account, scheduling=queueing(), quotas=(quota("Requester", 20),))
    assert counted(ledger, account) == {}
    scheduled(ledger)
    assert states(ledger, "a", "b") == ["Reserved", "Queued"]
    assert counted(ledger, account) == {"Requester=user:ada": epsilon_of(15)}


def test_an_outlook_minds_the_quotas_of_who_asks(ledger, account):
    configure(ledger, account, quotas=(quota("Requester", 20),))
    mine = claim(account, "a", 21)
    found = ledger.outlook(account, steps(21), asker=mine)
    assert not found.now
    assert "the quota of Requester=user:ada" in found.reason
    assert found.unlocks == ""
    assert ledger.outlook(account, steps(20), asker=mine).now
    assert ledger.outlook(account, steps(ALL)).now  # Nobody in particular has no quota.


def test_quotas_are_some_and_each_scope_and_name_once():
    same = (quota("Group", 1, "g"), quota("Group", 2, "g"))
    many = tuple(quota("Group", 1, f"g{n}") for n in range(QUOTAS_MAX + 1))
    for quotas in (same, many):
        with pytest.raises(InvalidValue, match="quotas"):
            Rules(quotas=quotas)
