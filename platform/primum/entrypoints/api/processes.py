"""What our own processes ask over HTTP: every method of ledger and evidence, and a few signatures.

For the role ``platform`` alone, and for processes of the same version: in no OpenAPI document.
"""

from __future__ import annotations

import base64
import binascii
import http
import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute

from primum.adapters.identity import Identity, Role
from primum.adapters.ledger_api.calls import SIGNED, call_of
from primum.adapters.ledger_api.codec import encode
from primum.domain.errors import InvalidValue, Refused
from primum.entrypoints.api import problems
from primum.entrypoints.api.callers import Caller, Ports, require
from primum.entrypoints.api.steps import told

CALL_BYTES_MAX = 16 * 2**20
SIGNED_BYTES_MAX = 4 * 2**20  # What an envelope may hold.


class _Named(APIRoute):
    """Answers a broken rule with its parts, so that the other side can raise it as it was."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler."""
        handle = super().get_route_handler()

        async def named(request: Request) -> Response:
            try:
                return await handle(request)
            except InvalidValue as error:
                status = http.HTTPStatus.UNPROCESSABLE_ENTITY
                plain = problems.problem(status, "invalidvalue", str(error))
                found = error.found if isinstance(error.found, str) else repr(error.found)
                parts = {
                    "field": error.field,
                    "rule": error.rule,
                    "found": found[: problems.FOUND_LENGTH_MAX],
                    "remedy": error.remedy,
                }
                body = json.loads(bytes(plain.body)) | parts
                return Response(
                    json.dumps(body), status_code=status, media_type=problems.MEDIA_TYPE
                )

        return named


router = APIRouter(prefix="/v1/platform", include_in_schema=False, route_class=_Named)


def _ours(who: Caller) -> Identity:
    """A process of the platform.

    Raises:
        Refused: If it is somebody else.
    """
    require(who, (Role.PLATFORM,))
    return who


# The caller first: nobody sends a body who may not ask.
Ours = Annotated[Identity, Depends(_ours)]
Asked = Annotated[Mapping[str, Any], Depends(told(CALL_BYTES_MAX))]


@router.get("/public-key")
def public_key(_who: Ours, ports: Ports) -> dict[str, Any]:
    """The platform's public key."""
    return {"publicKey": ports.signer.public_key()}


@router.post("/sign")
def sign(_who: Ours, ports: Ports, body: Asked) -> dict[str, Any]:
    """Sign a payload of a type that the API signs for others."""
    kind = body.get("payloadType")
    if kind not in SIGNED:
        raise Refused(f"the ledger API must be asked to sign one of {', '.join(SIGNED)}")
    try:
        payload = base64.b64decode(str(body.get("payload")), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidValue("payload", "must be base64", "something else") from None
    if not 0 < len(payload) <= SIGNED_BYTES_MAX:
        raise InvalidValue("payload", f"must have 1 to {SIGNED_BYTES_MAX} bytes", len(payload))
    return {"envelope": ports.signer.sign(str(kind), payload)}


@router.post("/{port}/{method}")
def call(_who: Ours, ports: Ports, port: str, method: str, body: Asked) -> Response:
    """Call a method of ledger or evidence."""
    found = call_of(port, method)
    arguments = body.get("arguments")
    if not isinstance(arguments, dict):
        raise InvalidValue("arguments", "must be a JSON object", "something else")
    target = getattr(ports, port)
    result = getattr(target, method)(**found.told(arguments, ports.signer))
    # Past the framework's own encoder, which would look into thousands of entries once more.
    return Response(json.dumps({"result": encode(result)}), media_type="application/json")
