"""Keep Releases and GatePolicies Ready.

Serve what stands, withdraw what was revoked, have it audited again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from primum.application import reaudits, releasing
from primum.application.platform import Platform, generation_key
from primum.application.released import CERTIFICATE
from primum.domain.canonical import JSON
from primum.domain.conditions import Condition, ConditionType, Reason, Status
from primum.domain.errors import PrimumError, Unavailable
from primum.domain.names import ResourceKey
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
    """Serve it, or take it back; begin the audits that are due."""
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
    audited = reaudits.keep_audited(platform, stored)
    extra |= dict(audited.status)
    unready = platform.publisher.unready(stored.key)
    ready = Condition(ConditionType.READY, Status.TRUE, Reason.SERVING, url)
    if unready:
        ready = Condition(ConditionType.READY, Status.FALSE, Reason.NOT_ANSWERING, unready)
    _show(platform, stored, ready, extra, also=audited.condition)


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
        _show(platform, stored, replace(ready, message=f"Not down yet: {error}. {reason}"), {})
        raise
    if stored.deleting:
        platform.forget_shadows(conversion.release_spec(stored).study.uid)
        platform.resources.remove(stored.key, stored.uid)
        return
    _show(platform, stored, ready, {})
    platform.forget_shadows(conversion.release_spec(stored).study.uid)


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


def _show(
    platform: Platform,
    stored: StoredResource,
    ready: Condition,
    extra: Mapping[str, JSON],
    *,
    also: Condition | None = None,
) -> None:
    found = [replace(item, observed_generation=stored.generation) for item in (also, ready) if item]
    status = with_conditions(stored, found, now=platform.clock.now()) | dict(extra)
    if status != dict(stored.status):
        platform.resources.set_status(stored.key, stored.uid, status)
