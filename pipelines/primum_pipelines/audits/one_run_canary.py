"""The audit in one training run: canaries planted by a sealed coin, guessed from their scores.

Steinke, Nasr & Jagielski, *Privacy Auditing with One (1) Training Run* (2023); methods, section
6.3. Everything that could be tuned on the answers is fixed before they are seen: the plan alone
says how many canaries are guessed to be in, and how many out. Those with the highest and the lowest
scores are, of the others the auditor abstains. Ranks need no scale, so a mechanism that is not what
was planned is caught as well. Never opens patient data; the canaries were declared and charged with
the training.
"""

from __future__ import annotations

import functools
import hmac
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue, NotFound, Tampered
from primum.domain.governance.evidence import EvidenceKind, Verdict
from primum.domain.risk import audits
from primum_pipelines.audits.audit import (
    CONFIDENCE,
    Finding,
    LowTail,
    ThreatModel,
    membership_verdict,
    says_nothing,
)
from primum_pipelines.audits.low_tail import smallest_fpr
from primum_pipelines.audits.membership_figures import ROC, area_of, roc_picture, tpr_at
from primum_pipelines.audits.subject import AuditSubject, PlannedMechanism

if TYPE_CHECKING:
    from primum_pipelines.attacks.figures import Array

ARTIFACT = "Canaries"
THREAT = ThreatModel(
    access="AllUpdates",
    architecture="GrayBox",
    server="MaliciousParameters",
    data="AllButOne",
    sampling="Iid",
)
_P_VALUE = float(1 - CONFIDENCE)
_SHARES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02)
_GUESSES_MIN = 10  # Fewer show next to nothing, however sure they are.
_PLANS_CACHED = 64
_LEVELS = 4000
_GRID_DEVIATIONS = 8.0  # Beyond it lies nothing that a float tells from zero.


@dataclass(frozen=True, slots=True)
class Canaries:
    """What the training step left: one coin and one score per canary, in the same order.

    Args:
        coins: 1 where the canary took part in the training.
        scores: How much the noisy sums speak for each, on any rising scale
            (``optimization.canaries.scores``).
    """

    coins: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class OneRunFigures:
    """Everything measured by a one-run audit. Restricted."""

    canaries: int
    guesses: int
    included: int
    correct: int
    false_alarms: int
    hits: int
    epsilon_lower: float
    epsilon_lower_assuming_gdp: float
    p_value_of_claim: float
    low_tail: LowTail | None


class OneRunCanary:
    """The one-run canary audit."""

    name = "OneRunCanary"
    reads = frozenset({"canaries"})
    kind = EvidenceKind.MEMBERSHIP
    reviewed = True
    opens_data = False

    def run(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Finding:
        """Guess the surest canaries, as many as planned, and bound epsilon from below.

        Args:
            subject: The trained model and its plan.
            parameters: ``canaries``, the planned number; a different number in the artifact fails
                closed.

        Returns:
            The finding; Inconclusive where the training left no canaries.
        """
        planned = subject.plan.mechanism.get("canaries", parameters.get("canaries"))
        try:
            mechanism = subject.released_by()
            canaries = read_canaries(subject.artifact_json(ARTIFACT))
        except (NotFound, InvalidValue):
            return self._without(subject, "the training left no canaries to guess")
        if isinstance(planned, int) and planned != len(canaries.coins):
            return self._without(subject, "the number of canaries is not the planned one")
        figures = measure(canaries, mechanism=mechanism, claim=subject.claim, delta=subject.delta)
        most = _most(figures.canaries, figures.guesses, subject.delta)
        verdict, reasons = membership_verdict(
            epsilon_lower=figures.epsilon_lower,
            claim=subject.claim,
            max_certifiable=most,
            low_tail=figures.low_tail,
        )
        if verdict is Verdict.PASS:
            reasons = says_nothing(canaries.scores)
            verdict = Verdict.INCONCLUSIVE if reasons else verdict
        return Finding(
            kind=self.kind,
            name=self.name,
            verdict=verdict,
            public={
                **_public(subject),
                "canaries": figures.canaries,
                "guesses": figures.guesses,
                "maxCertifiable": decimal_text(most),
            },
            restricted=_restricted(figures) | _curve(canaries),
            reasons=reasons,
            pictures=_pictures(self.name, canaries, mechanism),
        )

    def _without(self, subject: AuditSubject, reason: str) -> Finding:
        return Finding(
            kind=self.kind,
            name=self.name,
            verdict=Verdict.INCONCLUSIVE,
            public=_public(subject),
            reasons=(reason,),
        )


def read_canaries(value: Mapping[str, JSON]) -> Canaries:
    """Canaries from the training's artifact, once the seal on the coins is verified.

    Args:
        value: ``{"coins": [0 | 1], "scores": [decimal text], "salt": text, "commitment": text}``.

    Raises:
        Tampered: If the coins are not those that were sealed before the training.
        InvalidValue: If the artifact is damaged.
    """
    coins, scores = _sequence(value, "coins"), _sequence(value, "scores")
    if len(coins) != len(scores) or not coins:
        raise InvalidValue("canaries", "must have one score per coin, and at least one", len(coins))
    bits = tuple(int(str(coin)) for coin in coins)
    if not set(bits) <= {0, 1}:
        raise InvalidValue("canaries.coins", "must be 0 or 1", "another value")
    from primum_pipelines.optimization.canaries import SealedCoins

    sealed = SealedCoins(tuple(bit == 1 for bit in bits), str(value["salt"]))
    if not hmac.compare_digest(sealed.commitment, str(value["commitment"])):
        raise Tampered("canary coins must be those sealed before the training; found others.")
    return Canaries(coins=bits, scores=tuple(float(str(score)) for score in scores))


@dataclass(frozen=True, slots=True)
class Guesses:
    """How many canaries are guessed; of the others the auditor abstains.

    Args:
        present: So many with the highest scores are said to be in.
        absent: So many with the lowest are said to be out.
    """

    present: int
    absent: int

    @property
    def count(self) -> int:
        """All of them."""
        return self.present + self.absent


@functools.lru_cache(maxsize=_PLANS_CACHED)
def planned_guesses(
    canaries: int, *, mechanism: PlannedMechanism, claim: float, delta: float
) -> Guesses:
    """How many canaries are guessed on either side, from the plan alone.

    Of the numbers that could show the claim, if any could, the one whose bound the planned
    mechanism lets expect to be the largest: sure guesses are more often right, and fewer show less.
    The sides are those of equal certainty: with sampling it is easier to be sure who was in.

    Args:
        canaries: Planted.
        mechanism: The planned training mechanism.
        claim: The claimed epsilon.
        delta: Of the claim.
    """
    counts = sorted({max(min(canaries, _GUESSES_MIN), int(canaries * s)) for s in _SHARES})
    able = [count for count in counts if _most(canaries, count, delta) >= claim]
    expected = dict(zip(counts, _expected(counts, canaries, mechanism), strict=True))

    def bound(count: int) -> float:
        return audits.one_run_epsilon_lower(
            canaries=canaries,
            guesses=count,
            correct=min(count, round(count * expected[count].right)),
            delta=delta,
            p_value=_P_VALUE,
        )

    count = max(able or counts, key=lambda count: (bound(count), count))
    inside = min(count, round(count * expected[count].inside))
    return Guesses(inside, count - inside)


@dataclass(frozen=True, slots=True)
class _Expected:
    """Of the surest guesses: the share that is right, and the share that says "in"."""

    right: float
    inside: float


def _expected(counts: Sequence[int], canaries: int, mechanism: PlannedMechanism) -> list[_Expected]:
    """What the plan lets expect of so many guesses, the surest ones by likelihood ratio."""
    import numpy as np

    if not mechanism.noise_multiplier:
        return [_Expected(_right_without_noise(count, canaries), 0.5) for count in counts]
    losses, present, absent = _evidence(mechanism)
    levels = np.linspace(0, max(abs(losses[0]), abs(losses[-1])), _LEVELS)
    places = [np.searchsorted(losses, side, side="right") for side in (levels, -levels)]
    below = [np.append(0.0, np.cumsum(masses)) for masses in (present, absent)]
    above = [1 - sums[places[0]] for sums in below]
    under = [sums[places[1]] for sums in below]
    inside, outside = (above[0] + above[1]) / 2, (under[0] + under[1]) / 2
    right = (above[0] + under[1]) / 2
    share = inside + outside  # Falls from 1.
    at = [int(np.argmin(np.abs(share - count / canaries))) for count in counts]
    return [
        _Expected(float(right[i] / share[i]), float(inside[i] / share[i]))
        if share[i] > 0
        else _Expected(1.0, 0.5)
        for i in at
    ]


def _evidence(mechanism: PlannedMechanism) -> tuple[Array, Array, Array]:
    """Log-likelihood ratios, rising, and how likely each is with and without the canary."""
    import numpy as np

    from primum.domain.accounting import pld

    if mechanism.sample_rate == 1:  # One Gaussian, exactly.
        psi = math.sqrt(mechanism.steps) / mechanism.noise_multiplier
        reach = psi**2 / 2 + _GRID_DEVIATIONS * psi
        losses = np.linspace(-reach, reach, _LEVELS)
        present = np.exp(-(((losses - psi**2 / 2) / psi) ** 2) / 2)
        absent = np.exp(-(((losses + psi**2 / 2) / psi) ** 2) / 2)
    else:
        found = pld.remove_masses(
            mechanism.sample_rate, mechanism.noise_multiplier, mechanism.steps
        )
        losses, present = found.losses, found.masses
        absent = present * np.exp(-losses)
    return losses, present / present.sum(), absent / absent.sum()


def _right_without_noise(count: int, canaries: int) -> float:
    """Scores tell all apart, but not how many are in: who guesses nearly all errs at the border.

    The number of canaries that are in is taken as normal.
    """
    spread, gap = math.sqrt(canaries) / 2, (canaries - count) / 2
    far = gap / spread
    density = math.exp(-(far**2) / 2) / math.sqrt(2 * math.pi)
    wrong = 2 * (spread * density - gap * math.erfc(far / math.sqrt(2)) / 2)
    return 1 - wrong / count


def measure(
    canaries: Canaries, *, mechanism: PlannedMechanism, claim: float, delta: float
) -> OneRunFigures:
    """Guess, count, and bound.

    Args:
        canaries: Coins and scores.
        mechanism: The planned training mechanism.
        claim: The claimed epsilon.
        delta: Of the claim.

    Returns:
        Every figure of the audit; the p-value and bounds hold at 95 % confidence.
    """
    m = len(canaries.coins)
    planned = planned_guesses(m, mechanism=mechanism, claim=claim, delta=delta)
    count = planned.count
    ranked = sorted(range(m), key=lambda at: -canaries.scores[at])
    hits = sum(canaries.coins[at] for at in ranked[: planned.present])
    missed = sum(canaries.coins[at] for at in ranked[m - planned.absent :])
    correct = hits + planned.absent - missed
    gdp = audits.one_run_gdp_mu_lower(
        canaries=m, correct=correct, guesses=count, p_value=_P_VALUE, delta=delta
    )
    return OneRunFigures(
        canaries=m,
        guesses=count,
        included=sum(canaries.coins),
        correct=correct,
        hits=hits,
        false_alarms=planned.present - hits,
        epsilon_lower=audits.one_run_epsilon_lower(
            canaries=m, guesses=count, correct=correct, delta=delta, p_value=_P_VALUE
        ),
        epsilon_lower_assuming_gdp=gdp["epsilon_lower"],
        p_value_of_claim=audits.one_run_p_value(
            canaries=m, guesses=count, correct=correct, epsilon=claim, delta=delta
        ),
        low_tail=_low_tail(canaries, mechanism),
    )


def _low_tail(canaries: Canaries, mechanism: PlannedMechanism) -> LowTail | None:
    pairs = list(zip(canaries.scores, canaries.coins, strict=True))
    return smallest_fpr(
        present=[score for score, coin in pairs if coin],
        absent=[score for score, coin in pairs if not coin],
        mechanism=mechanism,
    )


def _most(canaries: int, guesses: int, delta: float) -> float:
    return audits.max_certifiable_one_run(
        guesses=guesses, canaries=canaries, delta=delta, p_value=_P_VALUE
    )


def _public(subject: AuditSubject) -> dict[str, JSON]:
    return {
        **subject.stated(THREAT),
        "confidence": str(CONFIDENCE),
        "method": "one training run, canaries guessed by rank, as many as the plan says",
    }


def _restricted(figures: OneRunFigures) -> dict[str, JSON]:
    tail = figures.low_tail
    return {
        "lowerBound": decimal_text(Decimal(f"{figures.epsilon_lower:.6f}")),
        "lowerBoundAssumingGDP": decimal_text(figures.epsilon_lower_assuming_gdp),
        "pValueOfClaim": decimal_text(figures.p_value_of_claim),
        "correct": figures.correct,
        "included": figures.included,
        "hits": figures.hits,
        "falseAlarms": figures.false_alarms,
        "tprLowerAtSmallestFpr": decimal_text(tail.tpr_lower) if tail else None,
        "tprBoundAtSmallestFpr": decimal_text(tail.bound) if tail else None,
    }


def _sides(canaries: Canaries) -> tuple[Array, Array] | None:
    """Scores of the canaries that were in and of the others, if there is a curve to draw."""
    import numpy as np

    scores, coins = np.asarray(canaries.scores), np.asarray(canaries.coins)
    present, absent = scores[coins == 1], scores[coins == 0]
    drawn = len(present) and len(absent) and bool(np.isfinite(scores).all())
    return (present, absent) if drawn else None


def _curve(canaries: Canaries) -> dict[str, JSON]:
    sides = _sides(canaries)
    return {} if sides is None else {"auc": area_of(*sides), "tprAt": tpr_at(*sides)}


def _pictures(name: str, canaries: Canaries, mechanism: PlannedMechanism) -> dict[str, bytes]:
    sides = _sides(canaries)
    return {} if sides is None else {ROC: roc_picture(name, *sides, mechanism)}


def _sequence(value: Mapping[str, JSON], name: str) -> Sequence[JSON]:
    item = value.get(name)
    if not isinstance(item, list | tuple):
        raise InvalidValue(f"canaries.{name}", "must be a list", type(item).__name__)
    return item
