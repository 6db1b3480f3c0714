"""Server and sites over the in-process grid, on toy data."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import nn

from primum.domain.errors import InvalidValue, Refused
from primum_pipelines.federation.flower import RecordDict, TaskIdentity
from primum_pipelines.federation.grid import LocalGrid, flower_process
from primum_pipelines.federation.server import SiteTerms, federate
from primum_pipelines.federation.site import Site, SiteTask
from primum_pipelines.optimization import canaries
from primum_pipelines.optimization.algorithm import MechanismParameters, TrainingReport
from primum_pipelines.optimization.dpsgd import DPSGD

ROUNDS = 3
STEPS = 4


class PlusOne:
    """Adds its own number to every weight; says that it ran what it was asked."""

    name = "PlusOne"
    reviewed = False

    def __init__(self, number=1.0, fail_at=0):
        self.number, self.fail_at, self.calls = number, fail_at, 0

    def fit(self, task):
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("patient 17 has value 3.5")
        with torch.no_grad():
            for parameter in task.module.parameters():
                parameter.add_(self.number)
        m = task.mechanism
        executed = ((m.noise_multiplier, m.sample_rate, m.steps),)
        return TrainingReport(executed, m.max_grad_norm, "Poisson", "none")


def model():
    module = nn.Linear(2, 2)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    return module


def site(name, algorithm, *, sealed=None, rounds=ROUNDS, seed=1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(80) % 2
    features = torch.randn((80, 2), generator=generator) + 2.0 * labels[:, None] - 1.0
    task = SiteTask(
        name=name,
        features=features,
        labels=labels,
        mechanism=MechanismParameters(1.0, sample_rate=0.5, steps=STEPS, max_grad_norm=1.0),
        rounds=rounds,
        train_units=80,
        learning_rate=0.5,
        sealed=sealed,
        seed=seed,
    )
    return Site(task, module=model(), algorithm=algorithm)


def run(sites, *, weights=None, norm_max=1e9, rounds=ROUNDS, on_round=None):
    weights = weights or [1] * len(sites)
    terms = [
        SiteTerms(item.task.name, weight, norm_max)
        for item, weight in zip(sites, weights, strict=True)
    ]
    initial = {name: value.numpy() for name, value in model().state_dict().items()}
    return federate(sites, initial=initial, terms=terms, rounds=rounds, on_round=on_round)


def test_every_round_averages_the_sites_by_their_declared_weights():
    told = []
    sites = [site("a", PlusOne(1.0)), site("b", PlusOne(4.0))]
    final = run(sites, weights=[200, 100], on_round=lambda *pair: told.append(pair))
    assert final["weight"] == pytest.approx(np.full((2, 2), 2.0 * ROUNDS))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_each_site_says_what_it_executed():
    sites = [site("a", PlusOne()), site("b", PlusOne())]
    run(sites)
    assert [item.executed for item in sites] == [((1.0, 0.5, STEPS * ROUNDS),)] * 2
    assert sites[0].report.max_grad_norm == 1.0


def test_dp_sgd_at_the_sites_learns_the_task():
    sites = [site("a", DPSGD(), seed=1), site("b", DPSGD(), seed=5)]
    final = run(sites)
    trained = model()
    trained.load_state_dict({name: torch.from_numpy(v) for name, v in final.items()})
    correct = trained(sites[0].task.features).argmax(dim=1) == sites[0].task.labels
    assert float(correct.float().mean()) > 0.8


def test_canaries_stay_at_their_site_and_add_up_over_the_rounds():
    sealed = canaries.seal(40)
    sites = [site("a", DPSGD(), sealed=sealed), site("b", DPSGD(), seed=5)]
    final = run(sites)
    assert set(final) == {"weight", "bias"}
    scores = np.array(canaries.scores(sites[0].report))
    coins = np.array(sealed.coins)
    # A planted canary is sampled 6 of 12 times on average, against noise of 3.5.
    if 8 <= coins.sum() <= 32:
        assert scores[coins].mean() - scores[~coins].mean() > 0.5
    assert sites[1].report.update_sums == sites[1].report.presence == {}


def test_a_failing_site_ends_the_federation_without_its_words():
    sites = [site("a", PlusOne()), site("b", PlusOne(fail_at=2))]
    with pytest.raises(Refused, match="site b must answer with an update") as caught:
        run(sites)
    assert "patient" not in str(caught.value)
    assert isinstance(sites[1].failure, RuntimeError)
    # The other site's rounds are known, so it can be charged by receipt.
    assert sites[0].failure is None
    assert sites[0].executed == ((1.0, 0.5, 2 * STEPS),)


def test_an_update_that_goes_too_far_is_refused():
    with pytest.raises(InvalidValue, match="site b must not move the model further"):
        run([site("a", PlusOne(0.1)), site("b", PlusOne(50.0))], norm_max=10.0)


def test_a_site_trains_no_more_rounds_than_planned():
    sites = [site("a", PlusOne(), rounds=2), site("b", PlusOne(), rounds=3)]
    with pytest.raises(Refused, match="site a must answer"):
        run(sites)
    assert sites[0].executed == ((1.0, 0.5, 2 * STEPS),)


def test_a_site_that_failed_never_trains_again():
    broken = site("a", PlusOne(fail_at=1))
    with flower_process():
        grid = LocalGrid({2: broken.client_app()})
        for _ in range(2):
            message = grid.create_message(RecordDict(), "train", 2, "1")
            (reply,) = grid.send_and_receive([message])
            assert reply.has_error()
    assert broken.executed == ()


def test_terms_must_name_the_sites():
    sites = [site("a", PlusOne()), site("b", PlusOne())]
    with pytest.raises(InvalidValue, match="must name every site"):
        federate(sites, initial={}, terms=[SiteTerms("a", 1, 1.0)], rounds=1)


def test_the_process_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv("FLWR_HOME", "/somewhere")
    before = TaskIdentity._node_id
    with flower_process():
        assert os.environ["FLWR_HOME"] != "/somewhere"
        assert TaskIdentity.node_id == 1
    assert os.environ["FLWR_HOME"] == "/somewhere"
    assert TaskIdentity._node_id == before
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"
