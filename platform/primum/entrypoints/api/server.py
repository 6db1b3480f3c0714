"""The API's server, to be run in a thread of the control process."""

from __future__ import annotations

import uvicorn

from primum.adapters import identity
from primum.entrypoints import bootstrap
from primum.entrypoints.api.app import create_app
from primum.entrypoints.settings import Settings


def make_server(settings: Settings) -> uvicorn.Server:
    """A server on the configured address; no access log, since a URL may say too much."""
    app = create_app(
        bootstrap.platform(settings), lambda token: identity.identify(settings.home, token)
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.api_port,
        log_level="warning",
        access_log=False,
        lifespan="off",
    )
    return uvicorn.Server(config)
