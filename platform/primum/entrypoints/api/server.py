"""The API's server, to be run in a thread of the control process."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import uvicorn
from fastapi import FastAPI

from primum.adapters import identity
from primum.application.platform import Platform
from primum.entrypoints import bootstrap
from primum.entrypoints.api.app import create_app
from primum.entrypoints.settings import Settings

_KEEP_ALIVE_SECONDS = 75  # Steps and the operator ask again within seconds; see the client.


def make_server(
    settings: Settings,
    figures: Mapping[str, Callable[[], int]],
    *,
    platform: Platform | None = None,
    identify: Callable[[str], identity.Identity] | None = None,
) -> uvicorn.Server:
    """A server of the API; no access log, since a URL may say too much.

    Args:
        settings: The settings.
        figures: Counts that ``/metrics`` shows besides the ledger's.
        platform: The ports; those of one machine where ``None``.
        identify: Whose token it is; by the token file of the home folder where ``None``.
    """
    app = create_app(
        platform or bootstrap.platform(settings),
        identify
        or bootstrap.identities(settings, lambda token: identity.identify(settings.home, token)),
        figures=figures,
    )
    return uvicorn.Server(config_of(app))


def config_of(app: FastAPI) -> uvicorn.Config:
    """How an application of ours is served."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
