"""What a RayJob's status means for its run: every row of KubeRay's table, and every other row.

KubeRay reports two words. ``jobDeploymentStatus`` says how far it is with the cluster,
``jobStatus`` what Ray says of the driver; the second may be empty though the first is final. A word
that we do not know never frees a budget and never counts as success. Must not settle anything: the
ledger charges by receipts.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from primum.application.ports import RunStatus


class Started(enum.StrEnum):
    """Whether the driver may have run, and with it touched data."""

    NO = "No"
    PERHAPS = "Perhaps"
    YES = "Yes"


class Duty(enum.StrEnum):
    """What the operator has to do about it."""

    WAIT = "Wait"
    SETTLE = "Settle"
    STOP = "Stop"  # delete the RayJob, then settle


@dataclass(frozen=True, slots=True)
class RayJobState:
    """A RayJob as the platform sees it.

    Args:
        status: The run's status.
        started: Whether data may have been touched.
        duty: What has to be done.
        reason: KubeRay's own word for why, or the two words where they make no sense together.
    """

    status: RunStatus
    started: Started
    duty: Duty
    reason: str = ""


JOB_STATUSES = ("", "PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED")
DEPLOYMENT_STATUSES = (
    "",
    "Initializing",
    "Running",
    "Complete",
    "Failed",
    "ValidationFailed",
    "Suspending",
    "Suspended",
    "Retrying",
    "Waiting",
)
_REASON_LENGTH_MAX = 64  # KubeRay's reasons are CamelCase words.
_BEFORE_RAY = ("", "Initializing", "Waiting")
_HAS_RUN = ("RUNNING", "STOPPED", "SUCCEEDED", "FAILED")


def ray_job_state(status: Mapping[str, object] | None) -> RayJobState:
    """The state of a RayJob.

    | jobDeploymentStatus | jobStatus | run |
    | --- | --- | --- |
    | Complete | SUCCEEDED | succeeded |
    | Complete | anything else | failed after it started |
    | Failed | any, also empty | failed; started unless Ray never had the job |
    | ValidationFailed | any | failed before it started |
    | Suspending, Suspended | any | in progress: queued, or preempted |
    | Retrying | any | failed, and to be stopped: a second attempt would spend twice |
    | everything else | any | in progress |

    Args:
        status: ``status`` of the RayJob; an empty one was not looked at by KubeRay yet; ``None``
            where there is no RayJob (deleted by hand, or expired before it was seen to end).

    Returns:
        The state. Unknown words are in progress: the RayJob's own deadline ends them.
    """
    if status is None:
        return RayJobState(RunStatus.UNKNOWN, Started.PERHAPS, Duty.SETTLE, "Vanished")
    deployment = str(status.get("jobDeploymentStatus") or "")
    job = str(status.get("jobStatus") or "")
    reason = str(status.get("reason") or "")[:_REASON_LENGTH_MAX]
    started = _started(deployment, job)
    if deployment == "Complete":
        ended = RunStatus.SUCCEEDED if job == "SUCCEEDED" else RunStatus.FAILED
        return RayJobState(ended, Started.YES, Duty.SETTLE, reason or job)
    if deployment in ("Failed", "ValidationFailed"):
        return RayJobState(RunStatus.FAILED, started, Duty.SETTLE, reason or job or deployment)
    if deployment == "Retrying":
        return RayJobState(RunStatus.FAILED, Started.PERHAPS, Duty.STOP, deployment)
    if deployment not in DEPLOYMENT_STATUSES or job not in JOB_STATUSES:
        return RayJobState(RunStatus.RUNNING, Started.PERHAPS, Duty.WAIT, "UnknownStatus")
    return RayJobState(RunStatus.RUNNING, started, Duty.WAIT, reason)


def _started(deployment: str, job: str) -> Started:
    """What Ray says outweighs how far the cluster is; PENDING is no proof that nothing ran."""
    if job in _HAS_RUN:
        return Started.YES
    if job == "" and deployment in (*_BEFORE_RAY, "ValidationFailed"):
        return Started.NO
    return Started.PERHAPS
