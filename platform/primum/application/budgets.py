"""Keep a PrivacyBudget Ready.

Register its dataset once, open its account, tell it the budget's rules and blocks, project the
ledger into its status.
"""

from __future__ import annotations

import datetime
from dataclasses import replace

from primum.application import registering
from primum.application.platform import ACTOR, Platform, Registering
from primum.domain.budget.book import OPEN_STATES
from primum.domain.budget.entries import (
    AccountTerms,
    AccountView,
    ReservationState,
    Result,
    ResultCode,
)
from primum.domain.canonical import canonical_json
from primum.domain.conditions import Condition, ConditionType, Reason, Status
from primum.domain.errors import InvalidValue, NotFound, PrimumError, Unavailable
from primum.domain.study.plan import DatasetFacts
from primum.domain.study.registration import Registration, registration_from_json
from primum.domain.study.spec import BudgetSpec
from primum.resources import conversion, status
from primum.resources.stored import StoredResource

REGISTRATION = "Registration"
_RULES_OF_ANOTHER = (
    "another PrivacyBudget of the same data was declared or changed later, and its rules of "
    "unlocking, scheduling and quotas hold; declare the same in both"
)
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
    units, newest = None, ""
    try:
        found = newest_block(platform, spec)
        registration = _registered(platform, spec, newest=found)
        if registration is None:
            _show_registering(platform, stored)
            return
        ready, account = _opened(platform, stored, spec, registration, newest=found)
        if ready.reason is not Reason.INVALID_SPEC:
            newest = found
        units = registration.units
    except (InvalidValue, NotFound) as error:
        reason = Reason.DATASET_UNREADABLE if isinstance(error, NotFound) else Reason.INVALID_SPEC
        ready = Condition(ConditionType.READY, Status.FALSE, reason, str(error))
        account = None
    ready = replace(ready, observed_generation=stored.generation)
    projected = status.budget_status(
        stored, (ready,), account, units=units, now=platform.clock.now(), newest_block=newest
    )
    if projected != stored.status:
        platform.resources.set_status(stored.key, stored.uid, projected)


def _show_registering(platform: Platform, stored: StoredResource) -> None:
    """Say that a run registers the dataset; a budget that is Ready stays so until it has grown."""
    ready = status.condition(stored.status, ConditionType.READY)
    current = ready is not None and ready.observed_generation == stored.generation
    if ready is not None and current and ready.status is Status.TRUE:
        return
    waiting = Condition(
        ConditionType.READY,
        Status.UNKNOWN,
        Reason.PENDING,
        "a run registers the dataset where it lies",
        observed_generation=stored.generation,
    )
    now = platform.clock.now()
    shown = {**stored.status, **status.with_conditions(stored, (waiting,), now=now)}
    if shown != dict(stored.status):
        platform.resources.set_status(stored.key, stored.uid, shown)


def newest_block(platform: Platform, spec: BudgetSpec) -> str:
    """The newest block by time of a budget's dataset today; empty for any other dataset.

    Raises:
        InvalidValue: If the first block begins later.
    """
    layout = spec.dataset.layout
    return "" if layout is None else layout.newest(_today(platform))


def registered_dataset(platform: Platform, spec: BudgetSpec, *, newest: str = "") -> Registration:
    """The dataset's registration: found once per budget generation, then remembered.

    A dataset divided by time is registered once more when a block begins: it has grown, and the
    sizes of its blocks are what plans are made of.

    Args:
        platform: The ports.
        spec: The budget.
        newest: The newest block by time (``newest_block``).

    Raises:
        InvalidValue: If the dataset cannot be used, or delta is not below one over its units.
        NotFound: If it is not where it should be.
        Unavailable: If a run is still to register it; whoever keeps the budget sees to that.
    """
    here = platform.conduct.registering is Registering.HERE
    if here or platform.evidence.fact(REGISTRATION, _registration_key(spec, newest)) is not None:
        registration = _registered(platform, spec, newest=newest)
        if registration is not None:
            return registration
    raise Unavailable(f"{spec.key}: its dataset is still to be registered")


def _registered(platform: Platform, spec: BudgetSpec, *, newest: str) -> Registration | None:
    """The registration of a budget's dataset, remembered; ``None`` while a run registers it."""
    key = _registration_key(spec, newest)
    fact = platform.evidence.fact(REGISTRATION, key)
    if fact is None:
        dataset = spec.dataset
        if dataset.layout is not None:
            dataset = replace(dataset, layout=dataset.layout.until(_today(platform)))
        if platform.conduct.registering is Registering.HERE:
            found: Registration | None = platform.datasets.register(dataset)
        else:
            found = registering.registered_by_run(platform, spec, dataset, newest=newest)
        if found is None:
            return None
        fact = found.to_json()
        platform.evidence.put_fact(REGISTRATION, key, fact)
    registration = registration_from_json(fact)
    # A block has fewer units than all blocks together: below one over the whole is below one over
    # every block, and over whatever blocks a Study chooses.
    if spec.delta * registration.units >= 1:
        raise InvalidValue(
            f"{spec.key}: spec.guarantee.delta",
            f"must be below 1/{registration.units}, one over the number of units",
            str(spec.delta),
        )
    return registration


def dataset_facts(
    platform: Platform,
    spec: BudgetSpec,
    account_id: str,
    *,
    newest: str = "",
    blocks: tuple[str, ...] = (),
) -> DatasetFacts:
    """What a plan may know about a budget's dataset.

    Args:
        platform: The ports.
        spec: The budget.
        account_id: Its account.
        newest: The newest block by time up to which the dataset is registered.
        blocks: The chosen blocks, sorted; empty for a dataset that is not divided.

    Raises:
        InvalidValue: If the chosen blocks hold nobody to train on, or nobody to evaluate with.
    """
    registration = registered_dataset(platform, spec, newest=newest)
    units, train_units = registration.units, registration.train_units
    if spec.dataset.layout is not None:
        sizes = [registration.blocks.get(name, (0, 0)) for name in blocks]
        units, train_units = sum(size[0] for size in sizes), sum(size[1] for size in sizes)
        if not 0 < train_units < units:
            raise InvalidValue(
                "spec.data.blocks",
                f"must hold training and held-out units of budget {spec.key.name}",
                f"{train_units} and {units - train_units} in {', '.join(blocks)}",
                "Choose more blocks, or wait until the dataset is registered with more data.",
            )
    return DatasetFacts(
        budget=spec.key.name,
        account_id=account_id,
        dataset=spec.dataset,
        units=units,
        train_units=train_units,
        neighbors=spec.neighbors,
        accounting=spec.accounting,
        epsilon=spec.epsilon,
        delta=spec.delta,
        disclosures=tuple(item.value for item in spec.disclosures),
        blocks=blocks,
    )


def _registration_key(spec: BudgetSpec, newest: str) -> str:
    key = f"{spec.uid}/{spec.generation}"
    return f"{key}/{newest}" if newest else key


def _today(platform: Platform) -> datetime.date:
    return datetime.datetime.fromisoformat(platform.clock.now()).date()


def _terms(spec: BudgetSpec, registration: Registration) -> AccountTerms:
    layout = spec.dataset.layout
    return AccountTerms(
        dataset_uri=spec.dataset.uri,
        dataset_digest=registration.digest,
        unit=spec.dataset.unit,
        neighbors=spec.neighbors,
        epsilon=spec.epsilon,
        delta=spec.delta,
        policy=spec.accounting,
        units=registration.units,
        layout="" if layout is None else canonical_json(layout.fixed).decode(),
    )


def _opened(
    platform: Platform,
    stored: StoredResource,
    spec: BudgetSpec,
    registration: Registration,
    *,
    newest: str,
) -> tuple[Condition, AccountView | None]:
    """The account of this declaration, opened where status does not show it for this generation.

    Registering read the data inside the steward's zone: that is an Inspected entry of its own,
    written as soon as there is an account to write it to (docs/decisions/0011).
    """
    account_id = str(stored.status.get("accountId", ""))
    ready = status.condition(stored.status, ConditionType.READY)
    known = (
        ready is not None
        and ready.observed_generation == stored.generation
        and ready.reason is not Reason.PENDING
    )
    if account_id and known and stored.status.get("newestBlock", "") == newest:
        return _readiness(platform, spec, account_id, Result(ResultCode.ACCEPTED))
    account_id, result = platform.ledger.open_account(_terms(spec, registration), actor=ACTOR)
    if result.stands:
        key = f"register/{_registration_key(spec, newest)}"
        platform.ledger.inspect(
            account_id, access="register", study_uid=spec.uid, key=key, actor=REGISTRAR
        )
        result = _shared_out(platform, spec, account_id)
    return _readiness(platform, spec, account_id, result)


def _shared_out(platform: Platform, spec: BudgetSpec, account_id: str) -> Result:
    """Tell the ledger the budget's rules and the blocks that exist today, where they are new."""
    account = platform.ledger.account(account_id)
    result = Result(ResultCode.ACCEPTED)
    if account is None or account.rules != spec.rules:
        key = f"configure/{spec.uid}/{spec.generation}"
        result = platform.ledger.configure(account_id, spec.rules, key=key, actor=ACTOR)
    layout = spec.dataset.layout
    if layout is None or not result.stands:
        return result
    there = {block.name for block in account.blocks} if account is not None else set()
    added = [name for name in layout.blocks_until(_today(platform)) if name not in there]
    return platform.ledger.divide(account_id, added, actor=ACTOR) if added else result


def _readiness(
    platform: Platform, spec: BudgetSpec, account_id: str, result: Result
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
    # The latest declaration holds: two budgets must not fight over one account at every look.
    others = "" if account.rules == spec.rules else _RULES_OF_ANOTHER
    return Condition(ConditionType.READY, Status.TRUE, Reason.REGISTERED, others), account


def _remove_when_settled(platform: Platform, stored: StoredResource) -> None:
    """Deleting a budget removes the declaration; what was spent stays in the ledger for good.

    Claims that wait for it are taken back: there is nothing left to wait for. Those of another
    namespace wait for a budget of their own on the same account, and so may those of this one.
    """
    account_id = str(stored.status.get("accountId", ""))
    held = platform.ledger.reservations(account_id=account_id) if account_id else ()
    shared = _has_a_twin(platform, stored, account_id)
    for waiting in held:
        mine = waiting.study.partition("/")[0] == stored.key.namespace and not shared
        if waiting.state is ReservationState.QUEUED and mine:
            reason = f"{stored.key} is being deleted"
            platform.ledger.give_back(waiting.reservation_id, reason=reason, actor=ACTOR)
    if not any(reservation.state in OPEN_STATES for reservation in held):
        platform.resources.remove(stored.key, stored.uid)


def _has_a_twin(platform: Platform, stored: StoredResource, account_id: str) -> bool:
    """Whether another budget of the namespace, which stays, has the same account."""
    return any(
        other.uid != stored.uid
        and not other.deleting
        and other.key.namespace == stored.key.namespace
        and other.status.get("accountId") == account_id
        for other in platform.resources.list("PrivacyBudget")
    )
