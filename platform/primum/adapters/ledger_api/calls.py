"""What the platform's own processes may ask the ledger API: the methods of two ports.

Made from the ports themselves, so that a new method is known at once on both sides. A key never
travels: where a method signs, the API signs with the platform's own, and only if the caller means
that one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from primum import signing
from primum.adapters.ledger_api.client import Repeat
from primum.adapters.ledger_api.codec import decode, encode_as, types_of
from primum.application.ports import EvidenceStore, LedgerStore, Signer
from primum.domain.errors import InvalidValue, NotFound, Refused

PORTS: Mapping[str, type] = {"ledger": LedgerStore, "evidence": EvidenceStore}
# Data tokens and checkpoints are made by the API alone, from what the ledger says.
SIGNED = (signing.TICKET_TYPE, signing.RUN_CREDENTIAL_TYPE, signing.CERTIFICATE_TYPE)
# Each of these does something more when it is asked again; every other one has a key, or reads.
_NOT_REPEATED = frozenset({"schedule", "expire", "checkpoint"})
_PATIENCE_SECONDS: Mapping[str, float] = {"verify": 3600.0, "schedule": 600.0}
_USUAL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """One method of a port, as it travels.

    Args:
        port: The port.
        name: The method.
        repeat: Whether it may be asked again when its answer got lost.
        seconds: How long its answer may take.
    """

    port: str
    name: str
    repeat: Repeat
    seconds: float
    signature: inspect.Signature
    types: Mapping[str, Any]

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What travels, from how the method was called.

        Raises:
            TypeError: If a method of the port cannot be called so.
        """
        bound = self.signature.bind(None, *args, **kwargs).arguments
        found = {name: value for name, value in bound.items() if name != "self"}
        return {
            name: value.public_key()
            if self.types[name] is Signer
            else encode_as(self.types[name], value)
            for name, value in found.items()
        }

    def told(self, arguments: Mapping[str, Any], signer: Signer) -> dict[str, Any]:
        """How the method is to be called, from what travelled.

        Raises:
            InvalidValue: If an argument is missing, unknown or of another type.
            Refused: If another key than the platform's is to sign.
        """
        parameters = {k: v for k, v in self.signature.parameters.items() if k != "self"}
        needed = {name for name, item in parameters.items() if item.default is item.empty}
        if not needed <= arguments.keys() <= parameters.keys():
            names = ", ".join(sorted(parameters))
            rule = f"must be among {names}, with {', '.join(sorted(needed)) or 'none'}"
            raise InvalidValue("arguments", rule, "others")
        return {
            name: _own(signer, value)
            if self.types[name] is Signer
            else decode(self.types[name], value, name=name)
            for name, value in arguments.items()
        }

    def result(self, value: Any) -> Any:
        """What the method came to, from what travelled."""
        return decode(self.types["return"], value, name="result")


@functools.cache
def call_of(port: str, name: str) -> Call:
    """The method of a port.

    Raises:
        NotFound: If there is none of that name.
    """
    kind = PORTS.get(port)
    method = None if kind is None or name.startswith("_") else kind.__dict__.get(name)
    if not callable(method):
        raise NotFound(f"{port[:32]}.{name[:32]} must be a method of a port; found none")
    return Call(
        port=port,
        name=name,
        repeat=Repeat.NEVER if name in _NOT_REPEATED else Repeat.SAFE,
        seconds=_PATIENCE_SECONDS.get(name, _USUAL_SECONDS),
        signature=inspect.signature(method),
        types=types_of(method),
    )


def _own(signer: Signer, public_key: object) -> Signer:
    if public_key != signer.public_key():
        raise Refused("the ledger API signs with the platform's key; found another one meant")
    return signer
