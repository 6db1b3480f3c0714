"""What a Study and a budget ask for, as frozen values. Read from resources.

Nothing here knows YAML or Kubernetes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from primum.domain.budget.layout import BlockLayout, BlockSelection
from primum.domain.budget.rules import Rules
from primum.domain.canonical import JSON
from primum.domain.names import ResourceKey
from primum.domain.quantities import Disclosure, Neighbors, PrivacyUnit


class DataRole(enum.StrEnum):
    """What a Study may do with an input."""

    PRIVATE = "Private"
    PUBLIC = "Public"
    SYNTHETIC = "Synthetic"


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """Where a dataset lies and whose presence in it is protected.

    Args:
        uri: ``scheme://rest``; the scheme names a dataset driver.
        unit: The privacy unit.
        units: The declared public number of units, or ``None`` to have the steward's zone count
            them once.
        options: Driver options such as the label column; configuration anyone may see.
        layout: How it is divided into blocks, or ``None``.
    """

    uri: str
    unit: PrivacyUnit
    units: int | None = None
    options: Mapping[str, JSON] = field(default_factory=dict)
    layout: BlockLayout | None = None


@dataclass(frozen=True, slots=True)
class BudgetSpec:
    """The guarantee promised to the units of one dataset."""

    key: ResourceKey
    uid: str
    generation: int
    dataset: DatasetSpec
    epsilon: Decimal
    delta: Decimal
    neighbors: Neighbors
    accounting: str
    disclosures: tuple[Disclosure, ...]
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True, slots=True)
class StudyInput:
    """One input of a Study.

    Args:
        role: Private, Public or Synthetic.
        budget: Name of the PrivacyBudget (Private), in the Study's namespace; empty otherwise.
        release: Name of the Release (Synthetic); empty otherwise.
        uri: Where public data lies (Public); empty otherwise.
        options: How the driver reads public data (Public); empty otherwise.
        blocks: Which blocks of the budget (Private); nothing chosen means all that exist.
    """

    role: DataRole
    budget: str = ""
    release: str = ""
    uri: str = ""
    options: Mapping[str, JSON] = field(default_factory=dict)
    blocks: BlockSelection = field(default_factory=BlockSelection)


@dataclass(frozen=True, slots=True)
class AuditSpec:
    """One audit: its kind (Membership, Reconstruction), its attack, and the attack's parameters."""

    kind: str
    attack: str
    parameters: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StudySpec:
    """What a Study asks for.

    Args:
        job_kind: Name of the registered job kind: Train, Synthesize, Federate,
            PrivateFeatures.
        job: The job kind's own parameters, already checked by the resource model; decimal strings,
            no floats.
        epsilon: What the Study claims; ``None`` where no privacy is asked for, which Plan refuses.
        expectations: Great Expectations as ``{"type", "column"?, ...}`` mappings.
        endpoint: Name of the endpoint to serve under, or empty.
        dataset_release: Name of the Dataset to publish, or empty.
        audit_schedule: When the release is audited again, as cron, or empty.
        audit_policy: How, as a Release states it; empty for its defaults.
        workers_per_gpu: How many workers share one GPU.
        cpus_per_worker: Whole CPUs of each worker; 0 for what the place gives.
    """

    key: ResourceKey
    uid: str
    generation: int
    purpose: str
    inputs: tuple[StudyInput, ...]
    epsilon: Decimal | None
    delta: Decimal | None
    job_kind: str
    job: Mapping[str, JSON]
    workers: int
    gpus_per_worker: int
    expectations: tuple[Mapping[str, JSON], ...]
    audits: tuple[AuditSpec, ...]
    policy: str
    endpoint: str
    dataset_release: str
    audit_schedule: str
    audit_policy: Mapping[str, JSON] = field(default_factory=dict)
    workers_per_gpu: int = 1
    cpus_per_worker: int = 0
