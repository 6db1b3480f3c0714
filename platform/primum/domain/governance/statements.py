"""The sentences of a certificate: what a guarantee means, in words that we can be held to.

Every sentence is a guarantee sentence: a wrong one is a bug. None calls federation, encryption or a
passed audit "private"; governance, security, privacy and verifiability stay four separate lines
(Usynin, Ziller, Rueckert, Kaissis 2021, "Distributed Machine Learning and the Semblance of Trust").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext

from primum.domain.canonical import decimal_text
from primum.domain.quantities import Neighbors, PrivacyUnit, round_up

EPSILON_LARGE = Decimal(20)  # Above it membership is not protected in any useful sense.
_EPSILON_STRONG = Decimal(1)  # Tiers of Ponomareva et al. 2023, section 5.2; a label, never a gate.
_EPSILON_REASONABLE = Decimal(10)
_GROUP_EXAMPLE = 2
_PRECISION = 50
_SECURE_GENERATORS = ("aes-256 counter mode", "csprng", "chacha", "urandom")

UNIT_SENTENCES: Mapping[PrivacyUnit, str] = {
    PrivacyUnit.PATIENT: (
        "The protected unit is one patient: everything that one person contributed to a dataset."
    ),
    PrivacyUnit.IMAGING_STUDY: (
        "The protected unit is one imaging study. A patient with k studies is protected as a "
        "group of k."
    ),
    PrivacyUnit.SERIES: (
        "The protected unit is one image series. A patient with k series is protected as a group "
        "of k."
    ),
    PrivacyUnit.IMAGE: (
        "The protected unit is one image, not one child or adult. A person with k images is "
        "protected "
        "as a group of k."
    ),
    PrivacyUnit.SITE: ("The protected unit is one site as a whole, with every patient in it."),
}

_CHANGES: Mapping[Neighbors, str] = {
    Neighbors.ADD_OR_REMOVE_ONE: "one unit is added to the data or removed from it",
    Neighbors.REPLACE_ONE: "one unit of the data is replaced by another",
}


def group_guarantee(epsilon: Decimal, delta: Decimal, *, size: int) -> tuple[Decimal, Decimal]:
    """What (epsilon, delta) for one unit means for a group of units.

    Guarantees:
        A mechanism that is (epsilon, delta)-DP for one unit is (k epsilon, delta_k)-DP for k units,
        with ``delta_k = delta (e^{k epsilon} - 1) / (e^epsilon - 1)`` (Vadhan 2017, lemma 2.2; both
        rounded up). Generic, hence loose: the mechanism itself may protect a group better.

    Args:
        epsilon: Of one unit, above 0.
        delta: Of one unit, 0 to 1.
        size: Units in the group, at least 1.

    Returns:
        Epsilon and delta of the group; a delta of 1 or more promises nothing.
    """
    with localcontext() as context:
        context.prec = _PRECISION
        group_epsilon = epsilon * size
        ratio = (group_epsilon.exp() - 1) / (epsilon.exp() - 1)
        group_delta = delta * ratio
    return group_epsilon, min(Decimal(1), _rounded(group_delta))


def unit_statement(unit: PrivacyUnit, epsilon: Decimal, delta: Decimal) -> str:
    """What the privacy unit means for a person, who may contribute several units."""
    sentence = UNIT_SENTENCES[unit]
    if unit in (PrivacyUnit.PATIENT, PrivacyUnit.SITE):
        return sentence
    group_epsilon, group_delta = group_guarantee(epsilon, delta, size=_GROUP_EXAMPLE)
    what = (
        "nothing, because delta reaches 1"
        if group_delta >= 1
        else f"epsilon {decimal_text(group_epsilon)} at delta {decimal_text(group_delta)}"
    )
    return (
        f"{sentence} For k of them the guarantee is k times epsilon, and delta grows by "
        f"(e^(k epsilon) - 1)/(e^epsilon - 1): with {_GROUP_EXAMPLE} it is {what}."
    )


def guarantee_statement(
    *, epsilon: Decimal, delta: Decimal, unit: PrivacyUnit, neighbors: Neighbors
) -> str:
    """The guarantee in one sentence: always epsilon, delta, unit and neighbors together."""
    return (
        f"For any two datasets where {_CHANGES[neighbors]} (unit {unit.value}), the chance of any "
        f"outcome differs by a factor of at most e^{epsilon}, up to a probability of {delta}."
    )


def patient_statement(*, epsilon: Decimal, delta: Decimal, unit: PrivacyUnit) -> str:
    """The guarantee for somebody whose data was used.

    The posterior bound ``e^epsilon / (1 + e^epsilon)`` holds for an even prior and up to delta
    (Wasserman and Zhou 2010, theorem 2.4).
    """
    whose = "you were" if unit is PrivacyUnit.PATIENT else f"a given {_noun(unit)} was"
    if epsilon > EPSILON_LARGE:
        return (
            f"This release does not hide whether {whose} part of the data. It was made so that a "
            "record cannot be rebuilt from it by somebody who does not already know nearly all "
            "of it."
        )
    with localcontext() as context:
        context.prec = _PRECISION
        odds = epsilon.exp()
        percent = round_up(100 * odds / (1 + odds), 1)
    return (
        f"Somebody who thinks it is a coin toss whether {whose} part of the data can, after "
        "seeing this "
        f"release and knowing everything else, be at most {decimal_text(percent)} percent sure, "
        "except "
        f"with a probability of about {delta}. Facts about people in general, such as that "
        "smoking harms, "
        "can be learned from it and are not hidden."
    )


def large_epsilon_statement(epsilon: Decimal) -> str:
    """What a large epsilon protects against, and what not; empty where epsilon is not large."""
    if epsilon <= EPSILON_LARGE:
        return ""
    return (
        f"Epsilon {epsilon} is large. Threat model: it bounds how well a record can be "
        "RECONSTRUCTED by an "
        "attacker without, or with little, prior knowledge of it, as the risk corridor shows. It "
        "does NOT "
        "protect against MEMBERSHIP inference: whether a record was in the data must be taken as "
        "known "
        "(Ziller et al. 2024, Reconciling privacy and accuracy in AI for medical imaging)."
    )


def strength_label(epsilon: Decimal) -> str:
    """The tier of an epsilon as a label: Strong, Reasonable or Weak. Never a gate by itself."""
    if epsilon <= _EPSILON_STRONG:
        return "Strong"
    return "Reasonable" if epsilon <= _EPSILON_REASONABLE else "Weak"


def generator_statement(generators: Sequence[str]) -> str:
    """Where the noise came from, and whether that is a cryptographically secure generator."""
    if not generators:
        return "No mechanism reported which generator its noise came from."
    sentences = []
    for name in dict.fromkeys(generators):
        secure = any(word in name.lower() for word in _SECURE_GENERATORS)
        verdict = "a" if secure else "NOT a"
        sentences.append(
            f"Noise was drawn from {name}, {verdict} cryptographically secure generator."
        )
    sentences.append(
        "It was added in floating-point arithmetic, which the guarantee treats as exact."
    )
    return " ".join(sentences)


def four_lines(
    *, kind: str, guarantee: str, secure_aggregation: str, ledger_seq: int, audits: int
) -> dict[str, str]:
    """Governance, security, privacy and verifiability, each by itself.

    Args:
        kind: The job kind.
        guarantee: What the privacy line says; the only line that speaks of a guarantee.
        secure_aggregation: The protocol that hid single sites' updates, or empty.
        ledger_seq: Sequence number of the ledger's head.
        audits: Number of audits cited.
    """
    federated = kind == "Federate"
    governance = (
        "Records stayed at their sites; model updates left them. That is data governance and "
        "protects "
        "nobody by itself."
        if federated
        else "Records stayed in the steward's zone; every access was declared before it happened."
    )
    if federated and secure_aggregation:
        security = (
            f"Single sites' updates were hidden from the coordinator by {secure_aggregation}."
        )
    elif federated:
        security = "The coordinator saw each site's update; no secure aggregation was used."
    else:
        security = (
            "Data was opened only with signed tokens scoped to one access; nothing was encrypted "
            "in use."
        )
    return {
        "governance": governance,
        "security": security,
        "privacy": guarantee,
        "verifiability": (
            f"Signed with Ed25519; the spending is in the ledger up to entry {ledger_seq}; "
            f"{audits} "
            f"{'audit is' if audits == 1 else 'audits are'} cited by digest. "
            "An audit can refute a guarantee, it cannot prove one."
        ),
    }


def _noun(unit: PrivacyUnit) -> str:
    return {
        PrivacyUnit.PATIENT: "patient",
        PrivacyUnit.IMAGING_STUDY: "imaging study",
        PrivacyUnit.SERIES: "image series",
        PrivacyUnit.IMAGE: "image",
        PrivacyUnit.SITE: "site",
    }[unit]


def _rounded(value: Decimal) -> Decimal:
    if not value:
        return value
    return round_up(value, max(0, 2 - value.adjusted()))
