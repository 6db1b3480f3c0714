"""The ledger API over a platform's ports, served on loopback by the real server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from primum.adapters.identity import NOBODY
from primum.entrypoints.api.app import create_app
from primum.entrypoints.api.server import config_of

START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Served:
    """A server at work; ``app.state.platform`` may be exchanged."""

    url: str
    app: FastAPI


@contextlib.contextmanager
def served(
    platform, identify=lambda _token: NOBODY, *, port: int = 0, **options
) -> Iterator[Served]:
    """Serve a platform; gives it and its address.

    Args:
        platform: The ports.
        identify: Whose token it is.
        port: Where; any free port where 0.
        options: For the server.
    """
    taken = socket.create_server(("127.0.0.1", port))
    port = taken.getsockname()[1]
    app = create_app(platform, identify)
    config = config_of(app)
    for name, value in options.items():
        setattr(config, name, value)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    end = time.monotonic() + START_SECONDS
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < end, "the server did not start in time"
        time.sleep(0.01)
    scheme = "https" if "ssl_certfile" in options else "http"
    try:
        yield Served(f"{scheme}://127.0.0.1:{port}", app)
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        taken.close()
