"""The audit in one training run: canaries planted by a sealed coin, guessed from their scores.

Steinke, Nasr & Jagielski, *Privacy Auditing with One (1) Training Run* (2023); methods, section
6.3. Everything that could be tuned on the answers is fixed before they are seen: the plan alone
says how many canaries are guessed and at which midpoint; those furthest from it are, of the others
the auditor abstains. Never opens patient data; the canaries were declared and charged with the
training.
"""

from __future__ import annotations

import functools
import hmac
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

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
)
from primum_pipelines.audits.low_tail import smallest_fpr
from primum_pipelines.audits.subject import AuditSubject, PlannedMechanism

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
_GRID = 4000
_GRID_DEVIATIONS = 8.0  # Beyond it lies nothing that a float tells from zero.


@dataclass(frozen=True, slots=True)
class Canaries:
    """What the training step left: one coin and one score per canary, in the same order.

    Args:
        coins: 1 where the canary took part in the training.
        scores: Its component of all noisy sums together, over the clipping bound:
            N(times sampled, steps x sigma^2).
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
            restricted=_restricted(figures),
            reasons=reasons,
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


def midpoint(mechanism: PlannedMechanism) -> float:
    """The threshold between in and out, from the plan alone: half of what an included canary moves.

    A canary takes part in rate x steps steps on average; each moves its score by 1, the clipping
    bound.
    """
    return mechanism.sample_rate * mechanism.steps / 2


@functools.lru_cache(maxsize=_PLANS_CACHED)
def planned_guesses(
    canaries: int, *, mechanism: PlannedMechanism, claim: float, delta: float
) -> int:
    """How many canaries are guessed, from the plan alone.

    Of the numbers that could show the claim, if any could, the one whose bound the planned
    mechanism lets expect to be the largest: sure guesses are more often right, and fewer show less.

    Args:
        canaries: Planted.
        mechanism: The planned training mechanism.
        claim: The claimed epsilon.
        delta: Of the claim.
    """
    counts = sorted({max(min(canaries, _GUESSES_MIN), int(canaries * s)) for s in _SHARES})
    able = [count for count in counts if _most(canaries, count, delta) >= claim]
    expected = dict(zip(counts, _accuracies(counts, canaries, mechanism), strict=True))

    def bound(count: int) -> float:
        return audits.one_run_epsilon_lower(
            canaries=canaries,
            guesses=count,
            correct=int(count * expected[count]),
            delta=delta,
            p_value=_P_VALUE,
        )

    return max(able or counts, key=lambda count: (bound(count), count))


def _accuracies(counts: Sequence[int], canaries: int, mechanism: PlannedMechanism) -> list[float]:
    """Expected share of right guesses of the canaries furthest from the midpoint, by number.

    In and out are taken as normal with the planned means and variances: this chooses an effort and
    proves nothing.
    """
    import numpy as np
    from scipy import special

    rate, steps = mechanism.sample_rate, mechanism.steps
    noise = steps * mechanism.noise_multiplier**2
    spread = {"in": math.sqrt(noise + rate * (1 - rate) * steps), "out": math.sqrt(noise)}
    if not spread["out"]:
        return [1.0] * len(counts)
    half = midpoint(mechanism)
    far = np.linspace(0, half + _GRID_DEVIATIONS * spread["in"], _GRID)
    # Beyond the midpoint by more than ``far``, on the right and on the wrong side.
    right = [special.ndtr((half - far) / spread[side]) for side in ("in", "out")]
    wrong = [special.ndtr((-half - far) / spread[side]) for side in ("in", "out")]
    hit, missed = (right[0] + right[1]) / 2, (wrong[0] + wrong[1]) / 2
    share = hit + missed  # Falls from 1.
    at = [int(np.argmin(np.abs(share - count / canaries))) for count in counts]
    return [float(hit[i] / share[i]) if share[i] > 0 else 1.0 for i in at]


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
    m, threshold = len(canaries.coins), midpoint(mechanism)
    count = planned_guesses(m, mechanism=mechanism, claim=claim, delta=delta)
    surest = sorted(range(m), key=lambda at: -abs(canaries.scores[at] - threshold))[:count]
    pairs = [(canaries.scores[at] > threshold, canaries.coins[at] == 1) for at in surest]
    correct = sum(guess == coin for guess, coin in pairs)
    hits = sum(guess and coin for guess, coin in pairs)
    gdp = audits.one_run_gdp_mu_lower(
        canaries=m, correct=correct, guesses=count, p_value=_P_VALUE, delta=delta
    )
    return OneRunFigures(
        canaries=m,
        guesses=count,
        included=sum(canaries.coins),
        correct=correct,
        hits=hits,
        false_alarms=sum(guess for guess, _ in pairs) - hits,
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
        "method": "one training run, as many canaries guessed as the plan says",
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


def _sequence(value: Mapping[str, JSON], name: str) -> Sequence[JSON]:
    item = value.get(name)
    if not isinstance(item, list | tuple):
        raise InvalidValue(f"canaries.{name}", "must be a list", type(item).__name__)
    return item
