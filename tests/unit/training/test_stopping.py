"""Is a training ended by nothing but what may be seen, and charged for what decided it?"""

from __future__ import annotations

import copy
from dataclasses import replace
from decimal import Decimal
from statistics import NormalDist

import pytest
import torch
from torch import nn

from primum.domain.accounting.events import (
    Gaussian,
    NoEvent,
    Repeated,
    covers,
    event_from_json,
)
from primum.domain.errors import InvalidValue
from primum.domain.study.jobs import SyntheticFacts
from primum.domain.study.spec import DataRole, StudyInput
from primum_pipelines.artifacts import store
from primum_pipelines.audits.subject import mechanisms_of
from primum_pipelines.datasets.access import open_private
from primum_pipelines.kinds.train import fitting, outcome
from primum_pipelines.kinds.train.kind import TrainKind
from primum_pipelines.kinds.train.step import train
from primum_pipelines.optimization.algorithm import (
    MechanismParameters,
    TrainingReport,
    TrainingTask,
)
from primum_pipelines.optimization.checkpoints import Checkpoints, Continuation
from primum_pipelines.optimization.dpsgd import DPSGD
from primum_pipelines.optimization.randomness import SeededSource
from primum_pipelines.optimization.settings import Descent, looks_planned
from primum_pipelines.optimization.stopping import NoisyHeldOutScore, PublicScore, StoppingRule

KIND = TrainKind()
HELD_OUT = {"score": "HeldOut", "everyEpochs": 2, "patience": 2, "noiseMultiplier": "8"}
SYNTHETIC = {"score": "Synthetic", "everyEpochs": 2, "patience": 2}


def row_loss(module, features, labels):
    return nn.functional.cross_entropy(module(features), labels, reduction="none")


def make_task(**changes):
    torch.manual_seed(0)
    task = TrainingTask(
        module=nn.Linear(5, 2),
        inputs=(torch.randn(40, 5), torch.arange(40) % 2),
        loss=row_loss,
        expected_units=40,
        mechanism=MechanismParameters(1.0, 0.5, 20, 0.3),
        learning_rate=0.1,
        seed=1,
    )
    return replace(task, **changes)


def rule_over(scores, *, every=2, patience=2):
    seen = iter(scores)
    return StoppingRule(every=every, patience=patience, score=lambda _: next(seen))


@pytest.mark.parametrize(
    ("scores", "executed"),
    [
        ([0.1, 0.2, 0.3, 0.2, 0.3], 10),  # A score that is only reached again is no rise.
        ([0.3, 0.2, 0.1], 6),
        ([n / 10 for n in range(9)], 20),
    ],
)
def test_it_ends_once_nothing_has_risen_for_long_enough(scores, executed):
    report = DPSGD().fit(make_task(stopping=rule_over(scores)))
    assert report.executed == ((1.0, 0.5, executed),)
    assert report.looks == min(executed, 19) // 2
    assert report.stopped == ""


def test_looks_are_counted_before_they_are_taken():
    assert [looks_planned(steps, every=3) for steps in (1, 3, 4, 6, 7)] == [0, 0, 1, 1, 2]


def test_what_is_looked_at_is_what_would_be_released():
    """The average of the weights, in evaluation mode; training goes on where it was."""
    module = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    seen = []

    def score(found):
        seen.append((found.training, found[0].weight.detach().clone()))
        return 1.0

    task = make_task(module=module, descent=Descent(averaging=0.9))
    plain = make_task(module=copy.deepcopy(module), descent=Descent(averaging=0.9))
    torch.manual_seed(3)
    DPSGD().fit(plain)
    torch.manual_seed(3)
    DPSGD().fit(replace(task, stopping=StoppingRule(every=5, patience=9, score=score)))
    assert [training for training, _ in seen] == [False] * 3
    assert not torch.equal(seen[0][1], seen[1][1])
    for before, after in zip(plain.module.parameters(), module.parameters(), strict=True):
        assert torch.equal(before, after)
    assert module.training


def test_a_lost_worker_counts_every_look_that_may_have_been_taken(tmp_path):
    class LostError(Exception):
        pass

    def dies(done, _planned):
        if done == 13:
            raise LostError

    kept = Checkpoints(tmp_path / "t.pt", Continuation(b"run"), 6, {})
    rising = [n / 100 for n in range(20)]
    first = make_task(seed=None, checkpoints=kept, on_step=dies, stopping=rule_over(rising))
    with pytest.raises(LostError):
        DPSGD().fit(first)
    fallen = rule_over([-1.0] * 20)
    report = DPSGD().fit(make_task(seed=None, checkpoints=kept, stopping=fallen))
    # Kept after 12 steps, so 18 count as begun; two looks in vain end it at once after the first.
    assert report.executed[0][2] == 20
    assert report.looks == 9


def test_a_public_score_is_the_accuracy():
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.copy_(torch.eye(2))
        module.bias.zero_()
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert PublicScore(module, rows, torch.tensor([0, 1, 1, 1]))(module) == 0.75

    """However many rows it has; and the noise is that of the plan over a public number."""
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.copy_(torch.eye(2))
        module.bias.zero_()
    rows = torch.tensor([[1.0, 0.0]] * 7)
    labels = torch.tensor([0, 0, 0, 0, 1, 0, 1])
    owners = torch.tensor([0, 0, 0, 1, 1, 1, 1])  # All right; half right.

    def scored(labels, owners, *, noise=1e-9, seed=1):
        return NoisyHeldOutScore(
            module, rows[: len(labels)], labels, owners, expected_units=10,
            noise_multiplier=noise, source=SeededSource(seed),
        )(module)  # fmt: skip

    assert scored(labels, owners) == pytest.approx(0.15, abs=1e-6)
    assert scored(labels[:3], owners[:3]) == pytest.approx(0.1, abs=1e-6)
    assert scored(labels[:0], owners[:0]) == pytest.approx(0.0, abs=1e-6)
    noisy = torch.tensor([scored(labels, owners, noise=4.0, seed=n) for n in range(400)])
    assert float(noisy.mean()) == pytest.approx(0.15, abs=4 * 0.4 / 20)
    chance = NormalDist().cdf(4)  # Of a deviation within 4 / sqrt(800) of its own.
    assert chance > 0.9999
    assert float(noisy.std()) == pytest.approx(0.4, rel=4 / 800**0.5)


def test_looks_at_held_out_units_are_an_access_of_their_own(study, planning, facts):
    plan = KIND.declare(study(job={**study().job, "earlyStopping": HELD_OUT}), planning())
    alone = KIND.declare(study(), planning())
    (stop,) = [access for access in plan.accesses if access.name == "stop@wisconsin"]
    assert stop.event == Repeated(Gaussian(Decimal(8)), 9)  # 73 steps, a look every 8.
    assert stop.treatment.value == "Charged"
    assert stop.step == "job"
    assert plan.epsilon <= Decimal("3.0")
    noise = [Decimal(str(found.mechanism["noiseMultiplier"])) for found in (plan, alone)]
    assert noise[0] > noise[1]
    assert plan.mechanism["earlyStopping"]["heldOutUnits"] == 569 - 463
    # Audits attack what was trained on; looks train nothing.
    assert [found.steps for found in mechanisms_of(plan)] == [73]
    assert facts().accounting == "RDP"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (
            {"score": "Public", "patience": 2},
            r"input with role Public, whose accuracy is to decide",
        ),
        ({"score": "HeldOut", "patience": 2}, r"noiseMultiplier must be given with score HeldOut"),
        ({**SYNTHETIC, "noiseMultiplier": "8"}, r"noiseMultiplier must be absent but for HeldOut"),
        ({**HELD_OUT, "everyEpochs": 20}, r"everyEpochs must leave a look before the last step"),
        ({**HELD_OUT, "patience": 0}, r"patience must be a whole number from 1"),
        ({**HELD_OUT, "noiseMultiplier": "0"}, r"noiseMultiplier must be above 0"),
        ({**HELD_OUT, "noiseMultiplier": "0.2"}, r"noiseMultiplier must leave epsilon to the"),
        ({**HELD_OUT, "score": "Train"}, r"score must be one of Public, Synthetic, HeldOut"),
        ("soon", r"earlyStopping must be an object"),
    ],
)
def test_a_wrong_rule_is_named(study, planning, given, named):
    with pytest.raises(InvalidValue, match=named):
        KIND.declare(study(job={**study().job, "earlyStopping": given}), planning())


@pytest.mark.parametrize(
    "other", [{"ensemble": 4}, {"individualFilter": {"epochs": 30}}], ids=["ensemble", "filters"]
)
def test_what_counts_on_all_steps_is_refused(study, planning, other):
    job = {**study().job, "earlyStopping": HELD_OUT, **other}
    with pytest.raises(InvalidValue, match="must be absent with earlyStopping"):
        KIND.declare(study(job=job), planning())


@pytest.fixture
def ended(make_zone, study, facts):
    """A Study whose held-out figures never rise, so that it ends early, in a kind of account."""

    def run(accounting, monkeypatch):
        zone = make_zone(
            study=study(job={**study().job, "earlyStopping": {**HELD_OUT, "patience": 1}}),
            facts=facts(accounting=accounting),
        )
        falling = iter(range(0, -100, -1))
        monkeypatch.setattr(
            NoisyHeldOutScore, "__call__", lambda self, module: float(next(falling))
        )
        result = train(zone.request("job"))
        planned = {a.name: a.event for a in zone.plan.accesses if a.step == "job"}
        receipts = {item["access"]: event_from_json(item["event"]) for item in result.receipts}
        return result, planned, receipts

    return run


@pytest.mark.parametrize("accounting", ["RDP", "GDP"])
def test_what_was_not_run_is_given_back_where_that_is_sound(ended, accounting, monkeypatch):
    result, planned, receipts = ended(accounting, monkeypatch)
    assert result.status == "Succeeded"
    assert result.message == "trained 16 of 73 steps"
    assert receipts["train@wisconsin"].count == 16
    assert receipts["stop@wisconsin"] == Repeated(Gaussian(Decimal(8)), 2)
    assert all(covers(planned[name], event) for name, event in receipts.items())


@pytest.mark.parametrize("accounting", ["Basic", "Mixture"])
def test_other_accounts_are_charged_the_whole_plan(ended, accounting, monkeypatch):
    """A sum of (epsilon, delta) at a stopping time that outputs chose is no proved bound."""
    result, planned, receipts = ended(accounting, monkeypatch)
    assert result.message == "trained 16 of 73 steps"
    assert receipts == planned
    steps = {item["access"]: item["facts"].get("steps") for item in result.receipts}
    assert steps["train@wisconsin"] == 16  # What ran is said, whatever is charged.


def came_to_nothing(looks):
    return TrainingReport(
        executed=((1.0, 0.5, 5),),
        max_grad_norm=1.0,
        sampling="Poisson",
        generator="none",
        stopped="weights must stay finite",
        looks=looks,
    )


@pytest.mark.parametrize(("accounting", "given_back"), [("RDP", True), ("Basic", False)])
def test_looks_that_weights_kept_from_being_taken_are_paid_for(
    make_zone, study, facts, accounting, given_back
):
    """What the weights had become chose between no look and all: that is no smaller plan."""
    zone = make_zone(
        study=study(job={**study().job, "earlyStopping": HELD_OUT}),
        facts=facts(accounting=accounting),
    )
    (stop,) = [a for a in zone.plan.accesses if a.name == "stop@wisconsin"]
    _, looked = outcome.receipts(zone.request("job"), zone.plan.accesses[0], came_to_nothing(0))
    assert looked.event == (NoEvent() if given_back else stop.event)


class Silent:
    """A plug-in that looks and does not say so."""

    def fit(self, task):
        for _ in range(2):
            task.stopping.enough(task.module)
        return came_to_nothing(0)


def test_a_look_that_a_plug_in_does_not_report_is_charged(make_zone, study, monkeypatch):
    monkeypatch.setattr(fitting, "planned_algorithm", lambda _: Silent())
    job = {**study().job, "earlyStopping": HELD_OUT}
    result = train(make_zone(study=study(job=job)).request("job"))
    events = {item["access"]: event_from_json(item["event"]) for item in result.receipts}
    assert events["stop@wisconsin"] == Repeated(Gaussian(Decimal(8)), 2)


def test_released_data_decides_for_nothing(make_zone, study, planning):
    from primum_pipelines.synthesis import archive

    source = make_zone()
    table = open_private(source.request("job"), "train@wisconsin")
    stored = store(str(source.folder), "synthetic.npz", archive.to_bytes(table), kind="Dataset")
    inputs = (StudyInput(DataRole.SYNTHETIC, release="copy"), *study().inputs)
    asked = study(inputs=inputs, job={**study().job, "earlyStopping": SYNTHETIC})
    facts = SyntheticFacts("copy", stored.uri, "Valid", stored.digest)
    plan = KIND.declare(asked, planning(synthetic={"copy": facts}))
    alone = KIND.declare(study(inputs=inputs), planning(synthetic={"copy": facts}))
    assert plan.epsilon == alone.epsilon
    assert plan.accesses == alone.accesses
    zone = make_zone(
        study=asked, plan=plan, synthetic={"copy": {"uri": stored.uri, "digest": stored.digest}}
    )
    result = train(zone.request("job"))
    (receipt,) = result.receipts
    executed = event_from_json(receipt["event"])
    assert covers(plan.accesses[0].event, executed)
    assert executed.count < 73  # The copy is learned before the private steps begin.
    assert result.evidence[0]["public"]["looks"] == executed.count // 8
