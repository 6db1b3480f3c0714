"""What a training run did and what was claimed about it, in one vocabulary for all frameworks.

States facts as the record gives them. It must not judge them, and it must not fill in a privacy
parameter that the record leaves out.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from decimal import Decimal

from primum.domain.accounting.events import Event, flatten
from primum.domain.quantities import Neighbors
from primum.domain.risk.collusion import IndividualBudgets


class RecordFormat(enum.StrEnum):
    """Where a record comes from."""

    PLAIN = "Plain"
    OPACUS = "Opacus"
    FLOWER_LOCAL = "FlowerLocalDpMod"
    FLOWER_SERVER = "FlowerServerSide"
    STUDY = "Study"


class Mechanism(enum.StrEnum):
    """The noise."""

    GAUSSIAN = "Gaussian"
    LAPLACE = "Laplace"


class Sampling(enum.StrEnum):
    """How the units of a step were chosen."""

    POISSON = "Poisson"  # Each unit independently; the size of a batch varies.
    FIXED_SIZE = "FixedSize"  # Without replacement, anew for every step.
    SHUFFLED = "Shuffled"  # A pass over the data in batches: each unit once per epoch.
    FULL = "Full"  # No claim from sampling: every unit may take part in every step.
    UNKNOWN = "Unknown"


class Unit(enum.StrEnum):
    """Whose presence is protected, in the words of our Studies and of other frameworks."""

    PATIENT = "Patient"
    IMAGING_STUDY = "ImagingStudy"
    SERIES = "Series"
    IMAGE = "Image"
    SITE = "Site"
    CLIENT = "Client"
    RECORD = "Record"


class Scope(enum.StrEnum):
    """What a claimed epsilon is about."""

    TOTAL = "Total"
    PER_ROUND = "PerRound"


class Accounting(enum.StrEnum):
    """How a claimed epsilon was computed."""

    PLD = "PLD"
    PRV = "PRV"
    RDP = "RDP"
    GDP = "GDP"  # Gaussian DP; for sampled steps the central limit theorem.
    ANALYTIC = "AnalyticGaussian"  # Balle & Wang 2018.
    CLASSIC = "ClassicGaussian"  # sensitivity sqrt(2 ln(1.25/delta)) / epsilon.
    UNSTATED = "Unstated"


class Divisor(enum.StrEnum):
    """What a noisy sum was divided by."""

    EXPECTED = "Expected"
    REALIZED = "Realized"


class Weighting(enum.StrEnum):
    """How clients are averaged."""

    EQUAL = "Equal"
    EXAMPLES = "Examples"


@dataclass(frozen=True, slots=True)
class Claim:
    """What the run's owner says.

    Args:
        epsilon: Above 0.
        delta: Above 0, below 1.
        unit: Whose presence is said to be protected.
        neighbors: The neighboring relation.
        scope: The whole run, or one round.
        accounting: How epsilon was computed.
    """

    epsilon: Decimal
    delta: Decimal
    unit: Unit
    neighbors: Neighbors
    scope: Scope = Scope.TOTAL
    accounting: Accounting = Accounting.UNSTATED


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps with the same parameters.

    Args:
        noise_multiplier: Gaussian: standard deviation on the sum over the clipping bound. Laplace:
            scale over the clipping bound. 0 is no noise.
        sample_rate: Expected fraction of the units in a step, above 0, at most 1.
        steps: At least 1.
    """

    noise_multiplier: Decimal
    sample_rate: Decimal
    steps: int
    mechanism: Mechanism = Mechanism.GAUSSIAN


@dataclass(frozen=True, slots=True)
class Restart:
    """A run that went on from a checkpoint.

    Args:
        at_step: The step at which it stopped.
        from_step: The step of the checkpoint.
    """

    at_step: int
    from_step: int


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run.

    Args:
        name: For people.
        source: Its format.
        claim: What is said about it.
        phases: What was accounted for, in order.
        unit: The unit whose contribution was clipped and sampled.
        sampling: What the data loader did.
        assumed_sampling: What the accounting took for granted.
        clip: Bound on one unit's contribution, in the units of the noise.
        sensitivity: The sensitivity that the noise was calibrated to; ``None`` if not stated.
        units: Number of units, if stated.
        batch_size: Units in a fixed-size step, if stated.
        microbatch: Units averaged before clipping; 1 is none.
        divisor: What the noisy sum was divided by.
        weighting: How clients are averaged.
        restarts: Restarts.
        executed_steps: Steps that really ran, if counted apart from the accounting.
        noise_reused: Whether two parts of the run drew from the same noise stream.
        calibrated_with: The accountant that chose the noise, if stated.
        individual: Budgets of groups of units, if the record declares any. ``phases`` then state
            the mechanism of the most exposed group, which bounds everybody.
        filter_orders: Renyi orders of individual filters; empty without. ``phases`` then state
            what a unit pays at most, and its Renyi curve at these orders is all that is proved.
        library: What was done with mechanisms of dp-accounting that are no phase, beside the
            phases; ``None`` without.
        mismatches: Contradictions that the reader found inside the record.
    """

    name: str
    source: RecordFormat
    claim: Claim
    phases: tuple[Phase, ...]
    unit: Unit
    sampling: Sampling
    assumed_sampling: Sampling
    clip: Decimal | None = None
    sensitivity: Decimal | None = None
    units: int | None = None
    batch_size: int | None = None
    microbatch: int = 1
    divisor: Divisor = Divisor.EXPECTED
    weighting: Weighting = Weighting.EQUAL
    restarts: tuple[Restart, ...] = ()
    executed_steps: int | None = None
    noise_reused: bool = False
    calibrated_with: Accounting = Accounting.UNSTATED
    individual: IndividualBudgets | None = None
    filter_orders: tuple[int, ...] = ()
    library: Event | None = None
    mismatches: tuple[str, ...] = ()

    @property
    def accounted_steps(self) -> int:
        """Steps that the claim counts."""
        return sum(phase.steps for phase in self.phases) + self.library_steps

    @property
    def library_steps(self) -> int:
        """Uses of library mechanisms."""
        return sum(count for _, count in flatten(self.library)) if self.library else 0

    @property
    def missing_steps(self) -> int:
        """Steps that touched private data and that the claim does not count."""
        if self.executed_steps is not None:
            return max(0, self.executed_steps - self.accounted_steps)
        return sum(restart.at_step - restart.from_step for restart in self.restarts)

    @property
    def executed(self) -> tuple[Phase, ...]:
        """The phases with the missing steps added.

        They are added at the least noise and the highest rate of the run, because the record does
        not say where they belong.
        """
        if not self.missing_steps:
            return self.phases
        added = Phase(
            noise_multiplier=min(phase.noise_multiplier for phase in self.phases),
            sample_rate=max(phase.sample_rate for phase in self.phases),
            steps=self.missing_steps,
            mechanism=self.phases[0].mechanism,
        )
        return (*self.phases, added)
