"""Is a certificate refused rather than weakened, and does it say what it must, no more?"""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import pytest

from primum import signing, verification
from primum.domain.accounting.events import (
    IndividuallyFiltered,
    LibraryEvent,
    Repeated,
    SubsampledGaussian,
)
from primum.domain.accounting.selection import RandomStopping, StoppingLaw
from primum.domain.budget.entries import ReservationState
from primum.domain.canonical import canonical_json, digest_of_bytes
from primum.domain.errors import Refused
from primum.domain.governance.certificate import certificate_statement, refusals
from primum.domain.governance.claims import claim_of_plan
from primum.domain.governance.evidence import Verdict
from primum.domain.governance.gates import RuleVerdict, StageVerdict
from primum.domain.quantities import Neighbors, PrivacyUnit
from primum.domain.study.plan import Access, Treatment
from primum.domain.study.spec import DataRole, DatasetSpec, StudyInput

PRIVATE, PUBLIC = signing.generate()


def with_facts(make, **changes):
    receipt = make.receipt()
    return make.facts(receipts=(make.receipt(facts={**receipt.facts, **changes}),))


def image_facts(make, unit):
    dataset = DatasetSpec("file://x", unit, 569)
    extract = make.extract(facts=make.budget(dataset=dataset))
    receipt = make.receipt()
    clipped = make.receipt(facts={**receipt.facts, "clippedPer": unit.value})
    return make.facts(plan=make.plan(unit=unit), budgets=(extract,), receipts=(clipped,))


def failed_gate():
    rule = RuleVerdict("claim-valid", "Release", "Deny", passed=False, message="")
    return (StageVerdict("Release", "p", "sha256:p", (rule,), ()),)


def stronger():
    return Repeated(SubsampledGaussian(Decimal("0.5"), Decimal("0.281")), 72)


def longer():
    return Repeated(SubsampledGaussian(Decimal("1.31"), Decimal("0.281")), 73)


def uncharged_but_called_valid(make):
    """A claim that somebody composed without looking."""
    access = Access("filter@wisconsin", "job", "wisconsin", Treatment.UNCHARGED)
    plan = make.plan(accesses=(*make.plan().accesses, access), void_edges=("an edge",))
    return make.facts(plan=plan, claim=claim_of_plan(make.plan(), artifact="a"))


REFUSED = {
    "uncharged access": (uncharged_but_called_valid, "Access filter@wisconsin is not accounted"),
    "void edge": (uncharged_but_called_valid, "The plan names edges that void the claim"),
    "delta at 1/n": (
        lambda m: m.facts(plan=m.plan(delta=Decimal(1) / 500)),
        "Delta must be below 1/569",
    ),
    "another unit": (lambda m: m.facts(plan=m.plan(unit=PrivacyUnit.IMAGE)), "another unit"),
    "other neighbors": (
        lambda m: m.facts(plan=m.plan(neighbors=Neighbors.REPLACE_ONE)),
        "another unit or neighbors",
    ),
    "nothing charged": (
        lambda m: m.facts(plan=m.plan(accesses=m.plan().accesses[1:]), receipts=()),
        "No access is charged",
    ),
    "no extract": (lambda m: m.facts(budgets=()), "Budget wisconsin has no ledger extract"),
    "no receipt": (lambda m: m.facts(receipts=()), "has no receipt"),
    "two receipts": (
        lambda m: m.facts(receipts=(m.receipt(), m.receipt())),
        "more than one receipt",
    ),
    "no token": (lambda m: m.facts(receipts=(m.receipt(token_id=""),)), "names no data token"),
    "less noise": (
        lambda m: m.facts(receipts=(m.receipt(event=stronger()),)),
        "not covered by what was planned",
    ),
    "more steps": (
        lambda m: m.facts(receipts=(m.receipt(event=longer()),)),
        "not covered by what was planned",
    ),
    "undeclared mechanism": (
        lambda m: m.facts(receipts=(m.receipt(), m.receipt(access="peek@wisconsin"))),
        "which the plan does not charge",
    ),
    "shuffled": (lambda m: with_facts(m, sampling="Shuffled"), "assumed Poisson sampling"),
    "no clipping": (lambda m: with_facts(m, maxGradNorm="inf"), "reports no clipping bound"),
    "clipped per image": (lambda m: with_facts(m, clippedPer="Image"), "not per Patient"),
    "open reservation": (
        lambda m: m.facts(budgets=(m.extract(state=ReservationState.EXPOSED),)),
        "is not settled",
    ),
    "frozen": (lambda m: m.facts(budgets=(m.extract(frozen="leak"),)), "is frozen"),
    "overspent": (lambda m: m.facts(budgets=(m.extract(spent="8.01"),)), "is overspent"),
    "gates failed": (lambda m: m.facts(verdicts=failed_gate()), "did not pass"),
    "no gates": (lambda m: m.facts(verdicts=()), "No gate of stage Release"),
    "audit failed": (
        lambda m: m.facts(evidence=(m.evidence("Membership", "LiRA", Verdict.FAIL),)),
        "Membership LiRA failed",
    ),
    "lower bound above the claim": (
        lambda m: m.facts(
            evidence=(m.evidence("Membership", "X", restricted={"lowerBound": "2.999"}),)
        ),
        "lower bound on epsilon above the claim",
    ),
    "stale evidence": (
        lambda m: m.facts(evidence=(m.evidence("SelfTest", "DPSGD", generation=2),)),
        "another Study or generation",
    ),
    "void": (lambda m: m.facts(plan=m.plan(void_edges=("a filter",))), "a filter"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(make, name):
    build, reason = REFUSED[name]
    facts = build(make)
    assert any(reason in text for text in refusals(facts))
    with pytest.raises(Refused, match="certificate must not be issued"):
        certificate_statement(facts)


def test_what_is_in_order_is_not_refused(make):
    assert refusals(make.facts()) == []


def test_less_than_planned_is_in_order(make):
    fewer = Repeated(SubsampledGaussian(Decimal("1.31"), Decimal("0.281")), 10)
    assert refusals(make.facts(receipts=(make.receipt(event=fewer),))) == []


def test_what_individual_filters_were_built_on_is_still_asked_for(make):
    """Sampling, clipping bound and unit of the steps behind a filter, and a covering plan."""
    train, *others = make.plan().accesses
    event = IndividuallyFiltered(train.event, (2, 4, 8))
    plan = make.plan(accesses=(replace(train, event=event), *others))

    def facts(receipt):
        return make.facts(plan=plan, receipts=(receipt,), claim=make.facts().claim)

    assert refusals(facts(make.receipt(event=event))) == []
    said = make.receipt().facts
    for name, value in (("sampling", "Shuffled"), ("clippedPer", "Image"), ("maxGradNorm", "0")):
        assert refusals(facts(make.receipt(event=event, facts={**said, name: value})))
    assert refusals(make.facts(receipts=(make.receipt(event=event),)))  # A plan without filters.


def test_what_the_runs_of_a_selection_clipped_and_sampled_is_asked_for(make):
    stopping = RandomStopping(
        StoppingLaw.TRUNCATED_NEGATIVE_BINOMIAL, shape=Decimal(1), gamma=Decimal("0.2")
    )
    event = stopping.event(make.receipt().event)
    access = replace(make.plan().accesses[0], event=event)
    plan = make.plan(accesses=(access, *make.plan().accesses[1:]))

    def facts(receipt):
        return make.facts(plan=plan, receipts=(receipt,), claim=make.facts().claim)

    assert refusals(facts(make.receipt(event=event))) == []
    said = make.receipt().facts
    for name, value in (("sampling", "Shuffled"), ("clippedPer", "Image"), ("maxGradNorm", "0")):
        assert refusals(facts(make.receipt(event=event, facts={**said, name: value})))
    assert refusals(facts(make.receipt(event=Repeated(event, 2))))  # Not what was planned.


def test_what_a_library_mechanism_assumes_about_sampling_is_asked_for(make):
    train, *others = make.plan().accesses
    inner = LibraryEvent.of("Laplace", noise_multiplier=Decimal(20))
    event = LibraryEvent.of("PoissonSampled", sampling_probability=Decimal("0.1"), event=inner)
    plan = make.plan(accesses=(replace(train, event=event), *others))

    def found(sampling):
        receipt = make.receipt(event=event, facts={"sampling": sampling})
        return refusals(make.facts(plan=plan, receipts=(receipt,), claim=make.facts().claim))

    assert found("Poisson") == []
    assert any("assumed Poisson sampling; found Shuffled" in text for text in found("Shuffled"))
    assert any("found no statement" in text for text in found(""))


def test_an_opened_access_that_released_nothing_is_in_order(make):
    """Validation and audits answer with no event; undeclared, even that is refused."""
    quiet = make.receipt(access="validate@wisconsin", event=make.no_event, facts={})
    facts = make.facts(receipts=(make.receipt(), quiet))
    assert refusals(facts) == []
    assert len(certificate_statement(facts)["predicate"]["mechanisms"]) == 1
    unknown = make.receipt(access="peek@wisconsin", event=make.no_event, facts={})
    assert refusals(make.facts(receipts=(make.receipt(), unknown)))
    alone = make.receipt(access="validate@wisconsin", facts={})
    assert refusals(make.facts(receipts=(make.receipt(), alone)))


def predicate_of(make, **changes):
    return certificate_statement(make.facts(**changes))["predicate"]


def test_it_says_what_it_must(make):
    statement = certificate_statement(make.facts())
    predicate = statement["predicate"]
    assert statement["subject"][0]["digest"]["sha256"] in digest_of_bytes(make.artifact)
    release, cumulative = predicate["claim"]["parameters"]
    assert (release["scope"], release["epsilon"], release["delta"]) == (
        "ThisRelease",
        "2.998",
        "0.00001",
    )
    assert (cumulative["scope"], cumulative["guaranteeEpsilon"]) == ("CumulativeForDataset", "8.0")
    assert [item["treatment"] for item in predicate["coveredAccesses"]] == [
        "Charged",
        "Disclosed",
        "Inspected",
    ]
    listed = " ".join(item["quantity"] for item in predicate["unprotectedQuantities"])
    for what in ("DataValidated", "Audited", "GatesPassed", "569 units", "Utility", "class list"):
        assert what in listed
    assert predicate["ledger"] == {"seq": 7, "hash": "ab" * 32}
    assert predicate["claim"]["label"] == "Reasonable"
    assert set(predicate["statements"]["lines"]) == {
        "governance",
        "security",
        "privacy",
        "verifiability",
    }
    assert "an audit can refute" in predicate["statements"]["lines"]["verifiability"].lower()


def test_nothing_restricted_enters(make):
    text = json.dumps(certificate_statement(make.facts()))
    assert "lowerBound" not in text
    assert "1.1" not in text


def test_utility_enters_only_where_disclosed(make):
    assert "0.95" in json.dumps(predicate_of(make)["statements"]["disclosed"])
    closed = make.extract(facts=make.budget(disclosures=()))
    assert "0.95" not in json.dumps(predicate_of(make, budgets=(closed,)))


def test_it_lists_every_input_that_was_taken_to_be_public(make):
    assert predicate_of(make)["otherInputs"] == []
    public = {"uri": "medmnist://pneumoniamnist", "options": {"download": "Allow"}}
    plan = make.plan(parameters={"publicInputs": [public]})
    study = make.study(inputs=(StudyInput(DataRole.SYNTHETIC, release="biopsies"),))
    assert predicate_of(make, plan=plan, study=study)["otherInputs"] == [
        {"role": "Public", **public},
        {"role": "Synthetic", "release": "biopsies"},
    ]


def test_released_iterates_are_not_called_final_weights(make):
    plan = make.plan(parameters={"answers": {"temperature": "One", "abstainBelow": "0.9"}})
    assert "iterates" in predicate_of(make, plan=plan)["releaseModel"]["outputs"]
    assert predicate_of(make)["releaseModel"]["outputs"] == "final weights only"


@pytest.mark.parametrize(
    ("parameters", "said", "unsaid"),
    [
        ({"search": {"trials": 8}}, ("which point", "scores of the other trials"), "steps"),
        ({"search": {"randomStopping": {}}}, ("which point of the space",), "other trials"),
        ({"earlyStopping": {}}, ("after how many steps",), "point"),
    ],
)
def test_what_is_seen_beside_the_weights_is_named(make, parameters, said, unsaid):
    outputs = predicate_of(make, plan=make.plan(parameters=parameters))["releaseModel"]["outputs"]
    assert all(words in outputs for words in said)
    assert unsaid not in outputs


def test_images_are_translated_to_persons(make):
    statement = certificate_statement(image_facts(make, PrivacyUnit.IMAGE))["predicate"]
    text = statement["statements"]["unit"]
    assert "one image, not one child or adult" in text
    assert "k times epsilon" in text
    assert "epsilon 5.996" in text
    patient = predicate_of(make)["statements"]["unit"]
    assert "group" not in patient


def test_large_epsilon_says_what_it_does_not_protect_against(make):
    plan = make.plan(epsilon=Decimal("25"), delta=Decimal("1e-5"))
    facts = make.facts(
        plan=plan,
        budgets=(make.extract(facts=make.budget(epsilon=Decimal(100))),),
    )
    statements = certificate_statement(facts)["predicate"]["statements"]
    assert "does NOT protect against MEMBERSHIP" in statements["largeEpsilon"].replace("\n", " ")
    assert "does not hide whether" in statements["patient"]
    assert "largeEpsilon" not in predicate_of(make)["statements"]


def test_federation_is_not_called_private(make):
    study = make.study(job_kind="Federate")
    lines = predicate_of(make, study=study)["statements"]["lines"]
    for line in ("governance", "security"):
        assert "privat" not in lines[line].lower()
    assert "no secure aggregation" in lines["security"]
    assert "stayed at their sites" in lines["governance"]


def test_what_a_federated_claim_covers_is_said(make):
    plan = make.plan(mechanism={**make.plan().mechanism, "claimCovers": "Each site's units."})
    assert predicate_of(make, plan=plan)["statements"]["covers"] == "Each site's units."
    assert "covers" not in predicate_of(make)["statements"]


def test_insecure_noise_is_named(make):
    receipt = make.receipt()
    facts = {**receipt.facts, "generator": "torch default generator"}
    statements = predicate_of(make, receipts=(make.receipt(facts=facts),))["statements"]
    assert "NOT a cryptographically secure generator" in statements["generator"]
    assert "NOT" not in predicate_of(make)["statements"]["generator"]


def test_our_own_generator_counts_as_secure_and_a_seeded_one_does_not(make):
    randomness = pytest.importorskip("primum_pipelines.optimization.randomness")
    for seed, verdict in ((None, " a cryptographically"), (1, "NOT a cryptographically")):
        facts = {**make.receipt().facts, "generator": randomness.random_source(seed).name}
        said = predicate_of(make, receipts=(make.receipt(facts=facts),))["statements"]["generator"]
        assert verdict in said
        assert ("NOT" in said) is ("NOT" in verdict)


def void_facts(make):
    access = Access("filter@wisconsin", "job", "wisconsin", Treatment.UNCHARGED, why="PixelL2")
    plan = make.plan(accesses=(*make.plan().accesses, access))
    study = make.study(job_kind="Synthesize", endpoint="", dataset_release="void-images")
    return make.facts(plan=plan, study=study)


def test_void_claims_nothing_and_says_so_in_its_name(make):
    statement = certificate_statement(void_facts(make))
    claim = statement["predicate"]["claim"]
    assert claim["status"] == "Void"
    assert "parameters" not in claim
    assert "PixelL2" in statement["predicate"]["statements"]["guarantee"]
    assert "epsilon 2.998" not in json.dumps(statement["predicate"]["statements"])
    unnamed = replace(void_facts(make), study=make.study(endpoint="", dataset_release="images"))
    with pytest.raises(Refused, match="PixelL2"):
        certificate_statement(unnamed)


def test_void_counts_only_what_the_claim_says(make):
    """The claim decides, not the plan's own optimism."""
    plan = make.plan()
    void = claim_of_plan(make.plan(void_edges=("an edge",)), artifact="a")
    assert refusals(make.facts(plan=plan, claim=void))


# Reading one offline.


def test_a_signed_certificate_verifies(make):
    envelope = make.certificate(PRIVATE)
    digest = digest_of_bytes(make.artifact)
    assert verification.verify_certificate(envelope, PUBLIC) == []
    assert verification.verify_certificate(envelope, PUBLIC, digest, release="malignancy") == []
    assert verification.claims_privacy(verification.open_certificate(envelope, PUBLIC)) == "Valid"


def test_a_certificate_holds_for_its_bytes_and_its_endpoint_only(make):
    envelope = make.certificate(PRIVATE)
    other = digest_of_bytes(make.artifact + b"!")
    assert (
        "artifact must have digest" in verification.verify_certificate(envelope, PUBLIC, other)[0]
    )
    found = verification.verify_certificate(envelope, PUBLIC, release="sepsis")
    assert found == ["certificate must be for sepsis; found malignancy."]


def test_another_key_does_not_verify(make):
    _, other = signing.generate()
    assert "signed by key" in verification.verify_certificate(make.certificate(PRIVATE), other)[0]


def forged(make, change):
    statement = certificate_statement(make.facts())
    change(statement)
    payload = canonical_json(statement)
    return signing.sign(PRIVATE, signing.CERTIFICATE_TYPE, payload)


def raise_epsilon(statement):
    statement["predicate"]["claim"]["parameters"] = []


def uncharge(statement):
    statement["predicate"]["coveredAccesses"][0]["treatment"] = "Uncharged"


def another_type(statement):
    statement["predicateType"] = "https://in-toto.io/attestation/svr/v0.1"


def drop_claim(statement):
    del statement["predicate"]["claim"]


def void_with_numbers(statement):
    statement["predicate"]["claim"] |= {"status": "Void", "voidEdges": ["x"]}


def other_artifact(statement):
    statement["predicate"]["artifact"]["digest"] = "sha256:" + "0" * 64


def later_version(statement):
    statement["predicate"]["version"] = 2


@pytest.mark.parametrize(
    "change",
    [
        raise_epsilon,
        uncharge,
        another_type,
        drop_claim,
        void_with_numbers,
        other_artifact,
        later_version,
    ],
)
def test_a_statement_that_contradicts_itself_is_a_problem(make, change):
    assert verification.verify_certificate(forged(make, change), PUBLIC)


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"a": 1}', b'{"a":1.5}'])
def test_what_is_no_certificate_is_a_problem(payload):
    envelope = signing.sign(PRIVATE, signing.CERTIFICATE_TYPE, payload)
    assert verification.verify_certificate(envelope, PUBLIC)


def extract_of_blocks(make, *, read, paid):
    extract = make.extract(facts=make.budget(blocks=read))
    return replace(extract, reservation=replace(extract.reservation, blocks=paid))


def test_a_certificate_names_the_blocks_that_were_read(make):
    icu = extract_of_blocks(make, read=("icu",), paid=("icu",))
    predicate = predicate_of(make, budgets=(icu,))
    assert predicate["budgets"][0]["blocks"] == ["icu"]
    listed = [item["quantity"] for item in predicate["unprotectedQuantities"]]
    assert "569 units of budget wisconsin in blocks icu" in listed


def test_a_certificate_of_blocks_that_nobody_paid_for_is_refused(make):
    for paid in (("surgery",), ("icu", "surgery"), ("whole",)):
        extract = extract_of_blocks(make, read=("icu",), paid=paid)
        found = " ".join(refusals(make.facts(budgets=(extract,))))
        assert "was charged for other blocks than were read" in found
