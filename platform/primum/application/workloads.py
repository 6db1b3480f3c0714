"""May a workload of a queue start? It may while what it runs under stands in the ledger.

Whatever framework made the workload: it is known by what it names. Reads, and never writes: asked
again, by anybody, about the same attempt or a later one, the answer is what the ledger says then.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from primum.application import advance
from primum.application.platform import Platform
from primum.domain.budget.book import OPEN_STATES
from primum.domain.budget.entries import ReservationState, ReservationView
from primum.domain.conditions import ConditionType, Status
from primum.domain.names import ResourceKey
from primum.resources.status import condition
from primum.resources.stored import StoredResource

_NAME_SHOWN = 64  # Characters of a name that somebody made up, in a message.


class CheckState(enum.StrEnum):
    """The word about a workload, as Kueue spells it."""

    READY = "Ready"
    RETRY = "Retry"  # not now; it goes back to its queue
    REJECTED = "Rejected"  # not as it is


@dataclass(frozen=True, slots=True)
class Word:
    """What is said about a workload, and why.

    Args:
        state: The word.
        message: For people: name, rule, found, remedy. Never of another namespace.
    """

    state: CheckState
    message: str


@dataclass(frozen=True, slots=True)
class Controller:
    """The resource that made a job: its kind, name and uid."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What a workload says that it runs under.

    Args:
        namespace: Where it is.
        studies: Names of Studies of that namespace; more than one is a contradiction.
        reservations: Ids of reservations, where it names some.
        generation: Generation of the Study, where it says so; else empty.
        controller: The Study or AuditRun that made its job, if one did.
    """

    namespace: str
    studies: tuple[str, ...] = ()
    reservations: tuple[str, ...] = ()
    generation: str = ""
    controller: Controller | None = None


def judge(platform: Platform, claim: Claim) -> Word:
    """The word about a workload of a governed namespace."""
    made_by = claim.controller
    if made_by is not None and made_by.kind == "AuditRun":
        return _audit(platform, claim.namespace, made_by)
    studies = {*claim.studies, *((made_by.name,) if made_by else ())}
    if len(studies) != 1:
        found = "a reservation and no Study" if claim.reservations else "nothing"
        found = f"{len(studies)} of them" if studies else found
        return _rejected("must name the one Study that it runs under", found, _REMEDY_NAME)
    (study,) = studies
    if not claim.reservations:
        return _study(platform, ResourceKey("Study", claim.namespace, study), claim)
    held = []
    for name in claim.reservations:
        view = platform.ledger.reservation(name)
        # Whether another namespace has such a reservation is nobody's business here.
        if view is None or view.study != f"{claim.namespace}/{study}":
            rule = f"must run under a reservation of Study {study[:_NAME_SHOWN]} of its namespace"
            return _rejected(rule, f"none of that id ({name[:_NAME_SHOWN]})", _REMEDY_NAME)
        held.append(view)
    outdated = (_outdated(claim, view) for view in held)
    return next(filter(None, outdated), None) or _reserved(platform, study, held)


def _outdated(claim: Claim, view: ReservationView) -> Word | None:
    """What is wrong where a Study of that name reserved, and not the one that made the job."""
    if claim.controller is not None and view.study_uid != claim.controller.uid:
        return _rejected("must be of the Study that reserved", "an earlier one", _REMEDY_AGAIN)
    if claim.generation and claim.generation != str(view.generation):
        rule = f"must be of generation {view.generation}, which its reservation is for"
        return _rejected(rule, claim.generation[:_NAME_SHOWN], _REMEDY_AGAIN)
    return None


_REMEDY_NAME = (
    "Name a Study of this namespace in the annotation primum.dev/study of the job; work that needs "
    "no private data belongs in a queue without this check."
)
_REMEDY_AGAIN = "Declare the Study again, and the job with it."


def _study(platform: Platform, key: ResourceKey, claim: Claim) -> Word:
    """A workload that names its Study and leaves the reservations to us."""
    stored = platform.resources.get(key)
    name = key.name[:_NAME_SHOWN]
    if stored is None:
        return _retry(f"Study {name} must exist", "none", "Declare it; the workload waits.")
    if claim.controller is not None and stored.uid != claim.controller.uid:
        return _rejected(f"Study {name} must be the one that made the job", "another", "")
    if claim.generation and claim.generation != str(stored.generation):
        rule = f"must be of generation {stored.generation} of Study {name}"
        return _rejected(rule, claim.generation[:_NAME_SHOWN], _REMEDY_AGAIN)
    held = [
        view
        for view in platform.ledger.reservations(study_uid=stored.uid)
        if view.generation == stored.generation
    ]
    if held:
        return _reserved(platform, name, held)
    return _unreserved(platform, name, stored)


def _unreserved(platform: Platform, name: str, stored: StoredResource) -> Word:
    """A Study without a reservation: not so far yet, at its end, or in need of none."""
    if stored.deleting or advance.is_terminal(stored):
        return _rejected(f"Study {name} must be under way", "it has ended", _REMEDY_AGAIN)
    plan = platform.evidence.plan(stored.uid, stored.generation)
    if plan is None or plan.accesses:
        return _retry(f"Study {name} must hold its reservation", "none yet", "It waits for it.")
    return Word(CheckState.READY, f"Study {name} spends no budget.")


def _reserved(platform: Platform, study: str, held: Sequence[ReservationView]) -> Word:
    """The word about reservations of one Study: all of them have to stand."""
    ended = [view for view in held if view.state not in _HOPEFUL]
    if ended:
        rule = f"the reservation of Study {study[:_NAME_SHOWN]} must be open"
        return _rejected(rule, ended[0].state.value, _REMEDY_AGAIN)
    for view in held:
        found = _why_not_yet(platform, view)
        if found:
            rule = f"the reservation of Study {study[:_NAME_SHOWN]} must stand"
            return _retry(rule, found, "The workload waits for it.")
    count = "its reservation" if len(held) == 1 else f"its {len(held)} reservations"
    return Word(CheckState.READY, f"Study {study[:_NAME_SHOWN]} holds {count}.")


_HOPEFUL = (ReservationState.QUEUED, *OPEN_STATES)


def _why_not_yet(platform: Platform, view: ReservationView) -> str:
    if view.state is ReservationState.QUEUED:
        return "it waits for budget"
    if view.lease_until <= platform.clock.now():
        return "its lease ran out"
    account = platform.ledger.account(view.account_id)
    return "its budget is frozen" if account is None or account.frozen else ""


def _audit(platform: Platform, namespace: str, made_by: Controller) -> Word:
    """An audit that only looks, inside the zone: its accesses are Inspected and cost nothing."""
    name = made_by.name[:_NAME_SHOWN]
    stored = platform.resources.get(ResourceKey("AuditRun", namespace, made_by.name))
    if stored is None or stored.uid != made_by.uid:
        return _rejected(f"AuditRun {name} must exist", "none of that uid", "")
    ended = condition(stored.status, ConditionType.SUCCEEDED)
    if stored.deleting or (ended is not None and ended.status is not Status.UNKNOWN):
        return _rejected(f"AuditRun {name} must be under way", "it has ended", "")
    return Word(CheckState.READY, f"AuditRun {name} looks inside the zone and spends nothing.")


def _rejected(rule: str, found: str, remedy: str) -> Word:
    return Word(CheckState.REJECTED, _message(rule, found, remedy))


def _retry(rule: str, found: str, remedy: str) -> Word:
    return Word(CheckState.RETRY, _message(rule, found, remedy))


def _message(rule: str, found: str, remedy: str) -> str:
    subject = "" if " must " in rule else "the workload "
    return f"{subject}{rule}; found {found}. {remedy}".strip()
