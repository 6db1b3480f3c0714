"""Does one uncharged edge void a claim, wherever it lies, and is it named?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.domain.governance.claims import ClaimStatus, Edge, claim_of_plan, compose
from primum.domain.study.plan import Access, Treatment

DATA = "budget wisconsin"
CHARGED, UNCHARGED = Treatment.CHARGED, Treatment.UNCHARGED

# Five lineages: one is charged throughout, four have one uncharged edge each.
LINEAGES = {
    "DP training": ([Edge(DATA, "model", CHARGED, "DP-SGD")], None),
    "generator without DP, then DP training": (
        [
            Edge(DATA, "generator", UNCHARGED, "generator trained without a mechanism"),
            Edge("generator", "samples", CHARGED, "post-processing"),
            Edge("samples", "model", CHARGED, "pre-training"),
            Edge(DATA, "model", CHARGED, "DP-SGD"),
        ],
        "generator trained without a mechanism",
    ),
    "uncharged sample filter": (
        [
            Edge(DATA, "generator", CHARGED, "DP-MERF"),
            Edge("generator", "samples", CHARGED, "post-processing"),
            Edge(DATA, "samples", UNCHARGED, "PixelL2 threshold"),
        ],
        "PixelL2 threshold",
    ),
    "tuned on private validation data": (
        [
            Edge(DATA, "hyper-parameters", UNCHARGED, "tuning"),
            Edge("hyper-parameters", "model", CHARGED, "configuration"),
            Edge(DATA, "model", CHARGED, "DP-SGD"),
        ],
        "tuning",
    ),
    "normalized by private statistics": (
        [
            Edge(DATA, "mean and deviation", UNCHARGED, "normalization"),
            Edge("mean and deviation", "model", CHARGED, "scaling"),
            Edge(DATA, "model", CHARGED, "DP-SGD"),
        ],
        "normalization",
    ),
}


@pytest.mark.parametrize("name", LINEAGES)
def test_five_lineages(name):
    edges, culprit = LINEAGES[name]
    artifact = "samples" if "filter" in name else "model"
    claim = compose(edges, artifact=artifact, private=[DATA])
    assert (claim.status is ClaimStatus.VOID) == (culprit is not None)
    if culprit:
        assert len(claim.void_edges) == 1
        assert culprit in claim.void_edges[0]
        assert culprit in claim.text
        assert "covers the last stage only" in claim.text
    else:
        assert claim.text == "Every path from private data to model is charged (1 charged edge)."


def test_an_edge_that_does_not_lead_there_does_not_matter():
    edges = [Edge(DATA, "model", CHARGED, "DP-SGD"), Edge(DATA, "report", UNCHARGED, "histogram")]
    assert compose(edges, artifact="model", private=[DATA]).status is ClaimStatus.VALID
    assert compose(edges, artifact="report", private=[DATA]).status is ClaimStatus.VOID


def test_public_sources_need_no_charge():
    edges = [Edge("public images", "model", UNCHARGED, "pre-training")]
    assert compose(edges, artifact="model", private=[DATA]).status is ClaimStatus.VALID


def test_inspected_results_cannot_reach_an_artifact():
    edges = [Edge(DATA, "model", Treatment.INSPECTED, "reference run")]
    assert compose(edges, artifact="model", private=[DATA]).status is ClaimStatus.VOID


names = st.sampled_from(["data", "a", "b", "c", "model"])
edges = st.lists(
    st.builds(Edge, names, names, st.sampled_from([CHARGED, UNCHARGED]), st.text(max_size=5)),
    max_size=12,
)


@given(edges)
def test_valid_exactly_if_charged_edges_are_all_there_is_on_the_way(lineage):
    """Against a naive search: walk every path edge by edge."""

    def leads_on(node, seen):
        return node == "model" or any(
            e.source == node and e.target not in seen and leads_on(e.target, seen | {e.target})
            for e in lineage
        )

    def reachable(node):
        seen, frontier = {"data"}, ["data"]
        while frontier:
            at = frontier.pop()
            for e in lineage:
                if e.source == at and e.target not in seen:
                    seen.add(e.target)
                    frontier.append(e.target)
        return node in seen

    void = any(
        e.treatment is UNCHARGED and reachable(e.source) and leads_on(e.target, {e.target})
        for e in lineage
    )
    claim = compose(lineage, artifact="model", private=["data"])
    assert (claim.status is ClaimStatus.VOID) == void


@given(edges, edges)
def test_more_lineage_never_repairs_a_claim(one, more):
    before = compose(one, artifact="model", private=["data"])
    after = compose([*one, *more], artifact="model", private=["data"])
    assert not (before.status is ClaimStatus.VOID and after.status is ClaimStatus.VALID)


def test_a_charged_plan_is_valid(make):
    claim = claim_of_plan(make.plan(), artifact="model")
    assert claim.status is ClaimStatus.VALID
    assert [edge.why for edge in claim.charged] == ["Trained."]


@pytest.mark.parametrize("step", ["job", "validate", "evaluate", "audit"])
def test_an_uncharged_access_voids_from_any_step(make, step):
    access = Access("filter@wisconsin", step, "wisconsin", UNCHARGED, why="PixelL2 threshold")
    plan = make.plan(accesses=(*make.plan().accesses, access))
    claim = claim_of_plan(plan, artifact="model")
    assert claim.status is ClaimStatus.VOID
    assert "budget wisconsin -> model (PixelL2 threshold)" in claim.text


def test_inherited_edges_void(make):
    plan = make.plan(void_edges=("generator trained without a charge (through release gen)",))
    claim = claim_of_plan(plan, artifact="model")
    assert claim.status is ClaimStatus.VOID
    assert "through release gen" in claim.text
    assert "covers the last stage only" in claim.text


def test_lineage_of_inputs_is_followed(make):
    upstream = (
        Edge("budget lungs", "samples", UNCHARGED, "no mechanism"),
        Edge("samples", "model", CHARGED, "pre-training"),
    )
    claim = claim_of_plan(make.plan(), artifact="model", lineage=upstream)
    assert claim.void_edges == ("budget lungs -> samples (no mechanism)",)


def test_a_lineage_nobody_can_read_is_void(monkeypatch):
    monkeypatch.setattr("primum.domain.governance.claims.EDGES_MAX", 1)
    lineage = [Edge(DATA, "model", CHARGED, "a"), Edge(DATA, "model", CHARGED, "b")]
    assert compose(lineage, artifact="model", private=[DATA]).status is ClaimStatus.VOID


def test_what_was_charged_is_kept_in_the_canonical_form(make):
    found = claim_of_plan(make.plan(), artifact="model").to_json()
    assert found["status"] == "Valid"
    assert found["charged"] == [
        {"source": DATA, "target": "model", "treatment": "Charged", "why": "Trained."}
    ]


def test_a_wholly_uncharged_artifact_has_no_charged_part():
    claim = compose([Edge(DATA, "model", UNCHARGED, "")], artifact="model", private=[DATA])
    assert claim.void_edges == ("budget wisconsin -> model",)
    assert "last stage" not in claim.text
