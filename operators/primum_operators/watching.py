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
import structlog

# Public in ``kopf.spawn_tasks``, and nowhere else: it holds the connections, which we close.
from kopf._cogs.structs.credentials import Vault

from primum.adapters.kube_manifests import workload
from primum.adapters.kube_manifests.names import RELEASE, RUN
from primum.domain.errors import PrimumError
from primum.domain.names import ResourceKey
from primum.resources.kinds import KINDS
from primum.resources.metadata import API_VERSION, GROUP, VERSION

_AGAIN_SECONDS = 2.0
_BACKOFF_SECONDS = (0.5, 1.0, 2.0, 3.0)
_BACKOFF_SECONDS_LAST = 5.0
_EXIT_SECONDS = 1.0
# kopf keeps a task, with all of the object in it, for each object that long after it changed.
_IDLE_SECONDS = 0.2
_LISTED_AT_ONCE = 100  # Objects of a page of the first list; all in one take more than we are.
_CANCEL_ATTEMPTS = 20
_CANCEL_SECONDS = 0.5
_CLOSE_SECONDS = 0.25  # Connections say goodbye to their server after they were closed.

log = structlog.get_logger(__name__)


class _NoProgress(kopf.ProgressStorage):
    """No progress of handlers: ours are told of events, and have none."""

    def fetch(self, **_: Any) -> None:
        """None is kept."""

    def store(self, **_: Any) -> None:
        """None is kept."""

    def purge(self, **_: Any) -> None:
        """None is kept."""

    def touch(self, **_: Any) -> None:
        """Nothing is marked."""

    def clear(self, *, essence: Any) -> Any:
        """Nothing of it is ours."""
        return essence


class _NoDifferences(kopf.DiffBaseStorage):
    """No differences between versions of an object: kopf would copy each of them to find some."""

    def build(self, **_: Any) -> Any:
        """Nothing of an object counts."""
        return {}

    def fetch(self, **_: Any) -> None:
        """Nothing is kept."""

    def store(self, **_: Any) -> None:
        """Nothing is kept."""


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


Heard = Callable[[ResourceKey, str | None], None]
"""Told the name of whatever may need a look, and what it then was.

The same words for the same uid, spec and mark of deletion; empty for what is gone; ``None`` where
something that belongs to it changed.
"""

Declare = Callable[[kopf.OperatorRegistry], None]
"""Says what is to be watched."""


class Watcher:
    """Watches some kinds; what one project of the cluster does not serve is a watcher of its own.

    Args:
        declare: What to watch.
        check_served: Asks for every kind of it once, and raises where one is not served: kopf would
            watch nothing, and not say so.
        kubeconfig: A kubeconfig file; empty for the pod's own service account.
        namespaces: Where to watch; empty for all.
    """

    def __init__(
        self,
        declare: Declare,
        *,
        check_served: Callable[[], None],
        kubeconfig: str = "",
        namespaces: Sequence[str] = (),
    ) -> None:
        self._declare, self._check_served = declare, check_served
        self._kubeconfig = kubeconfig
        self._namespaces = tuple(namespaces)
        self.stop_flag = threading.Event()
        self.ready_flag = threading.Event()

    def keep(self) -> None:
        """Watch until ``stop_flag`` is set; begin again where kopf gave up, as without the CRDs."""
        while not self.stop_flag.is_set():
            try:
                self._check_served()
                self.run()
            except PrimumError as error:
                log.warning("nothing to watch", error=str(error))
            except Exception as error:  # noqa: BLE001 - kopf raises what it likes
                log.warning("watch ended", error=type(error).__name__)
            self.stop_flag.wait(_AGAIN_SECONDS)

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
        self._declare(registry)

        @kopf.on.login(registry=registry)
        def login(**_: Any) -> Any:
            return self._login()

        return registry

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


def own_kinds(heard: Heard) -> Declare:
    """The five kinds, and the Jobs of runs."""

    def declare(registry: kopf.OperatorRegistry) -> None:
        for kind in KINDS.values():
            _watch_kind(registry, kind.name, kind.plural, heard)

        @kopf.on.event("batch", "v1", "jobs", labels={RUN: kopf.PRESENT}, registry=registry)
        async def job_changed(type: str | None, meta: Mapping[str, Any], **_: Any) -> None:  # noqa: A002
            if type != "ADDED":  # That is our own doing; what becomes of it is news.
                _owner_changed(meta, heard)

    return declare


def queued_workloads(heard: Heard) -> Declare:
    """Kueue's AdmissionChecks, and its Workloads while a check of theirs is to be answered."""

    def declare(registry: kopf.OperatorRegistry) -> None:
        @kopf.on.event(workload.GROUP, workload.VERSION, "admissionchecks", registry=registry)
        def check_changed(meta: Mapping[str, Any], **_: Any) -> None:
            heard(ResourceKey("AdmissionCheck", "", str(meta["name"])), None)

        @kopf.on.event(workload.GROUP, workload.VERSION, "workloads", registry=registry)
        def workload_changed(body: Mapping[str, Any], meta: Mapping[str, Any], **_: Any) -> None:
            if workload.is_undecided(body):
                heard(ResourceKey("Workload", str(meta["namespace"]), str(meta["name"])), None)

    return declare


def endpoints(heard: Heard, watched: tuple[str, str, str]) -> Declare:
    """What serves Releases: whatever becomes of it, its Release is looked at.

    Args:
        heard: Told of Releases.
        watched: Group, version and plural of what serves them.
    """
    group, version, plural = watched

    def declare(registry: kopf.OperatorRegistry) -> None:
        @kopf.on.event(group, version, plural, labels={RELEASE: kopf.PRESENT}, registry=registry)
        def endpoint_changed(meta: Mapping[str, Any], **_: Any) -> None:
            _owner_changed(meta, heard)

    return declare


def _owner_changed(meta: Mapping[str, Any], heard: Heard) -> None:
    for owner in meta.get("ownerReferences") or ():
        if owner.get("apiVersion") == API_VERSION and owner.get("kind") in KINDS:
            heard(ResourceKey(owner["kind"], meta["namespace"], owner["name"]), None)


def _watch_kind(registry: kopf.OperatorRegistry, kind: str, plural: str, heard: Heard) -> None:
    # Handlers that are not coroutines cost a thread's turn for each event.
    async def changed(type: str | None, meta: Mapping[str, Any], **_: Any) -> None:  # noqa: A002
        key = ResourceKey(kind, str(meta["namespace"]), str(meta["name"]))
        parts = (meta.get(name) for name in ("uid", "generation", "deletionTimestamp"))
        heard(key, "" if type == "DELETED" else "/".join(map(str, parts)))

    kopf.on.event(GROUP, VERSION, plural, id=f"{plural}-changed", registry=registry)(changed)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # What to watch is known: no right to list CRDs is needed.
    settings.networking.error_backoffs = _ForEver()
    settings.queueing.exit_timeout = _EXIT_SECONDS
    settings.queueing.idle_timeout = _IDLE_SECONDS
    settings.watching.chunk_size = _LISTED_AT_ONCE
    settings.persistence.progress_storage = _NoProgress()
    settings.persistence.diffbase_storage = _NoDifferences()
    return settings
