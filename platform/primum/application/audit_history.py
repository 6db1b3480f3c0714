"""What audits of a release came to, kept for ever: one fact per AuditRun, whatever became of it.

Resources come and go by their history limit; these facts and the evidence they name stay. They
hold verdict words and digests, never a figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from primum.application.platform import Platform, generation_key
from primum.application.ports import EvidenceStore
from primum.domain.canonical import JSON, digest_of
from primum.domain.errors import Conflict
from primum.domain.governance.evidence import Evidence
from primum.domain.governance.regression import Comparison, compared
from primum.domain.study.spec import StudySpec
from primum.resources import conversion
from primum.resources.stored import StoredResource

_RESULT = "AuditResult"


@dataclass(frozen=True, slots=True)
class AuditResult:
    """How one AuditRun ended.

    Args:
        uid: The AuditRun.
        generation: Its generation.
        run: Its name.
        attack: The attack's name.
        settings: Digest of kind, attack and settings; only the same are compared.
        causes: Why it ran; empty for one that somebody declared.
        verdict: Pass, Fail or Inconclusive.
        reason: Of its condition ``Succeeded``.
        comparison: With the run of the same settings before it.
        before: Key of that run, ``uid/generation``; empty for none.
        model: Digest of what was attacked; empty where that is unknown.
        seconds: Of its body, a decimal string.
        at: RFC 3339 time of its end.
    """

    uid: str
    generation: int
    run: str
    attack: str
    settings: str
    causes: tuple[str, ...]
    verdict: str
    reason: str
    comparison: str
    before: str
    model: str
    seconds: str
    at: str

    def to_json(self) -> dict[str, JSON]:
        """As it is stored."""
        return {
            name: list(self.causes) if name == "causes" else getattr(self, name)
            for name in self.__slots__
        }


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known of an AuditRun when it ends.

    Args:
        verdict: Pass, Fail or Inconclusive.
        reason: Of its condition ``Succeeded``.
        evidence: Its records.
        seconds: Of its body, a decimal string.
    """

    verdict: str
    reason: str
    evidence: tuple[Evidence, ...] = ()
    seconds: str = "0"


def subject_of(stored: StoredResource, spec: StudySpec | None) -> str:
    """Whose history an AuditRun belongs to: the release that it attacks, else the Study."""
    release = stored.spec.get("release")
    if not release and spec is not None:
        release = spec.endpoint or spec.dataset_release
    name = f"Release {release}" if release else f"Study {stored.spec.get('study')}"
    return f"{stored.key.namespace}/{name}"


def release_subject(namespace: str, release: str) -> str:
    """The history of a release, by name: another Release of that name continues it."""
    return f"{namespace}/Release {release}"


def study_subject(spec: StudySpec) -> str:
    """The history of what a Study made."""
    release = spec.endpoint or spec.dataset_release
    name = f"Release {release}" if release else f"Study {spec.key.name}"
    return f"{spec.key.namespace}/{name}"


def results(evidence: EvidenceStore, subject: str) -> tuple[AuditResult, ...]:
    """How AuditRuns of a subject ended, oldest first."""
    return tuple(_result(value) for _, value in evidence.facts(f"{_RESULT} {subject}"))


def result_of(evidence: EvidenceStore, subject: str, stored: StoredResource) -> AuditResult | None:
    """How one AuditRun ended, or ``None``."""
    value = evidence.fact(f"{_RESULT} {subject}", generation_key(stored.uid, stored.generation))
    return None if value is None else _result(value)


def record(
    platform: Platform, stored: StoredResource, spec: StudySpec | None, ending: Ending
) -> AuditResult:
    """Write down how an AuditRun ended, once.

    Returns:
        What stands: an earlier record where there is one.
    """
    subject = subject_of(stored, spec)
    standing = result_of(platform.evidence, subject, stored)
    if standing is not None:
        return standing
    found = _ended(platform, stored, spec, ending)
    key = generation_key(stored.uid, stored.generation)
    try:
        platform.evidence.put_fact(f"{_RESULT} {subject}", key, found.to_json())
    except Conflict:  # Somebody else wrote it in between, at another moment.
        return result_of(platform.evidence, subject, stored) or found
    return found


def _ended(
    platform: Platform, stored: StoredResource, spec: StudySpec | None, ending: Ending
) -> AuditResult:
    run = conversion.audit_run_spec(stored)
    audit = run.audit
    settings = settings_digest(audit.kind.value, audit.attack, audit.settings())
    own = attack_evidence(ending.evidence, audit.attack)
    before = _before(results(platform.evidence, subject_of(stored, spec)), settings)
    earlier = _evidence_of(platform.evidence, before, spec, audit.attack)
    word = compared(own, earlier) if own is not None else Comparison.NOT_COMPARABLE
    return AuditResult(
        uid=stored.uid,
        generation=stored.generation,
        run=stored.key.name,
        attack=audit.attack,
        settings=settings,
        causes=tuple(cause.value for cause in run.causes),
        verdict=ending.verdict,
        reason=ending.reason,
        comparison=word.value,
        before="" if before is None else generation_key(before.uid, before.generation),
        model="" if own is None else own.subject,
        seconds=ending.seconds,
        at=platform.clock.now(),
    )


def settings_digest(kind: str, attack: str, settings: JSON) -> str:
    """Digest of what was asked for: only figures of the same are compared."""
    return digest_of({"kind": kind, "attack": attack, "settings": settings})


def attack_evidence(evidence: Sequence[Evidence], attack: str) -> Evidence | None:
    """The record of one attack among others."""
    return next((item for item in reversed(evidence) if item.name == attack), None)


def _before(known: Sequence[AuditResult], settings: str) -> AuditResult | None:
    """The last run of the same settings that found something to compare with."""
    for item in reversed(known):
        if item.settings == settings and item.model:
            return item
    return None


def _evidence_of(
    evidence: EvidenceStore, before: AuditResult | None, spec: StudySpec | None, attack: str
) -> Evidence | None:
    """The attack's record of the run before; the Study's own, where none was run since."""
    if before is not None:
        return attack_evidence(tuple(evidence.evidence(before.uid, before.generation)), attack)
    if spec is None:
        return None
    return attack_evidence(tuple(evidence.evidence(spec.uid, spec.generation)), attack)


def _result(value: Mapping[str, JSON]) -> AuditResult:
    causes = value["causes"]
    if not isinstance(causes, list | tuple):
        raise TypeError("causes are a list")
    return AuditResult(
        uid=str(value["uid"]),
        generation=int(str(value["generation"])),
        run=str(value["run"]),
        attack=str(value["attack"]),
        settings=str(value["settings"]),
        causes=tuple(str(item) for item in causes),
        verdict=str(value["verdict"]),
        reason=str(value["reason"]),
        comparison=str(value["comparison"]),
        before=str(value["before"]),
        model=str(value["model"]),
        seconds=str(value["seconds"]),
        at=str(value["at"]),
    )
