"""A budget with blocks: divided day by day, planned and paid block by block, opened by tokens."""

from __future__ import annotations

import datetime
from dataclasses import replace
from decimal import Decimal

import pytest
from simulated.jobs import ATTACK

from primum.application import access, audits, budgets, planning
from primum.domain.budget.rules import SchedulerName, UnlockingRule
from primum.domain.errors import InvalidValue, Refused
from primum.domain.study.lifecycle import Action
from primum.domain.study.plan import Treatment, plan_from_json
from primum.domain.study.registration import Registration
from primum.resources import conversion
from primum.resources.metadata import REQUESTER_LABEL

MONTHS = {"by": "Time", "column": "admitted", "period": "Month", "start": "2026-01-01"}
WARDS = {"by": "Cohort", "column": "ward", "values": ["icu", "surgery", "attic"]}
PER_BLOCK = (100, 80)


class Zone:
    """A steward's zone in which every block that exists has the same number of patients."""

    def __init__(self, empty=("attic",)):
        self.seen = []
        self._empty = empty

    def register(self, dataset):
        self.seen.append(dataset)
        today = dataset.layout.end or datetime.date.max
        names = [n for n in dataset.layout.blocks_until(today) if n not in self._empty]
        return Registration(
            digest=f"sha256:{len(names):064x}",
            units=PER_BLOCK[0] * len(names),
            train_units=PER_BLOCK[1] * len(names),
            blocks=dict.fromkeys(names, PER_BLOCK),
        )


@pytest.fixture
def wing(ward):
    """The ward with a divided dataset under the budget ``wing``."""
    ward.zone = Zone()
    ward.platform = ward.with_port(datasets=ward.zone)

    def declare(blocks, **more):
        spec = {
            "dataset": {"uri": "csv://wing.csv", "unit": "Patient"},
            "guarantee": {"epsilon": "3.0", "delta": "1e-5"},
            "blocks": blocks,
            **more,
        }
        ward.resources.apply(ward.key("PrivacyBudget", "wing"), spec, labels={})
        look(ward)
        return ward

    return declare


def look(ward):
    budgets.reconcile_budget(ward.platform, ward.get("PrivacyBudget", "wing"))


def study_of(ward, name="one", blocks=None, **more):
    data = {"role": "Private", "budget": "wing"} | ({"blocks": blocks} if blocks else {})
    return ward.study(name, data=[data], endpoint="", **more)


def held_blocks(ward):
    return {block.name: block for block in ward.ledger.account(ward.account("wing")).blocks}


def kinds_of(ward):
    return [entry.kind.value for entry in ward.ledger.entries(account_id=ward.account("wing"))]


def test_a_budget_by_cohort_has_its_blocks_in_the_ledger(wing):
    ward = wing(WARDS)
    assert set(held_blocks(ward)) == {"icu", "surgery", "attic"}
    assert ward.get("PrivacyBudget", "wing").status["blocks"] == 3
    assert kinds_of(ward) == ["Opened", "Inspected", "Divided"]


def test_looking_again_writes_nothing(wing):
    ward = wing(MONTHS, scheduling={"scheduler": "DPF"})
    before = ward.ledger.head()
    for _ in range(5):
        ward.clock.advance(3600)
        look(ward)
    assert ward.ledger.head() == before
    assert len(ward.zone.seen) == 1


def test_a_new_month_is_a_new_block_and_the_dataset_is_counted_again(wing):
    ward = wing(MONTHS)
    assert set(held_blocks(ward)) == {"2026-01", "2026-02", "2026-03"}
    assert ward.get("PrivacyBudget", "wing").status["units"] == 300
    ward.clock.advance(31 * 86400)
    look(ward)
    assert set(held_blocks(ward)) == {"2026-01", "2026-02", "2026-03", "2026-04"}
    shown = ward.get("PrivacyBudget", "wing").status
    assert (shown["units"], shown["blocks"], shown["newestBlock"]) == (400, 4, "2026-04")
    added = ["Identified", "Inspected", "Divided"]
    assert kinds_of(ward) == ["Opened", "Inspected", "Divided", *added]


def test_the_zone_is_told_which_blocks_exist_and_reads_no_clock(wing):
    ward = wing(MONTHS)
    layout = ward.zone.seen[0].layout
    assert layout.blocks_until(layout.end)[-1] == "2026-03"
    assert layout.block_of("2026-04-01") == ""


def test_rules_reach_the_ledger_and_may_change(wing):
    ward = wing(WARDS, unlocking={"rule": "PerTime", "days": "30"})
    rules = ward.ledger.account(ward.account("wing")).rules
    assert rules.unlocking.rule is UnlockingRule.PER_TIME
    assert rules.scheduling.wait_days == 7
    ward = wing(WARDS, scheduling={"scheduler": "DPF"}, quotas=[{"per": "Group", "epsilon": "1"}])
    rules = ward.ledger.account(ward.account("wing")).rules
    assert rules.unlocking.rule is UnlockingRule.IMMEDIATE
    assert rules.scheduling.scheduler is SchedulerName.DPF
    assert [quota.epsilon for quota in rules.quotas] == [Decimal(1)]


def test_a_cohort_may_be_added(wing):
    ward = wing({**WARDS, "values": ["icu"]})
    assert set(held_blocks(ward)) == {"icu"}
    ward = wing(WARDS)
    assert set(held_blocks(ward)) == {"icu", "surgery", "attic"}


def test_another_division_of_the_same_data_is_refused(wing):
    ward = wing(WARDS)
    spec = dict(ward.get("PrivacyBudget", "wing").spec) | {"blocks": {**WARDS, "column": "site"}}
    ward.resources.apply(ward.key("PrivacyBudget", "other"), spec, labels={})
    budgets.reconcile_budget(ward.platform, ward.get("PrivacyBudget", "other"))
    shown = ward.shown(ward.key("PrivacyBudget", "other"), "Ready")
    assert shown.startswith("False InvalidSpec: blocks must be divided as they were")


def test_delta_must_be_below_one_over_all_units_of_all_blocks(wing):
    ward = wing(WARDS, guarantee={"epsilon": "3.0", "delta": "0.005"})
    shown = ward.shown(ward.key("PrivacyBudget", "wing"), "Ready")
    assert "spec.guarantee.delta must be below 1/200" in shown


def test_a_budget_that_begins_later_is_not_ready(wing):
    ward = wing({**MONTHS, "start": "2027-01-01"})
    shown = ward.shown(ward.key("PrivacyBudget", "wing"), "Ready")
    assert "blocks.start must not lie after today" in shown


def test_a_study_of_one_block_is_planned_and_paid_with_it_alone(wing):
    ward = wing(WARDS)
    key = study_of(ward, blocks={"values": ["icu"]})
    context = planning.planning_context(ward.platform, ward.spec(key))
    facts = context.datasets["wing"]
    assert (facts.blocks, facts.units, facts.train_units) == (("icu",), *PER_BLOCK)
    ward.finish(key)
    assert ward.shown(key, "Succeeded").startswith("True Done")
    blocks = held_blocks(ward)
    assert blocks["icu"].epsilon_spent > 0
    assert blocks["surgery"].epsilon_spent == blocks["attic"].epsilon_spent == 0
    plan = ward.platform.evidence.plan(ward.spec(key).uid, 1)
    assert plan.blocks == {"wing": ("icu",)}
    assert plan_from_json(plan.to_json()) == plan


def test_what_one_block_spent_leaves_the_others_as_they_were(wing):
    ward = wing(WARDS, guarantee={"epsilon": "1.0", "delta": "1e-5"})
    spent = study_of(ward, "one", {"values": ["icu"]}, job=job(400))
    ward.finish(spent)
    again = study_of(ward, "two", {"values": ["icu"]}, job=job(400))
    ward.finish(again)
    assert ward.shown(again, "Succeeded").startswith("False Denied: ")
    assert "left in block icu, the plan needs" in ward.shown(again, "Succeeded")
    other = study_of(ward, "three", {"values": ["surgery"]}, job=job(400))
    ward.finish(other)
    assert ward.shown(other, "Succeeded").startswith("True Done")


def job(steps):
    return {"kind": "Simulated", "parameters": {"steps": str(steps), "noise": "12"}}


def test_days_are_rounded_outwards_to_whole_blocks(wing):
    ward = wing(MONTHS)
    key = study_of(ward, blocks={"from": "2026-01-31", "until": "2026-02-02"})
    facts = planning.planning_context(ward.platform, ward.spec(key)).datasets["wing"]
    assert facts.blocks == ("2026-01", "2026-02")


def test_nothing_chosen_is_everything_that_exists_when_it_is_planned(wing):
    ward = wing(MONTHS)
    key = study_of(ward)
    assert ward.advance(key) is Action.WAIT
    months = ("2026-01", "2026-02", "2026-03")
    assert ward.platform.evidence.plan(ward.spec(key).uid, 1).blocks == {"wing": months}
    ward.clock.advance(31 * 86400)
    look(ward)
    facts = planning.planning_context(ward.platform, ward.spec(key)).datasets["wing"]
    assert facts.blocks == months


@pytest.mark.parametrize(
    ("blocks", "selection", "sentence"),
    [
        (
            WARDS,
            {"values": ["roof"]},
            "spec.data.blocks.values must be of attic, icu, surgery; found roof.",
        ),
        (WARDS, {"from": "2026-01-01"}, "spec.data.blocks.from must be absent by Cohort"),
        (MONTHS, {"values": ["icu"]}, "spec.data.blocks.values must be absent by Time"),
        (
            MONTHS,
            {"from": "2026-04-01"},
            "spec.data.blocks must match a block that exists; an "
            "empty match would be a free query; found none. There are 2026-01, 2026-02, 2026-03.",
        ),
        (
            WARDS,
            {"values": ["attic"]},
            "spec.data.blocks must hold training and held-out units of "
            "budget wing; found 0 and 0 in attic. Choose more blocks",
        ),
    ],
)
def test_a_selection_of_nothing_is_a_final_no(wing, blocks, selection, sentence):
    ward = wing(blocks)
    key = study_of(ward, blocks=selection)
    ward.finish(key)
    assert ward.shown(key, "Succeeded").startswith("False InvalidSpec: ")
    assert sentence in ward.shown(key, "Succeeded")
    assert ward.states(key) == []


def test_blocks_of_a_dataset_without_blocks_are_a_final_no(ward):
    data = [{"role": "Private", "budget": "scans", "blocks": {"values": ["icu"]}}]
    key = ward.study(data=data)
    ward.finish(key)
    assert "must be absent, because budget scans has no blocks" in ward.shown(key, "Succeeded")


def test_a_claim_on_a_small_block_keeps_the_delta_of_the_whole(wing):
    ward = wing(WARDS, guarantee={"epsilon": "3.0", "delta": "1e-5"})
    key = study_of(ward, blocks={"values": ["icu"]}, privacy={"epsilon": "2", "delta": "0.006"})
    ward.finish(key)
    assert "spec.privacy.delta must be below 1/200" in ward.shown(key, "Succeeded")


def test_tickets_and_tokens_say_which_blocks_they_open(wing, monkeypatch):
    ward, tokens = wing(WARDS), []
    monkeypatch.setattr(ward.auditor, "token_signed", tokens.append)
    key = study_of(ward, blocks={"values": ["surgery", "icu"]})
    ward.advance(key)
    ((_, steps),) = ward.runner.launched
    for step in steps:
        assert step.datasets["wing"]["blocks"] == step.plan["blocks"]["wing"] == ["icu", "surgery"]
        for ticket in step.tickets.values():
            claims = access.ticket_claims(ward.platform.signer, ticket)
            assert (claims["blocks"], claims["layout"]["column"]) == (["icu", "surgery"], "ward")
    ward.runner.progress()
    assert tokens
    assert all(token["blocks"] == ["icu", "surgery"] for token in tokens)
    assert all(token["layout"] == step.datasets["wing"]["layout"] for token in tokens)


def test_a_ticket_for_blocks_that_nobody_pays_for_is_not_minted(wing):
    ward = wing(WARDS)
    key = study_of(ward, blocks={"values": ["icu"]})
    ward.advance(key)
    spec = ward.spec(key)
    facts = planning.planning_context(ward.platform, spec).datasets["wing"]
    plan = ward.platform.evidence.plan(spec.uid, 1)
    (held,) = ward.ledger.reservations(study_uid=spec.uid)
    assert held.blocks == ("icu",)
    more = replace(facts, blocks=("icu", "surgery"))
    whole = replace(facts, blocks=(), dataset=replace(facts.dataset, layout=None))
    for other in (more, whole):
        with pytest.raises(Refused, match="must read the blocks that are paid for"):
            access.mint_ticket(ward.platform, spec, plan.accesses[0], other, held)
    with pytest.raises(Refused, match="must name blocks exactly of a divided dataset"):
        access.mint_audit_ticket(
            ward.platform,
            uid="u",
            generation=1,
            access=replace(plan.accesses[0], treatment=Treatment.INSPECTED),
            facts=replace(facts, blocks=()),
        )


@pytest.mark.parametrize(
    ("labels", "requester"), [({REQUESTER_LABEL: "ada"}, "ada"), ({}, "ward/one")]
)
def test_quotas_count_by_who_asked_for_what_group(wing, labels, requester):
    ward = wing(WARDS)
    key = study_of(ward, blocks={"values": ["icu"]})
    ward.resources.apply(key, ward.resources.get(key).spec, labels=labels)
    ward.advance(key)
    (held,) = ward.ledger.reservations(study_uid=ward.spec(key).uid)
    assert (held.requester, held.group, held.purpose) == (requester, "ward", "Try everything")


def test_a_quota_stops_who_has_taken_enough(wing):
    ward = wing(WARDS, quotas=[{"per": "Requester", "name": "ada", "epsilon": "0.1"}])
    key = study_of(ward, blocks={"values": ["icu"]}, job=job(400))
    ward.resources.apply(key, ward.resources.get(key).spec, labels={REQUESTER_LABEL: "ada"})
    ward.finish(key)
    assert ward.shown(key, "Succeeded").startswith("False Denied: ")
    assert "ada" in ward.shown(key, "Succeeded")
    other = study_of(ward, "two", blocks={"values": ["icu"]}, job=job(400))
    ward.finish(other)
    assert ward.shown(other, "Succeeded").startswith("True Done")


def test_a_registration_knows_the_blocks_it_found(wing):
    ward = wing(WARDS)
    stored = ward.get("PrivacyBudget", "wing")
    spec = conversion.budget_spec(stored)
    ward.platform = ward.with_port(datasets=None)
    found = budgets.registered_dataset(ward.platform, spec)
    assert found.blocks == {"icu": PER_BLOCK, "surgery": PER_BLOCK}
    with pytest.raises(InvalidValue, match="must hold training and held-out units"):
        budgets.dataset_facts(ward.platform, spec, "a", blocks=("attic",))


def test_a_later_audit_looks_at_the_blocks_of_the_study(wing):
    ward = wing(MONTHS)
    key = study_of(ward)
    ward.finish(key)
    ward.clock.advance(31 * 86400)
    look(ward)
    run = ward.key("AuditRun", "weekly")
    audit = {"kind": "Membership", "attack": ATTACK}
    ward.resources.apply(run, {"study": "one", "audit": audit}, labels={})
    ward.runner.launched.clear()
    audits.reconcile_audit_run(ward.platform, ward.resources.get(run))
    ((_, steps),) = ward.runner.launched
    months = ["2026-01", "2026-02", "2026-03"]
    assert steps[0].datasets["wing"]["blocks"] == steps[0].plan["blocks"]["wing"] == months
    for ticket in steps[0].tickets.values():
        assert access.ticket_claims(ward.platform.signer, ticket)["blocks"] == months
