"""Audit what was released again: begin what is due, stop what is replaced, forget what is old.

Everything is decided from facts that are written before anything is begun, so that whoever looks
again after a crash finds the same names and begins nothing twice. An audit whose Study is gone
cannot be run; that is said, never passed over.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from primum.application import audit_history, verdicts
from primum.application.access import withdrawals
from primum.application.audit_history import AuditResult
from primum.application.platform import Platform, generation_key
from primum.application.ports import EvidenceStore
from primum.domain.canonical import JSON, decimal_text, digest_of
from primum.domain.conditions import Condition, ConditionType, Reason, Status
from primum.domain.errors import Conflict, NotFound
from primum.domain.governance.evidence import Verdict
from primum.domain.governance.reaudits import Cause, Concurrency, Due, Known, Rules, decide
from primum.domain.governance.regression import Comparison
from primum.domain.names import ResourceKey
from primum.domain.schedule import Schedule, parse_schedule
from primum.resources import conversion
from primum.resources.audits import AuditPolicy
from primum.resources.release import ReleaseSpec
from primum.resources.status import condition
from primum.resources.stored import StoredResource

_SETS = "AuditSet"
STOPPED = "AuditStopped"  # By AuditRun: why it is to end.
RELEASE_LABEL = "primum.dev/release"
_WORDS = {
    Cause.SCHEDULE: "schedule",
    Cause.MODEL_CHANGE: "model",
    Cause.ATTACK_LIBRARY_CHANGE: "library",
    Cause.LEDGER_CHANGE: "ledger",
    Cause.CONSENT_WITHDRAWAL: "consent",
}


@dataclass(frozen=True, slots=True)
class AuditSet:
    """What was begun, or missed, at one moment.

    Args:
        number: Counts the sets of a release, from 0; the first one only notes how things stand.
        release: Uid of the Release.
        causes: Why; empty where nothing was begun.
        due: The due time that it dealt with, or empty.
        until: Due times up to here are dealt with.
        missed: How many due times were given up.
        last_missed: The last of them, or empty.
        state: What the triggers watch, as it was.
        runs: Names of the AuditRuns, one per audit of the Study.
        at: RFC 3339 time.
    """

    number: int
    release: str
    causes: tuple[Cause, ...]
    due: str
    until: str
    missed: int
    last_missed: str
    state: Mapping[Cause, str]
    runs: tuple[str, ...]
    at: str

    def to_json(self) -> dict[str, JSON]:
        """As it is stored."""
        return {
            "number": self.number,
            "release": self.release,
            "causes": [cause.value for cause in self.causes],
            "due": self.due,
            "until": self.until,
            "missed": self.missed,
            "lastMissed": self.last_missed,
            "state": {cause.value: value for cause, value in self.state.items()},
            "runs": list(self.runs),
            "at": self.at,
        }


def audit_sets(evidence: EvidenceStore, release: ResourceKey) -> tuple[AuditSet, ...]:
    """Every set of a release, oldest first; of an earlier Release of that name too."""
    return tuple(_set(value) for _, value in evidence.facts(_kind(release)))


@dataclass(frozen=True, slots=True)
class Audited:
    """What a Release shows of its audits.

    Args:
        condition: ``Audited``; ``None`` where no audits were asked for.
        status: Further fields of its status.
    """

    condition: Condition | None
    status: Mapping[str, JSON]


def keep_audited(platform: Platform, stored: StoredResource) -> Audited:
    """Begin the audits of a Release that are due, once each, and say how they stand."""
    spec = conversion.release_spec(stored)
    if spec.audit_schedule is None and spec.audit_policy is None:
        return Audited(None, {})
    policy = spec.audit_policy or AuditPolicy()
    audits = _audits_of(platform, stored, spec)
    sets = audit_sets(platform.evidence, stored.key)
    subject = audit_history.release_subject(stored.key.namespace, stored.key.name)
    ended = {item.run: item for item in audit_history.results(platform.evidence, subject)}
    sets = _begin(platform, stored, spec, policy, sets=sets, ended=ended, audits=len(audits))
    own = [item for item in sets if item.release == stored.uid]
    _make(platform, stored, policy, own, ended=ended, audits=audits)
    _stop_replaced(platform, stored, policy, own, ended)
    _forget(platform, stored, policy.history_limit)
    return _shown(platform, spec, own, ended, audits=len(audits))


def _begin(
    platform: Platform,
    stored: StoredResource,
    spec: ReleaseSpec,
    policy: AuditPolicy,
    *,
    sets: Sequence[AuditSet],
    ended: Mapping[str, AuditResult],
    audits: int,
) -> tuple[AuditSet, ...]:
    """Note the set that is due now, before anything of it is made."""
    triggers = frozenset(Cause(item.value) for item in policy.triggers)
    state = _state(platform, spec, stored.key.namespace, triggers)
    now = _time(platform.clock.now())
    last = sets[-1] if sets else None
    if last is None:  # The Study's own audits were about this very state.
        first = _next(stored, Due(), last, state=state, until=_time(stored.created), now=now)
        return _written(platform, stored, (*sets, first))
    if not audits:
        return tuple(sets)
    until = _time(last.until) if last.release == stored.uid else _time(stored.created)
    own = [item for item in sets if item.release == stored.uid]
    known = Known(
        state=last.state,
        until=until,
        under_way=any(name not in ended for item in own for name in item.runs),
    )
    rules = Rules(
        schedule=_schedule(spec),
        triggers=triggers,
        concurrency=policy.concurrency_policy,
        starting_seconds=policy.starting_deadline_seconds,
    )
    due = decide(rules, known, state=state, now=now)
    if due is None:
        return tuple(sets)
    found = _next(
        stored, due, last, state=state if due.causes else last.state, until=until, now=now
    )
    return _written(platform, stored, (*sets, _with_runs(stored, found, audits)))


def _next(
    stored: StoredResource,
    due: Due,
    last: AuditSet | None,
    *,
    state: Mapping[Cause, str],
    until: datetime.datetime,
    now: datetime.datetime,
) -> AuditSet:
    return AuditSet(
        number=0 if last is None else last.number + 1,
        release=stored.uid,
        causes=due.causes,
        due="" if due.due is None else _text(due.due),
        until=_text(due.due or until),
        missed=due.missed,
        last_missed="" if due.last_missed is None else _text(due.last_missed),
        # What nobody watched when it began is not known to have changed.
        state={**(last.state if last else {}), **state},
        runs=(),
        at=_text(now),
    )


def _with_runs(stored: StoredResource, found: AuditSet, audits: int) -> AuditSet:
    """The set with the names of its AuditRuns, which follow from its cause."""
    if not found.causes:
        return found
    release = stored.key.name[:40]
    if found.causes[0] is Cause.SCHEDULE:
        stem = f"{release}-{_time(found.due):%Y%m%d%H%M}"
    else:
        state: dict[str, JSON] = {cause.value: text for cause, text in found.state.items()}
        mark = digest_of({"release": stored.uid, "number": found.number, "state": state})
        stem = f"{release}-{_WORDS[found.causes[0]]}-{mark.removeprefix('sha256:')[:8]}"
    return replace(found, runs=tuple(f"{stem}-{index}" for index in range(audits)))


def _written(
    platform: Platform, stored: StoredResource, sets: tuple[AuditSet, ...]
) -> tuple[AuditSet, ...]:
    found = sets[-1]
    key = f"{found.number:09d}"
    try:
        platform.evidence.put_fact(_kind(stored.key), key, found.to_json())
    except Conflict:  # Another process was first, at another moment: what it wrote stands.
        return audit_sets(platform.evidence, stored.key)
    return sets


def _make(
    platform: Platform,
    stored: StoredResource,
    policy: AuditPolicy,
    sets: Sequence[AuditSet],
    *,
    ended: Mapping[str, AuditResult],
    audits: Sequence[JSON],
) -> None:
    """Make the AuditRuns of the last set that are not there; of earlier ones where all may run."""
    allowed = policy.concurrency_policy is Concurrency.ALLOW
    for item in sets if allowed else sets[-1:]:
        for name, audit in zip(item.runs, audits, strict=False):
            key = ResourceKey("AuditRun", stored.key.namespace, name)
            if name in ended or platform.resources.get(key) is not None:
                continue
            spec: dict[str, JSON] = {
                "release": stored.key.name,
                "audit": audit,
                "causes": [cause.value for cause in item.causes],
                "activeDeadlineSeconds": policy.active_deadline_seconds,
            }
            labels = {RELEASE_LABEL: stored.key.name}
            platform.resources.apply(key, spec, labels=labels, owner=stored.uid)


def _stop_replaced(
    platform: Platform,
    stored: StoredResource,
    policy: AuditPolicy,
    sets: Sequence[AuditSet],
    ended: Mapping[str, AuditResult],
) -> None:
    if policy.concurrency_policy is not Concurrency.REPLACE or not sets or not sets[-1].runs:
        return
    for name in (name for item in sets[:-1] for name in item.runs if name not in ended):
        run = platform.resources.get(ResourceKey("AuditRun", stored.key.namespace, name))
        if run is not None:
            said = {"message": f"a newer set of audits began: {sets[-1].runs[0]}"}
            key = generation_key(run.uid, run.generation)
            if platform.evidence.fact(STOPPED, key) is None:
                platform.evidence.put_fact(STOPPED, key, said)


def _forget(platform: Platform, stored: StoredResource, limit: int) -> None:
    """Let the oldest ended AuditRuns of this Release go; what they came to is kept as facts."""
    own = [
        item
        for item in platform.resources.list("AuditRun", stored.key.namespace)
        if item.owner == stored.uid and not item.deleting and has_ended(item)
    ]
    own.sort(key=lambda item: (item.created, item.key.name))
    for item in own[: max(0, len(own) - limit)]:
        platform.resources.request_deletion(item.key)


def has_ended(stored: StoredResource) -> bool:
    """Whether an AuditRun shows how it ended."""
    found = condition(stored.status, ConditionType.SUCCEEDED)
    return found is not None and found.status is not Status.UNKNOWN


def _shown(
    platform: Platform,
    spec: ReleaseSpec,
    sets: Sequence[AuditSet],
    ended: Mapping[str, AuditResult],
    *,
    audits: int,
) -> Audited:
    status: dict[str, JSON] = {}
    schedule = _schedule(spec)
    following = schedule.next_due(_time(platform.clock.now())) if schedule else None
    if following is not None:
        status["nextAudit"] = _text(following)
    missed = sum(item.missed for item in sets)
    if missed:
        status["missedAudits"] = missed
        status["lastMissedAudit"] = next(i.last_missed for i in reversed(sets) if i.missed)
    last = next((item for item in reversed(sets) if item.runs), None)
    if last is not None:
        status["lastAudit"] = last.runs[-1]
        status["lastAuditCauses"] = [cause.value for cause in last.causes]
    if not audits:
        message = "the Study is gone or asked for no audits: nothing can be audited again"
        gone = Condition(ConditionType.AUDITED, Status.FALSE, Reason.NOTHING_TO_AUDIT, message)
        return Audited(gone, status)
    return Audited(_condition(last, ended, missed), status)


def _condition(last: AuditSet | None, ended: Mapping[str, AuditResult], missed: int) -> Condition:
    """How the last set stands: the worst of its audits."""
    kind = ConditionType.AUDITED
    gone = f"; {missed} due {'time was' if missed == 1 else 'times were'} missed" if missed else ""
    if last is None:
        return Condition(kind, Status.UNKNOWN, Reason.PENDING, f"none was due yet{gone}")
    why = ", ".join(cause.value for cause in last.causes)
    found = [ended[name] for name in last.runs if name in ended]
    said = f"{len(found)} of {len(last.runs)} audits ended ({why}){gone}"
    if any(item.verdict == Verdict.FAIL for item in found):
        return Condition(kind, Status.FALSE, Reason.CLAIM_EXCEEDED, said)
    if len(found) < len(last.runs):
        return Condition(kind, Status.UNKNOWN, Reason.RUN_CREATED, said)
    worse = [item.attack for item in found if item.comparison == Comparison.WORSE]
    if worse:
        told = f"{', '.join(worse)} does better than before; {said}"
        return Condition(kind, Status.FALSE, Reason.WORSE, told)
    if any(item.verdict != Verdict.PASS for item in found):
        return Condition(kind, Status.FALSE, Reason.AUDIT_INCONCLUSIVE, said)
    return Condition(kind, Status.TRUE, Reason.AUDITS_PASSED, said)


def _state(
    platform: Platform, spec: ReleaseSpec, namespace: str, triggers: frozenset[Cause]
) -> dict[Cause, str]:
    """What each trigger watches, as it is now."""
    found: dict[Cause, str] = {}
    if Cause.MODEL_CHANGE in triggers:
        found[Cause.MODEL_CHANGE] = spec.artifact.digest
    if Cause.ATTACK_LIBRARY_CHANGE in triggers:
        found[Cause.ATTACK_LIBRARY_CHANGE] = platform.attack_library()
    if not triggers & {Cause.LEDGER_CHANGE, Cause.CONSENT_WITHDRAWAL}:
        return found
    held = platform.ledger.reservations(study_uid=spec.study.uid)
    accounts = sorted({item.account_id for item in held})
    if Cause.LEDGER_CHANGE in triggers:
        found[Cause.LEDGER_CHANGE] = _ledger_state(platform, spec, namespace, accounts)
    if Cause.CONSENT_WITHDRAWAL in triggers:
        count = sum(withdrawals(platform.evidence, account) for account in accounts)
        found[Cause.CONSENT_WITHDRAWAL] = str(count)
    return found


def _ledger_state(
    platform: Platform, spec: ReleaseSpec, namespace: str, accounts: Sequence[str]
) -> str:
    """Digest of what was charged and promised on some accounts, and of the Study's policy."""
    said: dict[str, JSON] = {}
    for name in accounts:
        account = platform.ledger.account(name)
        if account is not None:
            terms = account.terms
            said[name] = [
                terms.policy,
                decimal_text(terms.epsilon),
                decimal_text(terms.delta),
                decimal_text(account.epsilon_spent),
                [f"{block.name} {decimal_text(block.epsilon_spent)}" for block in account.blocks],
            ]
    study = platform.resources.get(ResourceKey("Study", namespace, spec.study.name))
    try:
        name = conversion.study_spec(study).policy if study else ""
        policy = digest_of(verdicts.policy_spec(platform, namespace, name)) if name else ""
    except NotFound:
        policy = ""
    return digest_of({"accounts": said, "policy": policy})


def _audits_of(platform: Platform, stored: StoredResource, spec: ReleaseSpec) -> list[JSON]:
    """The audits that the Study itself asked for; none where that very Study is gone."""
    key = ResourceKey("Study", stored.key.namespace, spec.study.name)
    found = platform.resources.get(key)
    if found is None or (found.uid, found.generation) != (spec.study.uid, spec.study.generation):
        return []
    listed = found.spec.get("audits", ())
    return list(listed) if isinstance(listed, list | tuple) else []


def _schedule(spec: ReleaseSpec) -> Schedule | None:
    if spec.audit_schedule is None:
        return None
    return parse_schedule("spec.auditSchedule", spec.audit_schedule)


def _kind(release: ResourceKey) -> str:
    return f"{_SETS} {release.namespace}/{release.name}"


def _text(moment: datetime.datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def _set(value: Mapping[str, JSON]) -> AuditSet:
    state, causes, runs = value["state"], value["causes"], value["runs"]
    if not isinstance(state, Mapping):
        raise TypeError("a state is a mapping")
    return AuditSet(
        number=int(str(value["number"])),
        release=str(value["release"]),
        causes=tuple(Cause(str(item)) for item in _items(causes)),
        due=str(value["due"]),
        until=str(value["until"]),
        missed=int(str(value["missed"])),
        last_missed=str(value["lastMissed"]),
        state={Cause(name): str(text) for name, text in state.items()},
        runs=tuple(str(item) for item in _items(runs)),
        at=str(value["at"]),
    )


def _items(value: JSON) -> Sequence[JSON]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError("a list was stored")
    return value
