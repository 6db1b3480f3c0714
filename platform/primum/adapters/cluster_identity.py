"""Identity in a cluster: the API server says whose token it is, and which roles they hold.

A role is held by whoever may ``use`` the name of it among ``roles.primum.dev``, a resource that
exists in rights alone; the chart has a ClusterRole for each. Nothing is kept but a digest of a
token, for seconds. Must not let anybody in whom the API server does not name.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from primum.adapters.identity import NOBODY, Identity, Role
from primum.adapters.kube.api import KubeApi
from primum.resources.metadata import GROUP

RESOURCE, VERB = "roles", "use"
AUDIENCE = "primum-ledger"  # Of tokens that are for the ledger API and for nobody else.
REMEMBER_SECONDS = 30.0  # So long may a right outlive its withdrawal; a page asks a dozen times.
_KNOWN_MAX = 1000
_TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
_ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class ClusterIdentities:
    """Asks the API server; safe to use from many threads.

    Args:
        api: The API server, as an account that may create TokenReviews and SubjectAccessReviews.
        monotonic: Seconds of a clock that never goes back.
    """

    def __init__(self, api: KubeApi, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._monotonic = monotonic
        self._known: dict[str, tuple[float, Identity]] = {}
        self._lock = threading.Lock()

    def identify(self, token: str) -> Identity:
        """Whose token it is; ``NOBODY`` where it is nobody's.

        Raises:
            Unavailable: If the API server does not answer.
        """
        if not token:
            return NOBODY
        digest = hashlib.sha256(token.encode()).hexdigest()
        now = self._monotonic()
        with self._lock:
            known = self._known.get(digest)
        if known is not None and now - known[0] < REMEMBER_SECONDS:
            return known[1]
        user = self._reviewed(token)
        if user is None:
            return NOBODY
        roles = frozenset(role for role in Role if self._holds(user, role))
        identity = Identity(str(user["username"]), roles)
        with self._lock:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[digest] = (now, identity)
        return identity

    def _reviewed(self, token: str) -> Mapping[str, Any] | None:
        # A token made for us alone first: it opens nothing at the API server, so it is the one that
        # our own processes send.
        asked: dict[str, Any] = {"token": token}
        for spec in (asked | {"audiences": [AUDIENCE]}, asked):
            body = _review("authentication.k8s.io/v1", "TokenReview", spec)
            status = self._api.create(_TOKENS, body).get("status") or {}
            user = status.get("user") or {}
            if "audiences" in spec and AUDIENCE not in (status.get("audiences") or ()):
                continue  # An API server that knows no audiences leaves them out of its answer.
            if status.get("authenticated") is True and user.get("username"):
                return dict(user)
        return None

    def _holds(self, user: Mapping[str, Any], role: Role) -> bool:
        asked = {
            "user": user["username"],
            "groups": user.get("groups") or [],
            "uid": user.get("uid") or "",
            "extra": user.get("extra") or {},
            "resourceAttributes": {
                "group": GROUP,
                "resource": RESOURCE,
                "name": role.value,
                "verb": VERB,
            },
        }
        body = _review("authorization.k8s.io/v1", "SubjectAccessReview", asked)
        status = self._api.create(_ACCESS, body).get("status") or {}
        return status.get("allowed") is True and not status.get("denied")


def _review(version: str, kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "spec": dict(spec)}
