"""Parameters of an audit, as the Study gives them: checked, bounded, with safe defaults. Light."""

from __future__ import annotations

from collections.abc import Mapping

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue

_DIGITS_MAX = 18  # More is out of every range.

CLASSIFIERS = frozenset({"Train", "Federate"})  # Job kinds whose result is asked for a class.
GENERATORS = frozenset({"Synthesize"})
TABLES = frozenset({"PrivateFeatures"})  # Whose result is a row for each unit.
SUMMING = CLASSIFIERS | GENERATORS  # Whose mechanism releases sums over units.
OUR_KINDS = SUMMING | TABLES  # What a plug-in's kind makes, its artifacts say, when it is attacked.


def require_asked(audit: object, given: Mapping[str, JSON], *, kind: str) -> None:
    """Refuse, while nothing has been spent, what an audit would ignore or could not do.

    An audit says what it reads in ``reads``, which words a parameter may be in ``words``, and which
    of our job kinds it can attack in ``attacks``; whatever it does not say, and what a plug-in's
    job kind makes, is left to its own ``run``, which is Inconclusive about what it cannot attack.

    Args:
        audit: The audit, as its entry point gives it.
        given: The Study's parameters for it.
        kind: The Study's job kind.

    Raises:
        InvalidValue: If the audit cannot attack such a job, or a parameter is not one of its own or
            not one of its words.
    """
    name = str(getattr(audit, "name", ""))
    kinds: frozenset[str] | None = getattr(audit, "attacks", None)
    if kinds is not None and kind not in kinds and kind in OUR_KINDS:
        rule = f"must be an attack on what job.kind: {kind} makes"
        remedy = f"It is for {' and '.join(sorted(kinds))}."
        raise InvalidValue("spec.audits.attack", rule, name, remedy)
    known: frozenset[str] | None = getattr(audit, "reads", None)
    words: Mapping[str, tuple[str, ...]] = getattr(audit, "words", {})
    for parameter in given:
        if known is not None and parameter not in known:
            allowed = f"be one of {', '.join(sorted(known))}" if known else "have no parameters"
            raise InvalidValue("spec.audits.parameters", f"must {allowed} for {name}", parameter)
        if parameter in words:
            choice(given, parameter, default="", options=words[parameter])


def whole(parameters: Mapping[str, JSON], name: str, *, default: int, low: int, high: int) -> int:
    """A whole-number parameter of an audit, as a number or as text of one.

    Raises:
        InvalidValue: If it is not a whole number in range.
    """
    value = parameters.get(name, default)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:_DIGITS_MAX])
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidValue(
            f"spec.audits.{name}", f"must be a whole number from {low} to {high}", value
        )
    return value


def choice(
    parameters: Mapping[str, JSON], name: str, *, default: str, options: tuple[str, ...]
) -> str:
    """A parameter that is one of a few words.

    Raises:
        InvalidValue: If it is another.
    """
    value = parameters.get(name, default)
    if value not in options:
        rule = f"must be one of {', '.join(options)}"
        raise InvalidValue(f"spec.audits.parameters.{name}", rule, value)
    return str(value)
