"""What a planned Study's guarantee means for a person in its data, before anything runs.

Reads a plan and public facts of datasets; opens nothing and spends nothing. The corridor is the one
that the audits will be drawn into, and every figure is of all events that the plan charges to a
dataset together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal

from primum.domain.accounting.events import Composed, Event
from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.governance.meaning import Meaning, meaning_sentences
from primum.domain.quantities import PrivacyUnit, parse_decimal
from primum.domain.risk.planned import CurveKind, PlannedCurve, planned_curve
from primum.domain.study.plan import Plan, Treatment, plan_from_json
from primum_pipelines.audits.risk_corridor import CANDIDATES, FPRS, from_scratch_bounds
from primum_pipelines.audits.subject import PlannedMechanism, mechanisms_of
from primum_pipelines.datasets.driver import describe
from primum_pipelines.steps import records

_PRIORS = (0.01, 0.1, 0.5)
_SHARE = 0.95  # Of the outcomes that a posterior is stated for.
_SPOKEN_FPR = 0.001
_SPOKEN_CANDIDATES = 100
_DIMENSION_MIN = 3  # Below it a correlation over a record's numbers means nothing.


def meaning(payload: Mapping[str, JSON]) -> dict[str, JSON]:
    """What a plan means for a person, by budget.

    Args:
        payload: ``plan``; ``datasets`` by budget with ``uri``, ``options`` and ``unit``; ``prior``,
            a decimal string above 0 and below 1, default 0.5.

    Returns:
        JSON with decimal strings: ``claim``, and per budget ``curve`` (what kind of bound it is),
        ``membership``, ``identification``, ``fromScratch`` where the shape of records is known, and
        ``sentences``.

    Raises:
        InvalidValue: If the prior breaks its rule or the plan charges nothing.
    """
    plan, prior = _plan(payload), _prior(payload)
    mechanisms = mechanisms_of(plan)
    found: dict[str, JSON] = {}
    for budget, event in _charged(plan).items():
        curve = planned_curve(event, epsilon=plan.epsilon, delta=plan.delta)
        own = [item for item in mechanisms if item.budget == budget]
        dimension, unit = _facts(payload, budget)
        found[budget] = _of_budget(plan, curve, own, dimension=dimension, unit=unit, prior=prior)
    return {
        "claim": {"epsilon": str(plan.epsilon), "delta": str(plan.delta), "unit": plan.unit.value},
        "budgets": found,
    }


def picture(payload: Mapping[str, JSON], *, form: str) -> bytes:
    """The risk corridor of the plan's most revealing budget: both edges, nothing measured yet.

    Args:
        payload: As of ``meaning``.
        form: ``svg`` or ``png``.

    Raises:
        InvalidValue: If the plan charges nothing, or the shape of records is not known.
    """
    from primum_pipelines.evaluation import plots

    told = [records.mapping(item) for item in records.mapping(meaning(payload)["budgets"]).values()]
    drawn = [item for item in told if "fromScratch" in item]
    if not drawn:
        rule = "must be of datasets whose shape is known before they are opened"
        raise InvalidValue("--picture", rule, "none")
    edges = [records.mapping(item["identification"]) for item in drawn]
    worst = max(range(len(drawn)), key=lambda at: float(str(edges[at][str(CANDIDATES[-1])])))
    scratch = records.mapping(drawn[worst]["fromScratch"])
    found = plots.Corridor(
        candidates=CANDIDATES,
        bounds=[float(str(edges[worst][str(count)])) for count in CANDIDATES],
        named={},
        scratch=float(str(scratch["expectedNcc"])),
        correlations={},
    )
    return plots.corridor(found, picture=plots.PictureFormat(form))


def _plan(payload: Mapping[str, JSON]) -> Plan:
    return plan_from_json(records.mapping(payload["plan"]))


def _prior(payload: Mapping[str, JSON]) -> float:
    prior = parse_decimal("--prior", str(payload.get("prior", "0.5")))
    if not 0 < prior < 1:
        raise InvalidValue("--prior", "must be above 0 and below 1", str(prior))
    return float(prior)


def _charged(plan: Plan) -> dict[str, Event]:
    """Everything that a plan charges, by budget.

    Raises:
        InvalidValue: If it charges nothing: then nothing is bounded.
    """
    events: dict[str, list[Event]] = {}
    for access in plan.accesses:
        if access.treatment is Treatment.CHARGED:
            events.setdefault(access.budget, []).append(access.event)
    if not events:
        remedy = "Ask for an epsilon in spec.privacy."
        raise InvalidValue("plan", "must charge a mechanism to mean anything", "none", remedy)
    return {
        budget: own[0] if len(own) == 1 else Composed(tuple(own)) for budget, own in events.items()
    }


def _facts(payload: Mapping[str, JSON], budget: str) -> tuple[int, PrivacyUnit]:
    """Numbers in a record, 0 where they are not known before the data is opened, and the unit."""
    dataset = records.mapping(records.mapping(payload["datasets"])[budget])
    options = records.mapping(dataset.get("options") or {})
    unit = PrivacyUnit(str(dataset["unit"]))
    try:
        shape = describe(str(dataset["uri"]), options).get("inputShape")
    except (InvalidValue, NotFound):
        shape = None
    known = math.prod(int(str(side)) for side in shape) if isinstance(shape, list | tuple) else 0
    return (known if known >= _DIMENSION_MIN else 0), unit


def _of_budget(
    plan: Plan,
    curve: PlannedCurve,
    mechanisms: list[PlannedMechanism],
    *,
    dimension: int,
    unit: PrivacyUnit,
    prior: float,
) -> dict[str, JSON]:
    advantage = curve.advantage()
    kappas = [1 / count for count in CANDIDATES]
    named = dict(zip(CANDIDATES, curve.true_positives(kappas), strict=True))
    rates = dict(zip(FPRS, curve.true_positives(FPRS), strict=True))
    sure = {
        before: curve.sure_at_most(prior=before, share=_SHARE)
        for before in sorted({*_PRIORS, prior})
    }
    scratch = _from_scratch(mechanisms, dimension)
    spoken = Meaning(
        unit=unit,
        epsilon=plan.epsilon,
        delta=plan.delta,
        prior=prior,
        advantage=advantage,
        fpr=_SPOKEN_FPR,
        tpr=rates[_SPOKEN_FPR],
        share=_SHARE,
        sure=sure[prior],
        candidates=_SPOKEN_CANDIDATES,
        named=named[_SPOKEN_CANDIDATES],
        dimension=dimension if scratch else 0,
        correlation=float(str(scratch["expectedNcc"])) if scratch else 0.0,
    )
    found: dict[str, JSON] = {
        "curve": curve.kind.value,
        "exact": "yes" if curve.kind in _EXACT else "no",
        "membership": {
            "advantage": decimal_text(advantage),
            "bestGuessRight": decimal_text((1 + advantage) / 2),
            "tprAt": {decimal_text(fpr): decimal_text(tpr) for fpr, tpr in rates.items()},
            "sureAtMostFor95Percent": {
                decimal_text(before): decimal_text(after)
                for before, after in sure.items()
                if after is not None
            },
            "sureAtMostButForDelta": {
                decimal_text(before): decimal_text(_claimed(plan.epsilon, before))
                for before in sure
            },
        },
        "identification": {str(count): decimal_text(rate) for count, rate in named.items()},
        "sentences": list(meaning_sentences(spoken)),
    }
    return found | ({"fromScratch": scratch} if scratch else {})


_EXACT = (CurveKind.GAUSSIAN, CurveKind.LOSS_DISTRIBUTION)


def _claimed(epsilon: Decimal, prior: float) -> float:
    """The posterior under the claim's epsilon, except with probability delta."""
    if not epsilon.is_finite():
        return 1.0
    return prior / (prior + (1 - prior) * math.exp(-float(epsilon)))


def _from_scratch(mechanisms: list[PlannedMechanism], dimension: int) -> dict[str, JSON]:
    """The best attack without a prior on one update, and on every update; worst-case record."""
    private = [item for item in mechanisms if item.noise_multiplier]
    if not dimension or not private or len(private) < len(mechanisms):
        return {}
    if any(item.searched is not None for item in private):
        return {}  # A search has more updates than one of its trainings; how many is not told.
    found: dict[str, JSON] = {"dimension": dimension}
    for suffix, count in (("", None), ("AllUpdates", "steps")):
        figures = [
            from_scratch_bounds(item, dimension, releases=item.steps if count else 1)
            for item in private
        ]
        found |= {
            f"{name}{suffix}": decimal_text(_most_revealing(name, figures)) for name in figures[0]
        }
    return found


def _most_revealing(name: str, figures: list[dict[str, float]]) -> float:
    """Of several mechanisms: the smallest error, and the largest of everything else."""
    worst = min if name.startswith("expectedMse") else max
    return worst(item[name] for item in figures)
