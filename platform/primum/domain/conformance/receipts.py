"""Our own receipts and certificates as run records, so that a Study's claim can be rechecked.

One record per budget: each protects other data. Nothing here trusts the claim's own arithmetic, and
a certificate's signature is not this module's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from primum.domain.accounting.events import (
    Composed,
    Event,
    Gaussian,
    IndividuallyFiltered,
    Laplace,
    Leaf,
    LibraryEvent,
    Repeated,
    SubsampledGaussian,
    describe,
    event_from_json,
    flatten,
    samplings,
    worst_case,
)
from primum.domain.conformance.fields import Fields, number, printable, whole
from primum.domain.conformance.records import (
    Accounting,
    Claim,
    Mechanism,
    Phase,
    RecordFormat,
    RunRecord,
    Sampling,
    Unit,
)
from primum.domain.errors import InvalidValue, UnsupportedEvent
from primum.domain.quantities import Neighbors

_RELEASE = "ThisRelease"


def study_records(value: Mapping[str, Any], *, name: str) -> list[RunRecord]:
    """The records of a Study: its receipts with its claim, or its certificate.

    Args:
        value: ``{"receipts": [...], "claim": {...}}`` or an in-toto statement.
        name: What to call it.

    Returns:
        One record per budget.

    Raises:
        InvalidValue: If it is damaged, or claims nothing.
        UnsupportedEvent: If a receipt's mechanism cannot be rechecked; names it.
    """
    if "predicate" in value:
        predicate = value["predicate"]
        if not isinstance(predicate, Mapping):
            raise InvalidValue("record.predicate", "must be an object", type(predicate).__name__)
        claim, receipts = _certified(predicate), predicate.get("mechanisms")
    else:
        claim = _claimed(Fields(value.get("claim"), "record.claim"))
        receipts = value.get("receipts")
    if not isinstance(receipts, list) or not receipts:
        raise InvalidValue("record.receipts", "must be a list of at least one receipt", "none")
    by_budget: dict[str, list[Mapping[str, Any]]] = {}
    for index, receipt in enumerate(receipts):
        if not isinstance(receipt, Mapping) or not isinstance(receipt.get("budget"), str):
            rule = "must be a receipt with budget, event and facts"
            raise InvalidValue(f"record.receipts[{index}]", rule, type(receipt).__name__)
        budget = printable(f"record.receipts[{index}].budget", receipt["budget"])
        by_budget.setdefault(budget, []).append(receipt)
    found = [
        _record(items, claim, f"{name}: budget {budget}") for budget, items in by_budget.items()
    ]
    charged = [record for record in found if record is not None]
    if not charged:
        raise InvalidValue("record.receipts", "must hold a mechanism", "only looks without one")
    return charged


def _claimed(fields: Fields) -> Claim:
    claim = Claim(
        epsilon=number(fields.name("epsilon"), fields.required("epsilon")),
        delta=_delta(fields.name("delta"), fields.required("delta")),
        unit=fields.choice("unit", Unit),
        neighbors=fields.choice("neighbors", Neighbors),
        accounting=_accounting(fields),
    )
    fields.finish()
    return claim


def _accounting(fields: Fields) -> Accounting:
    if fields.text("accountant", "") == "":
        return Accounting.UNSTATED
    return fields.choice("accountant", Accounting)


def _delta(field: str, value: object) -> Any:
    found = number(field, value)
    if not 0 < found < 1:
        raise InvalidValue(field, "must be above 0 and below 1", str(found))
    return found


def _certified(predicate: Mapping[str, Any]) -> Claim:
    fields = Fields(predicate.get("claim"), "record.predicate.claim")
    status = fields.required("status")
    if status != "Valid":
        raise InvalidValue(
            fields.name("status"), "must be Valid", status, "Such a certificate claims nothing."
        )
    for item in fields.items("parameters"):
        if isinstance(item, Mapping) and item.get("scope") == _RELEASE:
            return Claim(
                epsilon=number(fields.name("parameters.epsilon"), item.get("epsilon")),
                delta=_delta(fields.name("parameters.delta"), item.get("delta")),
                unit=fields.choice("unit", Unit),
                neighbors=fields.choice("neighbors", Neighbors),
                accounting=_accounting(fields),
            )
    raise InvalidValue(fields.name("parameters"), f"must state {_RELEASE}", "no such scope")


def _record(receipts: list[Mapping[str, Any]], claim: Claim, name: str) -> RunRecord | None:
    phases: list[Phase] = []
    filters: list[IndividuallyFiltered] = []
    library: list[Event] = []
    sampling, unit, mismatches = Sampling.FULL, claim.unit, []  # type: Sampling, Unit, list[str]
    for receipt in receipts:
        event = event_from_json(receipt.get("event"))
        facts = Fields(receipt.get("facts", {}), "receipt.facts")
        leaves = flatten(worst_case(event))
        made = [_phase(*used) for used in leaves if not isinstance(used[0], LibraryEvent)]
        others = [(leaf, count) for leaf, count in leaves if isinstance(leaf, LibraryEvent)]
        if not leaves:
            continue
        phases += made
        library += [Repeated(leaf, count) for leaf, count in others]
        for leaf, _ in others:
            if samplings(leaf) and samplings(leaf) != {facts.text("sampling", "")}:
                sampling = Sampling.UNKNOWN
        filters += [leaf for leaf, _ in flatten(event) if isinstance(leaf, IndividuallyFiltered)]
        if any(phase.sample_rate < 1 for phase in made):
            sampling = _worse(sampling, _sampling(facts))
        if "clippedPer" in facts:
            unit = facts.choice("clippedPer", Unit)
        mismatches += _mismatches(event, facts)
    if not phases and not library:
        return None
    return RunRecord(
        name=name,
        source=RecordFormat.STUDY,
        claim=claim,
        phases=tuple(phases),
        unit=unit,
        sampling=sampling,
        assumed_sampling=Sampling.POISSON if sampling is not Sampling.FULL else Sampling.FULL,
        filter_orders=_shared_orders(filters),
        library=Composed(tuple(library)) if library else None,
        mismatches=tuple(mismatches),
    )


def _shared_orders(filters: list[IndividuallyFiltered]) -> tuple[int, ...]:
    """Orders at which every filter counts; a part without filters has its curve everywhere."""
    if not filters:
        return ()
    shared = set.intersection(*(set(item.orders) for item in filters))
    if not shared:
        raise InvalidValue("receipt.event", "must have filters that share an order", "none")
    return tuple(sorted(shared))


def _worse(first: Sampling, second: Sampling) -> Sampling:
    """Poisson only while every sampled receipt says so."""
    if Sampling.UNKNOWN in (first, second):
        return Sampling.UNKNOWN
    return second


def _sampling(facts: Fields) -> Sampling:
    said = facts.text("sampling", "")
    return Sampling.POISSON if said == "Poisson" else Sampling.UNKNOWN


def _phase(leaf: Leaf, count: int) -> Phase:
    match leaf:
        case Gaussian():
            return Phase(leaf.noise_multiplier, number("rate", 1), count)
        case SubsampledGaussian():
            return Phase(leaf.noise_multiplier, leaf.sample_rate, count)
        case Laplace():
            return Phase(leaf.noise_multiplier, number("rate", 1), count, Mechanism.LAPLACE)
        case _:
            raise UnsupportedEvent(
                f"receipt.event must be Gaussian, Laplace or a LibraryEvent to be rechecked; found "
                f"{describe(leaf)}."
            )


def _mismatches(event: Event, facts: Fields) -> list[str]:
    """Where a receipt's facts and its event say different things."""
    if "steps" not in facts:
        return []
    said = facts.raw("steps")
    rows = said if isinstance(said, list) else [said]
    steps = sum(whole(facts.name("steps"), row, low=0) for row in rows)
    leaves = flatten(event)
    counted = sum(count for _, count in flatten(worst_case(event)))
    if any(isinstance(leaf, IndividuallyFiltered) for leaf, _ in leaves):
        # Filters let a training run for more steps than any unit may pay in full.
        more = f"facts say {steps} steps, fewer than the bound of the filters has: {counted}"
        return [] if steps >= counted else [more]
    return [] if steps == counted else [f"facts say {steps} steps, the event says {counted}"]
