"""How a replay charges a task: by one of the accounting policies, or by the usual capacity.

The usual capacity is what published schedulers use; it is here to compare with and must never
guard a budget: it is not among the policies of ``domain.accounting``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from primum.domain.accounting import charges, rdp
from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.charges import AMOUNT_MAX, NEVER, Charge
from primum.domain.accounting.events import Event
from primum.domain.accounting.policies import policy_named
from primum.domain.accounting.policy import AccountingPolicy, zero
from primum.domain.accounting.policy_rdp import RdpPolicy
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors
from primum.domain.scheduling.blocks import FilterShape

_ADD = Neighbors.ADD_OR_REMOVE_ONE
# Orders of the published cluster, and those of its microbenchmark between 1.5 and 2048; of those
# outside, none is ever the best.
CLUSTER_ORDERS = ("1.5", "1.75", "2", "2.5", "3", "4", "5", "6", "8", "16", "32", "64")
_MICRO_ORDERS = ("1.5", "2", *(str(2**power) for power in range(2, 12)))


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of task of a workload.

    Args:
        name: Of its class, such as ``mice``.
        event: What it does to private data.
        epsilon: What it declares where (epsilon, delta) are added up.
        delta: Likewise.
    """

    name: str
    event: Event
    epsilon: Decimal
    delta: Decimal = Decimal(0)


class Accounting(Protocol):
    """Charges and capacities of one filter."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    @property
    def power(self) -> int:
        """How a Gaussian task's charge grows with its epsilon: 1 linear, 2 squared."""
        ...

    @property
    def shape(self) -> FilterShape:
        """When there is room."""
        ...

    def capacity(self, guarantee: Guarantee) -> Charge:
        """Of a block."""
        ...

    def charge(self, task: Task) -> Charge:
        """Of a task; beyond any capacity if the filter cannot charge it."""
        ...


@dataclass(frozen=True, slots=True)
class ByPolicy:
    """An accounting policy; basic composition adds up what tasks declare.

    Args:
        policy: The policy.
        label: For tables; empty for the policy's name.
    """

    policy: AccountingPolicy
    label: str = ""

    @property
    def name(self) -> str:
        """The label or the policy's name."""
        return self.label or self.policy.name

    @property
    def power(self) -> int:
        """1 for basic composition, otherwise 2."""
        return 1 if self.policy.name == "Basic" else 2

    @property
    def shape(self) -> FilterShape:
        """Of the policy's filter."""
        return FilterShape.of(self.policy)

    def capacity(self, guarantee: Guarantee) -> Charge:
        """What the guarantee has room for."""
        return self.policy.capacity(guarantee)

    def charge(self, task: Task) -> Charge:
        """The policy's charge; what the task declares under basic composition."""
        if self.policy.name == "Basic":
            declared = {"epsilon": task.epsilon, "delta": task.delta}
            return Charge.of({key: charges.units_up(value) for key, value in declared.items()})
        if self.policy.unsupported(task.event, _ADD) is not None:
            return Charge.of(dict.fromkeys(zero(self.policy).as_dict, AMOUNT_MAX))
        return self.policy.charge(task.event, _ADD)


@dataclass(frozen=True, slots=True)
class UsualCapacity:
    """Epsilon - ln(1/delta)/(order - 1) at every order, some order must fit (Mironov 2017).

    For comparison with published figures only; never an accounting policy here.

    Args:
        orders: The grid.
    """

    orders: tuple[str, ...] = _MICRO_ORDERS

    @property
    def name(self) -> str:
        """Says that it only compares."""
        return "usual (compare)"

    @property
    def power(self) -> int:
        """2: a Gaussian's curve grows with the square of its epsilon."""
        return 2

    @property
    def shape(self) -> FilterShape:
        """Each order by itself."""
        keys = tuple(sorted(self.orders))
        return FilterShape(keys, tuple(range(len(keys))))

    def capacity(self, guarantee: Guarantee) -> Charge:
        """Rounded down; ``NEVER`` where it is not positive."""
        log_inverse = -float(guarantee.delta.ln())
        rooms = {o: float(guarantee.epsilon) - log_inverse / (float(o) - 1) for o in self.orders}
        return Charge.of(
            {o: math.floor(room * 1e12) if room > 0 else NEVER for o, room in rooms.items()}
        )

    def charge(self, task: Task) -> Charge:
        """The Renyi curve of the task at the orders."""
        orders = tuple(float(order) for order in self.orders)
        curve = rdp.rdp_curve(task.event, orders, _ADD)
        pairs = zip(self.orders, curve, strict=True)
        return Charge.of({order: charges.cost_units(value) for order, value in pairs})


def weighted_grid() -> RdpPolicy:
    """The Renyi filter with weights in proportion to f(a) = (1/a)(1-1/a)^(a-1) (ledger.md 2.4)."""
    f = {o: (1 / float(o)) * (1 - 1 / float(o)) ** (float(o) - 1) for o in CLUSTER_ORDERS}
    whole = sum(f.values()) * (1 + 1e-12)
    return RdpPolicy(tuple((Decimal(o), Decimal(repr(v / whole))) for o, v in f.items()))


def accounting_named(name: str) -> Accounting:
    """An accounting by name.

    Args:
        name: ``Basic``, ``RDP``, ``RDP-weighted``, ``GDP``, ``Mixture``, or ``usual``.

    Raises:
        InvalidValue: If there is none of that name.
    """
    if name == "usual":
        return UsualCapacity()
    if name == "RDP-weighted":
        return ByPolicy(weighted_grid(), name)
    if name not in {"Basic", "RDP", "GDP", "Mixture"}:
        known = "Basic, RDP, RDP-weighted, GDP, Mixture, usual"
        raise InvalidValue("--policy", f"must be one of {known}", name)
    return ByPolicy(policy_named(name))
