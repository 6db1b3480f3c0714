"""Releasing only the best of a random number of private runs (Papernot & Steinke 2022).

How many runs there are is drawn before the first of them, from a distribution that no data has any
part in, and told to nobody. Then the best run costs little more than one. Here is the distribution,
the event that such a selection is, and how the number is drawn from a given uniform value; nothing
here may draw randomness, or speak for a fixed or a known number of runs, which compose instead.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, localcontext
from fractions import Fraction

from primum.domain.accounting.events import (
    Composed,
    Event,
    Gaussian,
    Laplace,
    Repeated,
    SubsampledGaussian,
    describe,
    flatten,
)
from primum.domain.accounting.library import LibraryEvent
from primum.domain.accounting.mechanisms import require_decimal
from primum.domain.errors import InvalidValue, UnsupportedEvent

GAMMA_LEAST = Decimal("0.001")  # A thousand runs and more are expected below it.
GAMMA_MOST = Decimal("0.9")  # Above it there is hardly a second run to choose from.
SHAPE_MOST = Decimal(10)
MEAN_MOST = Decimal(1000)
_DIGITS = 100  # Of the distribution; a uniform value of 256 bits has 78.
_MEAN_PLACES = Decimal("1E-4")  # Means are rounded up to these, so that more is charged than runs.
_SELECTION = "RepeatAndSelect"


class StoppingLaw(enum.StrEnum):
    """Which distribution the number of runs has."""

    TRUNCATED_NEGATIVE_BINOMIAL = "TruncatedNegativeBinomial"
    POISSON = "Poisson"


@dataclass(frozen=True, slots=True)
class RandomStopping:
    """The distribution of the number of runs, fixed and public; the number is neither.

    Args:
        law: Which distribution.
        shape: Of the truncated negative binomial, eta from 0 to 10: 0 is logarithmic, 1 geometric.
        gamma: Of the truncated negative binomial, from 0.001 to 0.9; less means more runs.
        mean: Of the Poisson distribution, from 1 to 1000; without it the other two are given.
    """

    law: StoppingLaw
    shape: Decimal | None = None
    gamma: Decimal | None = None
    mean: Decimal | None = None

    def __post_init__(self) -> None:
        if self.law is StoppingLaw.POISSON:
            self._refuse(shape=self.shape, gamma=self.gamma)
            require_decimal("mean", self.mean, low=Decimal(1), high=MEAN_MOST)
            return
        self._refuse(mean=self.mean)
        require_decimal("gamma", self.gamma, low=GAMMA_LEAST, high=GAMMA_MOST)
        if self.shape != 0:
            require_decimal("shape", self.shape, low=Decimal("0.01"), high=SHAPE_MOST)

    def _refuse(self, **absent: Decimal | None) -> None:
        for name, value in absent.items():
            if value is not None:
                raise InvalidValue(name, f"must be absent for {self.law.value}", str(value))

    @property
    def expected_runs(self) -> Decimal:
        """The mean of the distribution, rounded up to 4 places (Definition 1 of the paper)."""
        if self.mean is not None:
            return self.mean
        eta, gamma = self._eta_and_gamma
        with localcontext() as context:
            context.prec = _DIGITS
            if eta == 0:
                mean = (1 / gamma - 1) / -gamma.ln()
            else:
                mean = eta * (1 - gamma) / (gamma * (1 - gamma**eta))
            return mean.quantize(_MEAN_PLACES, ROUND_CEILING)

    def event(self, run: Event) -> LibraryEvent:
        """What selecting the best of so many runs does, whatever selects it.

        Guarantees:
            Stated by the mean, which is rounded up: a larger mean at the same shape means a smaller
            gamma, and the bound rises with both. So it costs at least what the selection does.

        Args:
            run: What one run does at most, its score included.

        Raises:
            UnsupportedEvent: If a part of the run cannot be selected from.
        """
        shape = Decimal("Infinity") if self.law is StoppingLaw.POISSON else self.shape
        assert shape is not None  # noqa: S101 - checked when it was made
        parts = tuple(Repeated(leaf, count) for leaf, count in flatten(run))
        inner = library_event_of(parts[0] if len(parts) == 1 else Composed(parts))
        return LibraryEvent.of(_SELECTION, event=inner, mean=self.expected_runs, shape=shape)

    def runs_at(self, uniform: Fraction) -> int:
        """The number of runs that a uniform value stands for: the inverse of the distribution.

        Args:
            uniform: From 0 to below 1, of at least 128 random bits, from a cryptographic source.

        Returns:
            At least 1; of a Poisson distribution 0 with probability exp(-mean).

        Raises:
            InvalidValue: If the value is out of range.
        """
        if not 0 <= uniform < 1:
            raise InvalidValue("uniform", "must be from 0 to below 1", "another value")
        with localcontext() as context:
            context.prec = _DIGITS
            wanted = Decimal(uniform.numerator) / Decimal(uniform.denominator)
            if self.mean is not None:
                runs, part = 0, (-self.mean).exp()
            else:
                runs, part = 1, self._first()
            total = part
            while total <= wanted and part > 0:
                part *= self._ratio(runs)
                runs += 1
                total += part
            return runs

    @property
    def _eta_and_gamma(self) -> tuple[Decimal, Decimal]:
        assert self.shape is not None  # noqa: S101 - checked when it was made
        assert self.gamma is not None  # noqa: S101 - likewise
        return self.shape, self.gamma

    def _first(self) -> Decimal:
        """The probability of a single run."""
        eta, gamma = self._eta_and_gamma
        if eta == 0:
            return (1 - gamma) / -gamma.ln()
        return eta * (1 - gamma) / (gamma**-eta - 1)

    def _ratio(self, runs: int) -> Decimal:
        """The probability of one run more over that of so many."""
        if self.mean is not None:
            return self.mean / (runs + 1)
        eta, gamma = self._eta_and_gamma
        return (1 - gamma) * (runs + eta) / (runs + 1)


def library_event_of(event: Event) -> LibraryEvent:  # noqa: PLR0911 - one per event
    """An event in the library's own words.

    Args:
        event: Gaussian and Laplace mechanisms, sampled or not, repeated and composed.

    Raises:
        UnsupportedEvent: If there is another mechanism, or nothing.
    """
    match event:
        case LibraryEvent():
            return event
        case Gaussian():
            return LibraryEvent.of("Gaussian", noise_multiplier=event.noise_multiplier)
        case Laplace():
            return LibraryEvent.of("Laplace", noise_multiplier=event.noise_multiplier)
        case SubsampledGaussian():
            inner = LibraryEvent.of("Gaussian", noise_multiplier=event.noise_multiplier)
            if event.sample_rate == 1:
                return inner
            rate = event.sample_rate
            return LibraryEvent.of("PoissonSampled", sampling_probability=rate, event=inner)
        case Repeated() if event.count > 0:
            inner = library_event_of(event.event)
            return LibraryEvent.of("SelfComposed", event=inner, count=event.count)
        case Composed() if event.events:
            parts = tuple(library_event_of(part) for part in event.events)
            return LibraryEvent.of("Composed", events=parts)
        case _:
            raise UnsupportedEvent(
                f"{describe(event)} is nothing that the best of several runs can be selected from."
            )


def selected_from(event: LibraryEvent) -> Event | None:
    """What one run of a selection does, in our own words.

    For readers of the mechanism's parameters; what the selection costs is more.

    Args:
        event: Any.

    Returns:
        ``None`` if the event is no selection from Gaussian mechanisms.
    """
    if event.name != _SELECTION:
        return None
    run = event.fields["event"]
    return _own(run) if isinstance(run, LibraryEvent) else None


def _own(event: LibraryEvent) -> Event | None:
    values = event.fields
    match event.name, values:
        case "Gaussian", {"noise_multiplier": Decimal() as noise}:
            return Gaussian(noise)
        case "PoissonSampled", {"sampling_probability": Decimal() as rate, "event": inner}:
            own = _own(inner) if isinstance(inner, LibraryEvent) else None
            if not isinstance(own, Gaussian):
                return None
            return SubsampledGaussian(own.noise_multiplier, rate)
        case "SelfComposed", {"event": LibraryEvent() as inner, "count": int() as count}:
            one = _own(inner)
            return None if one is None else Repeated(one, count)
        case "Composed", {"events": tuple() as parts}:
            found = [_own(part) for part in parts if isinstance(part, LibraryEvent)]
            known = tuple(part for part in found if part is not None)
            return Composed(known) if len(known) == len(parts) else None
        case _:
            return None


def runs_in_view(event: Event) -> Event:
    """An event in which every selection is replaced by one of its runs.

    For readers of how a mechanism sampled and clipped, and for nothing that bounds what it costs.
    """
    parts = []
    for leaf, count in flatten(event):
        run = selected_from(leaf) if isinstance(leaf, LibraryEvent) else None
        parts.append(Repeated(run or leaf, count))
    return Composed(tuple(parts))
