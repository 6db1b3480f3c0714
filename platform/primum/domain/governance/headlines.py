"""Evidence in a few words for people.

What is Public, and apart from it what a role inside the zone may read. Pure.

The Public side is told from ``public`` alone, so nothing Restricted can slip into a status through
it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from primum.domain.canonical import JSON
from primum.domain.governance.evidence import Evidence, EvidenceKind

_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z][a-z])")


def spoken(name: str) -> str:
    """A CamelCase name as words: ``OneRunCanary`` is ``one run canary``; ``LiRA`` stays."""
    words = _HUMP.split(name)
    return " ".join(words).lower() if len(words) > 1 else name


def public_headline(item: Evidence) -> str:
    """The Public figures of one record in one phrase; empty where it has none worth a headline."""
    if item.kind is not EvidenceKind.UTILITY:
        return ""
    for name, said in (("dice", "Dice"), ("accuracy", "accuracy")):
        figure = item.public.get(name)
        if isinstance(figure, Mapping):
            return f"{said} {_interval(figure)}"
    return ""


def restricted_headline(evidence: Sequence[Evidence], *, claim: str) -> str:
    """What audits measured against the claim and the bounds, in one line.

    Only for roles inside the zone.

    Args:
        evidence: The Study's records.
        claim: The claimed epsilon.
    """
    parts = []
    for item in evidence:
        if item.kind is EvidenceKind.MEMBERSHIP and "lowerBound" in item.restricted:
            certifiable = item.public.get("maxCertifiable", "unknown")
            parts.append(
                f"lower bound {_short(item.restricted['lowerBound'])} <= claim {_short(claim)} "
                f"<= certifiable {_short(certifiable)}"
                if _ordered(item.restricted["lowerBound"], claim, certifiable)
                else f"lower bound {_short(item.restricted['lowerBound'])}, claim {_short(claim)}, "
                f"certifiable {_short(certifiable)}"
            )
        if item.kind is EvidenceKind.RECONSTRUCTION and "ncc" in item.restricted:
            bounds = item.public.get("bounds")
            expected = bounds.get("expectedNcc") if isinstance(bounds, Mapping) else None
            bound = f", from-scratch bound {_short(expected)} in expectation" if expected else ""
            parts.append(f"reconstruction NCC {_short(item.restricted['ncc'])}{bound}")
    return "; ".join(parts)


def _interval(value: Mapping[str, JSON]) -> str:
    return f"{_short(value['estimate'])} ({_short(value['lower'])}-{_short(value['upper'])})"


def _ordered(*values: JSON) -> bool:
    try:
        numbers = [float(str(value)) for value in values]
    except ValueError:
        return False
    return numbers == sorted(numbers)


def _short(value: JSON) -> str:
    try:
        return f"{float(str(value)):.2f}"
    except ValueError:
        return str(value)
