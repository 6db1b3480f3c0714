"""``python -m primum_operators.admission``: the validating webhook as a process."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primum.domain.errors import PrimumError
from primum_operators.admission import requesters
from primum_operators.admission.review import Lookups, Refusal, SiteSettings, review
from primum_operators.admission.rules import Doubling

if TYPE_CHECKING:
    from primum_operators.admission.server import Judge, Patch

PORT = 9443


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; returns the exit status."""
    options = _options(arguments)
    from primum.adapters.kfp_runs import KFP_RUN
    from primum.adapters.kube.api import KubeApi
    from primum.entrypoints import bootstrap, logs, settings
    from primum_operators.admission.lookups import ClusterLookups
    from primum_operators.admission.server import AdmissionServer

    logs.configure(logs.Audience.MACHINES)
    try:
        stores = bootstrap.stores(settings.from_environment())
        ledger, evidence = stores.ledger, stores.evidence
        api = KubeApi(options.kubeconfig)
    except PrimumError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    lookups = ClusterLookups(
        api,
        reservation=ledger.reservation,
        launched=lambda run: evidence.fact(KFP_RUN, run),
    )
    server = AdmissionServer(
        (options.host, options.port),
        options.certificates,
        judge=judge_with(_site(options), lookups),
        patch=patch_with(_site(options)),
        ready=_answers(ledger.head),
    )
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    server.start()
    stopped.wait()
    server.shutdown()
    return 0


def judge_with(site: SiteSettings, lookups: Lookups) -> Judge:
    """How a server judges: by a site's settings, with lookups."""

    def judge(request: Mapping[str, Any], place: Doubling) -> Refusal | None:
        return review(request, place=place, settings=site, lookups=lookups)

    return judge


def patch_with(site: SiteSettings) -> Patch:
    """How a server completes new objects, by a site's settings."""
    return lambda request: requesters.patch(request, site.operators)


def _answers(ask: Callable[[], object]) -> Callable[[], bool]:
    def answers() -> bool:
        try:
            ask()
        except PrimumError:
            return False
        return True

    return answers


def _site(options: argparse.Namespace) -> SiteSettings:
    return SiteSettings(
        operators=tuple(options.operator),
        controllers=tuple(options.controller),
        trusted=tuple(options.trusted),
        queue=options.queue,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="primum_operators.admission", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=PORT, help=f"port, by default {PORT}")
    parser.add_argument(
        "--certificates", type=Path, required=True, help="folder with tls.crt and tls.key"
    )
    parser.add_argument("--kubeconfig", default="", help="by default the pod's service account")
    parser.add_argument(
        "--operator", action="append", default=[], help="user name of the operator; repeatable"
    )
    parser.add_argument(
        "--controller",
        action="append",
        default=[],
        help="user name that makes pods of what was admitted; repeatable",
    )
    parser.add_argument(
        "--trusted", action="append", default=[], help="user name that may open shells; repeatable"
    )
    parser.add_argument(
        "--queue",
        choices=("Required", "Optional"),
        default="Optional",
        help="whether Ray jobs must name a queue",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
