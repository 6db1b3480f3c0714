"""Are the kept states samples of the posterior, and do they cost nothing more?"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
import torch
from torch import nn

from primum.domain.accounting.events import event_from_json
from primum.domain.errors import InvalidValue
from primum_pipelines.kinds.train.kind import TrainKind
from primum_pipelines.kinds.train.step import train
from primum_pipelines.models import ensemble
from primum_pipelines.optimization.algorithm import MechanismParameters, TrainingTask
from primum_pipelines.optimization.descent import Mover
from primum_pipelines.optimization.dpsgd import DPSGD
from primum_pipelines.optimization.langevin import missing_std, reached_temperature
from primum_pipelines.optimization.randomness import random_source
from primum_pipelines.optimization.settings import Descent
from primum_pipelines.steps import evaluate

KIND = TrainKind()
LANGEVIN = {"langevin": {"temperature": "1"}, "ensemble": 8, "weightDecay": "0.01"}
UNITS, DECAY = 100, 0.5


@pytest.mark.parametrize(("temperature", "noise"), [(1.0, 0.0), (3.0, 0.0), (1.0, 0.4), (1.0, 2.0)])
def test_states_spread_as_the_posterior_does(temperature, noise):
    """Quadratic losses (w - x)^2 / 2 of 100 units, so the posterior is known.

    It is Normal(mean / (1 + decay), T / (N (1 + decay))); 400 coordinates are 400 chains, of which
    the last 300 of 500 states are taken, so the deviation is known to 1 %. With enough noise of the
    mechanism's own the temperature is the higher one that is stated.
    """
    rate, mean, width = 0.2, 0.7, 400
    module = nn.Linear(width, 1, bias=False)
    nn.init.zeros_(module.weight)
    mover = Mover(
        module,
        {"weight": module.weight},
        divisor=UNITS,
        units=UNITS,
        noise_std=noise * UNITS**0.5,
        source=random_source(3),
        optimizer="SGD",
        learning_rate=rate,
        momentum=0.0,
        descent=Descent(weight_decay=DECAY, temperature=temperature),
        steps=500,
    )
    torch.manual_seed(1)
    states = []
    for step in range(500):
        own = noise * UNITS**0.5 * torch.randn_like(module.weight)
        mover.move({"weight": UNITS * (module.weight.detach() - mean) + own})
        if step >= 200:
            states.append(module.weight.detach().clone())
    kept = torch.cat(states)
    reached = reached_temperature(
        learning_rate=rate, units=UNITS, temperature=temperature, gradient_std=noise / UNITS**0.5
    )
    assert reached == pytest.approx(max(temperature, rate * noise**2 / 2), rel=1e-9)
    # The step is not small, so the chain's own exact spread: variance of w' = (1 - r a) w + noise.
    along = rate * (1 + DECAY)
    expected = 2 * reached * rate / UNITS / (1 - (1 - along) ** 2)
    assert float(kept.mean()) == pytest.approx(mean / (1 + DECAY), abs=0.01)
    assert float(kept.var()) == pytest.approx(expected, rel=0.05)


def test_noise_is_only_ever_added():
    """What is missing and what there is add up to what is asked for, or nothing is missing."""
    asked = {"units": UNITS, "temperature": 1.0}
    for rate in (1e-3, 0.1, 10.0):
        for own in (0.0, 0.01, 0.5, 5.0):
            more = missing_std(learning_rate=rate, gradient_std=own, **asked)
            assert more**2 + own**2 == pytest.approx(max(own**2, 2 / (rate * UNITS)))


def test_the_noise_of_the_release_stays_as_it_was():
    """The sums that audits and the ledger know do not change; the weights get noise on top."""
    torch.manual_seed(0)
    task = TrainingTask(
        module=nn.Linear(5, 2),
        inputs=(torch.randn(40, 5), torch.arange(40) % 2),
        loss=lambda module, x, y: nn.functional.cross_entropy(module(x), y, reduction="none"),
        expected_units=40,
        mechanism=MechanismParameters(0.5, 1.0, 1, 0.1),
        learning_rate=0.01,
        seed=5,
        descent=Descent(weight_decay=0.1),
    )
    start = {name: value.clone() for name, value in task.module.state_dict().items()}
    plain = DPSGD().fit(task)
    weights = task.module.weight.detach().clone()
    task.module.load_state_dict(start)
    sampled = DPSGD().fit(replace(task, descent=Descent(weight_decay=0.1, temperature=1.0)))
    assert plain.executed == sampled.executed
    for name, total in plain.update_sums.items():
        assert torch.equal(total, sampled.update_sums[name])
    moved = (task.module.weight.detach() - weights) / 0.01
    expected = missing_std(learning_rate=0.01, units=40, temperature=1.0, gradient_std=0.05 / 40)
    assert 0.4 * expected < float(moved.std()) < 2 * expected  # Of ten values.


def test_a_posterior_costs_what_the_training_costs(study, planning):
    plain = KIND.declare(study(), planning())
    sampled = KIND.declare(study(job={**study().job, **LANGEVIN}), planning())
    assert sampled.accesses == plain.accesses
    assert sampled.epsilon == plain.epsilon
    stated = sampled.mechanism["langevin"]
    assert stated["temperature"] == "1"
    assert float(stated["highestTemperature"]) >= 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ensemble": None}, r"ensemble must be given with langevin"),
        ({"weightDecay": None}, r"weightDecay must be above 0 with langevin"),
        ({"optimizer": "Adam"}, r"optimizer must be SGD with langevin"),
        ({"momentum": "0.9"}, r"momentum must be absent with langevin"),
        ({"averaging": "0.9"}, r"averaging must be absent with langevin"),
        ({"clipping": "Automatic"}, r"clipping must not be Automatic with langevin"),
        ({"individualFilter": {"epochs": 30}}, r"individualFilter must be absent with langevin"),
        ({"langevin": {"temperature": "0"}}, r"langevin.temperature must be above 0"),
        ({"langevin": {"heat": "1"}}, r"langevin.heat must be one of temperature"),
    ],
)
def test_what_leaves_no_posterior_is_refused(study, planning, changes, named):
    job = {k: v for k, v in {**study().job, **LANGEVIN, **changes}.items() if v is not None}
    with pytest.raises(InvalidValue, match=named):
        KIND.declare(study(job=job), planning())


def test_samples_are_averaged_and_their_calibration_is_shown(make_zone, study, facts):
    """ECE of the average beside that of the last state; one charged access, one receipt."""
    disclosures = ("Utility", "Calibration")
    job = {**study().job, **LANGEVIN, "epochs": 40, "batchSize": 256, "schedule": "Cosine"}
    zone = make_zone(study=study(job=job, epsilon=Decimal(8)), facts=facts(disclosures=disclosures))
    result = train(zone.request("job"))
    (receipt,) = result.receipts
    (charged,) = [access for access in zone.plan.accesses if access.step == "job"]
    assert event_from_json(receipt["event"]) == charged.event
    stored = {item["kind"]: item for item in result.artifacts}
    assert ensemble.ARTIFACT_KIND in stored
    inputs = {"job": {"artifacts": result.artifacts}}
    evidence = {
        item["kind"]: item
        for item in evaluate.run(zone.request("evaluate", inputs=inputs)).evidence
    }
    calibration = evidence["Calibration"]["public"]
    last, average = calibration["ece"], calibration["ensemble"]["ece"]
    # Not worse but for what 106 rows cannot tell: the interval of the last state's figure.
    assert float(average["estimate"]) <= float(last["upper"]) + 0.02
