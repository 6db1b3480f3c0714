"""The JobKind protocol: what a kind of job declares before it runs, and where its heavy half lies.

A kind has a light half (this protocol; imports nothing heavy) and a heavy half, named by
``step_entry`` as ``package.module:function`` and imported only inside a compute worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from primum.domain.accounting.accountant import Accountant
from primum.domain.study.plan import DatasetFacts, Plan
from primum.domain.study.spec import StudySpec


@dataclass(frozen=True, slots=True)
class SyntheticFacts:
    """What a plan may know about a synthetic input.

    The Release it comes from and that Release's claim.
    """

    release: str
    uri: str
    claim: str
    digest: str
    void_edges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanningContext:
    """What the platform knows when a plan is made.

    Args:
        datasets: Facts of each private input's dataset, by budget name.
        synthetic: Facts of each synthetic input, by Release name.
        accountant: The accountant that speaks for the budgets' accounting policy inside a
            pre-registered plan.
    """

    datasets: Mapping[str, DatasetFacts]
    synthetic: Mapping[str, SyntheticFacts]
    accountant: Accountant


@dataclass(frozen=True, slots=True)
class Alternative:
    """A change of the Study that would fit what is left.

    What to change, to what, and the epsilon it claims.
    """

    change: str
    value: str
    epsilon: Decimal


class JobKind(Protocol):
    """One kind of job. Registered under the entry-point group ``primum.job_kinds``."""

    name: str
    steps: Sequence[str]

    def declare(self, study: StudySpec, context: PlanningContext) -> Plan:
        """Declare every access and calibrate the mechanism.

        Raises:
            InvalidValue: If the Study asks for what this kind cannot do.
            Refused: If the Study has no mechanism, with reason ``NoMechanism`` in the message.
        """

    def entry(self, step: str) -> str:
        """The heavy function of a step, as ``package.module:function``."""

    def with_noise(
        self, study: StudySpec, context: PlanningContext, noise_multiplier: Decimal
    ) -> Plan:
        """The same Study under a given noise multiplier.

        What the planner of alternatives varies.
        """

    def alternatives(
        self, study: StudySpec, context: PlanningContext, epsilon_left: Decimal
    ) -> Sequence[Alternative]:
        """What would fit into what is left, e.g. fewer epochs or more noise; possibly nothing."""

    def headline(self, plan: Plan) -> str:
        """One line for people, e.g.

        ``Train Logistic, 20 epochs, noise multiplier 1.31 (RDP), 100 canaries``.
        """
