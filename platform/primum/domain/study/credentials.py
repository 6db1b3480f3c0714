"""Run credentials: what a step may ask of the ledger API, and how that is written.

A credential is minted at launch for one step of one run and travels beside its tickets. It opens no
data: a ticket does. It says whose outcome may be recorded and which outcomes may be read. Signing
is somebody else's work. Reading is strict, as of a ticket.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import Tampered
from primum.domain.study.plan import Treatment
from primum.domain.study.steps import StepContext
from primum.domain.study.tokens import from_canonical

_TEXTS = ("namespace", "study", "studyUid", "audits", "runId", "step", "outcomeId", "expires")
_LISTS = ("accounts", "readable")
_FIELDS = {*_TEXTS, *_LISTS, "generation", "accesses"}


@dataclass(frozen=True, slots=True)
class RunCredential:
    """What one step of one run may ask for.

    Args:
        namespace: The namespace of the Study.
        study: The Study's name.
        study_uid: Uid of the Study, or of the AuditRun.
        generation: Its generation.
        run_id: The run.
        step: The step.
        outcome_id: The one outcome that it may record.
        audits: ``<uid>/<generation>`` of the Study that an AuditRun attacks; empty for a Study.
        accesses: The step's accesses and the treatment of each.
        accounts: Accounts that its tickets name.
        readable: Outcomes that it may read besides its own.
        expires: RFC 3339 time in UTC after which it is refused.
    """

    namespace: str
    study: str
    study_uid: str
    generation: int
    run_id: str
    step: str
    outcome_id: str
    audits: str = ""
    accesses: Mapping[str, str] = field(default_factory=dict)
    accounts: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    expires: str = ""

    @property
    def charged(self) -> frozenset[str]:
        """Accesses that run a mechanism: each gives one token ever."""
        return frozenset(
            name for name, treatment in self.accesses.items() if treatment == Treatment.CHARGED
        )

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "namespace": self.namespace,
            "study": self.study,
            "studyUid": self.study_uid,
            "generation": self.generation,
            "runId": self.run_id,
            "step": self.step,
            "outcomeId": self.outcome_id,
            "audits": self.audits,
            "accesses": dict(self.accesses),
            "accounts": list(self.accounts),
            "readable": list(self.readable),
            "expires": self.expires,
        }

    @property
    def payload(self) -> bytes:
        """The bytes to sign."""
        return canonical_json(self.to_json())


def credential_of(
    context: StepContext, *, accounts: Iterable[str] = (), expires: str = ""
) -> RunCredential:
    """The scope of a step, from what it is told.

    Args:
        context: The step's context.
        accounts: Accounts that its tickets name.
        expires: When a credential of this scope ends.
    """
    listed = context.plan.get("accesses")
    accesses = {
        str(item["name"]): str(item["treatment"])
        for item in (listed if isinstance(listed, list | tuple) else ())
        if isinstance(item, Mapping) and item["step"] == context.step
    }
    study = context.study
    return RunCredential(
        namespace=str(study["namespace"]),
        study=str(study["name"]),
        study_uid=str(study["uid"]),
        generation=int(str(study["generation"])),
        run_id=context.run_id,
        step=context.step,
        outcome_id=context.outcome_id,
        audits=str(study.get("audits", "")),
        accesses=accesses,
        accounts=tuple(sorted(set(accounts))),
        readable=tuple(sorted(context.upstream.values())),
        expires=expires,
    )


def credential_from_payload(payload: bytes) -> RunCredential:
    """Read a credential from bytes whose signature has been verified.

    Raises:
        Tampered: If they are not the canonical form of a credential; names the field.
    """
    return from_canonical(payload, _read, name="credential")


def _read(value: object) -> RunCredential:
    if not isinstance(value, Mapping) or set(value) != _FIELDS:
        raise Tampered("credential must have its fields and no other; found something else.")
    for name in _TEXTS:
        if not isinstance(value[name], str):
            raise Tampered(f"credential.{name} must be text; found something else.")
    for name in _LISTS:
        if not isinstance(value[name], list) or not all(isinstance(i, str) for i in value[name]):
            raise Tampered(f"credential.{name} must be a list of texts; found something else.")
    if type(value["generation"]) is not int or value["generation"] < 0:
        raise Tampered("credential.generation must be a whole number; found something else.")
    accesses = value["accesses"]
    if not isinstance(accesses, Mapping) or not all(isinstance(i, str) for i in accesses.values()):
        raise Tampered("credential.accesses must map names to treatments; found something else.")
    return RunCredential(
        namespace=value["namespace"],
        study=value["study"],
        study_uid=value["studyUid"],
        generation=value["generation"],
        run_id=value["runId"],
        step=value["step"],
        outcome_id=value["outcomeId"],
        audits=value["audits"],
        accesses=dict(accesses),
        accounts=tuple(value["accounts"]),
        readable=tuple(value["readable"]),
        expires=value["expires"],
    )
