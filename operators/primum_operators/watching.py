"""kopf: watches what the operator looks after, and says which names may need a look.

The only door to kopf. Handlers read no content but names: what is decided is decided from a fresh
read. kopf writes nothing: no finalizer, no annotation, no Event.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import kopf

# Public in ``kopf.spawn_tasks``, and nowhere else: it holds the connections, which we close.
from kopf._cogs.structs.credentials import Vault

from primum.adapters.kube_manifests.names import RUN
from primum.domain.names import ResourceKey
from primum.resources.kinds import KINDS
from primum.resources.metadata import API_VERSION, GROUP, VERSION

_BACKOFF_SECONDS = (0.5, 1.0, 2.0, 3.0)
_BACKOFF_SECONDS_LAST = 5.0
_EXIT_SECONDS = 1.0
_CANCEL_ATTEMPTS = 20
_CANCEL_SECONDS = 0.5
_CLOSE_SECONDS = 0.25  # Connections say goodbye to their server after they were closed.


class _ForEver(Sequence[float]):
    """Pauses between attempts to reach an API server that may be away for long."""

    def __iter__(self) -> Iterator[float]:
        yield from _BACKOFF_SECONDS
        while True:
            yield _BACKOFF_SECONDS_LAST

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, index: Any) -> Any:
        return (*_BACKOFF_SECONDS, _BACKOFF_SECONDS_LAST)[min(index, len(_BACKOFF_SECONDS))]


class Watcher:
    """Watches the five kinds and the Jobs of runs.

    Args:
        heard: Told the name of whatever changed, and what it then was: the same words for the same
            uid, spec and mark of deletion. Empty for what is gone; ``None`` where its Job changed.
        kubeconfig: A kubeconfig file; empty for the pod's own service account.
        namespaces: Where to watch; empty for all.
    """

    def __init__(
        self,
        heard: Callable[[ResourceKey, str | None], None],
        *,
        kubeconfig: str = "",
        namespaces: Sequence[str] = (),
    ) -> None:
        self._heard = heard
        self._kubeconfig = kubeconfig
        self._namespaces = tuple(namespaces)
        self.stop_flag = threading.Event()
        self.ready_flag = threading.Event()

    def run(self) -> None:
        """Watch until ``stop_flag`` is set. Not in the main thread: kopf would take its signals.

        Raises:
            Exception: Whatever ended kopf, such as CRDs that are not served for a moment.
        """
        self.ready_flag.clear()
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda _loop, _context: None)  # What counts is raised below.
        vault = Vault()
        try:
            loop.run_until_complete(self._watch(vault))
        finally:
            self.ready_flag.clear()
            loop.run_until_complete(vault.close())
            loop.run_until_complete(asyncio.sleep(_CLOSE_SECONDS))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    async def _watch(self, vault: Vault) -> None:
        """Kopf's tasks, until the first of them ends: they are of use only together."""
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=_settings(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self.stop_flag,
            ready_flag=self.ready_flag,
            vault=vault,
        )
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        # A watch that waits for its server forgets that it was told to end: it is told again.
        for _ in range(_CANCEL_ATTEMPTS):
            left = asyncio.all_tasks() - {asyncio.current_task()}
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=_CANCEL_SECONDS)
        for task in done:
            error = None if task.cancelled() else task.exception()
            if error is not None and not self.stop_flag.is_set():
                raise error

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        for kind in KINDS.values():
            self._watch_kind(registry, kind.name, kind.plural)

        @kopf.on.event("batch", "v1", "jobs", labels={RUN: kopf.PRESENT}, registry=registry)
        def job_changed(meta: Mapping[str, Any], **_: Any) -> None:
            for owner in meta.get("ownerReferences") or ():
                if owner.get("apiVersion") == API_VERSION and owner.get("kind") in KINDS:
                    self._heard(ResourceKey(owner["kind"], meta["namespace"], owner["name"]), None)

        @kopf.on.login(registry=registry)
        def login(**_: Any) -> Any:
            return self._login()

        return registry

    def _watch_kind(self, registry: kopf.OperatorRegistry, kind: str, plural: str) -> None:
        def changed(type: str | None, meta: Mapping[str, Any], **_: Any) -> None:  # noqa: A002
            key = ResourceKey(kind, str(meta["namespace"]), str(meta["name"]))
            parts = (meta.get(name) for name in ("uid", "generation", "deletionTimestamp"))
            self._heard(key, "" if type == "DELETED" else "/".join(map(str, parts)))

        kopf.on.event(GROUP, VERSION, plural, id=f"{plural}-changed", registry=registry)(changed)

    def _login(self) -> Any:
        """Credentials, as the official client reads them; asked for again when they run out."""
        from primum.adapters.kube.api import credentials

        found = credentials(self._kubeconfig)
        return kopf.ConnectionInfo(
            server=found.server,
            ca_path=found.ca_path,
            scheme=found.scheme,
            token=found.token,
            certificate_path=found.certificate_path,
            private_key_path=found.private_key_path,
        )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # What to watch is known: no right to list CRDs is needed.
    settings.networking.error_backoffs = _ForEver()
    settings.queueing.exit_timeout = _EXIT_SECONDS
    return settings
