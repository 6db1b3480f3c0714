"""What every job kind declares in the same way: privacy, accesses, parameters, void edges.

Light: the planner imports this in a process that must start fast. Nothing here may open data, draw
noise or default a privacy decision.
"""

from __future__ import annotations

import difflib
import enum
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from primum import extensions
from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.calibration import least_noise_multiplier
from primum.domain.accounting.events import Event
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, Refused
from primum.domain.quantities import Disclosure, Neighbors, PrivacyUnit, parse_decimal, round_down
from primum.domain.study.jobs import PlanningContext
from primum.domain.study.plan import Access, DatasetFacts, Plan, Treatment
from primum.domain.study.spec import DataRole, StudySpec
from primum_pipelines.audits.parameters import require_asked
from primum_pipelines.datasets.driver import (
    Uri,
    describe,
    examples_max,
    is_published,
    parse_uri,
    task_of,
)
from primum_pipelines.datasets.table import LabelTask

AUDIT_GROUP = "primum.audits"
ONE_RUN_CANARY = "OneRunCanary"
CANARIES_DEFAULT = 100  # Can certify up to epsilon 3.5 at 95 % confidence.
AUDIT_P_VALUE = 0.05


class Made(enum.Enum):
    """What a job leaves to be released."""

    MODEL = "model"
    DATASET = "dataset"


WHY_VALIDATE = "Expectations are checked inside the zone; only their verdict leaves."
WHY_EVALUATE_DISCLOSED = (
    "Utility is measured on held-out units and leaves, as the budget's disclosures allow."
)
WHY_EVALUATE_INSPECTED = "Utility is measured on held-out units; no figure of it leaves the zone."
WHY_SCALED = "Values are scaled by bounds that the steward declared; none is measured."
WHY_AUDIT = "Attacks are run inside the zone; only their verdict leaves."


@dataclass(frozen=True, slots=True)
class Claim:
    """The guarantee that a Study asks for."""

    epsilon: Decimal
    delta: Decimal


def access_name(purpose: str, budget: str) -> str:
    """The name of an access, such as ``validate@cleveland``."""
    return f"{purpose}@{budget}"


def requested_claim(study: StudySpec) -> Claim:
    """The privacy that a Study asks for.

    Raises:
        Refused: If it asks for none; the message starts with ``NoMechanism``.
    """
    if study.epsilon is None or study.delta is None:
        raise Refused(
            "NoMechanism: spec.privacy must give epsilon and delta, because this job runs on "
            'private data; found none. Add privacy: {epsilon: "3.0", delta: "1e-5"}.'
        )
    return Claim(study.epsilon, study.delta)


def private_datasets(study: StudySpec, context: PlanningContext) -> tuple[DatasetFacts, ...]:
    """Facts of the Study's private inputs, in the order in which the Study lists them.

    Raises:
        InvalidValue: If there is none, one is listed twice, or they do not share unit and
            neighbors.
    """
    names = [item.budget for item in study.inputs if item.role is DataRole.PRIVATE]
    if not names:
        raise InvalidValue("spec.data", "must have an input with role Private", "none")
    if len(set(names)) != len(names):
        raise InvalidValue("spec.data", "must list each budget once", ", ".join(names))
    found = tuple(context.datasets[name] for name in names)
    for facts in found[1:]:
        if (facts.dataset.unit, facts.neighbors) != (found[0].dataset.unit, found[0].neighbors):
            raise InvalidValue(
                "spec.data",
                "must have budgets of the same privacy unit and neighbors",
                f"{_relation(found[0])} and {_relation(facts)}",
            )
    return found


def shared_relation(datasets: Sequence[DatasetFacts]) -> tuple[PrivacyUnit, Neighbors]:
    """The privacy unit and the neighbors relation that all the datasets share."""
    return datasets[0].dataset.unit, datasets[0].neighbors


def require_delta_below_units(claim: Claim, facts: DatasetFacts) -> None:
    """Refuse a delta that would allow giving one unit away outright.

    Raises:
        InvalidValue: If delta is not below one over the declared number of units.
    """
    if claim.delta * facts.units >= 1:
        raise InvalidValue(
            "spec.privacy.delta",
            f"must be below 1/{facts.units}, one over the units of budget {facts.budget}",
            str(claim.delta),
            "At 1/n, publishing one unit's record would satisfy it.",
        )


def require_one_example_per_unit(facts: DatasetFacts, *, job: str) -> None:
    """Refuse a dataset whose units may have several rows, for a job that clips row by row.

    Args:
        facts: The dataset.
        job: Name of the job kind, for the message.

    Raises:
        InvalidValue: If the dataset declares more than one example per unit.
    """
    bound = examples_max(facts.dataset.options)
    if bound is not None and bound > 1:
        raise InvalidValue(
            "spec.data",
            f"must have one example per unit for {job}",
            f"budget {facts.budget} with maxExamplesPerUnit {bound}",
            "Use a budget whose dataset declares maxExamplesPerUnit: 1.",
        )


def require_one_class_per_row(facts: DatasetFacts, *, job: str) -> None:
    """Refuse a dataset whose labels are not one class per row, for a job that knows no other.

    Args:
        facts: The dataset.
        job: Name of the job kind, for the message.

    Raises:
        InvalidValue: If it declares several labels per row, or masks.
    """
    task = task_of(facts.dataset.uri, facts.dataset.options)
    if task is not LabelTask.MULTI_CLASS:
        found = f"budget {facts.budget} with labels of kind {task}"
        raise InvalidValue("spec.data", f"must have one class per example for {job}", found)


def least_noise(
    claim: Claim,
    facts: DatasetFacts,
    context: PlanningContext,
    *,
    event_at: Callable[[Decimal], Event],
) -> Decimal:
    """The least noise multiplier that keeps a claim on a dataset.

    Args:
        claim: What the Study asks for.
        facts: Of the dataset; says who its neighbors are.
        context: Gives the ledger's accountant.
        event_at: What the job does at a noise multiplier.

    Raises:
        InvalidValue: If no noise keeps it.
    """
    return least_noise_multiplier(
        accountant=context.accountant,
        event_at=event_at,
        target=Guarantee(claim.epsilon, claim.delta),
        neighbors=facts.neighbors,
    )


def require_one_worker(study: StudySpec, *, job: str) -> None:
    """Refuse several workers for a job that would leave all but one of them idle.

    Args:
        study: The Study.
        job: Name of the job kind, for the message.

    Raises:
        InvalidValue: If it asks for more than one.
    """
    if study.workers > 1:
        rule = f"must be 1 for {job}, which computes with one worker"
        raise InvalidValue("spec.job.resources.workers", rule, study.workers)


def require_release_of(study: StudySpec, *, made: Made, job: str) -> None:
    """Refuse a release of what the job does not make; it would fail after the charge.

    Args:
        study: The Study.
        made: What the job leaves.
        job: Name of the job kind, for the message.

    Raises:
        InvalidValue: If it asks for an endpoint of a dataset, or a dataset of a model.
    """
    asked, other = study.endpoint, "dataset"
    if made is Made.MODEL:
        asked, other = study.dataset_release, "endpoint"
    if asked:
        field = "dataset" if made is Made.MODEL else "endpoint"
        rule = f"must be absent: {job} makes a {made.value}"
        remedy = f"Give spec.release.{other}, or nothing."
        raise InvalidValue(f"spec.release.{field}", rule, asked, remedy)


def public_inputs(study: StudySpec, context: PlanningContext) -> list[JSON]:
    """The Study's public inputs, for a plan's parameters under ``access.PUBLIC_INPUTS``.

    Guarantees:
        Each lies where the platform engineer says that nothing is private, or is a published set
        that its driver recognizes, and no PrivacyBudget protects that address.

    Raises:
        InvalidValue: If one lies elsewhere, has a budget, or is declared wrongly.
    """
    protected = {_address(parse_uri(uri)) for uri in context.protected}
    found: list[JSON] = []
    for item in study.inputs:
        if item.role is not DataRole.PUBLIC:
            continue
        describe(item.uri, item.options)
        address = _address(parse_uri(item.uri))
        if address in protected:
            rule = "must not be a dataset that a PrivacyBudget protects"
            raise InvalidValue("spec.data.uri", rule, item.uri, "Use role Private.")
        proper = not (set("?#") & set(address)) and ".." not in address.split("/")
        within = proper and any(address.startswith(place) for place in context.public_places)
        if not within and not is_published(item.uri):
            listed = ", ".join(context.public_places) or "none are declared"
            raise InvalidValue(
                "spec.data.uri",
                f"must be a published set, or lie in a place of public data: {listed}",
                item.uri,
                "Ask the platform engineer to name the place in PRIMUM_PUBLIC_DATA.",
            )
        found.append({"uri": item.uri, "options": dict(item.options)})
    return found


def _address(uri: Uri) -> str:
    """Where a dataset lies, whatever driver reads it."""
    if uri.transport:
        return f"{uri.transport}://{uri.rest.rstrip('/')}"
    return posixpath.normpath(uri.rest) if uri.rest.startswith("/") else uri.rest.strip("/")


def planned_canaries(study: StudySpec) -> int:
    """How many canaries the Study's one-run audits plant; 0 where it has none.

    Raises:
        InvalidValue: If an audit gives no whole number of at least 1.
    """
    counts = [0]
    for audit in study.audits:
        if audit.attack == ONE_RUN_CANARY:
            value = audit.parameters.get("canaries", CANARIES_DEFAULT)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidValue("spec.audits.canaries", "must be a whole number from 1", value)
            counts.append(value)
    return max(counts)


def certifiable(*, canaries: int, delta: Decimal) -> Decimal | None:
    """The largest epsilon a one-run audit can show, rounded down; ``None`` without canaries."""
    if not canaries:
        return None
    from primum.domain.risk.audits import max_certifiable_one_run

    most = max_certifiable_one_run(
        guesses=canaries, canaries=canaries, delta=float(delta), p_value=AUDIT_P_VALUE
    )
    return round_down(Decimal(most), 4)


def audits_on_data(study: StudySpec) -> tuple[str, ...]:
    """Names of the Study's audits that open private data; those are declared as accesses.

    Raises:
        InvalidValue: If an audit is not installed, cannot attack such a job, or would ignore or
            not understand a parameter.
    """
    known = extensions.names(AUDIT_GROUP)
    for audit in study.audits:
        if audit.attack not in known:
            rule = f"must be one of {', '.join(known)}"
            close = difflib.get_close_matches(audit.attack, known, n=1)
            remedy = f"Did you mean {close[0]}?" if close else "Install the plug-in that brings it."
            raise InvalidValue("spec.audits.attack", rule, audit.attack, remedy)
        found = extensions.load(AUDIT_GROUP, audit.attack)
        require_asked(found, audit.parameters, kind=study.job_kind)
    return tuple(
        audit.attack
        for audit in study.audits
        if extensions.load(AUDIT_GROUP, audit.attack).opens_data
    )


def require_within_claim(plan: Plan, claim: Claim) -> None:
    """Refuse a plan that costs more than is claimed, as with a noise multiplier given by hand.

    Raises:
        InvalidValue: If it does.
    """
    if plan.epsilon > claim.epsilon:
        raise InvalidValue(
            f"spec.job.{plan.kind[:1].lower()}{plan.kind[1:]}.noiseMultiplier",
            f"must keep epsilon at most {claim.epsilon}",
            f"epsilon {plan.epsilon} at noise multiplier {plan.mechanism.get('noiseMultiplier')}",
            "Leave it out: the plan then takes the least noise that keeps the claim.",
        )


def charged(name: str, facts: DatasetFacts, event: Event, *, why: str) -> Access:
    """The access of the job step that a mechanism answers for.

    Its reason also says why normalization is no access: drivers scale by declared public bounds, so
    there is no statistic of private units to charge.
    """
    reason = f"{why} {WHY_SCALED}"
    name = access_name(name, facts.budget)
    return Access(name, "job", facts.budget, Treatment.CHARGED, event, reason)


def standing_accesses(facts: DatasetFacts, *, audited: Sequence[str] = ()) -> tuple[Access, ...]:
    """The accesses that every job has beside its own: validation, evaluation, maybe audits.

    Args:
        facts: The dataset.
        audited: Names of the audits that open the data; none where the audits do not touch it.

    Returns:
        ``validate@``, ``evaluate@`` and possibly ``audit@`` accesses of the budget.
    """
    disclosed = Disclosure.UTILITY.value in facts.disclosures
    accesses = [
        Access(
            access_name("validate", facts.budget),
            "validate",
            facts.budget,
            Treatment.DISCLOSED,
            why=WHY_VALIDATE,
        ),
        Access(
            access_name("evaluate", facts.budget),
            "evaluate",
            facts.budget,
            Treatment.DISCLOSED if disclosed else Treatment.INSPECTED,
            why=WHY_EVALUATE_DISCLOSED if disclosed else WHY_EVALUATE_INSPECTED,
        ),
    ]
    if audited:
        why = f"{WHY_AUDIT} ({', '.join(audited)})"
        accesses.append(
            Access(
                access_name("audit", facts.budget),
                "audit",
                facts.budget,
                Treatment.DISCLOSED,
                why=why,
            )
        )
    return tuple(accesses)


def inherited_void_edges(study: StudySpec, context: PlanningContext) -> tuple[str, ...]:
    """Edges that void the claim because of a synthetic input: synthetic data does not launder.

    Returns:
        One sentence per edge, with the Release it came through; nothing if every input's claim
        stands.
    """
    edges: list[str] = []
    for item in study.inputs:
        if item.role is not DataRole.SYNTHETIC:
            continue
        facts = context.synthetic[item.release]
        if facts.void_edges:
            edges += [f"{edge} (through release {facts.release})" for edge in facts.void_edges]
        elif facts.claim == "Void":
            edges.append(f"release {facts.release} has claim Void")
    return tuple(edges)


@dataclass(frozen=True, slots=True)
class Parameters:
    """A job's own parameters, read one by one under rules.

    Args:
        section: Where they stand in the resource, such as ``spec.job.train``; for messages.
        values: As given; decimals are quoted.
    """

    section: str
    values: Mapping[str, JSON]

    def require_known(self, names: Sequence[str]) -> None:
        """Refuse a parameter that the kind does not have: a typing error is no silent default.

        Raises:
            InvalidValue: If there is one.
        """
        for name in self.values:
            if name not in names:
                raise InvalidValue(
                    f"{self.section}.{name}", f"must be one of {', '.join(names)}", name
                )

    def whole(self, name: str, *, default: int | None = None, low: int, high: int) -> int:
        """A whole number.

        Raises:
            InvalidValue: If it is absent without a default, not a whole number, or out of range.
        """
        value = self.values.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidValue(
                f"{self.section}.{name}",
                f"must be a whole number from {low} to {high}",
                _shown(value),
            )
        return value

    def positive(self, name: str, *, default: str | None = None) -> Decimal:
        """A decimal above 0.

        Raises:
            InvalidValue: If it is absent without a default, not a quoted decimal, or not above 0.
        """
        value = self.values.get(name, default)
        if value is None:
            raise InvalidValue(f"{self.section}.{name}", "must be a quoted decimal", "nothing")
        number = parse_decimal(f"{self.section}.{name}", value)
        if number <= 0:
            raise InvalidValue(f"{self.section}.{name}", "must be above 0", str(number))
        return number

    def choice(self, name: str, options: Sequence[str], *, default: str | None = None) -> str:
        """The name of one of a few options.

        Raises:
            InvalidValue: If it is another one, or absent without a default.
        """
        value = self.values.get(name, default)
        if not isinstance(value, str) or value not in options:
            raise InvalidValue(
                f"{self.section}.{name}", f"must be one of {', '.join(options)}", _shown(value)
            )
        return value


def _shown(value: JSON) -> object:
    return "nothing" if value is None else value


def _relation(facts: DatasetFacts) -> str:
    return f"{facts.dataset.unit.value}/{facts.neighbors.value} ({facts.budget})"
