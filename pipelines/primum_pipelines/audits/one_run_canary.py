"""The audit in one training run: canaries planted by a sealed coin, guessed from their scores.

Steinke, Nasr & Jagielski, *Privacy Auditing with One (1) Training Run* (2023); methods, section
6.3. Everything that could be tuned on the answers is fixed before they are seen: every canary is
guessed, at the midpoint that the plan implies. Never opens patient data; the canaries were declared
and charged with the training.
"""

from __future__ import annotations

import hmac
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
    kind = EvidenceKind.MEMBERSHIP
    reviewed = True
    opens_data = False

    def run(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Finding:
        """Guess every canary at the planned midpoint and bound epsilon from below.

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
        most = _most(figures.canaries, subject.delta)
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
                "guesses": figures.canaries,
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
    guesses = [int(score > threshold) for score in canaries.scores]
    correct = sum(g == c for g, c in zip(guesses, canaries.coins, strict=True))
    hits = sum(g and c for g, c in zip(guesses, canaries.coins, strict=True))
    gdp = audits.one_run_gdp_mu_lower(
        canaries=m, correct=correct, guesses=m, p_value=_P_VALUE, delta=delta
    )
    return OneRunFigures(
        canaries=m,
        included=sum(canaries.coins),
        correct=correct,
        hits=hits,
        false_alarms=sum(guesses) - hits,
        epsilon_lower=audits.one_run_epsilon_lower(
            canaries=m, guesses=m, correct=correct, delta=delta, p_value=_P_VALUE
        ),
        epsilon_lower_assuming_gdp=gdp["epsilon_lower"],
        p_value_of_claim=audits.one_run_p_value(
            canaries=m, guesses=m, correct=correct, epsilon=claim, delta=delta
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


def _most(canaries: int, delta: float) -> float:
    return audits.max_certifiable_one_run(
        guesses=canaries, canaries=canaries, delta=delta, p_value=_P_VALUE
    )


def _public(subject: AuditSubject) -> dict[str, JSON]:
    return {
        "threatModel": THREAT.to_json(),
        "claim": str(subject.plan.epsilon),
        "delta": str(subject.plan.delta),
        "confidence": str(CONFIDENCE),
        "method": "one training run, every canary guessed at the planned midpoint",
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
