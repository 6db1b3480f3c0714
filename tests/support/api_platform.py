"""The API's platform with every port in memory, and how tests speak to it."""

from __future__ import annotations

from primum import extensions
from primum.adapters.identity import NOBODY, Identity, Role
from primum.adapters.memory import (
    ManualClock,
    MemoryArchive,
    MemoryCompute,
    MemoryDatasets,
    MemoryEvidenceStore,
    MemoryLedgerStore,
    MemoryLineage,
    MemoryPublisher,
    MemoryResourceStore,
    MemoryRunner,
    MemorySigner,
)
from primum.application.platform import Conduct, Platform
from primum.domain.study.registration import Registration
from primum.entrypoints import bootstrap

LIBRARY = {"sklearn://breast_cancer": Registration("sha256:" + "c" * 64, 569, 463, "")}
PROBLEM = "application/problem+json"


def make_platform(clock=None, ledger=None):
    """Every port in memory but those given, as a platform that has just started."""
    clock, signer = clock or ManualClock(), MemorySigner()
    return Platform(
        clock=clock,
        ledger=ledger or MemoryLedgerStore(clock=clock),
        evidence=MemoryEvidenceStore(),
        resources=MemoryResourceStore(clock=clock),
        runner=MemoryRunner(),
        compute=MemoryCompute({}),
        datasets=MemoryDatasets(LIBRARY),
        lineage=MemoryLineage(),
        signer=signer,
        policies=extensions.load("primum.policy_engines", "cel")(),
        publisher=MemoryPublisher(signer.public_key()),
        archive=MemoryArchive(),
        kinds=lambda: extensions.load_all("primum.job_kinds"),
        accountant=bootstrap.accountant,
        conduct=Conduct(60.0, 60.0, "file:///artifacts", (), "https://primum.dev/test"),
    )


def identify(token):
    """A token is a role's name."""
    try:
        return Identity(token, frozenset({Role(token)}))
    except ValueError:
        return NOBODY


def bearer(role):
    return {"Authorization": f"Bearer {role.value if isinstance(role, Role) else role}"}


def is_problem(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    body = answer.json()
    assert set(body) == {"type", "title", "status", "detail"}
    assert body["status"] == status
    assert body["detail"]
    return body
