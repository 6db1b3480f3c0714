"""An audit stops where its verdict is certain, pays for looking, and is not begun without hope."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import Verdict
from primum.domain.risk import audits
from primum.domain.risk.looks import Look, planned_looks
from primum.domain.study.spec import AuditSpec
from primum_pipelines.attacks import shadow_program
from primum_pipelines.attacks.membership import MembershipScores
from primum_pipelines.audits.membership import judged, until_certain
from primum_pipelines.audits.subject import subject_of
from primum_pipelines.steps.audit import run

from .test_audit_step import records_of

LIRA = AuditSpec("Membership", "LiRA", {"shadows": 8})
REFERENCE = AuditSpec("Membership", "Reference", {"shadows": 8})
LOOKS = (Look(16, Decimal("0.1")), Look(32, Decimal("0.1")), Look(64, Decimal("0.8")))


@given(st.integers(1, 4096), st.integers(1, 64))
def test_shares_add_up_and_the_last_look_has_all_models(models, group):
    looks = planned_looks(models, group=group)
    counts = [look.models for look in looks]
    assert sum(look.share for look in looks) == 1
    assert counts[-1] == models
    assert counts == sorted(set(counts))
    assert all(count % group == 0 for count in counts[:-1])
    assert all(look.share > 0 for look in looks)


def test_looks_at_a_quarter_a_half_and_all():
    assert planned_looks(64, group=8) == LOOKS
    assert planned_looks(8, group=8) == (Look(8, Decimal(1)),)
    with pytest.raises(InvalidValue, match="group must be at least 1"):
        planned_looks(8, group=0)


def test_looking_three_times_contradicts_a_true_claim_no_more_often_than_looking_once():
    """Randomized response leaks exactly its epsilon. 400 audits with fresh draws at every look.

    The rule allows 20 of 400; more than 37 would be seen once in ten thousand times (binomial).
    """
    rng, epsilon, units = np.random.default_rng(3), 1.0, 200
    honest = math.exp(epsilon) / (1 + math.exp(epsilon))
    wrong = 0
    for _ in range(400):
        wrong += any(
            audits.epsilon_lower_bound(
                true_positives=int(rng.binomial(units, honest)),
                members=units,
                false_positives=int(rng.binomial(units, 1 - honest)),
                non_members=units,
                delta=0.0,
                confidence=float(1 - Decimal("0.05") * look.share),
            )["epsilon_lower"]
            > epsilon
            for look in LOOKS
        )
    assert wrong <= 37


def scores(present, absent):
    return MembershipScores(
        present=np.asarray(present, dtype=float),
        absent=np.asarray(absent, dtype=float),
        threshold=0.5,
        sharpest=0.5,
        duplicates=0,
        loss_auc=0.5,
        task_accuracy=0.5,
        groups={},
    )


def rounds_of(found, asked):
    """The same scores at every look; notes how many looks were asked for."""
    for _ in LOOKS:
        asked.append(1)
        yield found


@pytest.fixture(scope="module")
def subject(trained):
    return subject_of(trained(audits=(LIRA,)))


def test_a_claim_that_is_contradicted_at_the_first_look_needs_no_other(subject):
    asked = []
    found = scores([1.0] * 400, [0.0] * 400)
    _, judgment = until_certain(subject, rounds_of(found, asked), LOOKS)
    assert judgment.verdict is Verdict.FAIL
    assert len(asked) == 1


def test_a_pass_takes_every_look(subject):
    asked = []
    rng = np.random.default_rng(1)
    found = scores(rng.random(400), rng.random(400))
    _, judgment = until_certain(subject, rounds_of(found, asked), LOOKS)
    assert judgment.verdict is Verdict.PASS
    assert len(asked) == len(LOOKS)


def test_where_no_attack_could_show_anything_more_shadows_are_a_waste(subject):
    """Ten against ten contradict no claim, however good the attack is."""
    asked = []
    found = scores([1.0] * 10, [0.0] * 10)
    _, judgment = until_certain(subject, rounds_of(found, asked), LOOKS)
    assert judgment.verdict is Verdict.INCONCLUSIVE
    assert len(asked) == 1


def test_an_early_look_claims_less_than_the_only_one_would(subject):
    found = {"present": [1.0] * 60 + [0.0] * 20, "absent": [0.0] * 80, "threshold": 0.5}
    bounds = [
        judged(subject, **found, share=Decimal(share)).epsilon_lower
        for share in ("0.1", "0.8", "1")
    ]
    assert bounds[0] < bounds[1] < bounds[2]


def test_audits_of_one_step_share_their_shadows(trained, monkeypatch):
    counted = []
    train = shadow_program.train_stacked

    def counting(*args, **kwargs):
        counted.append(1)
        return train(*args, **kwargs)

    monkeypatch.setattr(shadow_program, "train_stacked", counting)
    found = records_of(run(trained(audits=(LIRA, REFERENCE))))
    assert len(counted) == 1
    assert {found["LiRA"].restricted["shadowsTrained"]} == {8}
    assert found["LiRA"].restricted["members"] == found["Reference"].restricted["members"]


def test_the_model_is_loaded_once_and_no_audit_can_spoil_it(trained):
    subject = subject_of(trained(audits=(LIRA,)))
    first = subject.model()
    for value in first.module.parameters():
        value.data.fill_(7.0)
    subject.artifacts["Model"] = {"uri": "nowhere", "digest": "sha256:0"}
    again = subject.model()
    assert again.spec == first.spec
    assert all(not (value == 7.0).all() for value in again.module.parameters())


def test_an_audit_that_would_not_end_in_time_is_not_begun(trained):
    """Without a token it could not even open its data."""
    request = trained(audits=(AuditSpec("Membership", "LiRA", {"shadows": 1024}),))
    context = {**request.context, "resources": {"seconds": "0.01"}}
    found = records_of(run(replace(request, context=context, tokens={})))["LiRA"]
    assert found.verdict == "Inconclusive"
    (reason,) = found.public["reasons"]
    assert reason.startswith("spec.activeDeadlineSeconds must be above the estimated cost; found")
    assert found.public["refused"] == "EstimateAboveDeadline"


def test_an_audit_that_ends_in_time_is_begun(trained):
    request = trained(audits=(LIRA,))
    context = {**request.context, "resources": {"seconds": 21600}}
    found = records_of(run(replace(request, context=context)))["LiRA"]
    assert "refused" not in found.public
    assert found.restricted["shadowsTrained"] == 8
