"""What a second worker saves on this machine's cores: a ratio within one run, held to nothing."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install primum[train]")

import timed_workers


@pytest.mark.timeout(1800)
def test_a_step_of_two_workers_over_a_step_of_one(figures, tmp_path):
    """One thread each and the same batch: 2.0 would be perfect; two of a busy machine's cores."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begun = [
        subprocess.Popen(
            [sys.executable, timed_workers.__file__, str(rank), str(tmp_path)], env=environment
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=1700) for process in begun] == [0, 0]
    found = json.loads((tmp_path / "seconds.json").read_text())
    for model, times in found.items():
        alone, together = (statistics.median(times[name]) for name in ("alone", "together"))
        figures.show(
            f"{model}, batch 256: one worker / two workers, wall",
            f"{alone / together:.2f} x ({1000 * alone:.0f} / {1000 * together:.0f} ms per step)",
        )
