"""What the operating system gives: time and fresh ids.

The only place of the platform's core that reads a clock or draws an id; nothing here decides
anything.
"""

from __future__ import annotations

import datetime
import uuid


def _text(moment: datetime.datetime) -> str:
    """The form that every stored time has; it sorts as text."""
    plain = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return f"{plain.isoformat(timespec='microseconds')}Z"


class SystemClock:
    """``Clock`` over the machine's clock."""

    def now(self) -> str:
        """RFC 3339 in UTC with microseconds."""
        return _text(datetime.datetime.now(datetime.UTC))

    def after(self, seconds: float) -> str:
        """The time that many seconds from now, in the same form."""
        return _text(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds))


def fresh_uid() -> str:
    """A random UUID, for what has no derived id."""
    return str(uuid.uuid4())
