"""A Study that trains on the Wisconsin data, and what its plan is made from."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from primum.domain.accounting.rdp import RdpAccountant
from primum.domain.names import ResourceKey
from primum.domain.quantities import Neighbors, PrivacyUnit
from primum.domain.study.jobs import PlanningContext
from primum.domain.study.plan import DatasetFacts
from primum.domain.study.spec import DataRole, DatasetSpec, StudyInput, StudySpec

BUDGET = "wisconsin"
JOB = {"model": "Logistic", "epochs": 20, "batchSize": 128, "maxGradNorm": "1.0"}


def make_facts(**changes):
    facts = DatasetFacts(
        budget=BUDGET,
        account_id="account-1",
        dataset=DatasetSpec("sklearn://breast_cancer", PrivacyUnit.PATIENT),
        units=569,
        train_units=463,
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
        accounting="RDP",
        epsilon=Decimal("8.0"),
        delta=Decimal("1e-5"),
        disclosures=("Utility",),
    )
    return replace(facts, **changes)


DATASET_KINDS = ("Synthesize", "PrivateFeatures")


def make_study(**changes):
    """A Study; of a kind that makes data, one that releases data."""
    if changes.get("job_kind") in DATASET_KINDS:
        changes = {"endpoint": "", "dataset_release": "malignancy"} | changes
    study = StudySpec(
        key=ResourceKey("Study", "oncology", "malignancy"),
        uid="study-1",
        generation=1,
        purpose="Tell malignant from benign",
        inputs=(StudyInput(DataRole.PRIVATE, budget=BUDGET),),
        epsilon=Decimal("3.0"),
        delta=Decimal("1e-5"),
        job_kind="Train",
        job=JOB,
        workers=1,
        gpus_per_worker=0,
        expectations=(),
        audits=(),
        policy="clinical-default",
        endpoint="malignancy",
        dataset_release="",
        audit_schedule="",
    )
    return replace(study, **changes)


def make_context(*facts, synthetic=None):
    datasets = {item.budget: item for item in facts or (make_facts(),)}
    return PlanningContext(datasets, synthetic or {}, RdpAccountant())
