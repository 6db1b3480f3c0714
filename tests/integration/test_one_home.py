"""Processes that start at the same moment on one new home: all of them start, on the same keys."""

from __future__ import annotations

import multiprocessing
import sys

import pytest

from primum.adapters import identity
from primum.adapters.identity import Role
from primum.entrypoints import bootstrap, settings

AT_ONCE = 6
HOMES = 5


def _homes(folder):
    return [folder / str(number) / "home" for number in range(HOMES)]


def _prepare(folder, together):
    for home in _homes(folder):
        found = settings.from_environment({"PRIMUM_HOME": str(home)})
        together.wait()
        try:
            bootstrap.prepare_home(found)
        except BaseException:
            together.abort()  # The others would wait for nobody.
            raise


def _issue(home, name, together):
    together.wait()
    for number in range(HOMES):
        identity.issue(home, name=f"{name}-{number}", roles=(Role.AUDITOR,))


def _run(target, shares):
    """Run a function in one process per share; all of them set off together."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    together = context.Barrier(len(shares), timeout=60)
    running = [context.Process(target=target, args=(*share, together)) for share in shares]
    for process in running:
        process.start()
    for process in running:
        process.join(120)
    return [process.exitcode for process in running]


@pytest.mark.timeout(180)
def test_processes_that_prepare_one_home_at_once_all_start(fast_folder):
    assert _run(_prepare, [(fast_folder,)] * AT_ONCE) == [0] * AT_ONCE
    for home in _homes(fast_folder):
        assert [owner.name for owner in identity.holders(home)] == ["owner"]
        assert identity.caller(home, "").holds(*Role)
        left = {path.name for path in home.iterdir() if path.name.startswith(".")}
        assert left == set(), "drafts are left behind"


def test_tokens_given_at_once_are_all_known(fast_folder):
    names = [f"person-{number}" for number in range(AT_ONCE)]
    assert _run(_issue, [(fast_folder, name) for name in names]) == [0] * AT_ONCE
    known = [holder.name for holder in identity.holders(fast_folder)]
    assert sorted(known) == sorted(f"{name}-{number}" for name in names for number in range(HOMES))


def test_an_owner_whose_token_was_written_by_a_process_that_died_gets_another(fast_folder):
    (fast_folder / identity.TOKEN).write_text("primum_never-known")
    identity.ensure_owner(fast_folder)
    assert identity.caller(fast_folder, "").name == "owner"
