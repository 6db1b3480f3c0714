"""A process of a few seconds is spared the garbage collector, also when it fails."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc
from primum.adapters import processes

usual = gc.get_threshold()[0]
try:
    with processes.short_lived():
        assert gc.isenabled() and gc.get_threshold()[0] > 10 * usual
        {body}
finally:
    print("kept", gc.get_freeze_count() > 1000)
"""


@pytest.mark.parametrize(("body", "code"), [("pass", 0), ("raise SystemExit(3)", 3)])
def test_what_was_imported_is_not_looked_through_at_the_end(body, code):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "kept True\n")
