"""What may be served: one small file per endpoint, checked before it is believed.

The folder is the truth and is looked at on every request, so a withdrawn or revoked model stops
answering with the next one. Only what was verified is kept: the bytes that were hashed are the
bytes that are loaded.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from primum.domain.canonical import JSON, digest_of, digest_of_bytes
from primum.domain.errors import PrimumError
from primum.verification import claims_privacy, open_certificate, verify_certificate

if TYPE_CHECKING:
    import numpy as np

ENDPOINTS = "endpoints"
REVOKED = "revoked"
_ENTRY_BYTES_MAX = 8 * 2**20  # A certificate is some 10 kB; a hostile file must not fill memory.
_ARTIFACT_BYTES_MAX = 8 * 2**30
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class NotServed(Exception):
    """A model is not served; ``known`` tells an absent one from a refused one.

    Args:
        message: Why, without anything of an input.
        known: Whether an entry of that name exists.
    """

    def __init__(self, message: str, *, known: bool) -> None:
        self.known = known
        super().__init__(message)


class ModelSpec(Protocol):
    """What the server reads of a model's own description."""

    @property
    def model(self) -> str:
        """Name of the architecture."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""

    @property
    def task(self) -> str:
        """What it says of a row, as ``LabelTask`` has it."""

    @property
    def agreement(self) -> str:
        """Least share of members behind an answer; empty for a model that never abstains."""


class Answers(Protocol):
    """What a model answers for some rows."""

    @property
    def probabilities(self) -> np.ndarray:
        """``(n, classes, ...)``; pixels of masks."""

    @property
    def answered(self) -> np.ndarray:
        """``(n,)``, false where the model abstains."""


class Model(Protocol):
    """A loaded model."""

    @property
    def spec(self) -> ModelSpec:
        """Its description."""

    def answer(self, features: np.ndarray) -> Answers:
        """Answers for rows ``(n, *input_shape)``."""


@dataclass(frozen=True, slots=True, repr=False)
class ServedModel:
    """A model whose certificate holds.

    Args:
        name: The endpoint.
        model: The loaded model.
        digest: Digest of its bytes.
        certificate: Digest of its certificate.
        claim: The certified claim, for metadata.
    """

    name: str
    model: Model
    digest: str
    certificate: str
    claim: Mapping[str, JSON]

    @property
    def version(self) -> str:
        """The version that clients may ask for: the start of the digest."""
        return self.digest.removeprefix("sha256:")[:12]


_Stamp = tuple[int, int, int]


class Registry:
    """The endpoints of a registry folder.

    Thread-safe. A model is loaded once per change of its entry; a refused one is not tried again
    until its entry changes.

    Args:
        folder: The registry that a publisher writes.
        public_key: The platform's public key, PEM.
        load: Turns verified bytes into a model.
    """

    def __init__(self, folder: Path, *, public_key: str, load: Callable[[bytes], Model]) -> None:
        self._folder = folder
        self._public_key = public_key
        self._load = load
        self._known: dict[str, tuple[_Stamp, ServedModel | NotServed]] = {}
        self._lock = threading.Lock()

    def served(self, name: str) -> ServedModel:
        """The model of an endpoint as the folder stands now.

        Raises:
            NotServed: If there is none, or its certificate does not hold.
        """
        path = self._folder / ENDPOINTS / f"{name}.json"
        stamp = _stamp(path) if _NAME.fullmatch(name) else None
        if stamp is None:
            self._known.pop(name, None)
            raise NotServed(f"model {name[:80]} is not served", known=False)
        found = self._known.get(name)
        if found is None or found[0] != stamp:
            found = self._refreshed(name, path)
        served = found[1]
        if isinstance(served, NotServed):
            raise NotServed(str(served), known=True)
        if (self._folder / REVOKED / served.certificate.removeprefix("sha256:")).exists():
            self._known.pop(name, None)
            raise NotServed(f"model {name} is not served: its certificate was revoked", known=True)
        return served

    def names(self) -> tuple[str, ...]:
        """Names of the endpoints in the folder, valid or not."""
        folder = self._folder / ENDPOINTS
        if not folder.is_dir():
            return ()
        names = (path.name.removesuffix(".json") for path in folder.iterdir())
        return tuple(sorted(name for name in names if _NAME.fullmatch(name)))

    def refresh(self) -> None:
        """Load what is new and forget what is gone, so that no request has to wait for it."""
        names = self.names()
        for name in names:
            try:
                self.served(name)
            except NotServed:
                continue
        for name in set(self._known) - set(names):
            self._known.pop(name, None)

    def _refreshed(self, name: str, path: Path) -> tuple[_Stamp, ServedModel | NotServed]:
        with self._lock:
            stamp = _stamp(path)
            if stamp is None:
                raise NotServed(f"model {name} is not served", known=False)
            found = self._known.get(name)
            if found is not None and found[0] == stamp:
                return found
            fresh: ServedModel | NotServed
            try:
                fresh = self._checked(name, path)
            except NotServed as refusal:
                fresh = refusal
            except Exception as fault:  # noqa: BLE001 - whatever is wrong with it, it is not served
                why = f"its entry cannot be read ({type(fault).__name__})"
                fresh = NotServed(f"model {name} is not served: {why}", known=True)
            self._known[name] = (stamp, fresh)
            return stamp, fresh

    def _checked(self, name: str, path: Path) -> ServedModel:
        entry = json.loads(_bytes(path, _ENTRY_BYTES_MAX))
        certificate = entry["certificate"]
        if entry["endpoint"] != name:
            raise NotServed(f"model {name} is not served: its entry is another's", known=True)
        artifact = (self._folder / str(entry["artifact"])).resolve()
        if not artifact.is_relative_to(self._folder.resolve()):
            raise NotServed(f"model {name} is not served: its file lies elsewhere", known=True)
        data = _bytes(artifact, _ARTIFACT_BYTES_MAX)
        digest = digest_of_bytes(data)
        problems = verify_certificate(certificate, self._public_key, digest, release=name)
        if not problems:
            statement = open_certificate(certificate, self._public_key)
            if claims_privacy(statement) != "Valid":
                problems = ["certificate makes no valid claim."]
        if problems:
            raise NotServed(f"model {name} is not served: {' '.join(problems)}", known=True)
        try:
            model = self._load(data)
        except PrimumError as fault:
            raise NotServed(f"model {name} is not served: {fault}", known=True) from fault
        claim = statement["predicate"]
        return ServedModel(
            name=name,
            model=model,
            digest=digest,
            certificate=digest_of(certificate),
            claim=_claim(claim),
        )


def _claim(predicate: JSON) -> Mapping[str, JSON]:
    claim = predicate.get("claim") if isinstance(predicate, Mapping) else None
    return dict(claim) if isinstance(claim, Mapping) else {}


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _bytes(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"file must have at most {limit} bytes")
    return data
