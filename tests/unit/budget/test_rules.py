"""Are the rules of sharing read as written, and does each person meet the right quotas?"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import pytest

from primum.domain.budget.rules import (
    Quota,
    QuotaScope,
    Rules,
    SchedulerName,
    Scheduling,
    Unlocking,
    UnlockingRule,
    rules_from_json,
)
from primum.domain.errors import InvalidValue


@dataclass(frozen=True)
class Somebody:
    requester: str = "ada"
    group: str = "oncology"
    study: str = "oncology/one"
    purpose: str = "Find malignancy"


FULL = Rules(
    Unlocking(UnlockingRule.ROUNDS, days=Decimal(30), rounds=12, slack=Decimal("0.5")),
    Scheduling(SchedulerName.DUAL_PRICES, efficiency=Decimal("0.5"), wait_days=Decimal(7)),
    (Quota(QuotaScope.REQUESTER, Decimal(2)), Quota(QuotaScope.GROUP, Decimal(3), "oncology")),
)


@pytest.mark.parametrize("rules", [Rules(), FULL])
def test_rules_are_written_and_read_back(rules):
    assert rules_from_json(rules.to_json()) == rules


def test_by_default_nothing_waits_and_nothing_is_shared_out():
    assert not Rules().queues
    assert Rules().quotas_of(Somebody()) == ()
    assert Rules().unlocking.rule is UnlockingRule.IMMEDIATE
    assert FULL.queues


def test_a_quota_with_a_name_goes_before_one_without():
    rules = Rules(
        quotas=(
            Quota(QuotaScope.REQUESTER, Decimal(5), "ada"),
            Quota(QuotaScope.REQUESTER, Decimal(1)),
            Quota(QuotaScope.GROUP, Decimal(3), "cardiology"),
        )
    )
    found = {scope: quota.epsilon for scope, quota in rules.quotas_of(Somebody())}
    assert found == {"Requester=ada": Decimal(5)}
    found = {scope: quota.epsilon for scope, quota in rules.quotas_of(Somebody(requester="eve"))}
    assert found == {"Requester=eve": Decimal(1)}


def test_a_quota_without_a_name_counts_each_one_separately():
    rules = Rules(quotas=tuple(Quota(scope, Decimal(1)) for scope in QuotaScope))
    one = {scope for scope, _ in rules.quotas_of(Somebody())}
    other = {scope for scope, _ in rules.quotas_of(Somebody("eve", "cardiology", "c/two", "Else"))}
    assert len(one) == len(other) == len(QuotaScope)
    assert not one & other


@pytest.mark.parametrize(
    ("rule", "given"),
    [
        (UnlockingRule.IMMEDIATE, {"claims": 1}),
        (UnlockingRule.PER_CLAIM, {}),
        (UnlockingRule.PER_CLAIM, {"claims": 10, "days": Decimal(1)}),
        (UnlockingRule.PER_TIME, {"days": Decimal(0)}),
        (UnlockingRule.PER_TIME, {"days": Decimal(1), "slack": Decimal("0.5")}),
        (UnlockingRule.ROUNDS, {"days": Decimal(1), "rounds": 3}),
        (UnlockingRule.ROUNDS, {"days": Decimal(1), "rounds": 4, "slack": Decimal(2)}),
        (UnlockingRule.HYBRID, {"days": Decimal(1)}),
    ],
)
def test_a_rule_of_unlocking_has_exactly_its_own_numbers(rule, given):
    with pytest.raises(InvalidValue, match=r"^unlocking\."):
        Unlocking(rule, **given)


def test_impossible_numbers_are_refused():
    with pytest.raises(InvalidValue, match="efficiency"):
        Scheduling(efficiency=Decimal("1.1"))
    with pytest.raises(InvalidValue, match="waitDays"):
        Scheduling(wait_days=Decimal(-1))
    with pytest.raises(InvalidValue, match="epsilon"):
        Quota(QuotaScope.STUDY, Decimal("Infinity"))
    with pytest.raises(InvalidValue, match="each scope and name once"):
        Rules(quotas=(Quota(QuotaScope.STUDY, Decimal(1)), Quota(QuotaScope.STUDY, Decimal(2))))
