"""A search that runs: as many trials as were planned or drawn, and the best of them.

With random stopping nothing of how many there were leaves: not in a receipt, which states the plan,
nor in evidence, messages, progress, checkpoints or the time that the body says it took. Only the
best trial is stored; the others are forgotten as soon as a better one is there. Must not decide
what anything costs.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction

from primum.domain.accounting.events import (
    Composed,
    Event,
    Gaussian,
    LibraryEvent,
    Repeated,
    covers,
    describe,
)
from primum.domain.accounting.selection import StoppingLaw, selected_from
from primum.domain.canonical import JSON, canonical_json, decimal_text
from primum.domain.conditions import Reason
from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import Evidence
from primum.domain.study.plan import Access, Plan
from primum.domain.study.steps import Receipt, StepStatus, WorkRequest, WorkResult
from primum_pipelines import fan_out
from primum_pipelines.datasets.access import token_claims
from primum_pipelines.kinds.train import fitting, outcome, sharing
from primum_pipelines.kinds.train.adjusting import adjusted
from primum_pipelines.kinds.train.outcome import plain
from primum_pipelines.kinds.train.search import FIELD, Search, from_plan
from primum_pipelines.kinds.train.trials import (
    PART,
    Inputs,
    Tried,
    run_trial,
    shared_bytes,
    tried_of,
)
from primum_pipelines.optimization.randomness import OperatingSystemSource
from primum_pipelines.steps import records

_RANDOM_BITS = 256
_BESIDE_LEAST = 2  # Workers from which on trials run beside each other.
_PLANNED_FACTS = ("noiseMultiplier", "sampleRate", "maxGradNorm", "sampling", "clipping")


def search(inputs: Inputs, access: Access, *, seconds: Callable[[], float]) -> WorkResult:
    """Run the planned search and put out its best trial.

    Args:
        inputs: What the trials see.
        access: The access that the plan charges all of it under.
        seconds: The body's stopwatch.

    Returns:
        The best model with its canaries and kept iterates, one receipt, and Training evidence; a
        failed report with the receipt where no trial is of use.
    """
    plan = records.plan_of(inputs.request)
    wanted = from_plan(records.mapping(plan.parameters[FIELD]))
    points = drawn_points(wanted)
    best: Tried | None = None
    told = _Told(plan, access, wanted)
    for tried in _tried(inputs, wanted, points):
        told.add(tried)
        if math.isfinite(tried.score) and (best is None or tried.score > best.score):
            best = tried
    receipt = _receipt(inputs.request, access, told)
    took = 0.0 if wanted.stopping is not None else seconds()  # Time would tell how many there were.
    if best is None:
        return records.report(
            message=_none_of_use(wanted),
            seconds=took,
            receipts=[receipt],
            status=StepStatus.FAILED,
            reason=Reason.STEP_FAILED,
        )
    kept = outcome.iterates(best.trained, best.module)
    made = adjusted(best.module, best.spec, kept, inputs.others, parameters=best.parameters)
    stored = outcome.stored(inputs.request, best.trained, best.module, made, chosen=best.point)
    return records.report(
        message="searched, and kept the best trial",
        seconds=took,
        evidence=[_evidence(inputs, best, told, subject=stored[0].digest)],
        receipts=[receipt],
        artifacts=stored,
    )


def _tried(inputs: Inputs, wanted: Search, points: Sequence[Mapping[str, JSON]]) -> Iterator[Tried]:
    """The trials in order: beside each other where that tells nobody how many there are.

    Those of a random number run one after another in this very process, since a scheduler's record
    of its tasks would count them; and so do those that need a GPU, which this worker holds.
    """
    helpers = fan_out.current()
    alone = wanted.stopping is not None or helpers.workers() < _BESIDE_LEAST
    if alone or sharing.own_device(inputs.request).type != "cpu":
        yield from (run_trial(inputs, wanted, point) for point in points)
        return
    items = [canonical_json(dict(point)).decode() for point in points]
    answers = helpers.map_once(PART, shared_bytes(inputs), items)
    for answer, point in zip(answers, points, strict=True):
        yield tried_of(answer, point, inputs)


def drawn_points(wanted: Search) -> list[dict[str, JSON]]:
    """Points of the space for all trials, before the first one: how many is drawn here, too.

    Guarantees:
        Number and points come from the operating system's generator and from nothing else. With
        random stopping the number has the declared distribution to within 2^-256.
    """
    if wanted.stopping is None:
        count = wanted.trials or 0
    else:
        uniform = Fraction(secrets.randbits(_RANDOM_BITS), 1 << _RANDOM_BITS)
        count = wanted.stopping.runs_at(uniform)
    source = OperatingSystemSource()
    return [wanted.drawn(source.uniform(len(wanted.space)).tolist()) for _ in range(count)]


def _none_of_use(wanted: Search) -> str:
    """One sentence for every cause: which it was would tell how many trials there were."""
    cause, remedy = "no weights stayed finite", "Lower learningRate."
    if wanted.stopping is not None and wanted.stopping.law is StoppingLaw.POISSON:
        cause += ", or Poisson drew no trial, as it does with probability exp(-mean)"
        remedy = "Raise mean, or lower learningRate."
    return f"search ended without a trial that is of use: {cause}. {remedy}"


class _Told:
    """What may be told of the trials so far.

    With random stopping the plan speaks for all trials, and of a trial that kept to the plan
    nothing is kept here. What an algorithm reports otherwise is told as it reports it.
    """

    def __init__(self, plan: Plan, access: Access, wanted: Search) -> None:
        self.planned = access.event
        self._wanted = wanted
        self._charged_as_executed = bool(plan.parameters["chargedAsExecuted"])
        self._executed: list[Event] = []
        self._stopped = False
        self.trials: list[JSON] = []
        self._most_clip = Decimal(str(plan.mechanism["maxGradNorm"]))
        self.facts: dict[str, JSON] = {
            **{name: plan.mechanism[name] for name in _PLANNED_FACTS},
            "stepsOfATrial": plan.mechanism["steps"],
            "clippedPer": plan.unit.value,
            "generator": OperatingSystemSource.name,
            "search": "ChargedInFull" if wanted.stopping is None else "RandomStopping",
        }

    def add(self, tried: Tried) -> None:
        """Count a trial."""
        report = tried.trained.report
        reported: dict[str, JSON] = {
            "sampling": report.sampling,
            "clipping": report.clipping.value,
            "generator": report.generator,
        }
        self.facts |= reported
        if report.max_grad_norm > float(self._most_clip):
            self.facts["maxGradNorm"] = plain(report.max_grad_norm)
        noise = self._wanted.noise_multiplier
        scored = math.isfinite(tried.score) and noise is not None
        event = Composed((tried.event, Gaussian(noise))) if scored and noise else tried.event
        if self._wanted.stopping is None:
            self._executed.append(event)
            self._stopped |= bool(report.stopped)
            score = decimal_text(tried.score) if math.isfinite(tried.score) else "none"
            self.trials.append({"point": dict(tried.point), "score": score})
        elif not covers(_trial_bound(self.planned), event):
            self._executed.append(event)

    def event(self) -> Event:
        """What the ledger is told: the plan, or what a fixed number of trials executed.

        A trial that did more than was planned is stated beside the plan, so that the ledger sees a
        contradiction and charges in full.
        """
        if self._wanted.stopping is not None:
            return Composed((self.planned, *self._executed)) if self._executed else self.planned
        executed = _together(self._executed)
        # Steps that ended by what the weights had become are charged as they ran only where the
        # account's filter is sound for any such choice.
        if self._stopped and not self._charged_as_executed and covers(self.planned, executed):
            return self.planned
        return executed


def _together(events: Sequence[Event]) -> Event:
    """All of them, each said once with how often it was: trials at one rate are alike."""
    counted = Counter(events)
    parts = tuple(Repeated(event, count) for event, count in counted.items())
    return parts[0] if len(parts) == 1 else Composed(parts)


def _trial_bound(planned: Event) -> Event:
    """What one trial of random stopping may do at most, read from the event that is charged."""
    run = selected_from(planned) if isinstance(planned, LibraryEvent) else None
    if run is None:
        raise InvalidValue("plan.accesses.event", "must be a selection", type(planned).__name__)
    return run


def _receipt(request: WorkRequest, access: Access, told: _Told) -> Receipt:
    """The one receipt of all trials."""
    claims = token_claims(request, access.name)
    event, facts = told.event(), told.facts
    return Receipt(access.name, access.budget, event, facts, token_id=str(claims["id"]))


def _evidence(inputs: Inputs, best: Tried, told: _Told, *, subject: str) -> Evidence:
    """Of the best trial; of the others only where each of them is charged."""
    loss = fitting.mean_loss(best.module, inputs.table, best.spec, parameters=best.parameters)
    public: dict[str, JSON] = {
        # As text: rules of a policy look at evidence, and an event nests deeper than they may.
        "planned": describe(told.planned),
        "executed": describe(told.event()),
        "chosen": dict(best.point),
        "score": decimal_text(best.score),
    }
    if told.trials:
        public["trials"] = told.trials
    return outcome.training_record(inputs.request, best.trained, subject, loss=loss, public=public)
