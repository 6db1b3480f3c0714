"""``python -m primum.entrypoints.api``: the ledger API as a process of its own, as in a cluster.

On one machine ``primum up`` serves it in a thread instead. It reads; the control loop writes.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from primum.domain.errors import PrimumError

if TYPE_CHECKING:
    import uvicorn

    from primum.entrypoints.settings import Settings

_USAGE_EXIT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; returns the exit status."""
    options = _options(arguments)
    from primum.entrypoints import logs, settings

    logs.configure(logs.Audience.MACHINES)
    try:
        server = _server(settings.from_environment(), options)
    except PrimumError as error:
        sys.stderr.write(f"error: {error}\n")
        return _USAGE_EXIT
    stopped = threading.Event()
    if options.certificates:
        _keep_certificate(server, options.certificates, stopped)
    server.run()
    stopped.set()
    return 0 if server.started else 1


def _keep_certificate(server: uvicorn.Server, folder: Path, stopped: threading.Event) -> None:
    """Have the server's certificate read again when it is renewed."""
    from primum.entrypoints.api.certificates import ServedCertificate

    server.config.load()
    if server.config.ssl is not None:
        ServedCertificate(folder, server.config.ssl).keep(stopped)


def _server(found: Settings, options: argparse.Namespace) -> uvicorn.Server:
    from primum.entrypoints import bootstrap
    from primum.entrypoints.api import certificates
    from primum.entrypoints.api.server import make_server

    bootstrap.prepare_home(found)  # Whoever of us starts first brings the database up to date.
    figures = {"lineage_waiting": bootstrap.lineage_backlog(found)}
    if options.cluster:
        from primum.adapters.cluster_identity import ClusterIdentities
        from primum.adapters.kube.api import KubeApi
        from primum.adapters.kube.resources import KubeResourceStore
        from primum.application.platform import Registering

        api, own = KubeApi(options.kubeconfig), bootstrap.platform(found)
        conduct = dataclasses.replace(own.conduct, registering=Registering.IN_A_RUN)
        ports = dataclasses.replace(own, resources=KubeResourceStore(api), conduct=conduct)
        identify = bootstrap.identities(found, ClusterIdentities(api).identify)
        server = make_server(found, figures, platform=ports, identify=identify)
    else:
        server = make_server(found, figures)
    server.config.host, server.config.port = found.host, found.api_port
    if options.certificates:
        server.config.ssl_certfile = str(options.certificates / certificates.CERTIFICATE)
        server.config.ssl_keyfile = str(options.certificates / certificates.PRIVATE_KEY)
    return server


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="primum.entrypoints.api", description=__doc__)
    parser.add_argument(
        "--certificates",
        type=Path,
        help="folder with tls.crt and tls.key; without it plain HTTP is served",
    )
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="resources and callers are those of a Kubernetes API server",
    )
    parser.add_argument("--kubeconfig", default="", help="by default the pod's service account")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
