"""Works that are written in one transaction: a first one holds the turn until the others wait."""

from __future__ import annotations

import threading

PATIENCE = 30.0  # Seconds that a test waits for what takes milliseconds.


def in_one_group(stores, *commands):
    """Run commands in threads of their own, as one group in this order; what each came to."""
    rows = stores.ledger._rows
    begun, go_on = threading.Event(), threading.Event()

    def hold(_pen):
        begun.set()
        assert go_on.wait(PATIENCE)

    outcomes = [None] * len(commands)

    def run(place, command):
        try:
            outcomes[place] = command()
        except BaseException as error:
            outcomes[place] = error

    holder = threading.Thread(target=rows.write, args=(hold,))
    holder.start()
    assert begun.wait(PATIENCE)
    threads = [
        threading.Thread(target=run, args=(place, command))
        for place, command in enumerate(commands)
    ]
    for waiting, thread in enumerate(threads, start=1):
        thread.start()
        while len(rows._grouping._waiting) < waiting:
            assert thread.is_alive(), outcomes
    go_on.set()
    for thread in (holder, *threads):
        thread.join(PATIENCE)
        assert not thread.is_alive()
    return outcomes
