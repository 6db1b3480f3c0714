"""Certificates, read offline: signature, form, artifact and purpose, with nothing but a public key.

The one place where a signed certificate is believed; the inference server, the publisher and the
command line all ask here. It looks at no clock, network or ledger: whether a release was revoked
since is for the registry to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal

from primum import signing
from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import InvalidValue, Tampered
from primum.domain.governance.certificate import PREDICATE_TYPE, STATEMENT_TYPE, VERSION
from primum.domain.governance.claims import ClaimStatus
from primum.domain.study.plan import Treatment


def open_certificate(envelope: Mapping[str, JSON], public_pem: str) -> dict[str, JSON]:
    """The statement of a signed certificate.

    Raises:
        Tampered: If signature, type or form is wrong.
        InvalidValue: If the key cannot be read.
    """
    payload = signing.verify(public_pem, envelope, signing.CERTIFICATE_TYPE)
    try:
        statement = json.loads(payload)
        canonical = isinstance(statement, dict) and canonical_json(statement) == payload
    except (ValueError, RecursionError, InvalidValue):
        canonical = False
    if not canonical:
        raise Tampered("certificate must be canonical JSON; found something else.")
    return dict(statement)


def verify_certificate(
    envelope: Mapping[str, JSON],
    public_pem: str,
    artifact_digest: str | None = None,
    *,
    release: str | None = None,
) -> list[str]:
    """What is wrong with a signed certificate; nothing if it holds.

    Args:
        envelope: The DSSE envelope.
        public_pem: The platform's public key, PEM.
        artifact_digest: ``sha256:...`` of the artifact's bytes, or ``None`` to check the
            certificate alone.
        release: Name of the endpoint or dataset that it is used for, or ``None`` to not compare.

    Returns:
        One sentence per problem.
    """
    try:
        statement = open_certificate(envelope, public_pem)
    except (Tampered, InvalidValue) as fault:
        return [str(fault)]
    return statement_problems(statement, artifact_digest=artifact_digest, release=release)


def claims_privacy(statement: Mapping[str, JSON]) -> str:
    """The status of a verified statement's claim; whatever is not ``Valid`` reads as ``Void``."""
    predicate = statement.get("predicate")
    claim = predicate.get("claim") if isinstance(predicate, Mapping) else None
    status = claim.get("status") if isinstance(claim, Mapping) else None
    return "Valid" if status == "Valid" else "Void"


def statement_problems(
    statement: Mapping[str, JSON], *, artifact_digest: str | None = None, release: str | None = None
) -> list[str]:
    """What is wrong inside a statement whose signature has been verified; nothing if it holds.

    Args:
        statement: The statement.
        artifact_digest: ``sha256:...`` of the artifact at hand, or ``None`` to not compare.
        release: Name of the endpoint or dataset it is used for, or ``None`` to not compare.
    """
    try:
        return _statement_problems(statement, artifact_digest=artifact_digest, release=release)
    except (KeyError, TypeError, ValueError, ArithmeticError, IndexError, AttributeError) as fault:
        return [f"statement must have the form of a certificate; found {type(fault).__name__}."]


def _statement_problems(
    statement: Mapping[str, JSON], *, artifact_digest: str | None, release: str | None
) -> list[str]:
    found = []
    value: Mapping[str, object] = statement
    if value["_type"] != STATEMENT_TYPE or value["predicateType"] != PREDICATE_TYPE:
        return ["statement must be a certificate; found another type."]
    predicate = _object(value["predicate"])
    if predicate["version"] != VERSION:
        return [f"certificate version must be {VERSION}; found {str(predicate['version'])[:20]}."]
    subjects = value["subject"]
    if not isinstance(subjects, Sequence) or len(subjects) != 1:
        return ["certificate must have one subject."]
    subject = "sha256:" + str(_object(_object(subjects[0])["digest"])["sha256"])
    if subject != _object(predicate["artifact"])["digest"]:
        found.append("certificate's subject and artifact must have the same digest.")
    if artifact_digest is not None and subject != artifact_digest:
        found.append(f"artifact must have digest {subject}; found {artifact_digest}.")
    name = str(_object(predicate["release"])["name"])
    if release is not None and name != release:
        found.append(f"certificate must be for {release[:80]}; found {name[:80]}.")
    claim = _object(predicate["claim"])
    if claim["status"] == ClaimStatus.VALID:
        found += _parameter_problems(claim, predicate)
    elif claim["status"] != ClaimStatus.VOID or "parameters" in claim or not claim["voidEdges"]:
        found.append("claim must be Valid, or Void with its edges and no parameters.")
    return found


def _parameter_problems(claim: Mapping[str, object], predicate: Mapping[str, object]) -> list[str]:
    found = []
    parameters = claim["parameters"]
    items = [_object(item) for item in parameters] if isinstance(parameters, Sequence) else []
    release = [item for item in items if item["scope"] == "ThisRelease"]
    if len(release) != 1:
        return ["claim must give epsilon and delta of this release once."]
    epsilon, delta = Decimal(str(release[0]["epsilon"])), Decimal(str(release[0]["delta"]))
    if not (epsilon > 0 and 0 < delta < 1):
        found.append("claim must have epsilon above 0 and delta between 0 and 1.")
    accesses = predicate["coveredAccesses"]
    treatments = (
        {_object(item)["treatment"] for item in accesses}
        if isinstance(accesses, Sequence)
        else set()
    )
    if Treatment.UNCHARGED in treatments or Treatment.CHARGED not in treatments:
        found.append("a Valid claim must have charged accesses and no uncharged one.")
    return found


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise TypeError("expected a JSON object")
    return value
