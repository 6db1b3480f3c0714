"""Status in wire form: conditions there and back, and the projections of each kind.

Figures arrive rounded or are rounded here against the reader's hopes: what was spent up, what is
left down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from primum.domain.budget.entries import AccountView
from primum.domain.canonical import JSON, decimal_text
from primum.domain.conditions import Condition, ConditionType, Reason, Status, merged
from primum.domain.quantities import round_down, round_up
from primum.resources.conditions import ConditionModel
from primum.resources.conversion import wire_form
from primum.resources.fields import TEXT_LENGTH_MAX
from primum.resources.stored import StoredResource

EPSILON_PLACES = 4  # Shown in status; the ledger keeps the exact amounts.


def conditions_of(status: Mapping[str, JSON]) -> tuple[Condition, ...]:
    """The conditions of a status; what cannot be read is left out, so that it is observed again."""
    listed = status.get("conditions")
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        return ()
    found = (_condition(item) for item in listed if isinstance(item, Mapping))
    return tuple(item for item in found if item is not None)


def condition(status: Mapping[str, JSON], kind: ConditionType) -> Condition | None:
    """One condition of a status, or ``None``."""
    return next((item for item in conditions_of(status) if item.type is kind), None)


def with_conditions(
    stored: StoredResource, observed: Sequence[Condition], *, now: str
) -> dict[str, JSON]:
    """What every status has: merged conditions, and the generation they are about.

    Args:
        stored: The resource as stored; its conditions keep their times where status did not move.
        observed: What was just observed.
        now: RFC 3339 time of the observation.
    """
    merged_ones = merged(conditions_of(stored.status), observed, now=now)
    return {
        "conditions": [wire_form(_model(item)) for item in merged_ones],
        "observedGeneration": stored.generation,
    }


def budget_status(
    stored: StoredResource,
    observed: Sequence[Condition],
    account: AccountView | None,
    *,
    units: int | None,
    now: str,
    newest_block: str = "",
) -> dict[str, JSON]:
    """The status of a PrivacyBudget.

    Args:
        stored: The budget as stored.
        observed: Its conditions.
        account: Its ledger account, or ``None`` where it cannot be read: what was known stays.
        units: The registered number of privacy units, or ``None`` where that is not known now.
        now: RFC 3339 time of the observation.
        newest_block: The newest block by time that is registered, or empty.
    """
    known = dict(stored.status)
    if newest_block:
        known["newestBlock"] = newest_block
    if units is not None:
        known["units"] = units
    if account is not None:
        known.pop("frozen", None)
        known |= {
            "accountId": account.account_id,
            "datasetDigest": account.terms.dataset_digest,
            "epsilonSpent": spent_text(account.epsilon_spent),
            "epsilonReserved": spent_text(account.epsilon_reserved),
            "epsilonLeft": left_text(account.epsilon_left),
        }
        if account.terms.layout:
            known["blocks"] = len(account.blocks)
        if account.frozen:
            known["frozen"] = account.frozen[:TEXT_LENGTH_MAX]
    return known | with_conditions(stored, observed, now=now)


def spent_text(epsilon: Decimal) -> str:
    """An epsilon that was spent or is held, rounded up."""
    return decimal_text(round_up(epsilon, EPSILON_PLACES) if epsilon.is_finite() else epsilon)


def left_text(epsilon: Decimal) -> str:
    """An epsilon that is left, rounded down."""
    return decimal_text(round_down(epsilon, EPSILON_PLACES) if epsilon.is_finite() else epsilon)


def _condition(item: Mapping[str, JSON]) -> Condition | None:
    try:
        return Condition(
            type=ConditionType(str(item["type"])),
            status=Status(str(item["status"])),
            reason=Reason(str(item["reason"])),
            message=str(item.get("message", "")),
            observed_generation=int(str(item.get("observedGeneration", 0))),
            last_transition_time=str(item.get("lastTransitionTime", "")),
        )
    except (KeyError, ValueError):
        return None


def _model(item: Condition) -> ConditionModel:
    return ConditionModel(
        type=item.type.value,
        status=item.status,
        reason=item.reason.value,
        message=item.message,
        observed_generation=item.observed_generation,
        last_transition_time=item.last_transition_time,
    )
