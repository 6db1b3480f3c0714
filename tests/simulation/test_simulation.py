"""The whole control plane when everything misbehaves: it is safe at every step, and it recovers.

Every test is one seed. ``PRIMUM_SIM_SEEDS=N`` runs N more; a failing seed goes into ``seeds.txt``
and stays there.
"""

from __future__ import annotations

import os
import pathlib

import pytest
from simulated.world import World

QUICK = 40
KEPT = pathlib.Path(__file__).with_name("seeds.txt")


def _seeds() -> list[int]:
    kept = [
        int(line.split("#")[0])
        for line in KEPT.read_text().splitlines()
        if line.split("#")[0].strip()
    ]
    further = int(os.environ.get("PRIMUM_SIM_SEEDS", "0"))
    return [*dict.fromkeys([*range(QUICK), *kept, *range(1000, 1000 + further)])]


@pytest.mark.parametrize("seed", _seeds())
def test_nothing_forbidden_happens_and_everything_ends(seed):
    try:
        World(seed).run()
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
