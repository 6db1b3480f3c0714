"""Is a search charged for what it does, and is the number of random trials nowhere to be seen?"""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.events import (
    Composed,
    Gaussian,
    LibraryEvent,
    Repeated,
    SubsampledGaussian,
    covers,
    flatten,
)
from primum.domain.accounting.policies import PolicyAccountant, policy_named
from primum.domain.accounting.selection import runs_in_view
from primum.domain.canonical import canonical_json
from primum.domain.conformance.receipts import study_records
from primum.domain.conformance.verdicts import Verdict, check
from primum.domain.errors import InvalidValue, UnsupportedEvent
from primum.domain.quantities import Neighbors
from primum.domain.study.lineage import step_ended
from primum.domain.study.plan import plan_from_json
from primum.domain.study.spec import DataRole, StudyInput
from primum.domain.study.steps import DataToken, StepOutcome, context_from_json, receipt_from_json
from primum_pipelines import fan_out
from primum_pipelines.audits.low_tail import auc_bound, tpr_bounds
from primum_pipelines.audits.subject import mechanisms_of
from primum_pipelines.kinds.train import search as searching
from primum_pipelines.kinds.train import searched, trials
from primum_pipelines.kinds.train.kind import TrainKind
from primum_pipelines.kinds.train.step import train
from primum_pipelines.runtime import _read

KIND = TrainKind()
SPACE = [
    {"parameter": "learningRate", "low": "0.05", "high": "2", "scale": "Log"},
    {"parameter": "batchSize", "values": ["64", "128"]},
    {"parameter": "epochs", "low": "1", "high": "3"},
    {"parameter": "maxGradNorm", "values": ["0.5", "1.0"]},
]
SCORE = {"score": "HeldOut", "noiseMultiplier": "10"}
LOGARITHMIC = {"distribution": "TruncatedNegativeBinomial", "shape": "0", "gamma": "0.1"}
FIXED = {"space": SPACE, "trials": 4, **SCORE}
RANDOM = {"space": SPACE, "randomStopping": LOGARITHMIC, **SCORE}
JOB = {"model": "Logistic", "epochs": 2, "batchSize": 128, "maxGradNorm": "1.0"}


def job(search, **changes):
    return {**JOB, **changes, "search": search}


def charged(plan):
    return next(access for access in plan.accesses if access.step == "job")


@pytest.fixture
def planning(planning):
    """As a budget of epsilon 8 plans: by the accountant of its own filter."""
    budget = Guarantee(Decimal(8), Decimal("1e-5"))
    accountant = PolicyAccountant(policy_named("RDP"), budget)
    return lambda *facts: replace(planning(*facts), accountant=accountant)


@pytest.fixture
def searching_zone(make_zone, study, planning):
    def made(search, **changes):
        wanted = replace(study(job=job(search)), **changes)
        return make_zone(study=wanted, plan=KIND.declare(wanted, planning()))

    return made


# What a plan declares and costs.


def test_a_fixed_number_of_trials_is_charged_in_full(study, planning):
    plan = KIND.declare(study(job=job(FIXED)), planning())
    noise = Decimal(plan.mechanism["noiseMultiplier"])
    # The highest rate and the most steps of the space: batches of 128, three epochs of 64.
    step = SubsampledGaussian(noise, Decimal("0.276458"))
    trial = Composed((Repeated(step, 22), Gaussian(Decimal(10))))
    assert charged(plan).event == Repeated(trial, 4)
    assert plan.epsilon == planning().accountant.epsilon(
        charged(plan).event, Decimal("1e-5"), Neighbors.ADD_OR_REMOVE_ONE
    )
    assert Decimal("2.99") < plan.epsilon <= 3
    assert plan_from_json(plan.to_json()) == plan


def test_random_stopping_costs_less_than_as_many_trials_in_full(study, planning):
    many = {**RANDOM, "randomStopping": {**LOGARITHMIC, "gamma": "0.02"}}
    plan = KIND.declare(study(job=job(many)), planning())
    told = plan.mechanism["search"]
    assert charged(plan).event.name == "RepeatAndSelect"
    assert Decimal("2.99") < plan.epsilon <= 3
    assert Decimal(told["epsilonOfOneTraining"]) < plan.epsilon
    assert Decimal(told["epsilonOfAsManyInFull"]) > 3
    assert "search with random stopping, 12.53 trials expected" in KIND.headline(plan)
    less = Decimal(plan.mechanism["noiseMultiplier"]) - Decimal("0.0001")
    assert KIND.with_noise(study(job=job(many)), planning(), less).epsilon > 3


def test_a_search_needs_more_noise_than_a_training_and_less_than_its_trials_by_themselves(
    study, planning
):
    def noise(given):
        return Decimal(KIND.declare(study(job=given), planning()).mechanism["noiseMultiplier"])

    space = [{"parameter": "learningRate", "values": ["0.1", "1"]}]
    fixed = noise(job({"space": space, "trials": 10, **SCORE}))
    law = {"distribution": "TruncatedNegativeBinomial", "shape": "1", "gamma": "0.1"}
    random = noise(job({"space": space, "randomStopping": law, **SCORE}))
    assert noise(JOB) < random < fixed


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"trials": 1}, "search.trials must be a whole number from 2 to 200"),
        ({"randomStopping": LOGARITHMIC}, "must have either trials or randomStopping"),
        ({"trials": "4"}, "search.trials must be a whole number"),
        ({"noiseMultiplier": None}, "noiseMultiplier must be a quoted decimal"),
        ({"score": "Public"}, "noiseMultiplier must be absent but for HeldOut"),
        ({"score": "Training"}, "score must be one of Public, Synthetic, HeldOut"),
        ({"space": []}, "search.space must be a list of 1 to 16"),
        (
            {"space": [{"parameter": "noiseMultiplier", "values": ["1"]}]},
            "parameter must be one of",
        ),
        ({"space": [{"parameter": "epochs", "low": "1.5", "high": "3"}]}, "must be whole numbers"),
        ({"space": [{"parameter": "learningRate", "low": "2", "high": "1"}]}, "below high"),
        ({"space": [{"parameter": "batchSize", "values": ["464"]}]}, "must be at most 463"),
        ({"space": [{"parameter": "learningRate", "values": ["0"]}]}, "must be above 0"),
        ({"space": [{"parameter": "momentum", "low": "0", "high": "1"}]}, "below 1"),
        ({"space": [{"parameter": "modelParameters.depth", "values": ["1"]}]}, "must not be pres"),
        ({"space": [*SPACE, SPACE[0]]}, "must name each parameter once"),
        ({"seed": 1}, "search.seed must be one of"),
    ],
)
def test_what_a_search_cannot_be_is_refused_when_it_is_planned(study, planning, changes, named):
    with pytest.raises(InvalidValue, match=named):
        KIND.declare(study(job=job({**FIXED, **changes})), planning())


@pytest.mark.parametrize(
    ("law", "named"),
    [
        ({"distribution": "Geometric"}, "distribution must be one of"),
        ({"distribution": "Poisson", "gamma": "0.1"}, "must have mean for Poisson"),
        ({**LOGARITHMIC, "gamma": "0.0001"}, "gamma must be from 0.001 to 0.9"),
        ({**LOGARITHMIC, "shape": "-1"}, "shape must be above 0"),
        ({"distribution": "Poisson", "mean": "0.5"}, "mean must be from 1 to 1000"),
    ],
)
def test_a_distribution_that_nothing_is_proved_for_is_refused(study, planning, law, named):
    with pytest.raises(InvalidValue, match=named):
        KIND.declare(study(job=job({**RANDOM, "randomStopping": law})), planning())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"individualFilter": {"epochs": 30}}, "individualFilter must be absent with search"),
        (
            {"earlyStopping": {"score": "HeldOut", "patience": 2, "noiseMultiplier": "9"}},
            "earlyStopping must be absent",
        ),
        ({"langevin": {}}, "langevin must be absent with search"),
    ],
)
def test_what_does_not_go_with_a_search_is_refused(study, planning, changes, named):
    with pytest.raises(InvalidValue, match=named):
        KIND.declare(study(job=job(RANDOM, **changes)), planning())


def test_several_workers_would_show_how_many_trials_there_are(study, planning):
    with pytest.raises(InvalidValue, match=r"workers must be 1 for a search"):
        KIND.declare(study(job=job(RANDOM), workers=2), planning())


def test_a_search_without_private_data_is_refused(study, planning):
    inputs = (StudyInput(DataRole.PUBLIC, uri="sklearn://digits"),)
    wanted = study(job=job({"space": SPACE, "trials": 2, "score": "Public"}), inputs=inputs)
    with pytest.raises(InvalidValue, match="must be absent where no data is private"):
        KIND.declare(wanted, planning())


def test_random_stopping_is_refused_where_no_bound_holds(study, facts, planning):
    neighbors = facts(neighbors=Neighbors.REPLACE_ONE)
    with pytest.raises(UnsupportedEvent, match="RepeatAndSelect"):
        KIND.declare(study(job=job(RANDOM)), planning(neighbors))


def test_held_out_units_that_are_not_there_cannot_decide(study, facts, planning):
    with pytest.raises(InvalidValue, match="must have held-out units"):
        KIND.declare(study(job=job(FIXED)), planning(facts(train_units=569)))


# What is drawn.


def test_every_point_lies_in_the_space_and_is_covered_by_the_charge(study, planning):
    plan = KIND.declare(study(job=job(RANDOM)), planning())
    wanted = searching.from_plan(plan.parameters["search"])
    bound = Repeated(
        SubsampledGaussian(Decimal(plan.mechanism["noiseMultiplier"]), Decimal("0.276458")), 22
    )
    for uniform in (0.0, 0.3, 0.5, 0.77, 1 - 2**-53):
        found = trials.parameters_at(plan.parameters, wanted.drawn([uniform] * 4))
        assert Decimal("0.05") <= Decimal(found["learningRate"]) <= 2
        assert found["epochs"] in (1, 2, 3)
        assert found["batchSize"] in (64, 128)
        step = SubsampledGaussian(Decimal(found["noiseMultiplier"]), Decimal(found["sampleRate"]))
        assert covers(bound, Repeated(step, found["steps"]))


def test_draws_differ_from_each_other_and_from_search_to_search(study, planning):
    plan = KIND.declare(study(job=job({**FIXED, "trials": 20})), planning())
    wanted = searching.from_plan(plan.parameters["search"])
    rates = [point["learningRate"] for _ in range(2) for point in searched.drawn_points(wanted)]
    assert len(set(rates)) > 35


# What a step does.


def test_a_fixed_search_keeps_the_best_and_tells_of_all(searching_zone):
    zone = searching_zone(FIXED)
    result = train(zone.request("job"))
    assert result.status == "Succeeded", result.message
    event = receipt_from_json(result.receipts[0]).event
    assert covers(charged(zone.plan).event, event)
    public = result.evidence[0]["public"]
    assert len(public["trials"]) == 4
    best = max(public["trials"], key=lambda item: Decimal(item["score"]))
    assert best == {"point": public["chosen"], "score": public["score"]}


def test_trials_that_did_the_same_are_told_once(searching_zone):
    zone = searching_zone({**FIXED, "space": SPACE[:1], "trials": 3})
    result = train(zone.request("job"))
    public = result.evidence[0]["public"]
    assert public["executed"] == public["planned"]
    assert public["executed"].startswith("3 x (")
    assert receipt_from_json(result.receipts[0]).event == charged(zone.plan).event


@pytest.mark.parametrize("number", [{"trials": 3}, {"randomStopping": LOGARITHMIC}])
def test_a_public_score_costs_nothing_beside_the_trainings(searching_zone, study, number):
    inputs = (*study().inputs, StudyInput(DataRole.PUBLIC, uri="sklearn://breast_cancer"))
    zone = searching_zone({"space": SPACE, **number, "score": "Public"}, inputs=inputs)
    mechanisms = [leaf for leaf, _ in flatten(runs_in_view(charged(zone.plan).event))]
    assert [type(leaf) for leaf in mechanisms] == [SubsampledGaussian]
    result = train(zone.request("job"))
    assert result.status == "Succeeded", result.message
    assert 0 <= Decimal(result.evidence[0]["public"]["score"]) <= 1


class Beside:
    """Other workers, as far as a body can tell."""

    def __init__(self):
        self.items = []

    def workers(self):
        return 3

    def map(self, entry, shared, items):
        raise AssertionError("a trial must never be begun twice")

    def map_once(self, entry, shared, items):
        self.items = list(items)
        assert b"Logistic" in shared
        return fan_out.Alone().map(entry, shared, items)


def test_a_fixed_number_of_trials_runs_at_other_workers_where_there_are_some(searching_zone):
    from primum.domain.study.spec import AuditSpec

    audits = (AuditSpec("Membership", "OneRunCanary", {"canaries": 20}),)
    zone, beside = searching_zone(FIXED, audits=audits), Beside()
    with fan_out.using(beside):
        result = train(zone.request("job"))
    assert result.status == "Succeeded", result.message
    assert len(beside.items) == 4
    public = result.evidence[0]["public"]
    assert [json.loads(item) for item in beside.items] == [t["point"] for t in public["trials"]]
    best = max(public["trials"], key=lambda item: Decimal(item["score"]))
    assert best == {"point": public["chosen"], "score": public["score"]}
    assert {item["kind"] for item in result.artifacts} == {"Model", "Canaries", "RunRecord"}
    assert covers(charged(zone.plan).event, receipt_from_json(result.receipts[0]).event)


def test_a_random_number_of_trials_never_asks_other_workers(searching_zone):
    zone, beside = searching_zone(RANDOM), Beside()
    with fan_out.using(beside):
        assert train(zone.request("job")).status == "Succeeded"
    assert beside.items == []


def run_with(zone, monkeypatch, count):
    """Everything that leaves a search of so many trials, and every file it leaves.

    The random bits that the number is drawn from are chosen so that the distribution gives it.
    """
    stopping = searching.from_plan(zone.plan.parameters["search"]).stopping
    uniform = next(
        Fraction(at, 4096) for at in range(4096) if stopping.runs_at(Fraction(at, 4096)) == count
    )
    monkeypatch.setattr("secrets.randbits", lambda bits: int(uniform * (1 << bits)))
    result = train(zone.request("job"))
    files = {str(path.relative_to(zone.folder)) for path in Path(zone.folder).rglob("*")}
    return result, files


def told(zone, result):
    """What lineage and the stored outcome say of a step that ended so; statuses are made of it."""
    context = {**zone.request("job").context, "entry": "a.b:c", "runId": "r", "outcomeId": "o"}
    step = context_from_json({**context, "tickets": {}, "upstream": {}})
    report = _read(
        step,
        result,
        {
            access.name: DataToken(zone.token(access), access.name, access.budget, "")
            for access in zone.plan.accesses
        },
    )
    outcome = StepOutcome(
        outcome_id="o",
        step="job",
        status=report.status,
        reason=report.reason.value,
        message=report.message,
        receipts=report.receipts,
        evidence=tuple(item.digest for item in report.evidence),
        artifacts=report.artifacts,
        body_seconds=report.body_seconds,
    )
    step = context_from_json({**context, "tickets": {}, "upstream": {}})
    event = step_ended(
        step, (), outcome, report.evidence, reservations=[], at="2026-01-01T00:00:00Z"
    )
    return {"outcome": outcome.to_json(), "lineage": event}


def shape(value):
    """A JSON value with texts and numbers that depend on the noise taken out of it."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shape(item) for item in value]
    return type(value).__name__


def test_nothing_that_leaves_depends_on_how_many_trials_there_were(
    searching_zone, monkeypatch, tmp_path
):
    left = []
    for count in (1, 7):
        folder = tmp_path / str(count)
        zone = replace(searching_zone(RANDOM), folder=folder)
        result, files = run_with(zone, monkeypatch, count)
        assert result.status == "Succeeded", result.message
        left.append((result.to_json(), files, told(zone, result)))
    (one, files_one, told_one), (seven, files_seven, told_seven) = left
    assert files_one == files_seven
    assert shape(one) == shape(seven)
    assert shape(told_one) == shape(told_seven)
    assert told_one["outcome"]["receipts"] == told_seven["outcome"]["receipts"]
    assert told_one["outcome"]["message"] == told_seven["outcome"]["message"]
    assert told_one["outcome"]["bodySeconds"] == told_seven["outcome"]["bodySeconds"] == "0"
    for name in ("receipts", "message", "bodySeconds", "status", "reason"):
        if name in one:
            assert one[name] == seven[name]
    assert one["receipts"][0]["event"] == charged(zone.plan).event.to_json()
    public = [part["public"] for part in (one["evidence"][0], seven["evidence"][0])]
    for name in set(public[0]) - {"chosen", "score"}:
        assert public[0][name] == public[1][name] or name == "maxGradNorm"
    assert "trials" not in public[0]


def test_no_progress_is_told_and_no_checkpoint_kept(searching_zone, monkeypatch):
    zone = searching_zone(RANDOM)
    _, files = run_with(zone, monkeypatch, 3)
    assert files == {"model.safetensors", "run.json"}


def test_no_trial_at_all_ends_as_no_trial_of_use_and_is_charged_as_planned(
    searching_zone, monkeypatch
):
    poisson = {**RANDOM, "randomStopping": {"distribution": "Poisson", "mean": "3"}}
    wild = [{"parameter": "learningRate", "values": ["1e30", "1e31"]}, *SPACE[1:]]
    diverging = job({**poisson, "space": wild}, weightDecay="0.5")
    zone = searching_zone(RANDOM, job=diverging)
    nothing, _ = run_with(zone, monkeypatch, 0)
    assert nothing.status == "Failed"
    assert "or Poisson drew no trial" in nothing.message
    assert nothing.receipts[0]["event"] == charged(zone.plan).event.to_json()
    useless, _ = run_with(zone, monkeypatch, 2)
    assert canonical_json(useless.to_json()) == canonical_json(nothing.to_json())


def test_canaries_are_the_same_units_in_every_trial(searching_zone, monkeypatch):
    from primum.domain.study.spec import AuditSpec

    audits = (AuditSpec("Membership", "OneRunCanary", {"canaries": 20}),)
    zone = searching_zone(FIXED, audits=audits)
    seen = []
    fit = trials.fitting.fit_privately

    def watched(*args, **kwargs):
        seen.append(kwargs["trial"].sealed)
        return fit(*args, **kwargs)

    monkeypatch.setattr(trials.fitting, "fit_privately", watched)
    result = train(zone.request("job"))
    assert len(seen) == 4
    assert len({coins.commitment for coins in seen}) == 1
    assert result.evidence[0]["public"]["canaryCommitment"] == seen[0].commitment
    assert {item["kind"] for item in result.artifacts} == {"Model", "Canaries", "RunRecord"}


class Greedy:
    """An algorithm that runs more than it was asked for, and says so."""

    name = "Greedy"
    reviewed = False

    def fit(self, task):
        from primum_pipelines.optimization.dpsgd import DPSGD

        mechanism = replace(task.mechanism, steps=task.mechanism.steps + 50)
        return DPSGD().fit(replace(task, mechanism=mechanism))


def test_a_trial_that_did_more_than_was_planned_contradicts_the_plan(searching_zone, monkeypatch):
    zone = searching_zone(RANDOM)
    monkeypatch.setattr(trials.fitting, "planned_algorithm", lambda _: Greedy())
    result, _ = run_with(zone, monkeypatch, 2)
    event = receipt_from_json(result.receipts[0]).event
    assert not covers(charged(zone.plan).event, event)


def test_sampling_that_an_algorithm_reports_is_told_as_it_reports_it(searching_zone, monkeypatch):
    zone = searching_zone(RANDOM)

    class Shuffler(Greedy):
        def fit(self, task):
            from primum_pipelines.optimization.dpsgd import DPSGD

            return replace(DPSGD().fit(task), sampling="Shuffled")

    monkeypatch.setattr(trials.fitting, "planned_algorithm", lambda _: Shuffler())
    result, _ = run_with(zone, monkeypatch, 2)
    assert result.receipts[0]["facts"]["sampling"] == "Shuffled"


def test_a_trial_that_fails_leaves_nothing_and_is_charged_in_full(searching_zone, monkeypatch):
    zone = searching_zone(FIXED)
    monkeypatch.setattr(searched, "run_trial", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(zone.request("job"))
    assert not list(Path(zone.folder).rglob("*"))


def depth(value):
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, inner), default=0) if isinstance(value, dict | list | tuple) else 0


@pytest.mark.parametrize("search", [FIXED, RANDOM], ids=["fixed", "random"])
def test_rules_of_a_policy_can_read_what_is_said_of_a_search(searching_zone, search):
    zone = searching_zone(search)
    assert depth(zone.plan.mechanism) < 8
    assert depth(train(zone.request("job")).evidence[0]["public"]) < 8


def test_a_search_stands_in_the_plan_as_plain_json(study, planning):
    plan = KIND.declare(study(job=job(RANDOM)), planning())
    told = json.loads(json.dumps(plan.to_json()))["mechanism"]["search"]
    again = searching.from_plan(told)
    assert again.to_json() == {name: told[name] for name in again.to_json()}
    assert isinstance(charged(plan).event, LibraryEvent)


# What audits compare with.


def single(plan):
    """The plan's mechanism as if one trial had been all."""
    return replace(mechanisms_of(plan)[0], searched=None)


@pytest.mark.parametrize("search", [FIXED, RANDOM], ids=["fixed", "random"])
def test_bounds_of_a_search_are_those_of_all_its_trials(study, planning, search):
    plan = KIND.declare(study(job=job(search)), planning())
    (mechanism,) = mechanisms_of(plan)
    assert (mechanism.budget, mechanism.steps) == ("wisconsin", 22)
    assert mechanism.searched == charged(plan).event
    rates = [0.001, 0.01, 0.1, 0.5]
    for whole, one in zip(
        tpr_bounds(mechanism, fprs=rates), tpr_bounds(single(plan), fprs=rates), strict=True
    ):
        assert one < whole <= 1
    assert auc_bound(single(plan)) < auc_bound(mechanism) <= 1


def test_an_audit_long_after_knows_the_search_from_the_plans_facts(study, planning):
    plan = KIND.declare(study(job=job(RANDOM)), planning())
    later = replace(plan, accesses=tuple(a for a in plan.accesses if a.step != "job"))
    assert mechanisms_of(later)[0].searched == charged(plan).event


def test_a_training_without_a_search_is_bounded_as_before(study, planning):
    plan = KIND.declare(study(job=JOB), planning())
    assert mechanisms_of(plan)[0].searched is None


@pytest.mark.parametrize("search", [FIXED, RANDOM], ids=["fixed", "random"])
def test_conformance_recomputes_the_guarantee_from_the_receipt(searching_zone, search):
    zone = searching_zone(search)
    receipt = train(zone.request("job")).receipts[0]
    claim = {
        "epsilon": str(zone.plan.epsilon),
        "delta": str(zone.plan.delta),
        "unit": "Patient",
        "neighbors": "AddOrRemoveOne",
        "accountant": "RDP",
    }
    (record,) = study_records({"receipts": [receipt], "claim": claim}, name="searched")
    report = check(record)
    assert report.verdict is Verdict.SUPPORTED, report.findings
    (understated,) = study_records(
        {"receipts": [receipt], "claim": {**claim, "epsilon": "0.2"}}, name="searched"
    )
    assert check(understated).verdict is not Verdict.SUPPORTED
