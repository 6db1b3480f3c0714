"""Keep a PrivacyBudget Ready.

Register its dataset once, open its account, project the ledger into its status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from primum.application.platform import ACTOR, Platform
from primum.application.ports import Registration
from primum.domain.budget.entries import (
    AccountTerms,
    AccountView,
    ReservationState,
    Result,
    ResultCode,
)
from primum.domain.canonical import JSON
from primum.domain.conditions import Condition, ConditionType, Reason, Status
from primum.domain.errors import InvalidValue, NotFound, PrimumError
from primum.domain.study.plan import DatasetFacts
from primum.domain.study.spec import BudgetSpec
from primum.resources import conversion, status
from primum.resources.stored import StoredResource

REGISTRATION = "Registration"
REGISTRAR = "steward/registration"  # Registering is the steward's act, in the steward's zone.


def reconcile_budget(platform: Platform, stored: StoredResource) -> None:
    """Do what one PrivacyBudget needs now and write its status.

    Args:
        platform: The ports.
        stored: The resource as read from the store.
    """
    if stored.deleting:
        _remove_when_settled(platform, stored)
        return
    spec = conversion.budget_spec(stored)
    try:
        registration = registered_dataset(platform, spec)
        ready, account = _opened(platform, stored, spec, registration)
        units = registration.units
    except (InvalidValue, NotFound) as error:
        reason = Reason.DATASET_UNREADABLE if isinstance(error, NotFound) else Reason.INVALID_SPEC
        ready = Condition(ConditionType.READY, Status.FALSE, reason, str(error))
        account, units = None, None
    ready = replace(ready, observed_generation=stored.generation)
    projected = status.budget_status(
        stored, (ready,), account, units=units, now=platform.clock.now()
    )
    if projected != stored.status:
        platform.resources.set_status(stored.key, stored.uid, projected)


def registered_dataset(platform: Platform, spec: BudgetSpec) -> Registration:
    """The dataset's registration: found once per budget generation, then remembered.

    Raises:
        InvalidValue: If the dataset cannot be used, or delta is not below one over its units.
        NotFound: If it is not where it should be.
    """
    key = f"{spec.uid}/{spec.generation}"
    fact = platform.evidence.fact(REGISTRATION, key)
    if fact is None:
        found = platform.datasets.register(spec.dataset)
        fact = {
            "digest": found.digest,
            "units": found.units,
            "trainUnits": found.train_units,
            "message": found.message,
        }
        platform.evidence.put_fact(REGISTRATION, key, fact)
    registration = _registration(fact)
    if spec.delta * registration.units >= 1:
        raise InvalidValue(
            f"{spec.key}: spec.guarantee.delta",
            f"must be below 1/{registration.units}, one over the number of units",
            str(spec.delta),
        )
    return registration


def dataset_facts(platform: Platform, spec: BudgetSpec, account_id: str) -> DatasetFacts:
    """What a plan may know about a budget's dataset."""
    registration = registered_dataset(platform, spec)
    return DatasetFacts(
        budget=spec.key.name,
        account_id=account_id,
        dataset=spec.dataset,
        units=registration.units,
        train_units=registration.train_units,
        neighbors=spec.neighbors,
        accounting=spec.accounting,
        epsilon=spec.epsilon,
        delta=spec.delta,
        disclosures=tuple(item.value for item in spec.disclosures),
    )


def _registration(fact: Mapping[str, JSON]) -> Registration:
    return Registration(
        digest=str(fact["digest"]),
        units=int(str(fact["units"])),
        train_units=int(str(fact["trainUnits"])),
        message=str(fact["message"]),
    )


def _terms(spec: BudgetSpec, registration: Registration) -> AccountTerms:
    return AccountTerms(
        dataset_uri=spec.dataset.uri,
        dataset_digest=registration.digest,
        unit=spec.dataset.unit,
        neighbors=spec.neighbors,
        epsilon=spec.epsilon,
        delta=spec.delta,
        policy=spec.accounting,
        units=registration.units,
    )


def _opened(
    platform: Platform, stored: StoredResource, spec: BudgetSpec, registration: Registration
) -> tuple[Condition, AccountView | None]:
    """The account of this declaration, opened where status does not show it for this generation.

    Registering read the data inside the steward's zone: that is an Inspected entry of its own,
    written as soon as there is an account to write it to (docs/decisions/0011).
    """
    account_id = str(stored.status.get("accountId", ""))
    ready = status.condition(stored.status, ConditionType.READY)
    if account_id and ready is not None and ready.observed_generation == stored.generation:
        return _readiness(platform, account_id, Result(ResultCode.ACCEPTED))
    account_id, result = platform.ledger.open_account(_terms(spec, registration), actor=ACTOR)
    if result.stands:
        key = f"register/{spec.uid}/{spec.generation}"
        platform.ledger.inspect(
            account_id, access="register", study_uid=spec.uid, key=key, actor=REGISTRAR
        )
    return _readiness(platform, account_id, result)


def _readiness(
    platform: Platform, account_id: str, result: Result
) -> tuple[Condition, AccountView | None]:
    if not result.stands:
        return Condition(
            ConditionType.READY, Status.FALSE, Reason.INVALID_SPEC, result.message
        ), None
    account = platform.ledger.account(account_id)
    if account is None:
        raise PrimumError(f"account {account_id} was opened and cannot be read")
    if account.frozen:
        return Condition(
            ConditionType.READY, Status.FALSE, Reason.BUDGET_FROZEN, account.frozen
        ), account
    return Condition(ConditionType.READY, Status.TRUE, Reason.REGISTERED), account


def _remove_when_settled(platform: Platform, stored: StoredResource) -> None:
    """Deleting a budget removes the declaration; what was spent stays in the ledger for good."""
    account_id = str(stored.status.get("accountId", ""))
    open_states = (ReservationState.RESERVED, ReservationState.EXPOSED)
    held = platform.ledger.reservations(account_id=account_id) if account_id else ()
    if not any(reservation.state in open_states for reservation in held):
        platform.resources.remove(stored.key, stored.uid)
