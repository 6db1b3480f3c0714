"""Platform: the ports and settings that every use case receives.

``entrypoints.bootstrap`` alone builds one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from primum import extensions
from primum.application.ports import (
    Archive,
    Clock,
    Compute,
    Datasets,
    EvidenceStore,
    LedgerStore,
    Lineage,
    PipelineRunner,
    PolicyEngine,
    Publisher,
    ResourceStore,
    Signer,
)
from primum.domain.accounting.accountant import Accountant
from primum.domain.study.jobs import JobKind

ACTOR = "platform/control-loop"  # Who the ledger says asked, when nobody else did.


class Registering(enum.Enum):
    """Where datasets are registered."""

    HERE = "Here"  # by the port Datasets
    IN_A_RUN = "InARun"  # by a run in the budget's namespace, where its claims are


@dataclass(frozen=True, slots=True)
class Conduct:
    """How the platform behaves; every value has its reason in ``entrypoints.settings``.

    Args:
        lease_seconds: How long a reservation is held without a heartbeat.
        token_seconds: How long a data token opens data.
        artifacts_uri: Folder (fsspec) under which Studies store artifacts.
        data_dirs: Folders searched for dataset files.
        public_places: Folders and addresses that hold nothing private, from which public data may
            be read.
        producer: URI that lineage events name as their producer.
        credential_seconds: How long the credential of a run lasts, its wait for a node included.
        registering: Where datasets are registered.
    """

    lease_seconds: float
    token_seconds: float
    artifacts_uri: str
    data_dirs: Sequence[str]
    producer: str
    credential_seconds: float = 604_800.0
    public_places: Sequence[str] = ()
    registering: Registering = Registering.HERE


def attack_library() -> str:
    """Digest of the installed audits and their code."""
    return extensions.fingerprint("primum.audits")


def nothing_kept(study_uid: str) -> None:
    """Let go the shadow models that audits of a Study left in the zone, where none are kept."""


@dataclass(frozen=True, slots=True)
class Platform:
    """Every port, chosen once."""

    clock: Clock
    ledger: LedgerStore
    evidence: EvidenceStore
    resources: ResourceStore
    runner: PipelineRunner
    compute: Compute
    datasets: Datasets
    lineage: Lineage
    signer: Signer
    policies: PolicyEngine
    publisher: Publisher
    archive: Archive
    kinds: Callable[[], Mapping[str, JobKind]]
    accountant: Callable[[str], Accountant]
    conduct: Conduct
    attack_library: Callable[[], str] = attack_library
    forget_shadows: Callable[[str], None] = nothing_kept


def generation_key(study_uid: str, generation: int) -> str:
    """The key under which a Study generation's facts are stored."""
    return f"{study_uid}/{generation}"
