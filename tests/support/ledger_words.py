"""Commands of a small ledger, for every suite that needs one: a budget, a plan, and what is done to
it.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from primum.domain.accounting.events import Gaussian, Repeated, SubsampledGaussian
from primum.domain.budget.entries import AccountTerms, ReserveRequest
from primum.domain.quantities import Neighbors, PrivacyUnit

EVENT = Repeated(SubsampledGaussian(Decimal("2"), Decimal("0.1")), 100)
HALF = Repeated(SubsampledGaussian(Decimal("2"), Decimal("0.1")), 50)
HUGE = Repeated(Gaussian(Decimal("1")), 1000)
LEASE = 60.0


def terms(**changes):
    base = AccountTerms(
        dataset_uri="file:///data",
        dataset_digest="sha256:" + "a" * 64,
        unit=PrivacyUnit.PATIENT,
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
        epsilon=Decimal("8.0"),
        delta=Decimal("1e-5"),
        policy="RDP",
        units=569,
    )
    return replace(base, **changes)


def request(account_id, name="r1", event=EVENT, **changes):
    base = ReserveRequest(
        reservation_id=name,
        account_id=account_id,
        study_uid="study-1",
        generation=1,
        study="oncology/malignancy",
        purpose="Tell malignant from benign",
        requester="user:ada",
        event=event,
    )
    return replace(base, **changes)


def reserve(ledger, *requests, lease_seconds=LEASE):
    return ledger.reserve(requests, lease_seconds=lease_seconds, actor="loop")


def expose(ledger, name="r1", access="train"):
    fence = ledger.reservation(name).fence
    return ledger.expose(name, access=access, fence=fence, actor="step")


def charge(ledger, name="r1", executed=None, reason="settled"):
    return ledger.charge(name, executed=executed, reason=reason, actor="loop")


def state(ledger, name="r1"):
    return ledger.reservation(name).state


def state_of_everything(ledger):
    return ledger.accounts(), ledger.reservations(), ledger.head(), ledger.entries()
