"""Make a Study's plan.

Gather public facts, let the job kind declare, check the Admission gates. Spends nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace

from primum.application import budgets, devices
from primum.application.platform import Platform, generation_key
from primum.application.released import certificate_problems
from primum.application.verdicts import policy_spec, stage_verdict
from primum.domain.accounting.events import Composed, Event, NoEvent
from primum.domain.conditions import ConditionType, Reason, Status
from primum.domain.errors import InvalidValue, NotFound, Refused, UnsupportedEvent
from primum.domain.names import ResourceKey
from primum.domain.risk.collusion import require_excess_bound
from primum.domain.study.jobs import JobKind, PlanningContext, SyntheticFacts
from primum.domain.study.lifecycle import Refusal
from primum.domain.study.plan import DatasetFacts, Plan, Treatment
from primum.domain.study.spec import BudgetSpec, DataRole, StudyInput, StudySpec
from primum.resources import conversion, status

REFUSAL = "Refusal"
_NAME_CLAIM = "NameClaim/"  # A kind of fact per name of a release; its keys are Studies.


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
        kind = kind_of(platform, spec)
        _refuse_taken_name(platform, spec)
        devices.refuse_impossible(platform, spec)
        context = planning_context(platform, spec)
        plan = replace(kind.declare(spec, context), blocks=_blocks_by_budget(context))
        require_excess_bound(plan.mechanism, epsilon=plan.epsilon, delta=plan.delta)
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

    Of a divided dataset they are about the Study's blocks: those that its plan names, once there is
    one, so that a block that begins later changes nothing.

    Raises:
        Blocked: If a budget, a release or the policy is missing or not ready.
        InvalidValue: If the budgets cannot be used together, or the blocks that were asked for do
            not exist or hold nobody.
    """
    facts: dict[str, DatasetFacts] = {}
    synthetic: dict[str, SyntheticFacts] = {}
    for item in spec.inputs:
        if item.role is DataRole.PRIVATE:
            facts[item.budget] = _facts_of(platform, spec, item)
        elif item.role is DataRole.SYNTHETIC:
            synthetic[item.release] = _synthetic_of(platform, spec, item.release)
    _refuse_one_account_twice(facts)
    _wait_for_policy(platform, spec)
    policies = {fact.accounting for fact in facts.values()} or {"RDP"}
    if len(policies) > 1:
        raise InvalidValue(
            "spec.data", "must use budgets of one accounting policy", ", ".join(sorted(policies))
        )
    return PlanningContext(
        facts,
        synthetic,
        platform.accountant(policies.pop()),
        public_places=tuple(platform.conduct.public_places),
        protected=_protected(platform, spec),
    )


def _protected(platform: Platform, spec: StudySpec) -> frozenset[str]:
    """Addresses of every dataset that has or had a budget; none where nothing is public."""
    if all(item.role is not DataRole.PUBLIC for item in spec.inputs):
        return frozenset()
    declared = platform.resources.list("PrivacyBudget")
    uris = {conversion.budget_spec(stored).dataset.uri for stored in declared}
    # A budget that was deleted protects no less: its account stays.
    return frozenset(uris | {view.terms.dataset_uri for view in platform.ledger.accounts()})


def _blocks_by_budget(context: PlanningContext) -> dict[str, tuple[str, ...]]:
    return {name: facts.blocks for name, facts in context.datasets.items() if facts.blocks}


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


def claim_name(platform: Platform, spec: StudySpec) -> None:
    """Write down that a Study asks for a release's name; whoever asked first may have it.

    Looking at every Study instead would cost as much as there are Studies, and two that look at
    the same time would not see each other.
    """
    claim = {"namespace": spec.key.namespace, "name": spec.key.name}
    for kind in name_claims(spec):
        platform.evidence.put_fact(kind, spec.uid, claim)


def name_claims(spec: StudySpec) -> tuple[str, ...]:
    """The kind of fact that says who asks for the Study's name of a release, if it has one."""
    name = _released_name(spec)
    return (_NAME_CLAIM + name,) if name else ()


def kind_of(platform: Platform, spec: StudySpec) -> JobKind:
    """The job kind of a Study.

    Raises:
        NotFound: If it is not installed; names those that are.
    """
    kinds = platform.kinds()
    if spec.job_kind not in kinds:
        raise NotFound(
            f"job kind {spec.job_kind!r} is not installed; installed are {', '.join(kinds)}"
        )
    return kinds[spec.job_kind]


def _facts_of(platform: Platform, spec: StudySpec, item: StudyInput) -> DatasetFacts:
    name = item.budget
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
    budget = conversion.budget_spec(stored)
    facts = budgets.dataset_facts(
        platform,
        budget,
        account_id,
        newest=str(stored.status.get("newestBlock", "")),
        blocks=_chosen_blocks(platform, spec, item, budget, account_id),
    )
    if facts.blocks:
        _refuse_large_delta(platform, spec, facts)
    return facts


def _chosen_blocks(
    platform: Platform, spec: StudySpec, item: StudyInput, budget: BudgetSpec, account_id: str
) -> tuple[str, ...]:
    """The blocks that a Study reads and pays for, rounded outwards to whole ones.

    Raises:
        InvalidValue: If the dataset is not divided, or no block matches.
    """
    layout = budget.dataset.layout
    if layout is None:
        if item.blocks.chooses:
            rule = f"must be absent, because budget {item.budget} has no blocks"
            raise InvalidValue("spec.data.blocks", rule, "a selection", "Leave it out.")
        return ()
    plan = platform.evidence.plan(spec.uid, spec.generation)
    if plan is not None and item.budget in plan.blocks:
        return plan.blocks[item.budget]
    account = platform.ledger.account(account_id)
    there = {block.name for block in account.blocks} if account is not None else set()
    today = datetime.datetime.fromisoformat(platform.clock.now()).date()
    existing = [name for name in layout.blocks_until(today) if name in there]
    return layout.choose(item.blocks, existing)


def _refuse_large_delta(platform: Platform, spec: StudySpec, facts: DatasetFacts) -> None:
    """Hold a claim's delta below one over all units, not only over those of the chosen blocks.

    Job kinds ask for delta below one over the units that a Study reads. Of a divided dataset that
    would let a Study of a small block claim a larger delta than one of the whole. But a reader of
    several certificates takes their claims together, about the people of the whole dataset.

    Raises:
        InvalidValue: If delta is not below.
    """
    account = platform.ledger.account(facts.account_id)
    if account is None or spec.delta is None or spec.delta * account.terms.units < 1:
        return
    raise InvalidValue(
        "spec.privacy.delta",
        f"must be below 1/{account.terms.units}, one over the units of all blocks of budget "
        f"{facts.budget}",
        str(spec.delta),
    )


def _synthetic_of(platform: Platform, spec: StudySpec, name: str) -> SyntheticFacts:
    stored = platform.resources.get(ResourceKey("Release", spec.key.namespace, name))
    if stored is None or stored.deleting:
        message = (
            f"spec.data must name a Release of namespace {spec.key.namespace}; found {name}, "
            "which does not exist. Once it is released, the Study goes on."
        )
        raise Blocked(Refusal("Plan", Reason.RELEASE_NOT_FOUND, message))
    facts = conversion.synthetic_facts(stored)
    problems = certificate_problems(platform, stored)
    if problems:
        raise InvalidValue(
            "spec.data.release",
            "must be a Release of a dataset that stands by its certificate",
            f"{name}: {problems[0]}",
        )
    return facts


def _refuse_taken_name(platform: Platform, spec: StudySpec) -> None:
    """Refuse a release's name that an earlier Study or a standing Release holds.

    Endpoints share one server, so their names are taken everywhere; other names in a namespace.

    Raises:
        Refused: If it is taken.
    """
    name = _released_name(spec)
    if not name:
        return
    field = f"spec.release.{'endpoint' if spec.endpoint else 'dataset'}"
    holder = _earlier_study(platform, spec, name) or _standing_release(platform, spec, name)
    if holder:
        raise Refused(f"EndpointTaken: {field} must be free; found {name} {holder}")


def _earlier_study(platform: Platform, spec: StudySpec, name: str) -> str:
    """Which Study asked for a name before this one, and may still get it."""
    claims = platform.evidence.facts(_NAME_CLAIM + name)
    stored = platform.resources.get(spec.key) if claims else None  # A quote has another uid.
    for uid, claim in claims:
        if uid == (stored.uid if stored else spec.uid):
            return ""
        key = ResourceKey("Study", str(claim["namespace"]), str(claim["name"]))
        if _may_still_get(platform, key, uid, name, spec):
            return f"taken by {key}. Choose another name."
    return ""


def _may_still_get(
    platform: Platform, key: ResourceKey, uid: str, name: str, spec: StudySpec
) -> bool:
    """Whether an earlier Study stands in the way of this one's name."""
    try:
        stored = platform.resources.get(key)
        theirs = conversion.study_spec(stored) if stored is not None else None
    except InvalidValue:
        return False  # Its spec breaks a rule now: it gets nothing, and is told so.
    if stored is None or theirs is None or stored.uid != uid or stored.deleting:
        return False
    succeeded = status.condition(stored.status, ConditionType.SUCCEEDED)
    if succeeded is not None and succeeded.status is Status.FALSE:
        return False
    if spec.endpoint and theirs.endpoint == name:
        return True
    return key.namespace == spec.key.namespace and _released_name(theirs) == name


def _standing_release(platform: Platform, spec: StudySpec, name: str) -> str:
    own = ResourceKey("Release", spec.key.namespace, name)
    for stored in platform.resources.list("Release", name=name):  # It bears its endpoint's name.
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


def _released_name(spec: StudySpec) -> str:
    return spec.endpoint or spec.dataset_release


def _refusal(message: str) -> Refusal:
    """A job kind's refusal may open with its reason: ``NoMechanism: spec.privacy must ...``."""
    word, colon, rest = message.partition(": ")
    try:
        return Refusal("Plan", Reason(word), rest if colon else message)
    except ValueError:
        return Refusal("Plan", Reason.INVALID_SPEC, message)
