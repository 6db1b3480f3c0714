"""Does the audit step run what was asked, catch a leaky training, and let nothing measured out?"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("opacus")

from primum import extensions
from primum.domain.canonical import canonical_json
from primum.domain.errors import Refused
from primum.domain.governance.evidence import evidence_from_json
from primum.domain.study.plan import plan_from_json
from primum.domain.study.spec import AuditSpec
from primum_pipelines.audits.subject import mechanisms_of
from primum_pipelines.kinds import declaring
from primum_pipelines.optimization.dpsgd import DPSGD
from primum_pipelines.steps.audit import run

CANARIES = AuditSpec("Membership", "OneRunCanary", {"canaries": 100})
INVERSION = AuditSpec("Reconstruction", "GradientInversion", {"trials": 32, "iterations": 200})
LIRA = AuditSpec("Membership", "LiRA", {"shadows": 16})
MEASURED = ("lowerBound", "ncc", "auc", "pValues", "correct", "tprAt", "balancedAccuracy")


class Leaky:
    """Claims DP-SGD and adds no noise."""

    name = "DPSGD"
    reviewed = True

    def fit(self, task):
        quiet = replace(task, mechanism=replace(task.mechanism, noise_multiplier=1e-9))
        report = DPSGD().fit(quiet)
        planned = task.mechanism
        return replace(
            report, executed=((planned.noise_multiplier, planned.sample_rate, planned.steps),)
        )


def records_of(result) -> dict:
    return {item.name: item for item in map(evidence_from_json, result.evidence)}


def test_an_honest_study_passes_every_audit(trained) -> None:
    result = run(trained(audits=(CANARIES, INVERSION, LIRA)))
    found = records_of(result)
    assert list(found) == [
        "MechanismSelfTest",
        "OneRunCanary",
        "GradientInversion",
        "LiRA",
        "RiskCorridor",
    ]
    assert {name: item.verdict for name, item in found.items()} == dict.fromkeys(found, "Pass")
    assert result.status == "Succeeded"
    assert [receipt["event"] for receipt in result.receipts] == [{"event": "NoEvent"}]
    corridor, canaries = found["RiskCorridor"].public, found["OneRunCanary"].restricted
    blind = corridor["unknownDirection"]
    assert blind["dimension"] == 62
    for fpr, tpr in corridor["membership"].items():
        assert float(fpr) < float(blind["membership"][fpr]) < float(tpr)
    scratch = {name: float(value) for name, value in corridor["fromScratch"].items()}
    assert scratch["expectedMseAllUpdates"] < scratch["expectedMse"]
    assert scratch["expectedPsnrAllUpdates"] > scratch["expectedPsnr"]
    assert canaries["auc"]["lower"] <= canaries["auc"]["estimate"] <= canaries["auc"]["upper"]
    assert set(canaries["pictures"]) == {"roc.svg"}


def test_measured_figures_stay_restricted_and_evidence_is_canonical(trained) -> None:
    result = run(trained(audits=(CANARIES, INVERSION)))
    for item in result.evidence:
        canonical_json(item)
        shown = json.dumps(item["public"])
        for name in MEASURED:
            assert f'"{name}"' not in shown
    assert not any(character.isdigit() for character in result.message)


def test_a_training_without_noise_fails_three_audits_independently(trained, monkeypatch) -> None:
    original = extensions.load

    def load(group, name):
        return Leaky if group == "primum.training_algorithms" else original(group, name)

    monkeypatch.setattr(extensions, "load", load)
    result = run(trained(audits=(CANARIES, INVERSION)))
    found = records_of(result)
    assert {name: item.verdict for name, item in found.items()} == dict.fromkeys(found, "Fail")
    assert "check NoiseScale failed" in found["MechanismSelfTest"].public["reasons"]
    assert result.status == "Succeeded"


def test_a_crashing_or_unknown_audit_is_inconclusive_and_tells_nothing(
    trained, monkeypatch
) -> None:
    from primum_pipelines.audits.gradient_inversion import GradientInversion

    def crash(self, subject, parameters):
        raise RuntimeError("patient 7 has value 3.2")

    monkeypatch.setattr(GradientInversion, "run", crash)
    request = trained(audits=(INVERSION,))
    audits = [*request.context["audits"], {"kind": "Membership", "attack": "Oracle"}]
    result = run(replace(request, context={**request.context, "audits": audits}))
    found = records_of(result)
    assert found["GradientInversion"].verdict == "Inconclusive"
    assert found["Oracle"].verdict == "Inconclusive"
    assert "patient 7" not in json.dumps(list(result.evidence))


def test_a_swapped_model_fails_the_audit_of_it(trained) -> None:
    request = trained(audits=(INVERSION,))
    job = request.inputs["job"]
    artifacts = [{**item, "digest": "sha256:" + "0" * 64} for item in job["artifacts"]]
    swapped = replace(request, inputs={"job": {"artifacts": artifacts}})
    found = records_of(run(swapped))
    assert found["GradientInversion"].verdict == "Fail"
    assert found["MechanismSelfTest"].verdict == "Pass"
    assert found["RiskCorridor"].verdict == "Inconclusive"


def test_too_few_canaries_to_certify_the_claim_are_inconclusive(trained) -> None:
    few = AuditSpec("Membership", "OneRunCanary", {"canaries": 20})
    found = records_of(run(trained(audits=(few,))))
    assert found["OneRunCanary"].verdict == "Inconclusive"
    assert float(found["OneRunCanary"].public["maxCertifiable"]) < 2


def test_data_is_not_opened_without_a_token(trained) -> None:
    request = replace(trained(audits=(INVERSION,)), tokens={})
    with pytest.raises(Refused):
        run(request)


def test_an_audit_run_without_charges_audits_the_planned_mechanism(trained) -> None:
    plan = plan_from_json(trained(audits=(CANARIES,)).context["plan"])
    own = replace(plan, accesses=())
    assert [replace(m, budget="") for m in mechanisms_of(plan)] == list(mechanisms_of(own))


EIGHT = {"shadows": 8}
ATTACKS = [
    ("Membership", "LiRA", EIGHT | {"variant": "Offline", "augmentations": "2"}),
    ("Membership", "RMIA", EIGHT),
    ("Membership", "Thresholds", EIGHT | {"signal": "Entropy", "thresholds": "PerClass"}),
    ("Membership", "Population", EIGHT),
    ("Membership", "Reference", EIGHT),
    ("Membership", "LabelOnly", EIGHT | {"augmentations": "3"}),
    ("Membership", "ShadowClassifier", EIGHT | {"architecture": "BlackBox"}),
    ("Reconstruction", "Imprint", {"trials": 16}),
    ("Reconstruction", "ModelInversion", {"iterations": 50}),
    ("Reconstruction", "PrivacySusceptibility", {"pool": 50}),
]


def test_every_attack_runs_on_a_private_study(trained) -> None:
    """Breast cancer under epsilon 3: nothing is proved against it, and figures stay Restricted."""
    result = run(trained(audits=[AuditSpec(*attack) for attack in ATTACKS]))
    found = records_of(result)
    assert set(found) >= {name for _, name, _ in ATTACKS}
    stored = {item["digest"] for item in result.artifacts if item["kind"] == "Picture"}
    for kind, name, _ in ATTACKS:
        item = found[name]
        assert item.verdict != "Fail", name
        assert "raised" not in str(item.public["reasons"]), item.public["reasons"]
        assert {"auc", "lowerBound", "identified", "pictures"}.isdisjoint(item.public)
        if kind == "Membership":
            assert 0.35 < float(item.restricted["auc"]["estimate"]) < 0.65, name
            assert float(item.restricted["lowerBound"]) <= 3
            assert float(item.restricted["p1"]) <= 2 / 3
            assert item.restricted["pictures"]["roc.svg"] in stored
    assert float(found["Imprint"].restricted["shareRecovered"]) == 0
    assert found["ModelInversion"].verdict == "Inconclusive"
    columns = found["PrivacySusceptibility"].restricted["columns"]
    assert len(columns) == 20
    assert float(columns[0]["plis"]) >= float(columns[-1]["plis"]) > 0


def test_a_wrong_setting_is_inconclusive_and_names_its_rule(trained, monkeypatch) -> None:
    # A Study that asks for it is refused when it is planned; an AuditRun asks afterwards.
    monkeypatch.setattr(declaring, "require_asked", lambda *_, **__: None)
    wrong = AuditSpec("Membership", "LiRA", EIGHT | {"variant": "Sideways"})
    found = records_of(run(trained(audits=(wrong,))))["LiRA"]
    assert found.verdict == "Inconclusive"
    assert "must be one of Online, Offline" in str(found.public["reasons"])


def test_shadows_that_cannot_follow_the_recipe_are_no_pass(trained) -> None:
    request = trained(audits=(AuditSpec("Membership", "Thresholds", EIGHT),))
    plan = dict(request.context["plan"])

    def told(**changed):
        plan["parameters"] = {**request.context["plan"]["parameters"], **changed}
        return records_of(run(replace(request, context={**request.context, "plan": plan})))

    assert told(clipping="PerLayer", averaging="0.9")["Thresholds"].verdict == "Pass"
    found = told(earlyStopping={"every": 5})
    assert found["Thresholds"].verdict == "Inconclusive"
    assert found["Thresholds"].public["reasons"] == [
        "shadow models cannot follow the Study's earlyStopping"
    ]
