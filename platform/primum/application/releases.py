"""Keep Releases and GatePolicies Ready.

Serve what stands, withdraw what was revoked, audit again when it is due.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace

from primum.application import releasing
from primum.application.platform import Platform, generation_key
from primum.application.released import CERTIFICATE
from primum.domain.canonical import JSON
from primum.domain.conditions import Condition, ConditionType, Reason, Status
from primum.domain.errors import PrimumError, Unavailable
from primum.domain.names import ResourceKey
from primum.domain.schedule import parse_schedule
from primum.resources import conversion
from primum.resources.status import with_conditions
from primum.resources.stored import StoredResource


def reconcile_policy(platform: Platform, stored: StoredResource) -> None:
    """Check a GatePolicy's rules and say so."""
    if stored.deleting:
        platform.resources.remove(stored.key, stored.uid)
        return
    wrong = platform.policies.check(stored.spec)
    ready = (
        Condition(ConditionType.READY, Status.FALSE, Reason.INVALID_SPEC, "; ".join(wrong))
        if wrong
        else Condition(ConditionType.READY, Status.TRUE, Reason.DONE, "every rule compiles")
    )
    _show(platform, stored, ready, {})


def reconcile_release(platform: Platform, stored: StoredResource) -> None:
    """Serve it, or take it back; create the AuditRun that is due."""
    revocation = stored.spec.get("revocation")
    if stored.deleting or isinstance(revocation, Mapping):
        _take_back(platform, stored, revocation)
        return
    contradicted = releasing.contradiction(platform, _generation_key(stored))
    if contradicted:
        revoke(platform, stored.key, contradicted)
        return
    envelope = certificate_of(platform, stored)
    try:
        url = platform.publisher.publish(stored.key, spec=stored.spec, certificate=envelope)
    except Unavailable:
        raise  # What was shown may still be true.
    except PrimumError as error:
        ready = Condition(ConditionType.READY, Status.FALSE, Reason.NOT_RELEASED, str(error))
        _show(platform, stored, ready, {})
        return
    releasing.withdraw_unless_standing(platform, stored.key)
    certificate = stored.spec["certificate"]
    digest = str(certificate["digest"]) if isinstance(certificate, Mapping) else ""
    extra: dict[str, JSON] = {"url": url, "certificateDigest": digest}
    last = _audit_when_due(platform, stored)
    if last:
        extra["lastAudit"] = last
    unready = platform.publisher.unready(stored.key)
    ready = Condition(ConditionType.READY, Status.TRUE, Reason.SERVING, url)
    if unready:
        ready = Condition(ConditionType.READY, Status.FALSE, Reason.NOT_ANSWERING, unready)
    _show(platform, stored, ready, extra)


def _take_back(platform: Platform, stored: StoredResource, revocation: JSON) -> None:
    """Withdraw a release that is revoked or deleted; it is let go when that is seen to be done.

    Raises:
        Unavailable: If it is not yet; that it was revoked shows all the same.
    """
    reason = str(revocation["reason"]) if isinstance(revocation, Mapping) else "it is being deleted"
    ready = Condition(ConditionType.READY, Status.FALSE, Reason.REVOKED, reason)
    try:
        platform.publisher.withdraw(stored.key)
    except Unavailable as error:
        _show(platform, stored, replace(ready, message=f"{reason}. Not down yet: {error}"), {})
        raise
    if stored.deleting:
        platform.resources.remove(stored.key, stored.uid)
        return
    _show(platform, stored, ready, {})


def revoke(platform: Platform, key: ResourceKey, reason: str) -> None:
    """Take a release back for good: its spec says so, and serving stops at once."""
    stored = platform.resources.get(key)
    if stored is None or "revocation" in stored.spec:
        return
    spec = dict(stored.spec) | {"revocation": {"reason": reason}}
    platform.resources.apply(key, spec, labels=stored.labels, owner=stored.owner)
    platform.publisher.withdraw(key)


def certificate_of(platform: Platform, stored: StoredResource) -> Mapping[str, JSON]:
    """The certificate of a Release as it was signed; empty where there is none."""
    fact = platform.evidence.fact(CERTIFICATE, _generation_key(stored))
    envelope = fact["envelope"] if fact else {}
    return envelope if isinstance(envelope, Mapping) else {}


def _generation_key(stored: StoredResource) -> str:
    """Which Study generation made what is released."""
    study = conversion.release_spec(stored).study
    return generation_key(study.uid, study.generation)


def _audit_when_due(platform: Platform, stored: StoredResource) -> str:
    """The name of the AuditRun of the last due time; created when it does not exist yet."""
    text = stored.spec.get("auditSchedule")
    if not isinstance(text, str):
        return ""
    now = datetime.datetime.fromisoformat(platform.clock.now())
    due = parse_schedule("spec.auditSchedule", text).last_due(now)
    created = datetime.datetime.fromisoformat(stored.created)
    if due is None or due < created:
        return ""
    name = ""
    for index, audit in enumerate(_audits_of(platform, stored)):
        name = f"{stored.key.name[:40]}-{due:%Y%m%d%H%M}-{index}"
        key = ResourceKey("AuditRun", stored.key.namespace, name)
        if platform.resources.get(key) is None:
            spec: dict[str, JSON] = {"release": stored.key.name, "audit": audit}
            platform.resources.apply(
                key, spec, labels={"primum.dev/release": stored.key.name}, owner=stored.uid
            )
    return name


def _audits_of(platform: Platform, stored: StoredResource) -> list[JSON]:
    """The audits that the Study itself asked for."""
    study = stored.spec["study"]
    if not isinstance(study, Mapping):
        return []
    found = platform.resources.get(ResourceKey("Study", stored.key.namespace, str(study["name"])))
    listed = found.spec.get("audits", ()) if found else ()
    return list(listed) if isinstance(listed, list | tuple) else []


def _show(
    platform: Platform, stored: StoredResource, ready: Condition, extra: Mapping[str, JSON]
) -> None:
    ready = replace(ready, observed_generation=stored.generation)
    status = with_conditions(stored, (ready,), now=platform.clock.now()) | dict(extra)
    if status != dict(stored.status):
        platform.resources.set_status(stored.key, stored.uid, status)
