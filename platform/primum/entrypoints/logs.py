"""Logging: structured lines for machines, plain ones for people.

No record-level value may be passed to a logger.
"""

from __future__ import annotations

import enum
import logging
import sys
from typing import TextIO, cast


class Audience(enum.Enum):
    """Who reads the log."""

    MACHINES = "machines"
    PEOPLE = "people"


class _StandardError:
    """Standard error as it is when a line is written, not when logging was set up.

    A process may redirect it, and close what it was.
    """

    def write(self, text: str) -> int:
        """Write where standard error goes now."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush it."""
        sys.stderr.flush()


def configure(audience: Audience) -> None:
    """Set up logging of this process, to standard error."""
    import structlog

    people = audience is Audience.PEOPLE
    level = logging.WARNING if people else logging.INFO
    renderer = (
        structlog.dev.ConsoleRenderer(colors=False)
        if people
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _StandardError())),
        cache_logger_on_first_use=True,
    )
