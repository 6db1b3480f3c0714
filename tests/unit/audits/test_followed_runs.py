"""Do shadows follow what only a run decided: a search's winner, an early end, a federation?"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from shadow_recipes import recipe

torch = pytest.importorskip("torch")
pytest.importorskip("opacus")

from primum.domain.canonical import canonical_json  # noqa: E402
from primum.domain.errors import InvalidValue, NotFound, Tampered  # noqa: E402
from primum.domain.quantities import PrivacyUnit  # noqa: E402
from primum.domain.study.spec import AuditSpec  # noqa: E402
from primum_pipelines import artifacts  # noqa: E402
from primum_pipelines.attacks.membership import Shadowing  # noqa: E402
from primum_pipelines.attacks.pool import Pool, pool_of, pool_of_sites  # noqa: E402
from primum_pipelines.attacks.shadow_program import Architecture, Program  # noqa: E402
from primum_pipelines.attacks.shadows import complementary_halves  # noqa: E402
from primum_pipelines.audits import cost  # noqa: E402
from primum_pipelines.audits.membership_attacks import LiRA  # noqa: E402
from primum_pipelines.audits.shadow_recipe import parameters_of, program_of, unlike  # noqa: E402
from primum_pipelines.audits.subject import subject_of  # noqa: E402
from primum_pipelines.datasets.units import one_row_each  # noqa: E402
from primum_pipelines.fan_out import Alone  # noqa: E402
from primum_pipelines.kinds.federate import step as federate_step  # noqa: E402
from primum_pipelines.kinds.federate.kind import FederateKind  # noqa: E402
from primum_pipelines.kinds.train import fitting  # noqa: E402
from primum_pipelines.kinds.train.kind import TrainKind  # noqa: E402
from primum_pipelines.kinds.train.step import train  # noqa: E402
from primum_pipelines.optimization.losses import TaskLoss  # noqa: E402
from primum_pipelines.optimization.stopping import StoppingRule  # noqa: E402
from primum_pipelines.steps.audit import run as audit_step  # noqa: E402

LIRA = AuditSpec("Membership", "LiRA", {"shadows": 16})
TRAINED = {"model": "Logistic", "epochs": 30, "batchSize": 60, "maxGradNorm": "1.0"}
SEARCHED = {
    **TRAINED,
    "search": {
        "space": [
            {"parameter": "learningRate", "values": ["4", "8"]},
            {"parameter": "epochs", "low": "28", "high": "30"},
        ],
        "trials": 2,
        "score": "HeldOut",
        "noiseMultiplier": "20",
    },
}
STOPPED = {
    **TRAINED,
    "learningRate": "8",
    "earlyStopping": {
        "score": "HeldOut",
        "everyEpochs": 10,
        "patience": 1,
        "noiseMultiplier": "20",
    },
}
FEDERATED = {
    "model": "Logistic",
    "rounds": 3,
    "localEpochs": 8,
    "batchSize": 60,
    "maxGradNorm": "1.0",
    "learningRate": "8",
}
JOBS = {"search": SEARCHED, "earlyStopping": STOPPED, "federation": FEDERATED}
QUIET = "0.0001"


class Studies:
    """Plans Studies on small archives, runs their jobs, and has the result audited."""

    def __init__(self, bench):
        self.bench = bench

    def archive(self, name, *, rows, seed):
        """Pictures with random labels: a model can only learn them by heart."""
        generator = np.random.default_rng(seed)
        images = generator.integers(0, 256, (rows, 1, 12, 12), dtype=np.uint8)[:, 0]
        labels, half = generator.integers(0, 2, rows), rows // 2
        np.savez(
            self.bench.folder / f"{name}.npz",
            train_images=images[:half],
            train_labels=labels[:half, None],
            test_images=images[half:],
            test_labels=labels[half:, None],
        )
        return self.bench.facts(
            name, f"npz://{name}.npz", unit=PrivacyUnit.IMAGE, units=rows, train_units=half
        )

    def plan(self, what, facts, *, epsilon="2", noise=None, job=None):
        kind = FederateKind() if what == "federation" else TrainKind()
        job = job or JOBS[what]
        study = self.bench.study(kind.name, job, facts, epsilon=epsilon, audits=(LIRA,))
        plan = kind.declare(study, self.bench.context(facts))
        if noise is None:
            return plan
        changed = {**plan.parameters, "noiseMultiplier": noise}
        if "sites" in changed:
            changed["sites"] = {
                name: {**site, "noiseMultiplier": noise} for name, site in changed["sites"].items()
            }
        return replace(plan, parameters=changed)

    def audit_of(self, plan, facts):
        """The request of the audit step, after the job."""
        job = federate_step.run if plan.kind == "Federate" else train
        made = job(self.bench.request(plan, "job", facts))
        assert made.status == "Succeeded", made.message
        return self.bench.request(plan, "audit", facts, job=made)

    def planned(self, what, *, random=True, rows=240, **options):
        names = ("north", "south") if what == "federation" else ("north",)
        if random:
            facts = [self.archive(n, rows=rows, seed=i) for i, n in enumerate(names)]
        else:
            facts = [self.bench.images(n, rows=rows, seed=i) for i, n in enumerate(names)]
        return self.plan(what, facts, **options), facts

    def subject(self, what, **options):
        plan, facts = self.planned(what, **options)
        return subject_of(self.audit_of(plan, facts))


@pytest.fixture
def studies(bench):
    return Studies(bench)


@pytest.mark.parametrize("what", JOBS)
def test_a_training_that_leaves_out_its_noise_is_found_out(studies, what):
    asked = {**LIRA.parameters, "stopping": "Never"}
    found = LiRA().run(studies.subject(what, noise=QUIET, epsilon="0.4"), asked)
    assert found.verdict == "Fail"
    assert float(found.restricted["auc"]["lower"]) > 0.58


@pytest.mark.parametrize("what", JOBS)
def test_a_private_one_stays_within_its_bound_and_passes(studies, what):
    found = LiRA().run(studies.subject(what), {"shadows": 8})
    assert (found.verdict, found.reasons) == ("Pass", ())
    assert float(found.restricted["lowerBound"]) <= 2
    assert found.public["notRepeated"]


@pytest.mark.parametrize("what", JOBS)
def test_shadows_answer_as_well_as_the_study_s_own_model(studies, what):
    subject = studies.subject(what, random=False, epsilon="30")
    program, table = program_of(subject, Shadowing.GRAY_BOX), subject.table()
    pool = pool_of(table, subject.model().spec)
    if what == "federation":
        pool = pool_of_sites((table, *subject.other_sites()), subject.model().spec)
    had = complementary_halves(4, len(pool.labels), generator=torch.Generator().manual_seed(1))
    answers = program.answers(program.train(pool, had, seed=2), pool.inputs).argmax(dim=-1)
    held_out = ~had
    shadows = float((answers == pool.labels)[held_out].float().mean())
    others = ~pool.members
    with torch.no_grad():
        own = subject.model().module(pool.inputs[others]).argmax(dim=1)
    assert shadows > 0.8
    assert abs(shadows - float((own == pool.labels[others]).float().mean())) < 0.1


def test_shadows_are_trained_at_the_point_that_won(studies):
    plan, facts = studies.planned("search")
    request = studies.audit_of(plan, facts)
    subject = subject_of(request)
    chosen = subject.artifact_json("RunRecord")["chosen"]
    told = parameters_of(subject)
    assert set(chosen) == {"learningRate", "epochs"}
    assert {name: told[name] for name in chosen} == chosen
    assert told["steps"] == subject.artifact_json("RunRecord")["steps"]
    assert "search" not in told
    assert told["noiseMultiplier"] == plan.parameters["noiseMultiplier"]


def test_shadows_take_as_many_steps_as_the_study_took(studies):
    # Nine looks; that each of them is better than all before happens once in 362,880 times.
    often = {**STOPPED, "earlyStopping": {**STOPPED["earlyStopping"], "everyEpochs": 3}}
    subject = studies.subject("earlyStopping", job=often)
    ran = subject.artifact_json("RunRecord")
    told = parameters_of(subject)
    assert ran["chosen"] == {}
    assert told["stepsExecuted"] == ran["steps"] < told["steps"]
    assert program_of(subject, Shadowing.GRAY_BOX).recipe().executed == ran["steps"]


def test_a_plan_that_leaves_nothing_to_the_run_leaves_no_record(bench):
    facts = [bench.images("north")]
    plan = TrainKind().declare(bench.study("Train", TRAINED, facts), bench.context(facts))
    made = train(bench.request(plan, "job", facts))
    assert [item["kind"] for item in made.artifacts] == ["Model"]


@pytest.mark.parametrize("what", ["search", "earlyStopping"])
def test_a_job_of_before_that_left_no_record_cannot_pass(studies, what):
    plan, facts = studies.planned(what)
    request = studies.audit_of(plan, facts)
    left = [a for a in request.inputs["job"]["artifacts"] if a["kind"] != "RunRecord"]
    subject = subject_of(replace(request, inputs={"job": {"artifacts": left}}))
    found = LiRA().run(subject, LIRA.parameters)
    assert found.verdict == "Inconclusive"
    assert found.reasons == (f"shadow models cannot follow the Study's {what}",)


MISFITS = {
    "search": [{"chosen": {"learningRate": "2"}, "steps": 1}],
    "earlyStopping": [
        {"chosen": {"learningRate": "2"}, "steps": 1},
        {"chosen": {}, "steps": 10**6},
        {"chosen": {}, "steps": 0},
        {"chosen": {}},
    ],
}


@pytest.mark.parametrize("what", MISFITS)
def test_a_record_that_does_not_fit_the_plan_is_no_pass(studies, what):
    plan, facts = studies.planned(what)
    request = studies.audit_of(plan, facts)
    left = [a for a in request.inputs["job"]["artifacts"] if a["kind"] != "RunRecord"]
    asked = {"kind": LIRA.kind, "attack": LIRA.attack, "parameters": dict(LIRA.parameters)}
    for said in MISFITS[what]:
        other = artifacts.store(
            request.artifacts_uri, "other.json", canonical_json(said), kind="RunRecord"
        )
        swapped = [*left, {"kind": other.kind, "uri": other.uri, "digest": other.digest}]
        context = {**request.context, "audits": [asked]}
        changed = replace(request, inputs={"job": {"artifacts": swapped}}, context=context)
        with pytest.raises(Tampered):
            unlike(subject_of(changed))
    if what == "search":
        verdicts = {item["name"]: item["verdict"] for item in audit_step(changed).evidence}
        assert verdicts["LiRA"] == "Fail"


CERTAIN = {"noiseMultiplier": "0.0", "sampleRate": "1", "steps": 9, "maxGradNorm": "0.5"}
DESCENTS = [
    {"schedule": "Cosine", "warmUp": "0.4"},
    {"averaging": "0.9", "momentum": "0.5"},
    {"laterField": "1"},  # One shadow after another.
]


@pytest.mark.parametrize("changed", DESCENTS, ids=str)
def test_a_shadow_ends_where_the_study_s_own_training_ended(changed):
    """On the planned schedule, after four steps of nine, number by number."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn((12, 4), generator=generator)
    labels = torch.randint(3, (12,), generator=generator)
    torch.manual_seed(0)
    architecture = Architecture("MLP", {"hidden": 6, "layers": 1}, (4,), 3)
    weights = architecture.build().state_dict()
    noise = {"noiseMultiplier": "0.000000001"} if "laterField" in changed else {}
    told = {**recipe(**CERTAIN, learningRate="0.3", **changed), **noise}
    program = Program({**told, "stepsExecuted": 4}, architecture, weights)
    pool = Pool(inputs, labels, torch.arange(12) % 2 == 0, 0)
    had = complementary_halves(2, 12, generator=torch.Generator().manual_seed(2))
    stack = program.train(pool, had, seed=3)
    for at in range(2):
        module = Program(told, architecture, weights).fresh()
        task = fitting.planned_training(
            module,
            (inputs[had[at]], labels[had[at]]),
            parameters=told,
            units=one_row_each(6),
            loss=TaskLoss(),
        )
        quiet = replace(task.mechanism, noise_multiplier=1e-9)
        scores = iter((1.0, 0.5))  # The second look, after four steps, ends it.
        rule = StoppingRule(every=2, patience=1, score=lambda _, seen=scores: next(seen))
        report = fitting.planned_algorithm({"algorithm": "DPSGD"}).fit(
            replace(task, mechanism=quiet, expected_units=6, seed=1, stopping=rule)
        )
        assert report.executed[0][2] == 4
        for name, value in module.named_parameters():
            assert torch.allclose(stack[name][at], value, atol=2e-5), name


def test_shadows_of_a_federation_are_the_same_wherever_they_are_trained(studies, monkeypatch):
    from primum_pipelines.attacks import shadow_groups
    from primum_pipelines.attacks.shadow_groups import Groups

    monkeypatch.setattr(shadow_groups, "_HELP_SECONDS_MIN", -1.0)
    monkeypatch.setattr(shadow_groups, "_GROUP_OF_IMAGES", 2)
    subject = studies.subject("federation", random=False)
    program = program_of(subject, Shadowing.GRAY_BOX)
    program = replace(program, parameters={**program.parameters, "rounds": 1})
    pool = pool_of_sites((subject.table(), *subject.other_sites()), subject.model().spec)
    had = complementary_halves(6, len(pool.labels), generator=torch.Generator().manual_seed(1))

    class Two(Alone):
        def workers(self):
            return 2

    alone = Groups(program, pool, had, seed=7).train(6, fan_out=Alone())
    helped = Groups(program, pool, had, seed=7).train(6, fan_out=Two())
    assert alone.keys() == helped.keys()
    for name, value in alone.items():
        assert torch.equal(value, helped[name])
        assert not torch.equal(value[0], value[1])


def test_every_shadow_of_a_federation_has_half_of_every_site(studies):
    from primum_pipelines.attacks import membership, scorings

    subject = studies.subject("federation", random=False)
    shop = membership.Shop()
    (scores,) = membership.attack(
        subject.model(),
        subject.table(),
        program=program_of(subject, Shadowing.GRAY_BOX),
        effort=membership.Effort(shadows=4, pool=50, population=True),
        scoring=scorings.rmia_online,
        shop=shop,
        others=subject.other_sites(),
    )
    ((used),) = shop.sets.values()
    pool, had = used.groups.pool, used.groups.members
    assert torch.bincount(pool.sites).tolist() == [50, 50]  # As many of each site as asked for.
    assert had[:, pool.sites == 1].sum(dim=1).tolist() == [25] * 4
    tried = pool.attacked & ~used.population
    assert set(had[:, tried].sum(dim=0).tolist()) == {2}
    assert not bool(had[:, used.population].any())
    assert not bool(used.population[pool.sites == 1].any())
    assert len(scores.present) + len(scores.absent) == int(tried.sum())  # Of one site alone.


def test_the_site_that_reveals_most_is_attacked_and_every_site_must_be_open(studies):
    facts = [
        studies.archive("large", rows=400, seed=0),
        studies.archive("small", rows=160, seed=1),
    ]
    plan = studies.plan("federation", facts)
    request = studies.audit_of(plan, facts)
    subject = subject_of(request)
    assert subject.site_order()[0] == subject.released_by().budget
    assert len(subject.table().labels) == {"large": 400, "small": 160}[subject.site_order()[0]]
    closed = [a for a in plan.accesses if a.name != "audit@large"]
    half = replace(subject, plan=replace(plan, accesses=tuple(closed)))
    with pytest.raises(NotFound, match="every site"):
        program_of(half, Shadowing.GRAY_BOX)


def test_copies_at_another_site_are_no_non_members(studies):
    facts = [studies.archive(name, rows=160, seed=3) for name in ("north", "south")]
    plan = studies.plan("federation", facts)
    subject = subject_of(studies.audit_of(plan, facts))
    (south,), spec = subject.other_sites(), subject.model().spec
    assert pool_of_sites((subject.table(), south), spec).duplicates == 160
    with pytest.raises(InvalidValue, match="overlap"):
        pool_of_sites((subject.table(), replace(south, train=~south.train)), spec)


@pytest.mark.parametrize("what", JOBS)
def test_what_following_costs_is_said_before(studies, what):
    plan, facts = studies.planned(what)
    payload = {
        "plan": plan.to_json(),
        "datasets": {
            item.budget: {"uri": "sklearn://breast_cancer", "options": {}, "units": item.units}
            for item in facts
        },
        "audits": [
            {"kind": "Membership", "attack": "LiRA", "parameters": {"shadows": count}}
            for count in (16, 1024)
        ],
    }
    few, many = cost.estimate(json.loads(canonical_json(payload)))
    assert float(few["cpuSeconds"]) < float(many["cpuSeconds"])
    assert ("federation" in few["method"]) is (what == "federation")
