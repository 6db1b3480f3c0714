"""Events for people: one per transition of a condition, with the condition's own words.

Their names are derived from what they tell, so that a transition that is seen twice is told once.
They vanish within the hour and are no record: the ledger is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from primum.adapters.kube.api import Json, KubeApi
from primum.domain.canonical import JSON
from primum.domain.conditions import Condition, Status
from primum.domain.errors import Conflict, PrimumError
from primum.domain.names import ResourceKey
from primum.resources.metadata import API_VERSION
from primum.resources.status import conditions_of

_NOTE_LENGTH_MAX = 1024  # What the API server takes.
_NAME_LENGTH_MAX = 200
TROUBLE = "NotBroughtOn"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Regarding:
    """What an event is about.

    Args:
        api_version: Such as ``primum.dev/v1alpha1``.
        key: Its kind, namespace and name.
        uid: Its uid.
    """

    api_version: str
    key: ResourceKey
    uid: str


class EventRecorder:
    """Writes events; a failure to write one is logged and forgotten.

    Args:
        api: The API server.
        instance: Which replica reports.
        now: RFC 3339 time with microseconds.
    """

    def __init__(self, api: KubeApi, *, instance: str, now: Callable[[], str]) -> None:
        self._api = api
        self._instance = instance
        self._now = now

    def transitions(
        self,
        key: ResourceKey,
        uid: str,
        *,
        before: Mapping[str, JSON],
        after: Mapping[str, JSON],
    ) -> None:
        """Tell every condition that became True or False, or is False for another reason."""
        known = {item.type: item for item in conditions_of(before)}
        for item in conditions_of(after):
            if _is_news(known.get(item.type), item):
                self._record(key, uid, item)

    def trouble(self, key: ResourceKey, uid: str, message: str) -> None:
        """Tell once that a resource could not be brought on, and why; its conditions stay."""
        self.tell(
            Regarding(API_VERSION, key, uid),
            identity=("trouble", message),
            action="Look",
            reason=TROUBLE,
            kind="Warning",
            note=message,
        )

    def _record(self, key: ResourceKey, uid: str, item: Condition) -> None:
        self.tell(
            Regarding(API_VERSION, key, uid),
            identity=(item.type, item.status, item.reason, item.last_transition_time),
            action=item.type.value,
            reason=item.reason.value,
            kind="Normal" if item.status is Status.TRUE else "Warning",
            note=item.message,
        )

    def tell(
        self,
        regarding: Regarding,
        *,
        identity: tuple[str, ...],
        action: str,
        reason: str,
        kind: str,
        note: str,
    ) -> None:
        """Tell something of any object, once for the same identity.

        Args:
            regarding: The object.
            identity: What makes it this event and no other one.
            action: What was done, one word.
            reason: Why, one word.
            kind: ``Normal`` or ``Warning``.
            note: For people.
        """
        told = _digest(regarding.uid, *identity)
        event = self._event(
            regarding, told=told, action=action, reason=reason, kind=kind, note=note
        )
        key = regarding.key
        path = f"/apis/events.k8s.io/v1/namespaces/{key.namespace}/events"
        try:
            self._api.create(path, event)
        except Conflict:
            return  # Told before, by this replica or another one.
        except PrimumError as error:
            log.warning("event not written", resource=str(key), error=type(error).__name__)

    def _event(
        self,
        regarding: Regarding,
        *,
        told: str,
        action: str,
        reason: str,
        kind: str,
        note: str,
    ) -> Json:
        key = regarding.key
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"{key.name[:_NAME_LENGTH_MAX]}.{told}",
                "namespace": key.namespace,
            },
            "eventTime": self._now(),
            "reportingController": "primum.dev/operator",
            "reportingInstance": self._instance[:128],
            "action": action,
            "reason": reason,
            "type": kind,
            "note": note[:_NOTE_LENGTH_MAX],
            "regarding": {
                "apiVersion": regarding.api_version,
                "kind": key.kind,
                "namespace": key.namespace,
                "name": key.name,
                "uid": regarding.uid,
            },
        }


def _is_news(before: Condition | None, after: Condition) -> bool:
    if after.status is Status.UNKNOWN:
        return False
    if before is None or before.status is not after.status:
        return True
    return after.status is Status.FALSE and before.reason is not after.reason


def _digest(*told: str) -> str:
    """What an event tells, in the length of a name."""
    return hashlib.sha256("\x1f".join(told).encode()).hexdigest()[:16]
