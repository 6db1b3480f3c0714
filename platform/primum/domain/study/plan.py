"""A plan: every touch of data that a Study declares before it starts, and what each costs.

The ledger reserves a plan's whole cost before anything runs. A touch that is not declared does not
happen: the data token of a step names the access, and the loader opens nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from primum.domain.accounting.events import Event, NoEvent, event_from_json
from primum.domain.canonical import JSON, digest_of
from primum.domain.quantities import Neighbors, PrivacyUnit
from primum.domain.study.spec import DatasetSpec


class Treatment(enum.StrEnum):
    """How an access is answered for."""

    CHARGED = "Charged"  # a mechanism's event, reserved and charged
    # leaves uncharged because the budget's disclosures allow it, or as a verdict bit
    DISCLOSED = "Disclosed"
    INSPECTED = "Inspected"  # nothing of it leaves the steward's zone
    UNCHARGED = "Uncharged"  # leaves without a charge: voids the claim of what comes after


@dataclass(frozen=True, slots=True)
class Access:
    """One declared touch of one dataset by one step.

    Args:
        name: Unique in the plan, e.g. ``train``, ``validate@cleveland``.
        step: The pipeline step that redeems it: ``validate``, ``job``, ``evaluate`` or ``audit``.
        budget: Name of the PrivacyBudget.
        treatment: How it is answered for.
        event: The mechanism's event; ``NoEvent`` unless charged.
        why: One sentence for the certificate.
    """

    name: str
    step: str
    budget: str
    treatment: Treatment
    event: Event = field(default_factory=NoEvent)
    why: str = ""


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What a plan may know about a dataset: declared public constants, never private values.

    Args:
        units: Declared number of units; delta must be below one over it.
        train_units: Declared number of units in the fixed training split; sampling rates are taken
            of it.
        blocks: The blocks that the Study reads and pays for, sorted; empty for the whole dataset.
            ``units`` and ``train_units`` count those blocks only.
    """

    budget: str
    account_id: str
    dataset: DatasetSpec
    units: int
    train_units: int
    neighbors: Neighbors
    accounting: str
    epsilon: Decimal
    delta: Decimal
    disclosures: tuple[str, ...]
    blocks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a Study generation would do.

    Args:
        study_uid: The Study.
        generation: Its generation.
        kind: Job kind.
        accesses: Every touch of private data.
        epsilon: The claim, as the plan's accountant computes it (rounded up).
        delta: The claim's delta.
        unit: The privacy unit of the claim.
        neighbors: The neighbors relation of the claim.
        mechanism: Facts for people and receipts: model, epochs, noiseMultiplier, sampleRate, steps,
            clip, accountant.
        parameters: What the step gets to run by: the job's parameters completed by the plan.
        steps: Names of the pipeline steps in order.
        max_certifiable: The largest epsilon that the planned one-run audit could certify, or
            ``None``.
        void_edges: Edges that make a DP claim void before anything runs, as sentences.
        blocks: Per budget of a divided dataset, the blocks that are read and paid for, sorted:
            those that existed when the plan was made. Other budgets are absent.
    """

    study_uid: str
    generation: int
    kind: str
    accesses: tuple[Access, ...]
    epsilon: Decimal
    delta: Decimal
    unit: PrivacyUnit
    neighbors: Neighbors
    mechanism: Mapping[str, JSON]
    parameters: Mapping[str, JSON]
    steps: tuple[str, ...]
    max_certifiable: Decimal | None = None
    void_edges: tuple[str, ...] = ()
    blocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, JSON]:
        """Canonical form; ``blocks`` only where there are any, as in plans of old."""
        found: dict[str, JSON] = {
            "studyUid": self.study_uid,
            "generation": self.generation,
            "kind": self.kind,
            "accesses": [
                {
                    "name": access.name,
                    "step": access.step,
                    "budget": access.budget,
                    "treatment": access.treatment.value,
                    "event": access.event.to_json(),
                    "why": access.why,
                }
                for access in self.accesses
            ],
            "epsilon": str(self.epsilon),
            "delta": str(self.delta),
            "unit": self.unit.value,
            "neighbors": self.neighbors.value,
            "mechanism": dict(self.mechanism),
            "parameters": dict(self.parameters),
            "steps": list(self.steps),
            "maxCertifiable": None if self.max_certifiable is None else str(self.max_certifiable),
            "voidEdges": list(self.void_edges),
        }
        if self.blocks:
            found["blocks"] = {name: list(blocks) for name, blocks in self.blocks.items()}
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form."""
        return digest_of(self.to_json())


def plan_from_json(value: Mapping[str, JSON]) -> Plan:
    """Read a plan back from its canonical form."""
    accesses = tuple(_access(item) for item in _list(value["accesses"]))
    certifiable = value["maxCertifiable"]
    return Plan(
        study_uid=str(value["studyUid"]),
        generation=int(str(value["generation"])),
        kind=str(value["kind"]),
        accesses=accesses,
        epsilon=Decimal(str(value["epsilon"])),
        delta=Decimal(str(value["delta"])),
        unit=PrivacyUnit(str(value["unit"])),
        neighbors=Neighbors(str(value["neighbors"])),
        mechanism=_mapping(value["mechanism"]),
        parameters=_mapping(value["parameters"]),
        steps=tuple(str(step) for step in _list(value["steps"])),
        max_certifiable=None if certifiable is None else Decimal(str(certifiable)),
        void_edges=tuple(str(edge) for edge in _list(value["voidEdges"])),
        blocks={
            name: tuple(str(block) for block in _list(blocks))
            for name, blocks in _mapping(value.get("blocks", {})).items()
        },
    )


def _access(value: JSON) -> Access:
    item = _mapping(value)
    return Access(
        name=str(item["name"]),
        step=str(item["step"]),
        budget=str(item["budget"]),
        treatment=Treatment(str(item["treatment"])),
        event=event_from_json(_mapping(item["event"])),
        why=str(item["why"]),
    )


def _mapping(value: JSON) -> Mapping[str, JSON]:
    if not isinstance(value, Mapping):
        raise TypeError("expected a JSON object")
    return dict(value)


def _list(value: JSON) -> list[JSON]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise TypeError("expected a JSON array")
    return list(value)
