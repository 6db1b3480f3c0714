"""Make a Study's plan.

Gather public facts, let the job kind declare, check the Admission gates. Spends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_UP, Decimal

from primum.application import budgets
from primum.application.platform import Platform, generation_key
from primum.application.ports import Quote
from primum.application.verdicts import policy_spec, stage_verdict
from primum.domain.accounting.events import Composed, Event, NoEvent
from primum.domain.conditions import ConditionType, Reason, Status
from primum.domain.errors import InvalidValue, NotFound, Refused, UnsupportedEvent
from primum.domain.names import ResourceKey
from primum.domain.study.jobs import JobKind, PlanningContext, SyntheticFacts
from primum.domain.study.lifecycle import Refusal
from primum.domain.study.plan import DatasetFacts, Plan, Treatment
from primum.domain.study.spec import DataRole, StudySpec
from primum.resources import conversion, status

REFUSAL = "Refusal"
NOISE_STEPS = 18  # Bisection steps of the planner: a relative precision of 1e-5 over its bracket.
NOISE_FACTOR_MAX = (
    64.0  # Beyond 64 times the noise nothing useful is learned; say that nothing fits.
)


@dataclass(frozen=True, slots=True)
class Blocked(Exception):
    """The Study cannot be planned yet."""

    refusal: Refusal


def plan_study(platform: Platform, spec: StudySpec) -> Plan | Refusal:
    """The plan of a Study, or the final no. Stored by the caller.

    Raises:
        Blocked: If a budget is missing or not ready: the Study waits, nothing is decided.
    """
    try:
        kind = _kind(platform, spec)
        _refuse_taken_name(platform, spec)
        context = planning_context(platform, spec)
        plan = kind.declare(spec, context)
    except Refused as refused:
        return _refusal(str(refused))
    except (InvalidValue, UnsupportedEvent, NotFound) as error:
        return Refusal("Plan", Reason.INVALID_SPEC, str(error))
    budgets_used = tuple(context.datasets.values())
    verdict = stage_verdict(
        platform, spec, plan, stage="Admission", evidence=(), budgets=budgets_used
    )
    if not verdict.passed:
        failed = [
            rule.message for rule in verdict.rules if not rule.passed and rule.severity == "Deny"
        ]
        return Refusal("Plan", Reason.GATE_DENIED, f"{spec.policy}: {'; '.join(failed)}")
    return plan


def planning_context(platform: Platform, spec: StudySpec) -> PlanningContext:
    """Public facts about every input.

    Raises:
        Blocked: If a budget, a release or the policy is missing or not ready.
        InvalidValue: If the budgets cannot be used together.
    """
    facts: dict[str, DatasetFacts] = {}
    synthetic: dict[str, SyntheticFacts] = {}
    for item in spec.inputs:
        if item.role is DataRole.PRIVATE:
            facts[item.budget] = _facts_of(platform, spec, item.budget)
        elif item.role is DataRole.SYNTHETIC:
            synthetic[item.release] = _synthetic_of(platform, spec, item.release)
    _refuse_one_account_twice(facts)
    _wait_for_policy(platform, spec)
    policies = {fact.accounting for fact in facts.values()} or {"RDP"}
    if len(policies) > 1:
        raise InvalidValue(
            "spec.data", "must use budgets of one accounting policy", ", ".join(sorted(policies))
        )
    return PlanningContext(facts, synthetic, platform.accountant(policies.pop()))


def _refuse_one_account_twice(facts: Mapping[str, DatasetFacts]) -> None:
    by_account: dict[str, str] = {}
    for name, fact in facts.items():
        other = by_account.setdefault(fact.account_id, name)
        if other != name:
            raise InvalidValue(
                "spec.data",
                "must name each dataset once",
                f"budgets {other} and {name} of the same data",
            )


def _wait_for_policy(platform: Platform, spec: StudySpec) -> None:
    try:
        policy_spec(platform, spec.key.namespace, spec.policy)
    except NotFound as missing:
        raise Blocked(Refusal("Plan", Reason.POLICY_NOT_FOUND, str(missing))) from None


def events_by_budget(plan: Plan) -> Mapping[str, Event]:
    """Per budget, the composition of every event the plan declares there.

    ``NoEvent`` where it only looks.
    """
    events: dict[str, list[Event]] = {}
    for access in plan.accesses:
        leaves = events.setdefault(access.budget, [])
        if access.treatment is Treatment.CHARGED:
            leaves.append(access.event)
    return {
        name: NoEvent()
        if not leaves
        else leaves[0]
        if len(leaves) == 1
        else Composed(tuple(leaves))
        for name, leaves in events.items()
    }


def quote(platform: Platform, spec: StudySpec) -> Quote | Refusal:
    """What a Study would cost and whether it fits. Spends and stores nothing.

    Raises:
        Blocked: If a budget is missing or not ready.
    """
    planned = plan_study(platform, spec)
    if isinstance(planned, Refusal):
        return planned
    kind = _kind(platform, spec)
    context = planning_context(platform, spec)
    times = fitting_times(platform, context, planned)
    left = min((_left(platform, fact) for fact in context.datasets.values()), default=Decimal(0))
    alternatives = () if times else what_would_fit(platform, spec)
    refusal = "" if times else frozen(platform, context) or shortfall(platform, context, planned)
    return Quote(planned, kind.headline(planned), times > 0, left, times, refusal, alternatives)


def frozen(platform: Platform, context: PlanningContext) -> str:
    """Which budgets are frozen, and why, in the words of whoever froze them."""
    accounts = {
        name: platform.ledger.account(facts.account_id) for name, facts in context.datasets.items()
    }
    return "; ".join(
        f"budget {name} is frozen ({account.frozen}). A steward may thaw it with a reason"
        for name, account in accounts.items()
        if account is not None and account.frozen
    )


def shortfall(platform: Platform, context: PlanningContext, plan: Plan) -> str:
    """Which budget lacks how much: one clause per budget into which the plan does not fit."""
    events = events_by_budget(plan)
    return "; ".join(
        f"budget {name} has {_short(_left(platform, fact), ROUND_DOWN)} left, "
        f"the plan needs {_short(plan.epsilon, ROUND_UP)}"
        for name, fact in context.datasets.items()
        if not platform.ledger.fits(fact.account_id, events[name])
    )


def fitting_times(platform: Platform, context: PlanningContext, plan: Plan) -> int:
    """How many more times the plan fits into what is left of every budget."""
    events = events_by_budget(plan)
    counts = [
        platform.ledger.fits(context.datasets[name].account_id, event)
        for name, event in events.items()
        if not isinstance(event, NoEvent)
    ]
    return min(counts, default=1)


def what_would_fit(platform: Platform, spec: StudySpec) -> tuple[str, ...]:
    """Changes of the Study that would fit now: least noise first, then what the job kind offers."""
    kind = _kind(platform, spec)
    context = planning_context(platform, spec)
    found = []
    noisier = _least_fitting_noise(platform, spec, kind, context)
    if noisier is not None:
        sigma = noisier.mechanism.get("noiseMultiplier", "")
        found.append(f"noise multiplier {sigma} (epsilon {_short(noisier.epsilon, ROUND_UP)})")
    left = min((_left(platform, fact) for fact in context.datasets.values()), default=Decimal(0))
    if left > 0:
        options = kind.alternatives(spec, context, left)
        found += [
            f"{o.value} {o.change} (epsilon {_short(o.epsilon, ROUND_UP)})"
            for o in options
            if o.change != "noise multiplier"
        ]
    return tuple(found)


def _short(epsilon: Decimal, rounding: str) -> str:
    """Two decimals for people, rounded so that what does not fit never looks as if it did."""
    if not epsilon.is_finite():
        return "without bound"
    return f"{epsilon.quantize(Decimal('0.01'), rounding=rounding)}"


def _least_fitting_noise(
    platform: Platform, spec: StudySpec, kind: JobKind, context: PlanningContext
) -> Plan | None:
    """The plan with the least noise that the ledger would reserve now.

    By bisection on the noise multiplier.
    """
    start = kind.declare(spec, context).mechanism.get("noiseMultiplier")
    if not isinstance(start, str):
        return None
    low, high = float(start), float(start) * NOISE_FACTOR_MAX
    best = None
    for _ in range(NOISE_STEPS):
        middle = (low * high) ** 0.5
        candidate = kind.with_noise(spec, context, Decimal(f"{middle:.4f}"))
        if fitting_times(platform, context, candidate):
            best, high = candidate, middle
        else:
            low = middle
    return best


def store_plan(platform: Platform, spec: StudySpec, planned: Plan | Refusal) -> None:
    """Write the plan or the refusal once."""
    if isinstance(planned, Plan):
        platform.evidence.put_plan(planned)
        return
    store_refusal(platform, spec, planned)


def store_refusal(platform: Platform, spec: StudySpec, refusal: Refusal) -> None:
    """Write a final no once."""
    key = generation_key(spec.uid, spec.generation)
    fact = {"stage": refusal.stage, "reason": refusal.reason.value, "message": refusal.message}
    platform.evidence.put_fact(REFUSAL, key, fact)


def _kind(platform: Platform, spec: StudySpec) -> JobKind:
    kinds = platform.kinds()
    if spec.job_kind not in kinds:
        raise NotFound(
            f"job kind {spec.job_kind!r} is not installed; installed are {', '.join(kinds)}"
        )
    return kinds[spec.job_kind]


def _left(platform: Platform, fact: DatasetFacts) -> Decimal:
    account = platform.ledger.account(fact.account_id)
    return account.epsilon_left if account else Decimal(0)


def _facts_of(platform: Platform, spec: StudySpec, name: str) -> DatasetFacts:
    key = ResourceKey("PrivacyBudget", spec.key.namespace, name)
    stored = platform.resources.get(key)
    if stored is None:
        message = (
            f"spec.data must name a PrivacyBudget of namespace {spec.key.namespace}; found {name}, "
            "which does not exist. Apply it, and the Study goes on."
        )
        raise Blocked(Refusal("Plan", Reason.BUDGET_NOT_FOUND, message))
    ready = status.condition(stored.status, ConditionType.READY)
    account_id = str(stored.status.get("accountId", ""))
    if ready is None or ready.observed_generation != stored.generation:
        raise Blocked(Refusal("Plan", Reason.PENDING, f"budget {name} is not registered yet"))
    if ready.status is not Status.TRUE and ready.reason is not Reason.BUDGET_FROZEN:
        raise Blocked(
            Refusal("Plan", Reason.BUDGET_NOT_READY, f"budget {name} is not ready: {ready.message}")
        )
    return budgets.dataset_facts(platform, conversion.budget_spec(stored), account_id)


def _synthetic_of(platform: Platform, spec: StudySpec, name: str) -> SyntheticFacts:
    stored = platform.resources.get(ResourceKey("Release", spec.key.namespace, name))
    if stored is None or stored.deleting:
        message = (
            f"spec.data must name a Release of namespace {spec.key.namespace}; found {name}, "
            "which does not exist. Once it is released, the Study goes on."
        )
        raise Blocked(Refusal("Plan", Reason.RELEASE_NOT_FOUND, message))
    return conversion.synthetic_facts(stored)


def _refuse_taken_name(platform: Platform, spec: StudySpec) -> None:
    """Refuse a release's name that an earlier Study or a standing Release holds.

    Endpoints share one server, so their names are taken everywhere; other names in a namespace.

    Raises:
        Refused: If it is taken.
    """
    name = spec.endpoint or spec.dataset_release
    if not name:
        return
    field = f"spec.release.{'endpoint' if spec.endpoint else 'dataset'}"
    holder = _earlier_study(platform, spec, name) or _standing_release(platform, spec, name)
    if holder:
        raise Refused(f"EndpointTaken: {field} must be free; found {name} {holder}")


def _earlier_study(platform: Platform, spec: StudySpec, name: str) -> str:
    for other in platform.resources.list("Study"):
        if other.uid == spec.uid or other.deleting:
            continue
        theirs = conversion.study_spec(other)
        succeeded = status.condition(other.status, ConditionType.SUCCEEDED)
        over = succeeded is not None and succeeded.status is Status.FALSE
        first = (other.created, other.uid) < _created(platform, spec)
        here = theirs.key.namespace == spec.key.namespace
        same = here and name == (theirs.endpoint or theirs.dataset_release)
        if first and not over and (same or (spec.endpoint and theirs.endpoint == spec.endpoint)):
            return f"taken by {other.key}. Choose another name."
    return ""


def _standing_release(platform: Platform, spec: StudySpec, name: str) -> str:
    own = ResourceKey("Release", spec.key.namespace, name)
    for stored in platform.resources.list("Release"):
        held = stored.key == own
        if not held and not (spec.endpoint and stored.spec.get("endpoint") == spec.endpoint):
            continue
        study = stored.spec.get("study")
        made_by = str(study.get("name")) if isinstance(study, Mapping) else ""
        if held and "revocation" in stored.spec:
            return "of a Release that was revoked. Delete that Release, or choose another name."
        if not held or made_by != spec.key.name:
            return f"taken by {stored.key}. Delete that Release, or choose another name."
    return ""


def _created(platform: Platform, spec: StudySpec) -> tuple[str, str]:
    stored = platform.resources.get(spec.key)
    return (stored.created if stored else "~", spec.uid)


def _refusal(message: str) -> Refusal:
    """A job kind's refusal may open with its reason: ``NoMechanism: spec.privacy must ...``."""
    word, colon, rest = message.partition(": ")
    try:
        return Refusal("Plan", Reason(word), rest if colon else message)
    except ValueError:
        return Refusal("Plan", Reason.INVALID_SPEC, message)
