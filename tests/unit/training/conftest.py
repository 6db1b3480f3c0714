"""A Study's request as a worker gets it, with real tokens; tests change one thing at a time."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from wisconsin import make_context, make_facts, make_study

from primum import signing
from primum.domain.canonical import canonical_json
from primum.domain.study.plan import DatasetFacts
from primum.domain.study.spec import StudySpec
from primum.domain.study.steps import WorkRequest
from primum_pipelines.kinds.train.kind import TrainKind


@dataclass
class Zone:
    """A worker's view of one Study: its plan, its tokens, its folder."""

    folder: Path
    study: StudySpec = field(default_factory=make_study)
    facts: DatasetFacts = field(default_factory=make_facts)
    claims: dict = field(default_factory=dict)
    synthetic: dict = field(default_factory=dict)
    plan: object = None

    def __post_init__(self):
        self.private, self.public = signing.generate()
        if self.plan is None:
            self.plan = TrainKind().declare(self.study, make_context(self.facts))
        if self.facts.blocks:
            self.plan = replace(self.plan, blocks={self.facts.budget: self.facts.blocks})

    @property
    def division(self):
        """How the dataset is divided, as tokens and contexts say it."""
        layout = self.facts.dataset.layout
        return {
            "layout": {} if layout is None else layout.to_json(),
            "blocks": list(self.facts.blocks),
        }

    def token(self, access):
        dataset = self.facts.dataset
        claims = {
            "id": f"token-{access.name}",
            "access": access.name,
            "budget": access.budget,
            "accountId": "account-1",
            "uri": dataset.uri,
            "unit": dataset.unit.value,
            "options": dict(dataset.options),
            **self.division,
            "studyUid": self.study.uid,
            "generation": self.study.generation,
            "reservationId": "reservation-1",
            "fence": 1,
            "expires": "2999-01-01T00:00:00.000000Z",
        } | self.claims
        envelope = signing.sign(self.private, signing.DATA_TOKEN_TYPE, canonical_json(claims))
        return base64.urlsafe_b64encode(json.dumps(envelope).encode()).decode().rstrip("=")

    def request(self, step, *, inputs=None):
        dataset = self.facts.dataset
        context = {
            "step": step,
            "study": {
                "namespace": "oncology",
                "name": "malignancy",
                "uid": self.study.uid,
                "generation": self.study.generation,
                "kind": "Train",
            },
            "plan": self.plan.to_json(),
            "datasets": {
                self.facts.budget: {
                    "uri": dataset.uri,
                    "unit": dataset.unit.value,
                    "units": self.facts.units,
                    "options": dict(dataset.options),
                    **self.division,
                    "disclosures": list(self.facts.disclosures),
                }
            },
            "synthetic": self.synthetic,
            "expectations": [dict(item) for item in self.study.expectations],
            "audits": [],
        }
        return WorkRequest(
            context=context,
            tokens={a.name: self.token(a) for a in self.plan.accesses if a.step == step},
            public_key=self.public,
            artifacts_uri=str(self.folder),
            data_dirs=[str(self.folder)],
            inputs=inputs or {},
        )


@pytest.fixture
def zone(tmp_path):
    return Zone(tmp_path)


@pytest.fixture
def make_zone(tmp_path):
    return lambda **changes: Zone(tmp_path, **changes)


@pytest.fixture(scope="session")
def zone_at():
    """Makes a zone in a folder that lives longer than a test, of a changed Study."""
    return lambda folder, **changes: Zone(folder, study=make_study(**changes))


@pytest.fixture
def study():
    return make_study


@pytest.fixture
def facts():
    return make_facts


@pytest.fixture
def planning():
    return make_context


@pytest.fixture
def assets():
    folder = os.environ.get("PRIMUM_TEST_ASSETS")
    if not folder:
        pytest.skip("PRIMUM_TEST_ASSETS is not set: the hospital data sets are not bundled")
    return Path(folder) / "data"
