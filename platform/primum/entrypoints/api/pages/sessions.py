"""Who is signed in to the pages.

A session is a random handle in a cookie; what it stands for stays in this process. The token is
asked about again on every page, so that a token that is taken back, or a role that is, ends with
the next click and not with the session. Must not write a token or a handle anywhere.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from primum.adapters.identity import Identity

COOKIE = "primum_session"
SESSIONS_MAX = 1000  # More people than a compliance department has.
IDLE_SECONDS = 1800.0  # A screen that was left alone.
WHOLE_SECONDS = 8 * 3600.0  # A working day.
_HANDLE_BYTES = 32
_TOKEN_LENGTH_MAX = 8192  # A token of an identity provider carries its claims.


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in.

    Args:
        who: Name and roles, as the token says now.
        form_token: What every form of this session has to send back.
    """

    who: Identity
    form_token: str

    def sent_by_us(self, form_token: str) -> bool:
        """Whether a form came from a page of this session."""
        return hmac.compare_digest(self.form_token.encode(), form_token.encode())


@dataclass(frozen=True, slots=True, repr=False)
class _Held:
    token: str
    form_token: str
    began: float
    seen: float


class Sessions:
    """Sessions of this process; all of them end with it.

    Args:
        identify: Whose token it is.
        monotonic: A clock in seconds that never goes back.
    """

    def __init__(
        self,
        identify: Callable[[str], Identity],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identify = identify
        self._monotonic = monotonic
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, token: str) -> tuple[str, Identity] | None:
        """Begin a session; gives the cookie's value and whose it is; nothing for nobody's token."""
        if not 0 < len(token) <= _TOKEN_LENGTH_MAX:
            return None
        who = self._identify(token)
        if not who.roles:
            return None
        handle, now = secrets.token_urlsafe(_HANDLE_BYTES), self._monotonic()
        with self._lock:
            form_token = secrets.token_urlsafe(_HANDLE_BYTES)
            self._held[_name(handle)] = _Held(token, form_token, now, now)
            while len(self._held) > SESSIONS_MAX:
                self._held.popitem(last=False)
        return handle, who

    def of(self, handle: str) -> Session | None:
        """The session of a cookie's value, while it lasts and its token stands for somebody."""
        name, now = _name(handle), self._monotonic()
        with self._lock:
            held = self._held.get(name)
            if held is None:
                return None
            if now - held.seen > IDLE_SECONDS or now - held.began > WHOLE_SECONDS:
                del self._held[name]
                return None
            self._held[name] = replace(held, seen=now)
        who = self._identify(held.token)
        if not who.roles:
            self.close(handle)
            return None
        return Session(who, held.form_token)

    def close(self, handle: str) -> None:
        """End a session; a no-op for none."""
        with self._lock:
            self._held.pop(_name(handle), None)


def _name(handle: str) -> str:
    """Under what a session is kept: looking up a digest tells nothing about the handle."""
    return hashlib.sha256(handle.encode("utf-8", "replace")).hexdigest()
