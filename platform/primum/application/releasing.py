"""Certify and publish what a Study made. A certificate is refused rather than weakened.

Nothing is served without one.
"""

from __future__ import annotations

from collections.abc import Mapping

from primum import signing
from primum.application import planning, verdicts
from primum.application.observing import PUBLISHED, Scene
from primum.application.platform import Platform, generation_key
from primum.application.released import CERTIFICATE
from primum.application.settlement import CONTRADICTION
from primum.domain.canonical import JSON, canonical_json, digest_of
from primum.domain.errors import InvalidValue, NotFound, PrimumError, Refused, Tampered
from primum.domain.governance.certificate import (
    BudgetExtract,
    CertificateFacts,
    certificate_statement,
    refusals,
)
from primum.domain.governance.claims import ClaimStatus
from primum.domain.governance.gates import StageVerdict, verdict_from_json
from primum.domain.names import ResourceKey
from primum.domain.study.plan import Plan
from primum.domain.study.spec import StudySpec
from primum.domain.study.steps import ArtifactRef
from primum.resources import conversion
from primum.resources.stored import unstored


def released_artifact(scene: Scene) -> ArtifactRef | None:
    """The artifact that the Study would release: a model for an endpoint, a dataset otherwise."""
    wanted = "Dataset" if scene.spec.dataset_release else "Model"
    job = scene.outcomes.get("job")
    return next((item for item in job.artifacts if item.kind == wanted), None) if job else None


def artifact_digests(scene: Scene) -> tuple[str, ...]:
    """Digests of what would be released."""
    artifact = released_artifact(scene)
    return (artifact.digest,) if artifact else ()


def certify(platform: Platform, scene: Scene) -> list[str]:
    """Sign the certificate and store it once.

    Returns:
        Why it must not be issued; empty where it was.
    """
    plan, artifact = _required(scene), released_artifact(scene)
    if artifact is None:
        return ["the run left no artifact of the kind that is to be released"]
    try:
        facts = _facts(platform, scene, plan, artifact)
    except Refused as refused:
        return [str(refused)]
    reasons = refusals(facts)
    if reasons:
        return reasons
    payload = canonical_json(certificate_statement(facts))
    envelope = platform.signer.sign(signing.CERTIFICATE_TYPE, payload)
    content = canonical_json(envelope)
    key = generation_key(scene.spec.uid, scene.spec.generation)
    uri = platform.archive.put(certificate_name(scene.spec), content)
    fact: dict[str, JSON] = {"uri": uri, "digest": digest_of(envelope), "envelope": dict(envelope)}
    platform.evidence.put_fact(CERTIFICATE, key, fact)
    return []


def publish(platform: Platform, scene: Scene) -> list[str]:
    """Declare the Release and make the artifact available. Repeating it changes nothing.

    Returns:
        Why it must not be made available; empty where it was.
    """
    plan, artifact = _required(scene), released_artifact(scene)
    certificate = platform.evidence.fact(
        CERTIFICATE, generation_key(scene.spec.uid, scene.spec.generation)
    )
    if artifact is None or certificate is None:
        raise PrimumError("only a certified artifact can be published")
    envelope = certificate["envelope"]
    if not isinstance(envelope, Mapping):
        raise PrimumError("the stored certificate is damaged")
    platform.archive.put(certificate_name(scene.spec), canonical_json(envelope))
    spec = _release_spec(scene, plan, artifact, certificate)
    release = release_key(scene.spec)
    standing = platform.resources.get(release)
    if standing is not None and "revocation" in standing.spec:
        return [f"{release} was revoked; delete it before its name is used again"]
    key = generation_key(scene.spec.uid, scene.spec.generation)
    contradicted = contradiction(platform, key)
    if contradicted:
        return [contradicted]
    labels = {"primum.dev/study": scene.spec.key.name}
    try:
        # What the platform writes obeys the rules of what people write.
        conversion.release_spec(unstored(release, spec))
        platform.resources.apply(release, spec, labels=labels, owner=scene.spec.uid)
        url = platform.publisher.publish(release, spec=spec, certificate=envelope)
    except (InvalidValue, NotFound, Refused, Tampered) as final:
        return [str(final)]
    withdraw_unless_standing(platform, release)
    platform.evidence.put_fact(PUBLISHED, key, {"url": url, "release": release.name})
    return []


def contradiction(platform: Platform, key: str) -> str:
    """Which later audit contradicted the claim of a Study generation; empty where none did."""
    fact = platform.evidence.fact(CONTRADICTION, key)
    return str(fact["message"]) if fact else ""


def withdraw_unless_standing(platform: Platform, release: ResourceKey) -> None:
    """Take back what was just published if its Release was revoked or removed meanwhile."""
    stored = platform.resources.get(release)
    if stored is None or stored.deleting or "revocation" in stored.spec:
        platform.publisher.withdraw(release)


def certificate_name(spec: StudySpec) -> str:
    """The certificate's file name."""
    return f"{spec.key.name}-{spec.generation}.json"


def release_key(spec: StudySpec) -> ResourceKey:
    """The Release that a Study makes."""
    return ResourceKey("Release", spec.key.namespace, spec.endpoint or spec.dataset_release)


def stage_verdicts(fact: Mapping[str, JSON] | None) -> tuple[StageVerdict, ...]:
    """The written verdicts."""
    stages = fact["stages"] if fact else ()
    if not isinstance(stages, list | tuple):
        return ()
    return tuple(verdict_from_json(item) for item in stages if isinstance(item, Mapping))


def _facts(platform: Platform, scene: Scene, plan: Plan, artifact: ArtifactRef) -> CertificateFacts:
    context = planning.planning_context(platform, scene.spec)
    held = {item.account_id: item for item in scene.reservations}
    extracts = []
    for facts in context.datasets.values():
        account = platform.ledger.account(facts.account_id)
        if account is None or facts.account_id not in held:
            raise Refused(f"budget {facts.budget} has no reservation of this Study any more")
        extracts.append(BudgetExtract(facts, account, held[facts.account_id]))
    key = generation_key(scene.spec.uid, scene.spec.generation)
    return CertificateFacts(
        study=scene.spec,
        plan=plan,
        claim=verdicts.claim_of(scene.spec, plan),
        artifact=artifact,
        budgets=tuple(extracts),
        receipts=tuple(r for outcome in scene.outcomes.values() for r in outcome.receipts),
        evidence=scene.evidence,
        verdicts=stage_verdicts(platform.evidence.fact(verdicts.VERDICTS, key)),
        ledger_head=platform.ledger.head(),
        issued_at=platform.clock.now(),
        issuer=signing.key_id(platform.signer.public_key()),
    )


def _release_spec(
    scene: Scene, plan: Plan, artifact: ArtifactRef, certificate: Mapping[str, JSON]
) -> dict[str, JSON]:
    spec, claim = scene.spec, verdicts.claim_of(scene.spec, plan)
    stated: dict[str, JSON] = {"standing": claim.status.value, "voidEdges": list(claim.void_edges)}
    if claim.status is ClaimStatus.VALID:
        stated |= {
            "epsilon": str(plan.epsilon),
            "delta": str(plan.delta),
            "unit": plan.unit.value,
            "neighbors": plan.neighbors.value,
        }
    found: dict[str, JSON] = {
        "kind": "Endpoint" if spec.endpoint else "Dataset",
        "artifact": {"kind": artifact.kind, "uri": artifact.uri, "digest": artifact.digest},
        "certificate": {"uri": str(certificate["uri"]), "digest": str(certificate["digest"])},
        "claim": stated,
        "study": {"name": spec.key.name, "uid": spec.uid, "generation": spec.generation},
    }
    if spec.endpoint:
        found["endpoint"] = spec.endpoint
    if spec.audit_schedule:
        found["auditSchedule"] = spec.audit_schedule
    if spec.audit_policy:
        found["auditPolicy"] = dict(spec.audit_policy)
    return found


def _required(scene: Scene) -> Plan:
    if scene.plan is None:
        raise PrimumError("nothing is certified without a plan")
    return scene.plan
