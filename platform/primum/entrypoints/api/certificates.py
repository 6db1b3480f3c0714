"""Keeps the certificate that the API serves: read again when its files are replaced.

Whoever issues certificates in a cluster renews them every few weeks, and a mounted Secret changes
under a process that runs. New connections get the new one; those that stand keep theirs.
"""

from __future__ import annotations

import ssl
import threading
from pathlib import Path

import structlog

CERTIFICATE, PRIVATE_KEY = "tls.crt", "tls.key"
LOOK_SECONDS = 10.0  # The kubelet itself takes up to a minute to show a new Secret.

log = structlog.get_logger(__name__)


class ServedCertificate:
    """A pair of files, and the context that serves them.

    Args:
        folder: Holds ``tls.crt`` and ``tls.key``.
        context: Of the server; it has the pair already.
    """

    def __init__(self, folder: Path, context: ssl.SSLContext) -> None:
        self._pair = (folder / CERTIFICATE, folder / PRIVATE_KEY)
        self._context = context
        self._loaded = self._stamp()
        self._refused: tuple[int, ...] = ()

    def look(self) -> None:
        """Serve the pair that is there now, if it is another one and whole."""
        stamp: tuple[int, ...] = ()
        try:
            stamp = self._stamp()
            if stamp == self._loaded:
                return
            # A pair that does not match would spoil the context that serves: try it on another.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._pair)
            self._context.load_cert_chain(*self._pair)
        except (OSError, ssl.SSLError) as error:
            # One of the two files was replaced, and the other one comes in a moment; if it never
            # does, what is served ends one day, and somebody should have been told.
            if stamp == self._refused:
                log.warning("certificate unusable", error=type(error).__name__)
            self._refused = stamp
            return
        self._loaded = stamp
        log.info("certificate replaced")

    def keep(self, stopped: threading.Event) -> threading.Thread:
        """Look every few seconds, in a thread of its own, until told to stop."""

        def watch() -> None:
            while not stopped.wait(LOOK_SECONDS):
                self.look()

        thread = threading.Thread(target=watch, name="certificate", daemon=True)
        thread.start()
        return thread

    def _stamp(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in self._pair)
