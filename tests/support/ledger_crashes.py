"""A ledger whose store dies at a chosen write, and one before whose writes somebody else acts."""

from __future__ import annotations


class Crash(Exception):
    """The process died here."""


class _Pen:
    """A pen that counts what it writes."""

    def __init__(self, pen, count):
        self._pen, self._count = pen, count

    def __getattr__(self, name):
        found = getattr(self._pen, name)
        if name != "append" and not name.startswith("put_"):
            return found

        def written(*arguments):
            self._count()
            return found(*arguments)

        return written


class CrashingRows:
    """``RowStore`` that dies before its ``at``-th write; the end of a transaction counts as one.

    Args:
        rows: The store.
        at: Which write; 0 for none.
    """

    def __init__(self, rows, at=0):
        self._rows, self._left = rows, at

    def _count(self):
        self._left -= 1
        if self._left == 0:
            raise Crash

    def read(self, work):
        return self._rows.read(work)

    def ask(self, work):
        return self._rows.ask(work)

    def write(self, work, **how):
        left = self._left

        def counted(pen):
            self._left = left  # The store may run the work again after a conflict.
            return work(_Pen(pen, self._count))

        answer = self._rows.write(counted, **how)
        self._count()
        return answer


class InterruptedRows:
    """``RowStore`` before whose next write somebody else acts once."""

    def __init__(self, rows, meanwhile):
        self._rows, self._meanwhile = rows, meanwhile

    def read(self, work):
        return self._rows.read(work)

    def ask(self, work):
        return self._rows.ask(work)

    def write(self, work, **how):
        act, self._meanwhile = self._meanwhile, None
        if act is not None:
            act()
        return self._rows.write(work, **how)


def crashed(ledger, at, command):
    """Whether a command met its ``at``-th write and died there."""
    whole = ledger._rows
    ledger._rows = CrashingRows(whole, at)
    try:
        command()
    except Crash:
        return True
    finally:
        ledger._rows = whole
    return False


def interrupted(ledger, command, meanwhile):
    """What a command gives before whose first write somebody else acts."""
    whole = ledger._rows

    def act():
        ledger._rows = whole
        meanwhile()

    ledger._rows = InterruptedRows(whole, act)
    try:
        return command()
    finally:
        ledger._rows = whole
