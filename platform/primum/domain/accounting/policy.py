"""What an accounting policy is.

The privacy filter by which the ledger admits one plan after another.

People look at the results of one study and then choose the next, so the sequence of privacy
parameters is not fixed in advance; only a filter that is valid under full adaptivity may decide
(ledger.md 2.4, privacy-theory.md 1.13). No policy may compose privacy loss distributions across
plans, use a central-limit approximation, or pick a better order afterwards than its recorded
weights pay for.

Amounts are integers in units of 1e-12. Charges round up, capacities round down.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Protocol

from primum.domain.accounting import charges
from primum.domain.accounting.accountant import EPSILON_INFINITE, EPSILON_PLACES, Guarantee
from primum.domain.accounting.charges import Charge
from primum.domain.accounting.events import Composed, Event
from primum.domain.quantities import EPSILON_MAX, Neighbors, round_up


class AccountingPolicy(Protocol):
    """A privacy filter that is valid when every plan may depend on all earlier results."""

    @property
    def name(self) -> str:
        """``RDP``, ``GDP``, ``Basic``, or ``Mixture``."""
        ...

    def unsupported(self, event: Event, neighbors: Neighbors) -> str | None:
        """Why the event cannot be charged, naming the part; ``None`` if it can."""
        ...

    def charge(self, event: Event, neighbors: Neighbors) -> Charge:
        """What the plan takes, rounded up.

        Raises ``UnsupportedEvent`` with the reason if there is one.
        """
        ...

    def capacity(self, guarantee: Guarantee) -> Charge:
        """What the guarantee has room for, rounded down; ``NEVER`` at a key that is of no use."""
        ...

    def admits(self, *, capacity: Charge, used: Charge, request: Charge) -> bool:
        """Whether the request still fits.

        ``used`` is everything reserved plus everything charged.
        """
        ...

    def spent_epsilon(self, *, used: Charge, guarantee: Guarantee) -> Decimal:
        """The least epsilon at ``guarantee.delta`` whose filter would have admitted ``used``.

        Rounded up.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """Everything that decides, for the record; ``policy_from_json`` reads it back."""
        ...


def zero(policy: AccountingPolicy) -> Charge:
    """The charge of nothing, with the keys of the policy."""
    return policy.charge(Composed(()), Neighbors.ADD_OR_REMOVE_ONE)


def within(spent: Decimal, guarantee: Guarantee) -> Decimal:
    """An admitted sum never shows more than the guarantee, whatever the last digit's rounding."""
    return min(spent, guarantee.epsilon)


def all_fit(capacity: Charge, used: Charge, request: Charge) -> bool:
    """Whether used plus request is within the capacity at every key."""
    charges.same_keys(capacity, used, request)
    rooms = zip(capacity.amounts, used.amounts, request.amounts, strict=True)
    return all(before + more <= room for (_, room), (_, before), (_, more) in rooms)


def epsilon_of_units(units: int) -> Decimal:
    """Units of epsilon as the decimal to report: rounded up to 1e-6, infinite above one million."""
    spent = round_up(charges.decimal_of_units(units), EPSILON_PLACES)
    return EPSILON_INFINITE if spent > EPSILON_MAX else spent
