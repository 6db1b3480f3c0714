"""The HTTP face of the inference server: Open Inference Protocol v2 over a registry folder."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from primum_serving import protocol
from primum_serving.registry import Model, NotServed, Registry, ServedModel

NAME = "primum"
VERSION = "0.1.0"
POLL_SECONDS = (
    0.5  # How soon a published model is loaded; a withdrawn one stops with the next request.
)

_log = logging.getLogger(__name__)


def load_artifact(data: bytes) -> Model:
    """A model from the verified bytes of its file; torch enters with the first that needs it."""
    from primum_pipelines.models import artifact, light

    return light.light_model(data) or artifact.from_bytes(data)


def create_app(registry_dir: Path, public_pem: str) -> FastAPI:
    """The server.

    Args:
        registry_dir: Folder that a publisher writes.
        public_pem: The platform's public key, PEM; certificates are believed by it alone.

    Returns:
        An ASGI application. Its interactive documentation is off: it would load scripts from
        elsewhere.
    """
    registry = Registry(registry_dir, public_key=public_pem, load=load_artifact)
    app = FastAPI(
        title="Primum inference",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_watching(registry),
    )
    app.state.registry = registry
    _add_errors(app)
    _add_health(app)
    _add_models(app, registry)
    return app


def _watching(registry: Registry) -> Any:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stopped = threading.Event()

        def watch() -> None:
            while not stopped.is_set():
                try:
                    registry.refresh()
                except Exception as fault:  # noqa: BLE001 - the watcher must outlive a bad folder
                    _log.warning("registry could not be read: %s", type(fault).__name__)
                stopped.wait(POLL_SECONDS)

        watcher = threading.Thread(target=watch, name="registry", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stopped.set()
            await run_in_threadpool(watcher.join, 2 * POLL_SECONDS)

    return lifespan


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(protocol.BadRequest)
    async def bad_request(_: Request, fault: protocol.BadRequest) -> JSONResponse:
        return _error(fault.status, str(fault))

    @app.exception_handler(NotServed)
    async def not_served(_: Request, fault: NotServed) -> JSONResponse:
        return _error(403 if fault.known else 404, str(fault))

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, fault: HTTPException) -> JSONResponse:
        return _error(fault.status_code, str(fault.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, __: RequestValidationError) -> JSONResponse:
        return _error(400, "request must follow the protocol")


def _add_health(app: FastAPI) -> None:
    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.get("/v2")
    async def server() -> dict[str, Any]:
        return {"name": NAME, "version": VERSION, "extensions": []}


def _add_models(app: FastAPI, registry: Registry) -> None:
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):

        @app.get(path)
        async def model_metadata(name: str, version: str = "") -> dict[str, Any]:
            return protocol.metadata(await _served(registry, name, version))

        @app.get(f"{path}/ready")
        async def model_ready(name: str, version: str = "") -> dict[str, Any]:
            served = await _served(registry, name, version)
            return {"name": served.name, "ready": True}

        @app.post(f"{path}/infer")
        async def infer(request: Request, name: str, version: str = "") -> JSONResponse:
            body = await _body(request)
            served = await _served(registry, name, version)
            try:
                found = await run_in_threadpool(_answer, body, served)
            except protocol.BadRequest:
                raise
            except Exception as fault:  # noqa: BLE001 - its text could quote an input
                _log.error("model %s could not answer: %s", served.name, type(fault).__name__)
                return _error(500, "the model could not answer")
            return JSONResponse(found)


async def _served(registry: Registry, name: str, version: str) -> ServedModel:
    served = await run_in_threadpool(registry.served, name)
    if version and version != served.version:
        raise NotServed(f"model {served.name} has no such version", known=False)
    return served


def _answer(body: bytes, served: ServedModel) -> dict[str, Any]:
    return protocol.answer(protocol.parsed(body), served)


async def _body(request: Request) -> bytes:
    limit = protocol.BODY_BYTES_MAX
    parts, total = [], 0
    async for part in request.stream():
        total += len(part)
        if total > limit:
            raise protocol.BadRequest(f"request must have at most {limit} bytes", status=413)
        parts.append(part)
    return b"".join(parts)


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)
