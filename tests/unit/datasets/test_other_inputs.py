"""Are public and synthetic inputs what the plan allows, and never a way around a budget?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hospital_files import Ward, write_table
from wisconsin import make_study

from primum.domain.accounting.rdp import RdpAccountant
from primum.domain.errors import InvalidValue, Tampered
from primum.domain.study.jobs import PlanningContext
from primum.domain.study.spec import DataRole, StudyInput
from primum_pipelines import artifacts
from primum_pipelines.datasets.access import PUBLIC_INPUTS, open_others
from primum_pipelines.kinds.declaring import public_inputs
from primum_pipelines.synthesis import archive

CSV = {"label": "sick", "features": {"age": ["0", "100"]}}
PROTECTED = ("csv:///clinic/ward.csv", "csv://ward.csv", "sklearn://digits")


def study_of(*uris, options=None):
    inputs = tuple(StudyInput(DataRole.PUBLIC, uri=uri, options=options or {}) for uri in uris)
    private = StudyInput(DataRole.PRIVATE, budget="wisconsin")
    return make_study(inputs=(private, *inputs), job={})


CONTEXT = PlanningContext(
    {},
    {},
    RdpAccountant(),
    public_places=("/public/", "https://example.org/sets/"),
    protected=frozenset(PROTECTED),
)


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("sklearn://breast_cancer", {}),
        ("medmnist://pneumoniamnist", {}),
        ("csv:///public/adults.csv", CSV),
        ("csv+https://example.org/sets/adults.csv", CSV),
    ],
)
def test_published_sets_and_public_places_are_public(uri, options):
    found = public_inputs(study_of(uri, options=options), CONTEXT)
    assert found == [{"uri": uri, "options": options}]


@pytest.mark.parametrize(
    "uri",
    [
        "csv:///clinic/other.csv",
        "csv:///public/../clinic/other.csv",
        "csv:////public/adults.csv",
        "csv:///publicly/adults.csv",
        "csv://adults.csv",
        "csv+https://example.org/sets/../private/x.csv",
        "csv+https://example.org/sets/x.csv?next=1",
        "csv+http://example.org/sets/x.csv",
        "csv+s3://bucket/x.csv",
        "uci-heart://va",
    ],
)
def test_what_lies_elsewhere_is_not_public(uri):
    options = {} if uri.startswith("uci") else CSV
    with pytest.raises(InvalidValue, match="must be a published set, or lie in a place of public"):
        public_inputs(study_of(uri, options=options), CONTEXT)


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("csv:///clinic/ward.csv", CSV),
        ("csv:///clinic/./ward.csv", CSV),
        ("parquet:///clinic/ward.csv", CSV),
        ("sklearn://digits", {}),
        ("csv://ward.csv/", CSV),
    ],
)
def test_what_a_budget_protects_is_not_public(uri, options):
    with pytest.raises(InvalidValue, match="must not be a dataset that a PrivacyBudget protects"):
        public_inputs(study_of(uri, options=options), CONTEXT)


def test_a_wrong_option_is_found_when_the_study_is_planned():
    with pytest.raises(InvalidValue, match="misspelled"):
        public_inputs(study_of("sklearn://breast_cancer", options={"misspelled": "1"}), CONTEXT)


@pytest.fixture
def request_with(tmp_path):
    write_table(tmp_path / "adults.csv", [{"age": str(n), "sick": str(n % 2)} for n in range(9)])

    def make(*public, synthetic=None):
        request = Ward(tmp_path, "csv://ward.csv", CSV).request()
        plan = {**request.context["plan"], "parameters": {PUBLIC_INPUTS: list(public)}}
        return replace(
            request, context={**request.context, "plan": plan, "synthetic": synthetic or {}}
        )

    return make


def test_public_inputs_are_opened_without_a_token(request_with):
    request = request_with(
        {"uri": "csv://adults.csv", "options": CSV}, {"uri": "sklearn://digits", "options": {}}
    )
    first, second = open_others(replace(request, tokens={}))
    assert (first.role, first.name) == (DataRole.PUBLIC, "csv://adults.csv")
    assert first.table.features[:, 0].tolist() == list(range(9))
    assert second.table.features.shape == (1797, 1, 8, 8)


def test_synthetic_inputs_must_be_what_was_released(request_with, tmp_path):
    (public,) = open_others(request_with({"uri": "sklearn://digits", "options": {}}))
    made = archive.to_bytes(public.table.only(np.arange(50)))
    stored = artifacts.store(str(tmp_path / "out"), "dataset.npz", made, kind="Dataset")
    reference = {"uri": stored.uri, "digest": stored.digest}
    (found,) = open_others(request_with(synthetic={"digits": reference}))
    assert (found.role, found.name) == (DataRole.SYNTHETIC, "digits")
    assert len(found.table.labels) == 50
    (tmp_path / "out" / "dataset.npz").write_bytes(b"something else")
    with pytest.raises(Tampered):
        open_others(request_with(synthetic={"digits": reference}))


def test_a_study_without_other_inputs_opens_none(request_with):
    assert open_others(request_with()) == ()
