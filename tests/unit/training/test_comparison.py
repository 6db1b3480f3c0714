"""Is a training without a mechanism never taken for a private one, whatever defends it?"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from stored_models import load_model
from torch import nn

from primum.domain.accounting.events import NoEvent, event_from_json
from primum.domain.errors import InvalidValue, Refused
from primum.domain.governance.claims import ClaimStatus, claim_of_plan
from primum.domain.governance.evidence import Verdict
from primum.domain.study.jobs import SyntheticFacts
from primum.domain.study.plan import Treatment
from primum.domain.study.spec import AuditSpec, DataRole, StudyInput
from primum_pipelines.audits.low_tail import auc_bound, tpr_bounds
from primum_pipelines.audits.membership_attacks import LiRA
from primum_pipelines.audits.subject import mechanisms_of, subject_of
from primum_pipelines.datasets.access import open_private
from primum_pipelines.datasets.units import UnitRows
from primum_pipelines.kinds.train.kind import TrainKind
from primum_pipelines.kinds.train.step import train
from primum_pipelines.models.artifact import LoadedModel
from primum_pipelines.models.guard import guarded
from primum_pipelines.models.light import light_model
from primum_pipelines.optimization.algorithm import MechanismParameters, TrainingTask
from primum_pipelines.optimization.dpsgd import DPSGD
from primum_pipelines.optimization.memguard import fit_guard
from primum_pipelines.optimization.ordinary import Ordinary, _distance_by_class, divided
from primum_pipelines.optimization.settings import Defenses
from primum_pipelines.steps import audit, evaluate

KIND = TrainKind()
BOUND = 0.2
DEFENDED = {"mechanism": "None", "defenses": {"mixup": "0.4", "mmd": "0.5"}}


@pytest.fixture
def compared(study):
    """A Study without a mechanism; tests change its job."""

    def make(*, audits=(), **changes):
        job = {**study().job, **DEFENDED, "weightDecay": "0.001", **changes}
        return study(
            epsilon=None,
            delta=None,
            audits=audits,
            job={k: v for k, v in job.items() if v is not None},
        )

    return make


def test_its_claim_is_void_and_says_why(compared, planning):
    plan = KIND.declare(compared(), planning())
    claim = claim_of_plan(plan, artifact="model")
    assert claim.status is ClaimStatus.VOID
    assert "without a mechanism, for comparison" in claim.text
    assert {a.treatment for a in plan.accesses if a.step == "job"} == {Treatment.UNCHARGED}
    assert plan.epsilon > 1_000_000
    assert "claim Void" in KIND.headline(plan)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mechanism": "Gaussian", "defenses": None}, r"NoMechanism"),
        ({"mechanism": "Gaussian"}, r"defenses must be absent with a mechanism: Mixup and MMD mix"),
        ({"mechanism": "Laplace"}, r"mechanism must be one of Gaussian, None"),
        ({"noiseMultiplier": "1.0"}, r"noiseMultiplier must be absent where the mechanism is None"),
        ({"individualFilter": {"epochs": 30}}, r"individualFilter must be absent for an algorithm"),
        ({"clipping": "PerLayer"}, r"clipping must be absent for an algorithm"),
        ({"defenses": {"mixup": "-1"}}, r"mixup must be from 0 to 1000"),
        ({"defenses": {"magic": "1"}}, r"defenses.magic must be one of mixup, mmd, memGuard"),
        ({"batchSize": 464}, r"batchSize must be at most 463"),
    ],
)
def test_what_has_no_meaning_without_a_mechanism_is_refused(compared, planning, changes, named):
    with pytest.raises((InvalidValue, Refused), match=named):
        KIND.declare(compared(**changes), planning())


def test_privacy_is_not_asked_for_and_not_given(study, planning):
    with pytest.raises(InvalidValue, match=r"spec.privacy must be absent where the mechanism is"):
        KIND.declare(study(job={**study().job, "mechanism": "None"}), planning())
    with pytest.raises(InvalidValue, match=r"algorithm must run a mechanism unless mechanism is"):
        KIND.declare(study(job={**study().job, "algorithm": "Ordinary"}), planning())


def test_there_is_nothing_to_compare_without_private_data(compared, planning):
    released = StudyInput(DataRole.SYNTHETIC, release="copy")
    facts = SyntheticFacts("copy", "memory://copy", "Valid", "sha256:" + "0" * 64)
    asked = replace(compared(), inputs=(released,))
    with pytest.raises(InvalidValue, match="mechanism must be absent where no data is private"):
        KIND.declare(asked, planning(synthetic={"copy": facts}))


def test_no_noise_makes_a_comparison_private(compared, planning):
    plan = KIND.with_noise(compared(), planning(), Decimal(5))
    assert plan == KIND.declare(compared(), planning())


@pytest.mark.parametrize("attack", ["OneRunCanary", "MechanismSelfTest", "Imprint"])
def test_audits_of_a_mechanism_are_refused(compared, planning, attack):
    with pytest.raises(InvalidValue, match=r"must be able to attack a model that no mechanism"):
        KIND.declare(compared(audits=(AuditSpec("Membership", attack),)), planning())


def make_task(**changes):
    torch.manual_seed(0)
    labels = torch.arange(200) % 2
    task = TrainingTask(
        module=nn.Linear(5, 2),
        inputs=(torch.randn(200, 5) + labels[:, None], labels),
        loss=lambda m, x, y: nn.functional.cross_entropy(m(x), y, reduction="none"),
        expected_units=200,
        mechanism=MechanismParameters(0.0, 0.25, 80, 1.0),
        learning_rate=0.5,
        seed=3,
    )
    return replace(task, **changes)


def test_dp_sgd_refuses_what_mixes_units():
    mechanism = MechanismParameters(1.0, 0.25, 2, 1.0)
    with pytest.raises(InvalidValue, match="must be absent with DP-SGD: Mixup and MMD mix units"):
        DPSGD().fit(make_task(defenses=Defenses(mixup=0.2), mechanism=mechanism))


@pytest.mark.parametrize("defenses", [Defenses(), Defenses(mixup=0.4), Defenses(mmd=2.0)])
def test_defended_models_learn(defenses):
    task = make_task(defenses=defenses)
    report = Ordinary().fit(task)
    right = task.module(task.inputs[0]).argmax(dim=1) == task.inputs[1]
    assert float(right.float().mean()) > 0.75
    assert report.executed == ()
    assert "no noise" in report.generator


def test_mixup_makes_a_model_less_sure():
    sure = {}
    for alpha in (0.0, 1.0):
        task = make_task(defenses=Defenses(mixup=alpha))
        Ordinary().fit(task)
        said = task.module(task.inputs[0]).detach().softmax(dim=1)
        sure[alpha] = float(said.amax(dim=1).mean())
    assert sure[1.0] < sure[0.0] - 0.03


def test_outputs_are_compared_class_by_class():
    """Equal outputs have no distance; the kernel's value at known points is by hand."""
    said = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])
    labels = torch.tensor([0, 0, 1])
    assert float(_distance_by_class(said, labels, said, labels)) == pytest.approx(0.0, abs=1e-6)
    other = torch.tensor([[0.5, 0.5]])
    found = _distance_by_class(said[:1], labels[:1], other, labels[:1])
    square = 2 * 0.4**2
    expected = sum(2 - 2 * np.exp(-square / (2 * w**2)) for w in (0.1, 0.3, 1.0))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_whole_units_are_kept_apart():
    units = UnitRows(np.array([0, *np.cumsum([1, 3] * 100)], dtype=np.int64)[:101])
    rows = int(units.offsets[-1])
    task = make_task(
        inputs=(torch.zeros(rows, 5), torch.zeros(rows, dtype=torch.int64)), units=units
    )
    learned, apart = divided(task, Defenses(mmd=1.0))
    owners = torch.arange(100).repeat_interleave(torch.from_numpy(units.sizes))
    assert not set(owners[learned].tolist()) & set(owners[apart].tolist())
    assert len(set(owners[apart].tolist())) == 10
    assert len(divided(task, Defenses())[1]) == 0


def test_without_noise_nothing_bounds_an_attack(compared, planning):
    (mechanism,) = mechanisms_of(KIND.declare(compared(), planning()))
    assert mechanism.noise_multiplier == 0
    assert tpr_bounds(mechanism, fprs=[0.001, 0.1]) == [1.0, 1.0]
    assert auc_bound(mechanism) == 1.0


def test_it_is_trained_stated_and_attacked(make_zone, compared):
    """An over-fitted perceptron: the attack runs, and its verdict is never a pass."""
    audits = (AuditSpec("Membership", "LiRA", {"shadows": 4}),)
    asked = compared(
        audits=audits, model="MLP", epochs=30, learningRate="0.1", momentum="0.9", defenses=None
    )
    zone = make_zone(study=asked)
    result = train(zone.request("job"))
    assert result.status == "Succeeded"
    (receipt,) = result.receipts
    assert event_from_json(receipt["event"]) == NoEvent()
    (evidence,) = result.evidence
    assert evidence["public"]["mechanism"].startswith("none")
    table = open_private(zone.request("job"), "train@wisconsin")
    model = load_model(result.artifacts[0]["uri"])
    chosen = model.predict_proba(table.features[~table.train]).argmax(axis=1)
    assert (chosen == table.labels[~table.train]).mean() > 0.85
    inputs = {"job": {"artifacts": result.artifacts}}
    subject = subject_of(zone.request("audit", inputs=inputs))
    step = audit.run(zone.request("audit", inputs=inputs))
    assert step.status == "Succeeded"
    verdicts = {item["name"]: item["verdict"] for item in step.evidence}
    assert set(verdicts.values()) == {"Inconclusive"}  # Nothing that would freeze a budget.
    finding = LiRA().run(subject, {"shadows": 4, "pool": 200})
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert finding.public["boundImplied"] == dict.fromkeys(finding.public["boundImplied"], "1")


@pytest.fixture(scope="module")
def guarded_answers():
    """A classifier that is sure of its own rows, behind a guard fitted on both sides."""
    torch.manual_seed(2)
    sure = nn.Linear(4, 3)
    members, others = torch.randn(200, 4) * 4, torch.randn(40, 4) * 0.5
    state = fit_guard(sure, members, others)
    guard = guarded(sure, state, classes=3, distortion=BOUND)
    rows = torch.cat([members, others])
    with torch.inference_mode():
        return guard, rows, sure(rows).softmax(dim=1), guard(rows).softmax(dim=1)


def test_memguard_keeps_every_label_and_fools_its_attacker(guarded_answers):
    guard, rows, meant, told = guarded_answers
    with torch.inference_mode():
        before = torch.sigmoid(guard.attacker(meant)) - 1 / 2
        after = torch.sigmoid(guard.attacker(told)) - 1 / 2
    assert torch.equal(meant.argmax(dim=1), told.argmax(dim=1))
    assert torch.allclose(told.sum(dim=1), torch.ones(len(rows)), atol=1e-5)
    changed = (told - meant).abs().sum(dim=1) > 1e-6
    assert float(changed.float().mean()) > 0.2
    # Where it could be fooled it is left guessing: on the other side, or nearly so.
    assert float(after[changed].abs().mean()) < 0.3 * float(before[changed].abs().mean())


def test_memguard_changes_as_much_as_it_may_and_no_more(guarded_answers):
    """The expected distance of each row is at most the bound; the mean over rows is nearly that.

    A row's distance is at most 2, so the mean over 240 rows is within four deviations of 1 / sqrt.
    """
    _, rows, meant, told = guarded_answers
    far = (told - meant).abs().sum(dim=1)
    assert 0 < float(far.mean()) < BOUND + 4 * float(far.std()) / len(rows) ** 0.5


def test_memguard_answers_the_same_question_in_the_same_way(guarded_answers):
    guard, rows, _, told = guarded_answers
    assert torch.allclose(guard(rows[:5]).softmax(dim=1), told[:5], atol=1e-4)


def test_a_guarded_model_is_stored_served_and_evaluated_as_such(make_zone, compared):
    asked = compared(model="MLP", defenses={"memGuard": "0.5"})
    zone = make_zone(study=asked)
    result = train(zone.request("job"))
    assert result.evidence[0]["public"]["defenses"] == {"memGuard": "0.5"}
    path = result.artifacts[0]["uri"]
    data = Path(path.removeprefix("file://")).read_bytes()
    assert light_model(data) is None  # Numpy alone would answer without the guard.
    model = load_model(path)
    assert model.spec.guard == "0.5"
    rows = np.random.default_rng(0).random((20, 30))
    plain = LoadedModel(model.module.model, replace(model.spec, guard=""))
    meant, told = plain.predict_proba(rows), model.predict_proba(rows)
    assert (meant.argmax(axis=1) == told.argmax(axis=1)).all()
    assert not np.allclose(meant, told)
    inputs = {"job": {"artifacts": result.artifacts}}
    kinds = {
        item["kind"] for item in evaluate.run(zone.request("evaluate", inputs=inputs)).evidence
    }
    assert {"Utility", "Calibration"} <= kinds
