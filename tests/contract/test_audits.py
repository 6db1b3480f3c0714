"""Does every registered audit obey the same words?"""

from __future__ import annotations

import subprocess
import sys

import pytest

from primum import extensions
from primum.domain.governance.evidence import EvidenceKind
from primum_pipelines.audits.audit import Finding

GROUP = "primum.audits"
NAMES = extensions.names(GROUP)
SHADOWED = {
    "LiRA",
    "RMIA",
    "Thresholds",
    "Population",
    "Reference",
    "LabelOnly",
    "ShadowClassifier",
}
SAMPLED = {"DOMIAS", "SampleDistance", "Copies", "GeneratorLoss", "MeanEmbedding"}
INVERTING = {
    "GradientInversion",
    "DiffusionPrior",
    "Imprint",
    "ModelInversion",
    "PrivacySusceptibility",
}
BUILT_IN = {"MechanismSelfTest", "OneRunCanary"} | INVERTING | SHADOWED | SAMPLED
KINDS = {EvidenceKind.MEMBERSHIP, EvidenceKind.RECONSTRUCTION, EvidenceKind.SELF_TEST}


def test_the_built_in_audits_are_registered() -> None:
    assert set(NAMES) >= BUILT_IN


@pytest.mark.parametrize("name", NAMES)
def test_an_audit_says_what_it_is(name: str) -> None:
    audit = extensions.load(GROUP, name)()
    assert audit.name == name
    assert audit.kind in KINDS
    assert isinstance(audit.reviewed, bool)
    assert isinstance(audit.opens_data, bool)
    assert callable(audit.run)


@pytest.mark.parametrize("name", NAMES)
def test_reading_an_audit_imports_nothing_heavy(name: str) -> None:
    """The planner reads ``opens_data``; a fresh interpreter shows what that costs."""
    program = (
        "import sys; from primum import extensions; "
        f"extensions.load('{GROUP}', '{name}'); "
        "print([m for m in ('torch', 'opacus', 'scipy', 'dp_accounting') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"MechanismSelfTest"}))
def test_an_audit_of_nothing_is_never_a_pass(name: str) -> None:
    """A subject without artifacts, tokens or charges: an error of ours or Inconclusive."""
    from decimal import Decimal

    from primum.domain.errors import PrimumError
    from primum.domain.quantities import Neighbors, PrivacyUnit
    from primum.domain.study.plan import Plan
    from primum.domain.study.steps import WorkRequest
    from primum_pipelines.audits.subject import AuditSubject

    plan = Plan(
        study_uid="uid",
        generation=1,
        kind="Train",
        accesses=(),
        epsilon=Decimal(3),
        delta=Decimal("1e-5"),
        unit=PrivacyUnit.PATIENT,
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
        mechanism={},
        parameters={},
        steps=("audit",),
    )
    request = WorkRequest(
        context={}, tokens={}, public_key="", artifacts_uri="", data_dirs=[], inputs={}
    )
    subject = AuditSubject(request, plan, (), {})
    try:
        finding = extensions.load(GROUP, name)().run(subject, {})
    except PrimumError:
        return
    assert isinstance(finding, Finding)
    assert finding.verdict.value == "Inconclusive"
