"""What audits would cost before they start: from runs on record, else from a short trial.

Recorded seconds of the same attack and settings say most; the trial reads nothing private. Where
neither can say, nobody knows, and nothing is refused for it: a deadline still ends what takes long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal

from primum.application import audit_history, planning
from primum.application.platform import Platform
from primum.domain import names
from primum.domain.canonical import JSON
from primum.domain.study.plan import Plan
from primum.domain.study.spec import AuditSpec, StudySpec

_RECORDED_RUNS = 5
Trial = Callable[[Mapping[str, JSON]], Sequence[Mapping[str, JSON]]]
"""A short run of each audit on random numbers, as ``estimate_audits`` of the step runtime."""


@dataclass(frozen=True, slots=True)
class AuditCost:
    """What one audit would cost.

    Args:
        attack: The attack.
        seconds: Of its body; ``None`` where nobody knows.
        method: Where the figure comes from, or why there is none.
        shadows: Shadow models that it trains; 0 for none, or where that is unknown.
        gpu_seconds: Of them on a GPU; ``None`` where nobody knows.
        memory_bytes: What it holds at once; ``None`` where nobody knows.
        error_factor: The figure may be off by that much either way; 0 where that is not known.
        elapsed: How long it takes on the CPUs that the Study asks for; ``None`` where the figure
            is that already, or where nobody knows.
        cpus: Of those CPUs, how many can share the work.
    """

    attack: str
    seconds: Decimal | None
    method: str
    shadows: int = 0
    gpu_seconds: Decimal | None = None
    memory_bytes: int | None = None
    error_factor: int = 0
    elapsed: Decimal | None = None
    cpus: int = 1

    @property
    def lasts(self) -> Decimal | None:
        """Seconds from its start to its end; ``None`` where nobody knows."""
        return self.seconds if self.elapsed is None else self.elapsed

    def to_json(self) -> dict[str, JSON]:
        """For scripts; what nobody knows is absent."""
        found: dict[str, JSON] = {"attack": self.attack, "method": self.method}
        if self.seconds is not None:
            found["seconds"] = str(self.seconds)
        if self.elapsed is not None:
            found["elapsedSeconds"] = str(self.elapsed)
        if self.gpu_seconds is not None:
            found["gpuSeconds"] = str(self.gpu_seconds)
        if self.memory_bytes is not None:
            found["memoryBytes"] = self.memory_bytes
        return found


def audit_costs(
    platform: Platform, spec: StudySpec, plan: Plan, audits: Sequence[AuditSpec], *, trial: Trial
) -> tuple[AuditCost, ...]:
    """What audits of a Study would cost.

    Args:
        platform: The ports.
        spec: The Study.
        plan: Its plan.
        audits: What is to be run.
        trial: Tries out what has no run on record.

    Returns:
        One cost per audit, in order.

    Raises:
        Blocked: If a budget is missing or not ready.
    """
    context = planning.planning_context(platform, spec)
    asked: list[JSON] = [
        {"kind": item.kind, "attack": item.attack, "parameters": dict(item.parameters)}
        for item in audits
    ]
    datasets: dict[str, JSON] = {
        name: {
            "uri": facts.dataset.uri,
            "options": dict(facts.dataset.options),
            "units": facts.units,
        }
        for name, facts in context.datasets.items()
    }
    tried = trial(
        {
            "plan": plan.to_json(),
            "datasets": datasets,
            "audits": asked,
            "gpusPerWorker": spec.gpus_per_worker,
            "workers": spec.workers,
            "cpusPerWorker": spec.cpus_per_worker,
        }
    )
    subject = audit_history.study_subject(spec)
    known = audit_history.results(platform.evidence, subject)
    whole = _whole_step(platform, spec)
    return tuple(
        recorded(_cost(answer, whole if item in spec.audits else None), item, known)
        for answer, item in zip(tried, audits, strict=True)
    )


def too_long(costs: Sequence[AuditCost], *, seconds: int) -> tuple[str, ...]:
    """Which audits would not end before their deadline, each with a remedy."""
    return tuple(
        f"{item.attack} is estimated at {item.lasts} s, and its deadline is {seconds} s. "
        f"{_remedy(item, seconds)}"
        for item in costs
        if item.lasts is not None and item.lasts > seconds
    )


def _remedy(item: AuditCost, seconds: int) -> str:
    longer = "Give it a longer activeDeadlineSeconds"
    if item.lasts is None or not item.shadows:
        return f"{longer}."
    fewer = int(item.shadows * seconds / item.lasts) // 2 * 2
    return f"{longer}, or at most {fewer} shadows." if fewer >= 4 else f"{longer}."  # noqa: PLR2004


def _whole_step(platform: Platform, spec: StudySpec) -> Decimal | None:
    """What the Study's own audits took, all together; ``None`` where they have not run."""
    outcome = platform.evidence.outcome(names.outcome_id(spec.uid, spec.generation, "audit"))
    return None if outcome is None else _rounded(outcome.body_seconds) or None


def _rounded(seconds: str) -> Decimal:
    return Decimal(seconds).quantize(Decimal("0.1"), rounding=ROUND_UP)


def _cost(answer: Mapping[str, JSON], whole: Decimal | None) -> AuditCost:
    seconds = answer.get("cpuSeconds")
    if seconds is None and whole is not None:
        method = "at most what the Study's own audits took, all together"
        return AuditCost(str(answer["attack"]), whole, method)
    if seconds is None:
        return AuditCost(str(answer["attack"]), None, str(answer["method"]))
    return AuditCost(
        attack=str(answer["attack"]),
        seconds=Decimal(str(seconds)),
        method=str(answer["method"]),
        shadows=int(str(answer["shadows"])),
        gpu_seconds=Decimal(str(answer["gpuSeconds"])),
        memory_bytes=int(str(answer["memoryBytes"])),
        error_factor=int(str(answer["errorFactor"])),
        elapsed=Decimal(str(answer["elapsedSeconds"])),
        cpus=int(str(answer["cpus"])),
    )


def recorded(
    cost: AuditCost, asked: AuditSpec, known: Sequence[audit_history.AuditResult]
) -> AuditCost:
    """A cost with the seconds of runs on record, where some had the same settings.

    Args:
        cost: What is known without them.
        asked: The audit.
        known: How runs of its subject ended.
    """
    settings = audit_history.settings_digest(asked.kind, asked.attack, dict(asked.parameters))
    found = [_rounded(item.seconds) for item in known if item.settings == settings]
    taken = [seconds for seconds in found if seconds > 0][-_RECORDED_RUNS:]
    if not taken:
        return cost
    longest = "the last run"
    if len(taken) > 1:
        longest = f"the longest of the last {len(taken)} runs"
    return AuditCost(
        attack=cost.attack,
        seconds=max(taken),
        method=f"{longest} of these settings on record",
        shadows=cost.shadows,
        gpu_seconds=cost.gpu_seconds,
        memory_bytes=cost.memory_bytes,
    )
