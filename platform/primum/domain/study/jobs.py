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
        public_places: Folders and addresses, all ending in a slash, that public data may be read
            from; the platform engineer says which hold nothing private.
        protected: Addresses of all datasets that a PrivacyBudget protects.
        accountant: The accountant that speaks for the budgets' accounting policy inside a
            pre-registered plan.
    """

    datasets: Mapping[str, DatasetFacts]
    synthetic: Mapping[str, SyntheticFacts]
    accountant: Accountant
    public_places: tuple[str, ...] = ()
    protected: frozenset[str] = frozenset()


class JobKind(Protocol):
    """One kind of job. Registered under the entry-point group ``primum.job_kinds``.

    Attributes:
        name: Its name.
        steps: The pipeline steps, in order.
        levers: Whole-numbered job parameters of which less costs less under the same noise, each
            with how to say a value: ``{"epochs": "{} epochs"}``. The planner looks for the largest
            that the ledger would grant.
    """

    name: str
    steps: Sequence[str]
    levers: Mapping[str, str]

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

    def headline(self, plan: Plan) -> str:
        """One line for people, e.g.

        ``Train Logistic, 20 epochs, noise multiplier 1.31 (RDP), 100 canaries``.
        """
