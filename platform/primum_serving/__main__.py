"""``python -m primum_serving``: the inference server as a process."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

PORT = 8400


def main() -> None:
    """Serve a registry folder until stopped."""
    parser = argparse.ArgumentParser(prog="primum_serving", description=__doc__)
    parser.add_argument("--registry", type=Path, required=True, help="folder a publisher writes")
    key = parser.add_mutually_exclusive_group(required=True)
    key.add_argument("--public-key", type=Path, help="file with the platform's key, PEM")
    key.add_argument("--public-key-text", help="the platform's key itself, PEM")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=PORT, help=f"port, by default {PORT}")
    arguments = parser.parse_args()

    import uvicorn

    from primum_serving.app import create_app

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    app = create_app(
        arguments.registry, arguments.public_key_text or arguments.public_key.read_text()
    )
    uvicorn.run(
        app,
        host=arguments.host,
        port=arguments.port,
        access_log=False,  # Paths name models and callers; nobody needs a list of who asked when.
        log_level="warning",
        server_header=False,
    )


if __name__ == "__main__":
    main()
