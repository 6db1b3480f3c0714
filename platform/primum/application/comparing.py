"""Compare Studies of one dataset: what each claims, cost, and came to. Reads; spends nothing.

A figure that a budget does not disclose is in a comparison only for who may read it in the zone;
tests between models need their answers on held-out units, which nobody outside may have.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from primum.application.ports import EvidenceStore, ResourceStore
from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import Evidence, EvidenceKind
from primum.domain.names import ResourceKey, outcome_id
from primum.domain.study.plan import Plan
from primum.resources.stored import StoredResource

_STUDIES_MAX = 64
_SHOWN = (EvidenceKind.UTILITY, EvidenceKind.CALIBRATION, EvidenceKind.MULTIPLICITY)
_PREDICTIONS = "Predictions"


class View(enum.StrEnum):
    """From where a comparison is looked at."""

    PUBLIC = "Public"
    ZONE = "Zone"  # roles steward and auditor


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """A figure of a model.

    Args:
        estimate: Decimal string.
        lower: Of its 95 % interval.
        upper: Of its 95 % interval.
        view: From where it may be seen.
    """

    estimate: str
    lower: str
    upper: str
    view: View

    def to_json(self) -> dict[str, JSON]:
        """For scripts."""
        return {
            "estimate": self.estimate,
            "lower": self.lower,
            "upper": self.upper,
            "view": self.view.value,
        }


@dataclass(frozen=True, slots=True)
class ComparedStudy:
    """One Study of a comparison.

    Args:
        name: ``namespace/name``.
        model: What was trained, by which algorithm.
        epsilon: The claim; ``Infinity`` where nothing is claimed.
        spent: What the ledger charged, as the status says it; empty before it is settled.
        mechanism: Noise multiplier, sample rate, steps and the like, from the plan.
        seconds: What its steps' bodies took in all, decimal string.
        figures: By name, of the dataset that is compared on.
        fairness: Figures per subgroup, where they may be seen; ``None`` otherwise.
        predictions: ``uri`` and ``digest`` of its answers, for who may read them.
    """

    name: str
    model: str
    epsilon: Decimal
    spent: str
    mechanism: Mapping[str, JSON]
    seconds: str
    figures: Mapping[str, ComparedFigure]
    fairness: Mapping[str, JSON] | None
    predictions: Mapping[str, JSON] | None

    def to_json(self) -> dict[str, JSON]:
        """For scripts; where predictions lie is nobody's business."""
        return {
            "study": self.name,
            "model": self.model,
            "epsilon": str(self.epsilon),
            "epsilonSpent": self.spent,
            "mechanism": dict(self.mechanism),
            "seconds": self.seconds,
            "figures": {name: figure.to_json() for name, figure in self.figures.items()},
            "fairness": None if self.fairness is None else dict(self.fairness),
        }


def compare(
    studies: Sequence[StoredResource],
    evidence: EvidenceStore,
    resources: ResourceStore,
    *,
    view: View,
) -> Sequence[ComparedStudy]:
    """Put Studies of one dataset side by side.

    Args:
        studies: Two to 64, in the order in which they are shown.
        evidence: Plans, outcomes and evidence.
        resources: Say which account each budget stands for.
        view: From where it is looked at.

    Raises:
        InvalidValue: If there are too few or too many, one has not been planned, or they have no
            dataset in common.
    """
    if not 2 <= len(studies) <= _STUDIES_MAX or len({s.uid for s in studies}) != len(studies):  # noqa: PLR2004
        rule = f"must be two to {_STUDIES_MAX} different ones"
        raise InvalidValue("compared Studies", rule, str(len(studies)))
    plans = [_planned(stored, evidence) for stored in studies]
    read = [_accounts(stored, plan, resources) for stored, plan in zip(studies, plans, strict=True)]
    common = set.intersection(*(set(accounts) for accounts in read))
    if not common:
        raise InvalidValue(
            "compared Studies",
            "must have read one dataset in common",
            "none",
            "Compare Studies of the same PrivacyBudget.",
        )
    shared = min(common)
    return [
        _compared(stored, plan, evidence, budget=accounts[shared], view=view)
        for stored, plan, accounts in zip(studies, plans, read, strict=True)
    ]


def _planned(stored: StoredResource, store: EvidenceStore) -> Plan:
    plan = store.plan(stored.uid, stored.generation)
    if plan is None:
        raise InvalidValue("compared Studies", "must have been planned", str(stored.key))
    return plan


def _accounts(stored: StoredResource, plan: Plan, resources: ResourceStore) -> Mapping[str, str]:
    """Budget name by account, of everything that the plan reads."""
    found = {}
    for name in sorted({access.budget for access in plan.accesses}):
        budget = resources.get(ResourceKey("PrivacyBudget", stored.key.namespace, name))
        if budget is not None and "accountId" in budget.status:
            found[str(budget.status["accountId"])] = name
    return found


def _compared(
    stored: StoredResource, plan: Plan, store: EvidenceStore, *, budget: str, view: View
) -> ComparedStudy:
    records = [
        item for item in store.evidence(stored.uid, stored.generation) if item.name == budget
    ]
    fairness = next((item for item in records if item.kind is EvidenceKind.FAIRNESS), None)
    outcomes = [
        store.outcome(outcome_id(stored.uid, stored.generation, step)) for step in plan.steps
    ]
    done = [item for item in outcomes if item is not None]
    answers = [a for item in done for a in item.artifacts if a.kind == _PREDICTIONS]
    own = next((a for a in answers if a.uri.endswith(f"-{budget}.npz")), None)
    return ComparedStudy(
        name=f"{stored.key.namespace}/{stored.key.name}",
        model=_model(plan),
        epsilon=plan.epsilon,
        spent=str(stored.status.get("epsilonSpent", "")),
        mechanism=plan.mechanism,
        seconds=decimal_text(sum((Decimal(item.body_seconds) for item in done), Decimal(0))),
        figures=_figures(records, view),
        fairness=None if fairness is None else _groups(fairness, view),
        predictions=(
            {"uri": own.uri, "digest": own.digest}
            if own is not None and view is View.ZONE
            else None
        ),
    )


def _model(plan: Plan) -> str:
    named = [
        str(plan.parameters[name]) for name in ("model", "generator") if name in plan.parameters
    ]
    return " ".join([*named, str(plan.mechanism.get("algorithm", plan.kind))])


def _figures(records: Sequence[Evidence], view: View) -> Mapping[str, ComparedFigure]:
    found: dict[str, ComparedFigure] = {}
    for item in records:
        if item.kind not in _SHOWN:
            continue
        sides = [(item.public, View.PUBLIC)]
        if view is View.ZONE:
            sides.append((item.restricted, View.ZONE))
        for side, where in sides:
            for name, value in side.items():
                if isinstance(value, Mapping) and {"estimate", "lower", "upper"} <= set(value):
                    found[name] = ComparedFigure(
                        str(value["estimate"]), str(value["lower"]), str(value["upper"]), where
                    )
    return found


def _groups(record: Evidence, view: View) -> Mapping[str, JSON] | None:
    said = {**record.public, **(record.restricted if view is View.ZONE else {})}
    groups = {name: value for name, value in said.items() if isinstance(value, Mapping)}
    return groups or None
