"""What a Study would cost, why it would be refused, and what would fit instead.

Answers come from the ledger's own filters, quotas and unlocking, and spend nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, ROUND_UP, Decimal

from primum.application import planning
from primum.application.platform import Platform
from primum.domain.accounting.events import NoEvent
from primum.domain.budget import decisions
from primum.domain.budget.entries import Outlook
from primum.domain.budget.filters import TIMES_MAX
from primum.domain.errors import InvalidValue
from primum.domain.study.jobs import JobKind, PlanningContext
from primum.domain.study.lifecycle import Refusal
from primum.domain.study.plan import DatasetFacts, Plan
from primum.domain.study.spec import StudySpec
from primum.resources.metadata import REQUESTER_LABEL

NOISE_STEPS = 18  # Bisection steps of the planner: a relative precision of 1e-5 over its bracket.
NOISE_FACTOR_MAX = (
    64.0  # Beyond 64 times the noise nothing useful is learned; say that nothing fits.
)


@dataclass(frozen=True, slots=True)
class Quote:
    """What a Study would cost, without spending.

    Args:
        plan: The plan.
        headline: It in one line.
        fits: Whether it would be granted at once, were nobody else waiting.
        epsilon_left: What is left in the fullest block that it reads.
        times: How often it fits into what is left, unlocked or not.
        refusal: What is missing, where it would not be granted now.
        alternatives: Changes that would be granted now.
        waits: Until when to wait instead, where waiting helps.
    """

    plan: Plan
    headline: str
    fits: bool
    epsilon_left: Decimal
    times: int
    refusal: str
    alternatives: tuple[str, ...]
    waits: str = ""


def quote(platform: Platform, spec: StudySpec) -> Quote | Refusal:
    """What a Study would cost and whether it fits. Spends and stores nothing.

    Raises:
        Blocked: If a budget is missing or not ready.
    """
    planned = planning.plan_study(platform, spec)
    if isinstance(planned, Refusal):
        return planned
    kind = planning.kind_of(platform, spec)
    context = planning.planning_context(platform, spec)
    times = fitting_times(platform, context, planned)
    left = min((_left(platform, fact) for fact in context.datasets.values()), default=Decimal(0))
    outlooks = _outlooks(platform, spec, context, planned)
    waits = "; ".join(
        f"budget {name}: {until(look.unlocks)}" for name, look in outlooks.items() if look.unlocks
    )
    missing = "" if times else frozen(platform, context) or shortfall(platform, context, planned)
    refusal = missing or " ".join(look.reason for look in outlooks.values() if not look.now)
    return Quote(
        plan=planned,
        headline=kind.headline(planned),
        fits=times > 0 and not refusal,
        epsilon_left=left,
        times=times,
        refusal=refusal,
        alternatives=what_would_fit(platform, spec) if refusal else (),
        waits=waits,
    )


def _outlooks(
    platform: Platform, spec: StudySpec, context: PlanningContext, plan: Plan
) -> dict[str, Outlook]:
    """What would become of the plan now, by budget; quotas and unlocking count."""
    asker = asker_of(platform, spec)
    return {
        name: platform.ledger.outlook(
            context.datasets[name].account_id,
            event,
            blocks=context.datasets[name].blocks,
            asker=asker,
        )
        for name, event in planning.events_by_budget(plan).items()
        if not isinstance(event, NoEvent)
    }


def until(unlocks: str) -> str:
    """A time for people, or the sentence that the ledger has instead of one."""
    if unlocks[:1].isdigit():
        return f"wait until {unlocks[:19].replace('T', ' ')} UTC, if nobody else takes it"
    return f"wait {unlocks}" if unlocks.startswith("when") else unlocks


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks, for what: what quotas look at."""

    requester: str
    group: str
    study: str
    purpose: str


def asker_of(platform: Platform, spec: StudySpec) -> Asking:
    """Who asks, as whoever stored the Study knows them; the Study itself where nobody does."""
    stored = platform.resources.get(spec.key)
    known = stored is not None and stored.uid == spec.uid
    label = stored.labels.get(REQUESTER_LABEL, "") if stored is not None and known else ""
    study = f"{spec.key.namespace}/{spec.key.name}"
    return Asking(label or study, spec.key.namespace, study, decisions.prose(spec.purpose))


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
    events = planning.events_by_budget(plan)
    return "; ".join(
        f"budget {name} has {_short(_left(platform, fact), ROUND_DOWN)} left{_where(fact)}, "
        f"the plan needs {_short(plan.epsilon, ROUND_UP)}"
        for name, fact in context.datasets.items()
        if not platform.ledger.fits(fact.account_id, events[name], blocks=fact.blocks)
    )


def fitting_times(platform: Platform, context: PlanningContext, plan: Plan) -> int:
    """How many more times the plan fits into what is left of every budget."""
    events = planning.events_by_budget(plan)
    counts = [
        platform.ledger.fits(
            context.datasets[name].account_id, event, blocks=context.datasets[name].blocks
        )
        for name, event in events.items()
        if not isinstance(event, NoEvent)
    ]
    return min(counts, default=TIMES_MAX)  # What charges nothing fits as often as one likes.


def what_would_fit(platform: Platform, spec: StudySpec) -> tuple[str, ...]:
    """Changes of the Study that the ledger would grant now, each alone; spends nothing.

    The least noise, then under the planned noise the most of each parameter that the job kind
    names: epochs or rounds (most steps), batch size (largest sampling rate).
    """
    kind = planning.kind_of(platform, spec)
    context = planning.planning_context(platform, spec)
    found = []
    noisier = _least_fitting_noise(platform, spec, kind, context)
    if noisier is not None:
        sigma = noisier.mechanism.get("noiseMultiplier", "")
        found.append(f"noise multiplier {sigma} (epsilon {_short(noisier.epsilon, ROUND_UP)})")
    planned = _planned_noise(spec, kind, context)
    for name, words in kind.levers.items() if planned is not None else ():
        less = _most_fitting(platform, spec, kind, context, lever=name, noise=planned)
        if less is not None:
            value, plan = less
            found.append(f"{words.format(value)} (epsilon {_short(plan.epsilon, ROUND_UP)})")
    return tuple(found)


def _planned_noise(spec: StudySpec, kind: JobKind, context: PlanningContext) -> Decimal | None:
    start = kind.declare(spec, context).mechanism.get("noiseMultiplier")
    return Decimal(start) if isinstance(start, str) else None


def _grants(platform: Platform, spec: StudySpec, context: PlanningContext, plan: Plan) -> bool:
    """Whether the ledger would reserve a plan now."""
    return all(look.now for look in _outlooks(platform, spec, context, plan).values())


def _most_fitting(
    platform: Platform,
    spec: StudySpec,
    kind: JobKind,
    context: PlanningContext,
    *,
    lever: str,
    noise: Decimal | None,
) -> tuple[int, Plan] | None:
    """The largest smaller value of a parameter under the planned noise that is granted now."""
    asked = spec.job.get(lever)
    if not isinstance(asked, int) or noise is None:
        return None
    low, high, best = 1, asked - 1, None
    while low <= high:
        middle = (low + high) // 2
        smaller = replace(spec, job={**spec.job, lever: middle})
        try:
            plan = kind.with_noise(smaller, context, noise)
        except InvalidValue:
            low = middle + 1  # Less than the job kind can do.
            continue
        if _grants(platform, spec, context, plan):
            best, low = (middle, plan), middle + 1
        else:
            high = middle - 1
    return best


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
    start = _planned_noise(spec, kind, context)
    if start is None:
        return None
    low, high = float(start), float(start) * NOISE_FACTOR_MAX
    best = None
    for _ in range(NOISE_STEPS):
        middle = (low * high) ** 0.5
        candidate = kind.with_noise(spec, context, Decimal(f"{middle:.4f}"))
        if _grants(platform, spec, context, candidate):
            best, high = candidate, middle
        else:
            low = middle
    return best


def _left(platform: Platform, fact: DatasetFacts) -> Decimal:
    """What is left in the fullest of the blocks that the Study reads."""
    account = platform.ledger.account(fact.account_id)
    if account is None:
        return Decimal(0)
    if not fact.blocks:
        return account.epsilon_left
    left = {block.name: block.epsilon_left for block in account.blocks}
    return min(left.get(name, Decimal(0)) for name in fact.blocks)


def _where(fact: DatasetFacts) -> str:
    if not fact.blocks:
        return ""
    return f" in block {fact.blocks[0]}" if len(fact.blocks) == 1 else " in its fullest block"
