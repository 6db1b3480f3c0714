"""Audits: what a Study asks for in its ``audits``, and AuditRun, one audit of one artifact."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from primum.domain.governance.reaudits import Cause, Concurrency
from primum.resources.conditions import BoundedStatus
from primum.resources.fields import (
    Digest,
    Name,
    Parameters,
    Part,
    ShortText,
    Word,
    broken,
    cel,
    refuse_repeats,
    with_rules,
)
from primum.resources.metadata import Resource

_MANY = 1_000_000
_YEAR_SECONDS = 31_536_000
DEADLINE_SECONDS = 21_600  # Six hours: a night is over then, and 1,024 shadows were trained.
HISTORY_DEFAULT = 20


class AuditKind(enum.StrEnum):
    """What an attack tries to learn."""

    MEMBERSHIP = "Membership"
    RECONSTRUCTION = "Reconstruction"


class Audit(Part):
    """One attack and how hard it tries."""

    kind: AuditKind = Field(description="kind is Membership or Reconstruction. Required.")
    attack: Word = Field(
        description="attack names a registered attack such as OneRunCanary. Required.",
    )
    canaries: Annotated[int, Field(strict=True, ge=1, le=_MANY)] | None = Field(
        default=None,
        description=(
            "canaries is how many canaries are planted; they bound what can be certified. Optional."
        ),
    )
    shadows: Annotated[int, Field(strict=True, ge=2, le=4096)] | None = Field(
        default=None,
        description=(
            "shadows is how many shadow models are trained. Optional, the attack's default."
        ),
    )
    candidates: Annotated[int, Field(strict=True, ge=1, le=_MANY)] | None = Field(
        default=None,
        description="candidates is how many records are attacked. Optional, the attack's default.",
    )
    iterations: Annotated[int, Field(strict=True, ge=1, le=_MANY)] | None = Field(
        default=None,
        description="iterations is how long the attack optimizes. Optional, the attack's default.",
    )
    pool: Annotated[int, Field(strict=True, ge=2, le=_MANY)] | None = Field(
        default=None,
        description="pool is how many records shadows are drawn from. Optional, the attack's own.",
    )
    targets: Annotated[int, Field(strict=True, ge=1, le=_MANY)] | None = Field(
        default=None,
        description="targets is how many records are reconstructed. Optional, the attack's own.",
    )
    trials: Annotated[int, Field(strict=True, ge=1, le=_MANY)] | None = Field(
        default=None,
        description="trials is how often the attack is repeated. Optional, the attack's own.",
    )
    restarts: Annotated[int, Field(strict=True, ge=1, le=1024)] | None = Field(
        default=None,
        description="restarts is how often an optimization restarts. Optional, the attack's own.",
    )
    parameters: Parameters | None = Field(
        default=None,
        description="parameters are the attack's other settings, as quoted text. Optional, none.",
    )

    def settings(self) -> dict[str, Any]:
        """What the attack reads: the named settings and the other parameters together.

        Returns:
            Whole numbers under their camelCase names, other parameters as text.
        """
        given: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        named = {
            name: value
            for name, value in given.items()
            if name not in ("kind", "attack", "parameters")
        }
        return {**(self.parameters or {}), **named}

    @model_validator(mode="after")
    def _named_once(self) -> Audit:
        own = {field.alias for field in type(self).model_fields.values()}
        for name in self.parameters or {}:
            if name in own:
                raise broken(
                    f"must give {name} as a field, not under parameters", "both", "Move it up."
                )
        return self


class AuditTrigger(enum.StrEnum):
    """What begins audits of a release besides its schedule."""

    MODEL_CHANGE = Cause.MODEL_CHANGE.value
    ATTACK_LIBRARY_CHANGE = Cause.ATTACK_LIBRARY_CHANGE.value
    LEDGER_CHANGE = Cause.LEDGER_CHANGE.value
    CONSENT_WITHDRAWAL = Cause.CONSENT_WITHDRAWAL.value


_TRIGGERS_DEFAULT = (
    AuditTrigger.MODEL_CHANGE,
    AuditTrigger.ATTACK_LIBRARY_CHANGE,
    AuditTrigger.CONSENT_WITHDRAWAL,
)
ActiveDeadline: TypeAlias = Annotated[int, Field(strict=True, ge=60, le=_YEAR_SECONDS)]


class AuditPolicy(Part):
    """How a release is audited again, beside its schedule."""

    triggers: Annotated[list[AuditTrigger], Field(max_length=4)] = Field(
        default_factory=lambda: list(_TRIGGERS_DEFAULT),
        description=(
            "triggers begin audits beside the schedule: ModelChange, AttackLibraryChange, "
            "LedgerChange, ConsentWithdrawal. Optional, all but LedgerChange."
        ),
        json_schema_extra={
            "default": [item.value for item in _TRIGGERS_DEFAULT],
            "x-kubernetes-list-type": "set",
        },
    )
    concurrency_policy: Concurrency = Field(
        default=Concurrency.FORBID,
        description=(
            "concurrencyPolicy is what becomes of audits that are due while earlier ones are under "
            "way: Forbid (they wait), Replace (the earlier ones are stopped), Allow. Optional, "
            "Forbid."
        ),
    )
    starting_deadline_seconds: Annotated[int, Field(strict=True, ge=1, le=_YEAR_SECONDS)] | None = (
        Field(
            default=None,
            description=(
                "startingDeadlineSeconds is how long after a due time its audits may still begin; "
                "later they are missed, and counted. Optional, however late."
            ),
        )
    )
    active_deadline_seconds: ActiveDeadline = Field(
        default=DEADLINE_SECONDS,
        description=(
            "activeDeadlineSeconds is how long an audit may take from its creation; one that takes "
            "longer is stopped and Inconclusive. Optional, 21600."
        ),
    )
    history_limit: Annotated[int, Field(strict=True, ge=1, le=1000)] = Field(
        default=HISTORY_DEFAULT,
        description=(
            "historyLimit is how many ended AuditRuns of the release are kept as resources; their "
            "results and evidence are kept for ever. Optional, 20."
        ),
    )

    @model_validator(mode="after")
    def _triggers_once(self) -> AuditPolicy:
        refuse_repeats(self.triggers, "must list each trigger once")
        return self


class AuditRunSpec(Part):
    """Which artifact is audited, and how."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel("self == oldSelf", "an AuditRun is immutable; create another one"),
            cel(
                "has(self.release) != has(self.study)",
                "exactly one of release and study must be given",
            ),
        )
    )

    release: Name | None = Field(
        default=None,
        description=(
            "release names the Release to audit. Optional; exactly one of release and study."
        ),
    )
    study: Name | None = Field(
        default=None,
        description=(
            "study names the Study whose artifact is audited. Optional; exactly one of release "
            "and study."
        ),
    )
    audit: Audit = Field(description="audit is the attack to run. Required.")
    causes: Annotated[list[Cause], Field(max_length=5)] = Field(
        default_factory=list,
        description=(
            "causes say why the platform made it: Schedule, ModelChange, AttackLibraryChange, "
            "LedgerChange, ConsentWithdrawal. Optional, none: somebody asked for it."
        ),
        json_schema_extra={"default": [], "x-kubernetes-list-type": "set"},
    )
    active_deadline_seconds: ActiveDeadline = Field(
        default=DEADLINE_SECONDS,
        description=(
            "activeDeadlineSeconds is how long it may take from its creation; later it is stopped "
            "and Inconclusive. Optional, 21600."
        ),
    )

    @model_validator(mode="after")
    def _one_subject(self) -> AuditRunSpec:
        if (self.release is None) == (self.study is None):
            found = "neither" if self.release is None else "both"
            raise broken("must name exactly one of release and study", found)
        return self


class AuditRunStatus(BoundedStatus):
    """How the audit went. Verdicts only; its figures are Restricted evidence."""

    verdict: ShortText | None = Field(
        default=None,
        description="verdict is Pass, Fail, or Inconclusive. Optional, absent until judged.",
    )
    evidence: Digest | None = Field(
        default=None, description="evidence is the digest of the evidence record. Optional."
    )
    comparison: ShortText | None = Field(
        default=None,
        description=(
            "comparison is how it compares with the run before: FirstRun, Unchanged, Better, Worse "
            "or NotComparable. Optional, absent until judged."
        ),
    )


class AuditRun(Resource):
    """AuditRun is one membership or reconstruction audit of one artifact."""

    kind: Literal["AuditRun"] = Field(default="AuditRun", description="kind is AuditRun. Required.")
    spec: AuditRunSpec = Field(description="spec is what is audited, and how. Required.")
