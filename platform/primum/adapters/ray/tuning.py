"""Trials of a search by Ray Tune: each on a CPU of its own, none begun twice, no result on a disk.

Tune schedules; what is searched and which trial is the best is decided by the body that asks. Tune
keeps records of what it runs, so all that it is told of a trial is its number; answers go straight
back to the body. Its folder is gone when it is done. Imports ray lazily, and must not say what a
trial said when it failed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from primum import extensions
from primum.domain.errors import Unavailable

# Loggers of results would write what trials report into files and to a terminal.
_QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
_FOLDER_PREFIX = "primum-tune-"
_NUMBER = "part"


class _Answers:
    """Where trials leave their answers: a plain class, made an actor of."""

    def __init__(self) -> None:
        self._held: dict[int, bytes] = {}
        self._wanted = True

    def wanted(self) -> bool:
        """Whether another trial may be begun."""
        return self._wanted

    def put(self, number: int, answer: bytes | None) -> None:
        """Take the answer of a trial; after ``None``, that of one that failed, none is begun."""
        if answer is None:
            self._wanted = False
        else:
            self._held[number] = answer

    def taken(self) -> dict[int, bytes]:
        """All answers by number."""
        return self._held


def tuned(entry: str, shared: bytes, items: Sequence[str], *, workers: int) -> list[bytes]:
    """Have a function called once for every item, as trials of one Tune experiment.

    Args:
        entry: ``package.module:function``, from (shared, item) to bytes.
        shared: Put into the object store once.
        items: One text per trial.
        workers: How many trials run at once.

    Returns:
        The answers, in the order of the items.

    Raises:
        Unavailable: If a trial failed or was lost; none is tried again.
    """
    import ray
    from ray import tune

    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    answers = ray.remote(_Answers).options(num_cpus=0, max_restarts=0, max_task_retries=0).remote()
    trial = tune.with_parameters(
        _trial, entry=entry, shared=shared, items=list(items), answers=answers
    )
    with tempfile.TemporaryDirectory(prefix=_FOLDER_PREFIX) as folder:
        tuner = tune.Tuner(
            tune.with_resources(trial, {"cpu": 1}),
            param_space={_NUMBER: tune.grid_search(list(range(len(items))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=workers),
            run_config=tune.RunConfig(
                name="search",
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0, fail_fast=True),
            ),
        )
        try:
            tuner.fit()
            found: dict[int, bytes] = ray.get(answers.taken.remote())
        except (ray.exceptions.RayError, tune.TuneError) as error:
            raise Unavailable(f"a trial was lost or failed ({type(error).__name__})") from None
        finally:
            ray.kill(answers)
    if len(found) != len(items):
        raise Unavailable("a trial was lost or failed")
    return [found[number] for number in range(len(items))]


def _trial(
    config: dict[str, int], *, entry: str, shared: bytes, items: list[str], answers: Any
) -> None:
    """One trial, in an actor of Tune's own.

    What goes wrong in it is not raised: Ray and Tune would write an exception's text, which may
    quote data, into their logs.
    """
    import ray

    number, answer = config[_NUMBER], None
    if not ray.get(answers.wanted.remote()):
        return
    work_part = extensions.load("primum.step_runtime", "work_part")
    with contextlib.suppress(Exception):
        answer = work_part(entry, shared, items[number])
    ray.get(answers.put.remote(number, answer))
