"""One body at several workers: a Ray Train group of fixed size that is never restarted.

Ray Train places the workers, joins them by ``torch.distributed`` and ends them all when one is
lost. It makes no data loader and wraps no model, since its own would break sampling and clipping:
each worker runs the same body, and the body talks to the others. What goes in and comes out passes
a mailbox in memory; Ray's storage holds an empty folder. Must not read what it passes on but for a
report's status and message, and whether it can be gone on from. Imports ray and torch; loaded
lazily.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from primum import extensions
from primum.domain.canonical import JSON
from primum.domain.errors import Unavailable

_SHARES = 10_000  # Ray counts resources in ten thousandths.
_SILENT_SECONDS = 86_400  # A worker that is lost is seen at once; one that computes may take long.
_SUCCEEDED = "Succeeded"
_FOLDER = "workers"
_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True, slots=True)
class GroupSize:
    """How many workers there are, and what each may use.

    Args:
        workers: At least 1.
        cpus_per_worker: Whole CPUs of each, at least 1.
        gpus_per_worker: Whole GPUs of each; 0 for none.
        workers_per_gpu: How many workers share one GPU; above 1 only with one GPU per worker.
    """

    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: int = 0
    workers_per_gpu: int = 1

    @property
    def cpus(self) -> int:
        """CPUs of all workers together."""
        return self.workers * self.cpus_per_worker

    @property
    def gpus(self) -> float:
        """GPUs of each worker, as Ray counts them: a share is rounded down."""
        return self.gpus_per_worker * (_SHARES // self.workers_per_gpu) / _SHARES


def runs_together(entry: str) -> bool:
    """Whether a body is one that all workers of a Study run at once."""
    return entry in extensions.load("primum.step_runtime", "together")


def missing(there: Mapping[str, float], size: GroupSize) -> str:
    """What a Ray cluster lacks for a group, whoever has it now; empty if nothing.

    Args:
        there: Its resources, as Ray counts them.
        size: The group.
    """
    for name, wanted in (("CPU", size.cpus), ("GPU", size.workers * size.gpus)):
        if wanted > there.get(name, 0):
            room = there.get(name, 0)
            return (
                f"{size.workers} workers need {wanted:g} {name}s; Ray has {room:g}. Ask for fewer"
            )
    return ""


class Mailbox:
    """What the workers are given, and what they say: an actor of the group's lead.

    Args:
        entry: The body.
        payload: Its request, JSON text.
    """

    def __init__(self, entry: str, payload: str) -> None:
        self._task = (entry, payload)
        self._word = left_before(payload)
        self._reports: dict[int, str] = {}
        self._closed = False

    def task(self) -> tuple[str, str]:
        """The body and its request."""
        return self._task

    def leave(self, word: str) -> None:
        """Keep the report that counts if the first worker says no more.

        Raises:
            Unavailable: If nobody waits for it any more.
        """
        if self._closed:
            raise Unavailable("the call was given up")
        self._word = word

    def report(self, rank: int, text: str) -> None:
        """Keep a worker's report."""
        self._reports.setdefault(rank, text)

    def said(self) -> tuple[str, dict[int, str]]:
        """The last word that was left, and all reports in the order in which they came.

        Who was lost, but lives on somewhere, may run no further step from here on.
        """
        self._closed = True
        return self._word, self._reports


@dataclass(frozen=True, slots=True)
class MailboxLine:
    """Where a worker of another node leaves what counts if it is lost.

    Args:
        mailbox: The actor.
    """

    mailbox: Any

    def __call__(self, word: str) -> None:
        """Leave a report, JSON text.

        Raises:
            Unavailable: If nobody waits for this call any more.
        """
        import ray

        try:
            ray.get(self.mailbox.leave.remote(word))
        except ray.exceptions.RayError as error:
            raise Unavailable(f"the call was given up ({type(error).__name__})") from None


def left_before(payload: str) -> str:
    """The report that a lost worker left of a call, as it stands in its next request; or nothing.

    It counts until the next worker has left another one.

    Args:
        payload: The request, JSON text.
    """
    left = json.loads(payload).get("left")
    return json.dumps(left) if left else ""


def open_mailbox(entry: str, payload: str) -> Any:
    """A mailbox at the node of this process, which outlives those of the workers."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here)
    return actor.remote(entry, payload)


class Lead:
    """Leads one group; a plain class: the keeper makes an actor of it, and may end it."""

    def run(self, entry: str, payload: str, size: Mapping[str, int], start_seconds: float) -> str:
        """Run a body at all workers; JSON text in and out."""
        wanted = GroupSize(**size)
        report = run_together(entry, payload, wanted, start_seconds=start_seconds)
        return json.dumps(dict(report))


def run_together(
    entry: str, payload: str, size: GroupSize, *, start_seconds: float
) -> Mapping[str, JSON]:
    """Run a body at all workers of a new group, once, and wait for what it came to.

    Guarantees:
        No worker is replaced and no body starts twice by itself. Where a worker is lost, the report
        is a failed one: the first worker's own, or the last one that it left, with what was
        executed by then.

    Args:
        entry: The body.
        payload: Its request, JSON text.
        size: The group.
        start_seconds: How long its workers may take to be there.

    Raises:
        Unavailable: If the group was lost and nobody can say what was executed.
    """
    import ray

    os.environ.update(_ENVIRONMENT)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(start_seconds)
    mailbox = open_mailbox(entry, payload)
    storage = str(json.loads(payload)["artifacts_uri"]).rstrip("/") + f"/{_FOLDER}"
    failure = _fitted(mailbox, size, storage=storage)
    word, reports = ray.get(mailbox.said.remote())
    ray.kill(mailbox)
    return came_to(word, reports, failure=failure)


def came_to(word: str, reports: Mapping[int, str], *, failure: str) -> Mapping[str, JSON]:
    """What a group came to.

    Args:
        word: The last report that the first worker left, or nothing.
        reports: Reports by worker, in the order in which they came.
        failure: What Ray Train failed with, or nothing.

    Raises:
        Unavailable: If nobody can say what was executed.
    """
    said = {rank: dict(json.loads(text)) for rank, text in reports.items()}
    first = said.get(0)
    if first is not None and first["status"] == _SUCCEEDED:
        return first
    failed = [report for report in said.values() if report["status"] != _SUCCEEDED]
    base = first or (dict(json.loads(word)) if word else None)
    if base is None and not failed:
        raise Unavailable(f"the workers died while they worked ({failure or 'no report'})")
    if base is None:
        return {**failed[0], "receipts": []}  # Only the first worker knows what was released.
    if not failed:
        return base
    # Who failed first tells why; the others only saw that it was gone. What failed by itself would
    # fail again.
    found = {**base, "message": failed[0]["message"]}
    return found if all(report.get("resume") for report in failed) else {**found, "resume": {}}


def _fitted(mailbox: Any, size: GroupSize, *, storage: str) -> str:
    """Have Ray Train run the group; the name of what it failed with, or nothing."""
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    run = RunConfig(
        name="group",
        storage_path=storage,
        # A worker that comes back would draw another batch under the same charge.
        failure_config=FailureConfig(
            max_failures=0, controller_failure_limit=0, max_preemption_failures=0
        ),
    )
    trainer = TorchTrainer(
        _take_part,
        train_loop_config={"mailbox": mailbox},
        scaling_config=scaling(size),
        # NCCL refuses two workers on one GPU.
        torch_config=TorchConfig(
            backend="nccl" if size.gpus >= 1 else "gloo", timeout_s=_SILENT_SECONDS
        ),
        run_config=run,
    )
    try:
        trainer.fit()
    except Exception as error:  # noqa: BLE001 - whatever it is, the mailbox says what counts
        return type(error).__name__
    finally:
        with contextlib.suppress(OSError):
            place = run.storage_context
            place.storage_filesystem.delete_dir(place.storage_fs_path)
    return ""


def scaling(size: GroupSize) -> Any:
    """Ray Train's ``ScalingConfig``: a fixed number of workers, never an elastic one."""
    from ray.train import ScalingConfig

    resources = {"CPU": float(size.cpus_per_worker)}
    if size.gpus:
        resources["GPU"] = size.gpus
    return ScalingConfig(
        num_workers=size.workers, use_gpu=size.gpus > 0, resources_per_worker=resources
    )


def _take_part(told: Mapping[str, Any]) -> None:
    """What every worker runs."""
    import ray
    from ray.train import get_context

    mailbox, rank = told["mailbox"], int(get_context().get_world_rank())
    entry, payload = ray.get(mailbox.task.remote())
    line = MailboxLine(mailbox)

    def leave(word: Mapping[str, JSON]) -> None:
        line(json.dumps(dict(word)))

    work = extensions.load("primum.step_runtime", "work")
    report = work(entry, json.loads(payload), leave=leave)
    ray.get(mailbox.report.remote(rank, json.dumps(report)))
    if report["status"] != _SUCCEEDED:
        # Ends the others, who may wait for this one; its text says nothing of the data.
        raise RuntimeError("a worker failed")
