"""Blocks, rules of sharing and quotas on a real API server: enforced by schema and CEL alone."""

from __future__ import annotations

import pytest
from manifests import BUDGET, STUDY, manifest, path

MONTHS = {"by": "Time", "column": "admitted", "period": "Month", "start": "2026-01-01"}
WARDS = {"by": "Cohort", "column": "ward", "values": ["icu", "surgery"]}
MANY = {**WARDS, "values": [f"ward-{n:03d}-{'x' * 55}" for n in range(256)]}  # As long as may be.
QUOTAS = [
    {"per": "Requester", "name": f"somebody-{n}-{'x' * 200}", "epsilon": "1"} for n in range(64)
]


@pytest.fixture
def post(api, namespace):
    """Post a manifest strictly; gives code and what was said."""

    def posted(kind, name, spec):
        where = path(kind, namespace) + "?fieldValidation=Strict"
        code, answer = api.request("POST", where, manifest(kind, name, spec))
        return code, answer.get("message", "")

    return posted


WRONG = [
    ({"blocks": {**MONTHS, "values": ["a"]}}, "values must be given exactly unless by Time"),
    ({"blocks": {"by": "Time", "column": "c"}}, "start must be given exactly by Time"),
    ({"blocks": {**MONTHS, "end": "2026-01-01"}}, "end must be after start"),
    ({"blocks": {**MONTHS, "start": "2026-02-30"}}, "spec.blocks.start"),
    ({"blocks": {**WARDS, "values": ["whole"]}}, "stands for a dataset without blocks"),
    ({"blocks": {**WARDS, "values": ["a", "a"]}}, "Duplicate value"),
    ({"blocks": WARDS, "neighbors": "ReplaceOne"}, "neighbors must be AddOrRemoveOne with blocks"),
    ({"unlocking": {"rule": "PerClaim"}}, "claims must be given exactly with rule PerClaim"),
    ({"unlocking": {"rule": "Rounds", "days": "1", "rounds": 3}}, "rounds must be even"),
    ({"scheduling": {"scheduler": "DPF", "efficiency": "1"}}, "absent without DualPrices"),
    ({"scheduling": {"waitDays": "99999"}}, "waitDays must be at most 36525"),
    ({"quotas": [{"per": "Group", "epsilon": "1"}] * 2}, "each per and name must be given once"),
]


@pytest.mark.parametrize(("more", "message"), WRONG)
def test_a_wrong_budget_is_refused_with_a_message(post, more, message):
    code, said = post("PrivacyBudget", "wrong", {**BUDGET, **more})
    assert code == 422
    assert message in said


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({}, "either values, or from and until, must be given"),
        ({"values": ["a"], "from": "2026-01-01"}, "either values, or from and until"),
        ({"from": "2026-02-01", "until": "2026-01-01"}, "until must be after from"),
    ],
)
def test_a_wrong_selection_is_refused_with_a_message(post, blocks, message):
    data = [{"role": "Private", "budget": "wards", "blocks": blocks}]
    code, said = post("Study", "wrong", {**STUDY, "data": data})
    assert code == 422
    assert message in said


def test_the_longest_lists_stay_within_what_the_server_may_spend_on_rules(post, api, namespace):
    assert post("PrivacyBudget", "long", {**BUDGET, "blocks": MANY, "quotas": QUOTAS})[0] == 201
    before = api.get(path("PrivacyBudget", namespace, "long"))
    values = [*MANY["values"][1:], "another"]
    spec = {**before["spec"], "blocks": {**MANY, "values": values}}
    code, answer = api.request(
        "PUT", path("PrivacyBudget", namespace, "long"), {**before, "spec": spec}
    )
    assert code == 422
    assert "blocks.values can only be added to" in answer["message"]


CHANGES = [
    (WARDS, {**WARDS, "values": ["icu", "surgery", "emergency"]}, ""),
    (WARDS, {**WARDS, "values": ["icu"]}, "blocks.values can only be added to"),
    (WARDS, {**WARDS, "column": "site"}, "blocks.by and blocks.column are immutable"),
    (WARDS, None, "blocks can be neither added later nor removed"),
    (None, WARDS, "blocks can be neither added later nor removed"),
    (MONTHS, {**MONTHS, "end": "2026-07-01"}, ""),
    ({**MONTHS, "end": "2026-07-01"}, {**MONTHS, "end": "2026-08-01"}, ""),
    ({**MONTHS, "end": "2026-07-01"}, {**MONTHS, "end": "2026-06-01"}, "only be moved on"),
    ({**MONTHS, "end": "2026-07-01"}, MONTHS, "blocks.end can only be moved on"),
    (MONTHS, {**MONTHS, "period": "Week"}, "blocks.period is immutable"),
    (MONTHS, {**MONTHS, "start": "2025-01-01"}, "blocks.start is immutable"),
]


@pytest.mark.parametrize(("old", "new", "message"), CHANGES)
def test_blocks_may_only_be_added_to(post, api, namespace, old, new, message):
    assert post("PrivacyBudget", "wards", BUDGET | ({"blocks": old} if old else {}))[0] == 201
    where = path("PrivacyBudget", namespace, "wards")
    before = api.get(where)
    spec = {name: value for name, value in before["spec"].items() if name != "blocks"}
    after = {**before, "spec": spec | ({"blocks": new} if new else {})}
    code, answer = api.request("PUT", where, after)
    assert code == (422 if message else 200), answer
    assert message in answer.get("message", "")
