"""Ledger, evidence and key over the ledger API, for the operator.

Each port is the port's own methods, sent as they are called; see ``calls``. Nothing is remembered
but the platform's public key.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from primum import signing
from primum.adapters.ledger_api.calls import call_of
from primum.adapters.ledger_api.client import LedgerApiClient
from primum.application.ports import EvidenceStore, LedgerStore, ResourceStore
from primum.domain.canonical import JSON
from primum.domain.errors import NotFound, Refused, Tampered

PLATFORM_PATH = "/v1/platform"


class RemoteStores(NamedTuple):
    """What a process without a database opens."""

    ledger: LedgerStore
    evidence: EvidenceStore
    resources: ResourceStore


def remote_stores(client: LedgerApiClient) -> RemoteStores:
    """Ledger and evidence behind the ledger API; resources are where the cluster keeps them."""
    return RemoteStores(
        cast(LedgerStore, _RemotePort(client, "ledger")),
        cast(EvidenceStore, _RemotePort(client, "evidence")),
        cast(ResourceStore, _Nowhere()),
    )


class RemoteSigner:
    """The platform's key behind the ledger API; verifies by itself.

    Args:
        client: The ledger API, as the platform's own process.
    """

    def __init__(self, client: LedgerApiClient) -> None:
        self._client = client
        self._public = functools.cache(self._asked)

    def public_key(self) -> str:
        """PEM of the Ed25519 public key."""
        return self._public()

    def sign(self, payload_type: str, payload: bytes) -> Mapping[str, JSON]:
        """A DSSE envelope around the payload.

        Raises:
            Refused: If the API does not sign this type for others.
        """
        told = {"payloadType": payload_type, "payload": base64.b64encode(payload).decode()}
        envelope = self._client.ask("POST", f"{PLATFORM_PATH}/sign", told).get("envelope")
        if not isinstance(envelope, Mapping) or self.open(envelope, payload_type) != payload:
            raise Tampered("the ledger API must sign what it was given; found something else")
        return envelope

    def open(self, envelope: Mapping[str, JSON], payload_type: str) -> bytes:
        """Verify an envelope and give its payload.

        Raises:
            Tampered: If the signature, the type or the shape is wrong.
        """
        return signing.verify(self.public_key(), envelope, payload_type)

    def _asked(self) -> str:
        found = self._client.ask("GET", f"{PLATFORM_PATH}/public-key").get("publicKey")
        if not isinstance(found, str):
            raise Tampered("the ledger API must give its public key; found something else")
        return found


class _RemotePort:
    """A port of which every method is asked of the ledger API."""

    def __init__(self, client: LedgerApiClient, port: str) -> None:
        self._client, self._port = client, port

    def __getattr__(self, name: str) -> Any:
        try:
            call = call_of(self._port, name)
        except NotFound:
            raise AttributeError(name) from None

        def asked(*args: Any, **kwargs: Any) -> Any:
            answer = self._client.ask(
                "POST",
                f"{PLATFORM_PATH}/{self._port}/{name}",
                {"arguments": call.arguments(args, kwargs)},
                repeat=call.repeat,
                seconds=call.seconds,
            )
            return call.result(answer.get("result"))

        return asked


class _Nowhere:
    """Declared resources of a process that has no database for them."""

    def __getattr__(self, name: str) -> Any:
        raise Refused(f"{name}: resources must be the cluster's where PRIMUM_LEDGER_URL is set")
