"""Artifacts of steps: bytes in a folder, each known by its SHA-256.

Writing the same name again replaces it; reading checks the digest first, so a swapped file is
noticed.
"""

from __future__ import annotations

import hashlib

from primum.domain.canonical import digest_of_bytes
from primum.domain.errors import NotFound, Tampered
from primum.domain.study.steps import ArtifactRef
from primum_pipelines.storage import filesystem_at


def store(folder_uri: str, name: str, data: bytes, *, kind: str) -> ArtifactRef:
    """Write an artifact.

    Args:
        folder_uri: Folder as path or fsspec URL; made if absent.
        name: File name within it.
        data: The bytes.
        kind: What it is, e.g. ``Model``.

    Returns:
        The reference to record in the step's outcome.
    """
    filesystem, path = filesystem_at(folder_uri)
    filesystem.makedirs(path, exist_ok=True)
    target = f"{path.rstrip('/')}/{name}"
    partial = f"{target}.{hashlib.sha256(data).hexdigest()[:16]}.partial"
    with filesystem.open(partial, "wb") as file:
        file.write(data)
    filesystem.mv(partial, target)  # A killed step leaves no half artifact under the real name.
    return ArtifactRef(
        kind=kind, uri=f"{folder_uri.rstrip('/')}/{name}", digest=digest_of_bytes(data)
    )


def fetch(uri: str, *, digest: str) -> bytes:
    """Read an artifact.

    Args:
        uri: Where it lies.
        digest: What its bytes must hash to; an empty string accepts any.

    Raises:
        NotFound: If it is gone.
        Tampered: If its bytes are not those that were recorded.
    """
    filesystem, path = filesystem_at(uri)
    try:
        with filesystem.open(path, "rb") as file:
            data: bytes = file.read()
    except FileNotFoundError:
        raise NotFound(f"artifact {uri} must exist; found nothing there.") from None
    found = digest_of_bytes(data)
    if digest and found != digest:
        raise Tampered(f"artifact {uri} must have digest {digest}; found {found}.")
    return data
