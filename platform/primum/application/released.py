"""Whether a released dataset stands by its own certificate, before another Study learns from it.

The Release resource is what people see; the signed certificate is what holds. A Release that says
something else than its certificate, or has none, is no input. Must not open the artifact: its
digest is compared where its bytes are read.
"""

from __future__ import annotations

from collections.abc import Mapping

from primum import verification
from primum.application.platform import Platform, generation_key
from primum.domain.canonical import JSON
from primum.resources import conversion
from primum.resources.release import ReleaseKind, ReleaseSpec
from primum.resources.stored import StoredResource

CERTIFICATE = "Certificate"  # A kind of fact; its keys are Study generations.


def certificate_problems(platform: Platform, stored: StoredResource) -> list[str]:
    """Why a Release must not be an input; nothing if it stands.

    Args:
        platform: The ports.
        stored: The Release.

    Returns:
        One sentence per problem.
    """
    spec = conversion.release_spec(stored)
    if spec.kind is not ReleaseKind.DATASET:
        return [f"kind must be Dataset; found {spec.kind.value}."]
    if spec.revocation is not None:
        return ["it must not be revoked; found a revocation."]
    key = generation_key(spec.study.uid, spec.study.generation)
    fact = platform.evidence.fact(CERTIFICATE, key)
    envelope = fact.get("envelope") if fact is not None else None
    if not isinstance(envelope, Mapping):
        return ["its Study must have a certificate; found none."]
    public = platform.signer.public_key()
    problems = verification.verify_certificate(
        envelope, public, spec.artifact.digest, release=stored.key.name
    )
    return problems or _claim_problems(verification.open_certificate(envelope, public), spec)


def _claim_problems(statement: Mapping[str, JSON], spec: ReleaseSpec) -> list[str]:
    """Whether the Release claims what the certificate does."""
    predicate = statement.get("predicate")
    claim = predicate.get("claim") if isinstance(predicate, Mapping) else None
    if not isinstance(claim, Mapping):
        return ["certificate must state a claim; found none."]
    edges = claim.get("voidEdges") or []
    stated = [str(edge) for edge in edges] if isinstance(edges, list | tuple) else []
    if claim.get("status") != spec.claim.standing.value or stated != spec.claim.void_edges:
        return ["its claim must be that of its certificate; found another."]
    return []
