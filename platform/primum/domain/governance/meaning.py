"""What a plan's guarantee means for a person in the data, in sentences that we can be held to.

Every sentence is a guarantee sentence: a wrong one is a bug. Probabilities are of the best
adversary whom the plan's mechanism allows, who knows everything but the person's part; they are
rounded up. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from primum.domain.quantities import PrivacyUnit, round_up

_WORDS: Mapping[PrivacyUnit, tuple[str, str]] = {
    PrivacyUnit.PATIENT: ("patient", "patients"),
    PrivacyUnit.IMAGING_STUDY: ("imaging study", "imaging studies"),
    PrivacyUnit.SERIES: ("image series", "image series"),
    PrivacyUnit.IMAGE: ("image", "images"),
    PrivacyUnit.SITE: ("site", "sites"),
}


@dataclass(frozen=True, slots=True)
class Meaning:
    """Figures of one dataset's plan. All of it is public.

    Args:
        unit: Who is protected.
        epsilon: Of the claim.
        delta: Of the claim.
        prior: What an adversary believed of membership before.
        advantage: Largest difference of true and false positive rate.
        fpr: A small false positive rate.
        tpr: The largest true positive rate at it.
        share: Of outcomes, in which ``sure`` holds.
        sure: How sure the adversary is at most in that share; ``None`` where it is not known.
        candidates: Records among which one is to be named.
        named: How often at most that succeeds.
        dimension: Numbers in a record; 0 where it is not known before the data is opened.
        correlation: Expected of the best reconstruction from scratch, from one update.
    """

    unit: PrivacyUnit
    epsilon: Decimal
    delta: Decimal
    prior: float
    advantage: float
    fpr: float
    tpr: float
    share: float
    sure: float | None
    candidates: int
    named: float
    dimension: int
    correlation: float


def meaning_sentences(found: Meaning) -> tuple[str, ...]:
    """What the figures mean, a sentence each, most important first."""
    one, many = _WORDS[found.unit]
    right = _percent((1 + found.advantage) / 2)
    sentences = [
        f"Was this {one} in the data? The best possible test is right at most {right} percent of "
        "the time where guessing is right 50 percent of the time.",
        f"A test that wrongly names {_of_thousand(found.fpr)} in 1,000 {many} who were not in the "
        f"data finds at most {_of_thousand(found.tpr)} in 1,000 who were.",
        _sure(found, one, many),
        f"Somebody who knows that a record is one of {found.candidates} and everything else names "
        f"the right one at most {_percent(found.named)} percent of the time; chance is "
        f"{_percent(1 / found.candidates)} percent.",
    ]
    if found.dimension:
        sentences.append(
            f"Somebody who controls the model and knows nothing of the {one} gets from one update "
            f"a record whose correlation with the true one is expected to be at most "
            f"{_rounded(found.correlation, 2)}; people begin to see a likeness at 0.5."
        )
    if found.unit not in (PrivacyUnit.PATIENT, PrivacyUnit.SITE):
        sentences.append(
            f"All of this speaks of one {one}. Somebody with several {many} in the data is "
            "protected less: as a group."
        )
    return tuple(sentence for sentence in sentences if sentence)


def _sure(found: Meaning, one: str, many: str) -> str:
    before = _percent(found.prior)
    if not found.epsilon.is_finite():
        return f"Nothing bounds how sure somebody can become that a {one} was in the data."
    if found.sure is None:
        odds = float(min(found.epsilon, Decimal(700)).exp())
        most = found.prior * odds / (1 + found.prior * (odds - 1))
        return (
            f"Somebody who was {before} percent sure that a {one} was in the data is at most "
            f"{_percent(most)} percent sure afterwards, except with a probability of about "
            f"{found.delta}."
        )
    return (
        f"Somebody who was {before} percent sure that a {one} was in the data is afterwards at "
        f"most {_percent(found.sure)} percent sure for {_percent(found.share)} of 100 {many} who "
        "were."
    )


def _percent(share: float) -> str:
    return _rounded(100 * min(1.0, share), 1)


def _of_thousand(share: float) -> str:
    return _rounded(1000 * min(1.0, share), 1)


def _rounded(value: float, places: int) -> str:
    """Rounded up, but not for the noise of a float's last digits."""
    return format(round_up(Decimal(repr(round(value, 9))), places).normalize(), "f")
