"""Blocks and rules of sharing, as people write them, become what the domain reads."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest

from primum.domain.budget.layout import BlockSelection, Division, Period
from primum.domain.budget.rules import (
    Quota,
    QuotaScope,
    Rules,
    SchedulerName,
    Scheduling,
    UnlockingRule,
)
from primum.domain.errors import InvalidValue
from primum.domain.names import ResourceKey
from primum.resources import conversion
from primum.resources.loading import load_text
from primum.resources.stored import StoredResource

BUDGET = """
apiVersion: primum.dev/v1alpha1
kind: PrivacyBudget
metadata: {name: wards, namespace: oncology}
spec:
  dataset: {uri: csv://wards.csv, unit: Patient}
  guarantee: {epsilon: "8.0", delta: "1e-5"}
"""
STUDY = """
apiVersion: primum.dev/v1alpha1
kind: Study
metadata: {name: one, namespace: oncology}
spec:
  purpose: Find malignancy
  job: {kind: Train, train: {model: Logistic, epochs: 1, batchSize: 8, maxGradNorm: "1.0"}}
  data:
    - role: Private
      budget: wards
"""


def stored(kind: str, text: str) -> StoredResource:
    (item,) = load_text(text, source="test")
    key = ResourceKey(kind, "oncology", item.key.name)
    return StoredResource(key, "u", 1, 1, "", item.spec_mapping(), {}, {})


def budget(more: str) -> Any:
    return conversion.budget_spec(stored("PrivacyBudget", BUDGET + more))


def test_a_budget_without_any_of_it_is_one_block_unlocked_at_once() -> None:
    spec = budget("")
    assert spec.dataset.layout is None
    assert spec.rules == Rules()


def test_blocks_by_time_become_a_layout() -> None:
    layout = budget(
        '  blocks: {by: Time, column: admitted, period: Quarter, start: "2025-02-01", '
        'end: "2027-01-01"}\n'
    ).dataset.layout
    assert (layout.by, layout.column, layout.period) == (
        Division.TIME,
        "admitted",
        Period.QUARTER,
    )
    assert (layout.start, layout.end) == (datetime.date(2025, 2, 1), datetime.date(2027, 1, 1))


def test_a_day_may_stand_without_quotes_as_kubectl_reads_it() -> None:
    layout = budget(
        "  blocks: {by: Time, column: admitted, period: Month, start: 2025-02-01}\n"
    ).dataset.layout
    assert layout.start == datetime.date(2025, 2, 1)


def test_cohorts_become_a_layout() -> None:
    layout = budget("  blocks: {by: Cohort, column: ward, values: [icu, surgery]}\n").dataset.layout
    assert (layout.by, layout.values) == (Division.COHORT, ("icu", "surgery"))


def test_rules_are_read_exactly() -> None:
    rules = budget(
        """
  unlocking: {rule: Hybrid, claims: 20, days: "365.5"}
  scheduling: {scheduler: DualPrices, efficiency: "0.25", waitDays: "3"}
  quotas:
    - {per: Requester, epsilon: "2.5"}
    - {per: Purpose, name: Find malignancy, epsilon: "0"}
"""
    ).rules
    assert (rules.unlocking.rule, rules.unlocking.claims) == (UnlockingRule.HYBRID, 20)
    assert rules.unlocking.days == Decimal("365.5")
    assert rules.scheduling == Scheduling(SchedulerName.DUAL_PRICES, Decimal("0.25"), Decimal(3))
    assert rules.quotas == (
        Quota(QuotaScope.REQUESTER, Decimal("2.5")),
        Quota(QuotaScope.PURPOSE, Decimal(0), "Find malignancy"),
    )


@pytest.mark.parametrize(
    ("more", "days"),
    [
        ("", "0"),
        ("  scheduling: {scheduler: FirstComeFirstServed}\n", "0"),
        ("  scheduling: {scheduler: DPF}\n", "7"),
        ('  scheduling: {scheduler: DPF, waitDays: "0"}\n', "0"),
        ('  unlocking: {rule: PerTime, days: "30"}\n', "7"),
        ("  unlocking: {rule: Immediate}\n", "0"),
        ('  unlocking: {rule: PerClaim, claims: 9}\n  scheduling: {waitDays: "2"}\n', "2"),
    ],
)
def test_people_wait_where_a_queue_makes_sense(more: str, days: str) -> None:
    assert budget(more).rules.scheduling.wait_days == Decimal(days)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            "  blocks: {by: Time, column: admitted, period: Month}\n",
            "spec.blocks must have start, because it is by Time; found none.",
        ),
        (
            "  blocks: {by: Cohort, column: ward, values: [icu, whole]}\n",
            "spec.blocks.values[1] must have 1 to 64 printable characters",
        ),
        (
            '  unlocking: {rule: PerTime, days: "30", claims: 4}\n',
            "spec.unlocking must have no claims with rule PerTime; found claims.",
        ),
        (
            "  unlocking: {rule: PerTime, days: 30}\n",
            'spec.unlocking.days must be a quoted decimal; found 30. Write days: "30".',
        ),
        (
            '  quotas: [{per: Group, epsilon: "1"}, {per: Group, epsilon: "2"}]\n',
            "spec.quotas must give each per and name once; found Group.",
        ),
        (
            "  schedulling: {scheduler: DPF}\n",
            "Did you mean scheduling?",
        ),
    ],
)
def test_mistakes_are_said_in_a_sentence(more: str, sentence: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        budget(more)
    assert sentence in str(caught.value)


def chosen(more: str) -> BlockSelection:
    selection: BlockSelection = (
        conversion.study_spec(stored("Study", STUDY + more)).inputs[0].blocks
    )
    return selection


def test_a_study_chooses_blocks() -> None:
    assert chosen("") == BlockSelection()
    assert chosen("      blocks: {values: [icu]}\n") == BlockSelection(("icu",))
    days = '      blocks: {from: "2026-01-01", until: "2026-07-01"}\n'
    assert chosen(days) == BlockSelection(
        start=datetime.date(2026, 1, 1), end=datetime.date(2026, 7, 1)
    )


def test_a_study_may_not_change_its_blocks() -> None:
    old = stored("Study", STUDY + "      blocks: {values: [icu]}\n")
    new = stored("Study", STUDY + "      blocks: {values: [surgery]}\n")
    with pytest.raises(InvalidValue, match=r"blocks\.values\[0\] must stay as declared"):
        conversion.check_transition(old.key, old.spec, new.spec)
