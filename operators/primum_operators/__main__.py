"""``python -m primum_operators``, and the console script ``primum-operator``."""

from __future__ import annotations

import signal
import sys
import threading

from primum.domain.errors import InvalidValue
from primum.entrypoints import logs
from primum.entrypoints import settings as platform_settings
from primum_operators import settings

_USAGE_EXIT = 2


def main() -> int:
    """Run one replica until it is asked to end; returns the exit status."""
    import kopf

    logs.configure(logs.Audience.MACHINES)
    kopf.configure(quiet=True, log_format=kopf.LogFormat.JSON)  # It names every object otherwise.
    from primum_operators.operator import operator

    try:
        replica = operator(platform_settings.from_environment(), settings.from_environment())
    except InvalidValue as error:
        sys.stderr.write(f"primum-operator: {error}\n")
        return _USAGE_EXIT
    for number in (signal.SIGTERM, signal.SIGINT):
        # In a thread: a handler interrupts whoever holds the very locks that stopping takes.
        signal.signal(number, lambda *_: threading.Thread(target=replica.stop).start())
    replica.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
