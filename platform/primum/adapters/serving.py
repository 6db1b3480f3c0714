"""The embedded publisher: a folder that the inference server watches, and published datasets.

Publishing copies the artifact's bytes under their digest, then makes one small entry appear in one
step; withdrawing notes the certificate as revoked, then removes the entry. Nothing is made
available whose certificate does not verify against the very bytes that are copied.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from primum import verification
from primum.adapters import files
from primum.domain.canonical import JSON, canonical_json, digest_of_bytes
from primum.domain.errors import Conflict, InvalidValue, NotFound, Refused
from primum.domain.governance.certificate import VOID_PREFIX, certificate_digest
from primum.domain.names import ResourceKey, check_name

ENDPOINTS = "endpoints"
ARTIFACTS = "artifacts"
REVOKED = "revoked"
DATASETS = "datasets"
_ARTIFACT_BYTES_MAX = 8 * 2**30  # Beyond what the embedded server could load.
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Source:
    uri: str
    digest: str


class FolderPublisher:
    """Publisher over folders of one machine.

    Args:
        registry: Folder shared with the inference server.
        base_url: Where the inference server listens, e.g. ``http://127.0.0.1:8400``.
        public_key: The platform's public key, PEM.
    """

    def __init__(self, registry: Path, *, base_url: str, public_key: str) -> None:
        self._registry = registry
        self._url = base_url.rstrip("/")
        self._public_key = public_key
        for name in (ENDPOINTS, ARTIFACTS, REVOKED, DATASETS):
            (registry / name).mkdir(parents=True, exist_ok=True)

    def publish(
        self, release: ResourceKey, *, spec: Mapping[str, JSON], certificate: Mapping[str, JSON]
    ) -> str:
        """Make the artifact available; returns where. Publishing the same again is a no-op.

        Args:
            release: The Release; of a Dataset its name is what the certificate must be for.
            spec: The Release's spec: ``kind``, ``artifact`` with ``uri`` and ``digest``,
                ``endpoint``.
            certificate: The signed envelope.

        Returns:
            The URL that answers, or the folder that holds the dataset.

        Raises:
            Refused: If the certificate does not hold for the artifact, or was revoked.
            Conflict: If another Release holds the endpoint.
            NotFound: If the artifact is gone.
        """
        artifact = spec.get("artifact")
        if not isinstance(artifact, Mapping):
            raise InvalidValue("spec.artifact", "must be an object", type(artifact).__name__)
        endpoint = spec.get("kind") == "Endpoint"
        name = check_name("spec.endpoint", str(spec.get("endpoint"))) if endpoint else release.name
        statement = certified(
            self._registry,
            certificate,
            public_key=self._public_key,
            digest=str(artifact["digest"]),
            name=name,
        )
        source = _Source(uri=str(artifact["uri"]), digest=str(artifact["digest"]))
        if endpoint:
            if verification.claims_privacy(statement) != "Valid":
                raise Refused(f"endpoint {name} must have a Valid claim; found Void.")
            return self._serve(release, name, source, certificate)
        return self._place(release, statement, source, certificate)

    def unready(self, release: ResourceKey) -> str:  # noqa: ARG002 - the port's
        """Nothing has to start: the inference server reads an entry as soon as it is there."""
        return ""

    def withdraw(self, release: ResourceKey) -> None:
        """Stop serving and revoke its certificate here for good; a no-op if it is not served."""
        for path in sorted((self._registry / ENDPOINTS).glob("*.json")):
            entry = _entry(path)
            if entry.get("release") == str(release):
                self._revoke(entry.get("certificate"))
                path.unlink(missing_ok=True)
        folder = self._dataset_folder(release)
        if (folder / "certificate.json").exists():
            self._revoke(_entry(folder / "certificate.json"))
            for item in sorted(folder.iterdir()):
                item.unlink()
            folder.rmdir()

    def _serve(
        self, release: ResourceKey, name: str, source: _Source, certificate: Mapping[str, JSON]
    ) -> str:
        path = self._registry / ENDPOINTS / f"{name}.json"
        held = _entry(path).get("release", str(release)) if path.exists() else str(release)
        if held != str(release):
            raise Conflict(f"endpoint {name} must be free; found it held by {held}.")
        folder = self._registry / ARTIFACTS
        stored = _copied(source, folder, stem=source.digest.removeprefix("sha256:"))
        entry: dict[str, JSON] = {
            "endpoint": name,
            "release": str(release),
            "artifact": str(stored.relative_to(self._registry)),
            "certificate": dict(certificate),
        }
        _write(path, canonical_json(entry))
        return f"{self._url}/v2/models/{name}/infer"

    def _place(
        self,
        release: ResourceKey,
        statement: Mapping[str, JSON],
        source: _Source,
        certificate: Mapping[str, JSON],
    ) -> str:
        name = release.name
        void = verification.claims_privacy(statement) != "Valid"
        if void and not name.startswith(VOID_PREFIX):
            raise Refused(f"dataset {name} must have a Valid claim; found Void.")
        folder = self._dataset_folder(release)
        folder.mkdir(parents=True, exist_ok=True)
        _copied(source, folder, stem="data")
        _write(folder / "certificate.json", canonical_json(certificate))
        return str(folder)

    def _dataset_folder(self, release: ResourceKey) -> Path:
        return self._registry / DATASETS / f"{release.namespace}.{release.name}"

    def _revoke(self, certificate: JSON) -> None:
        if isinstance(certificate, Mapping):
            remember_revocation(self._registry, certificate_digest(certificate))


def certified(
    registry: Path,
    certificate: Mapping[str, JSON],
    *,
    public_key: str,
    digest: str,
    name: str,
) -> Mapping[str, JSON]:
    """The statement of a certificate that holds for an artifact and a name, and was not revoked.

    Raises:
        Refused: If it does not, with every reason.
    """
    problems = verification.verify_certificate(certificate, public_key, digest, release=name)
    if is_revoked(registry, certificate):
        problems.append("certificate was revoked.")
    if problems:
        raise Refused("certificate must hold; found: " + " ".join(problems))
    return verification.open_certificate(certificate, public_key)


def remember_revocation(registry: Path, digest: str) -> None:
    """Note a certificate as revoked for good, by its digest.

    Raises:
        InvalidValue: If that is no digest.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidValue("certificate digest", "must be sha256:<64 hex digits>", digest)
    folder = registry / REVOKED
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / digest.removeprefix("sha256:"), b"")


def is_revoked(registry: Path, certificate: Mapping[str, JSON]) -> bool:
    """Whether a registry remembers the revocation of a certificate."""
    digest = certificate_digest(certificate)
    return (registry / REVOKED / digest.removeprefix("sha256:")).exists()


def _copied(source: _Source, folder: Path, *, stem: str) -> Path:
    """The artifact's bytes in a folder, checked against their digest before the name appears."""
    path = _local_path(source.uri)
    if not _DIGEST.fullmatch(source.digest):
        raise InvalidValue("spec.artifact.digest", "must be sha256:<64 hex digits>", source.digest)
    target = folder / f"{stem}{path.suffix}"
    if target.exists() and digest_of_bytes(target.read_bytes()) == source.digest:
        return target
    if not path.is_file():
        raise NotFound(f"artifact {source.uri} must exist; found nothing there.")
    if path.stat().st_size > _ARTIFACT_BYTES_MAX:
        raise InvalidValue("artifact", f"must have at most {_ARTIFACT_BYTES_MAX} bytes", "more")
    data = path.read_bytes()
    if digest_of_bytes(data) != source.digest:
        raise Refused(f"artifact {source.uri} must have digest {source.digest}; found other bytes.")
    _write(target, data)
    return target


def _local_path(uri: str) -> Path:
    parsed = urllib.parse.urlparse(uri)
    if parsed.scheme not in ("", "file"):
        raise InvalidValue("spec.artifact.uri", "must be a path or a file URL here", parsed.scheme)
    return Path(urllib.parse.unquote(parsed.path)) if parsed.scheme else Path(uri)


def _entry(path: Path) -> Mapping[str, JSON]:
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write(path: Path, data: bytes) -> None:
    """Write durably and at once; nothing where these bytes stand already.

    The control loop publishes what stands every few seconds.
    """
    if path.exists() and path.read_bytes() == data:
        return
    files.replace(path, data, mode=files.READABLE)
