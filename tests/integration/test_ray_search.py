"""Trials by Ray Tune on a real local Ray: side by side, once each, without a trace on a disk."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from primum.adapters.ray.fan_out import RayFanOut
from primum.domain.errors import Unavailable

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

PARTS = """
import os
from pathlib import Path


def trial(shared, item):
    return f"{item}:{len(shared)}:{os.getpid()}".encode()


def lost(shared, item):
    with Path(shared.decode(), f"begun-{item}").open("a") as file:
        file.write("begun\\n")
    if item == "a":
        raise ValueError("patient 42 is 63 years old")
    return b"fine"
"""


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Where a local Ray keeps what its processes say; it is up for as long as the fixture is."""
    import ray

    folder = tmp_path_factory.mktemp("ray")
    (folder / "trial_parts.py").write_text(PARTS)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="pt-") as short:
        paths = [str(folder), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv("RAY_raylet_start_wait_time_s", "300")  # Of a machine that does much else.
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setattr(sys, "path", [str(folder), *sys.path])
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=100_000_000,
            _node_ip_address="127.0.0.1",
            _temp_dir=f"{short}/ray",  # Short: socket paths have 107 bytes.
        )
        try:
            yield Path(short)
        finally:
            ray.shutdown()


def test_trials_run_in_workers_of_their_own_and_answer_in_order(logs):
    before = set(Path(tempfile.gettempdir()).glob("primum-tune-*"))
    found = RayFanOut().map_once("trial_parts:trial", b"score 0.8142", ["a", "b", "c"])
    answers = [answer.decode().split(":") for answer in found]
    assert [answer[:2] for answer in answers] == [["a", "12"], ["b", "12"], ["c", "12"]]
    assert str(os.getpid()) not in {pid for _, _, pid in answers}
    assert set(Path(tempfile.gettempdir()).glob("primum-tune-*")) <= before
    assert not list((Path.home() / "ray_results").glob("search*"))


def test_a_trial_that_fails_ends_the_search_is_not_begun_again_and_says_nothing(logs, tmp_path):
    with pytest.raises(Unavailable, match="a trial was lost or failed") as failed:
        RayFanOut().map_once("trial_parts:lost", str(tmp_path).encode(), ["a", "b", "c", "d"])
    assert "patient" not in repr(failed.value)
    assert all(path.read_text() == "begun\n" for path in tmp_path.glob("begun-*"))
    assert not (tmp_path / "begun-d").exists()
    said = [path for path in logs.rglob("*") if path.is_file() and not path.is_symlink()]
    assert said
    assert not [path for path in said if b"patient 42" in path.read_bytes()]
