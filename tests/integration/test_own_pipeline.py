"""A pipeline of one's own on one machine: compiled, run by kfp, and its Study released."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import EXAMPLES
from places import BUDGET, Place, cleared

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes by their environment"),
]


def test_the_example_goes_from_a_file_to_a_released_model(tmp_path):
    place = Place(tmp_path / "home", EXAMPLES / "breast-cancer" / "study.yaml")
    with cleared(place):
        done = place.run("apply", "-f", BUDGET)
        assert done.returncode == 0, done.stderr
        file = tmp_path / "risk.yaml"
        compiled = place.run("pipeline", "compile", EXAMPLES / "pipelines" / "risk.py", "-o", file)
        assert compiled.returncode == 0, compiled.stderr
        ran = place.run("pipeline", "submit", file, "-p", f"manifest=@{place.study}")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "the run succeeded" in ran.stdout
        again = place.run("pipeline", "submit", file, "-p", f"manifest=@{place.study}")
        assert again.returncode == 0, again.stdout + again.stderr
        stores = place.stores()
        states = [held.state.value for held in stores.ledger.reservations()]
        stores.close()
        assert states == ["Charged"]
