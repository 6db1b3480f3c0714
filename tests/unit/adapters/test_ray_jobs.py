"""Following a RayJob over a bad line: what is seen, what is asked again, and what ends it.

The answers of the API server are scripted; a real one is in the control-plane suite.
"""

from __future__ import annotations

import json

import pytest
from scripted_api import status

from primum.adapters.kube.quota import QueuedGpus, reachable_gpus
from primum.adapters.kube.rayjobs import RayJobs, RunningRayJob
from primum.adapters.kube_manifests.rayjob_status import Duty
from primum.application.ports import RunStatus
from primum.domain.errors import Unavailable

UID = "0b0c"
AWAY = (503, {}, b"upstream went away")


def ray_job(deployment="Running", job="RUNNING", *, uid=UID, version="5"):
    metadata = {"name": "job-1", "namespace": "oncology", "uid": uid, "resourceVersion": version}
    return {
        "metadata": metadata,
        "status": {"jobDeploymentStatus": deployment, "jobStatus": job},
    }


def seen(*found):
    return (
        200,
        {},
        b"".join(json.dumps({"type": t, "object": o}).encode() + b"\n" for t, o in found),
    )


MADE = ray_job("", "")
ENDED = ray_job("Complete", "SUCCEEDED", version="9")
GONE = status(404, "NotFound", name="job-1", kind="rayjobs")
TOO_OLD = {"kind": "Status", "code": 410, "reason": "Expired"}
WAYS = {
    "a watch that is cut": [seen(("MODIFIED", ray_job())), (200, {}, ENDED)],
    "a watch in the middle of whose event the line is cut": [
        (200, {}, json.dumps({"type": "MODIFIED", "object": ENDED}).encode()[:-9]),
        (200, {}, ENDED),
    ],
    "a watch that is too old at once": [status(410, "Expired"), (200, {}, ENDED)],
    "a watch that is too old later": [seen(("ERROR", TOO_OLD)), (200, {}, ENDED)],
    "a watch that is refused while rights are not known yet": [
        status(403, "Forbidden"),
        (200, {}, ENDED),
    ],
    "a server that is away": [AWAY, AWAY, AWAY, status(403, "Forbidden"), (200, {}, ENDED)],
    "an API that is not served for a moment": [
        (404, {}, b"404 page not found\n"),
        status(404, "NotFound", "the server could not find the requested resource"),
        (200, {}, ENDED),
    ],
    "an end that the watch tells": [seen(("MODIFIED", ENDED)), (200, {}, ENDED)],
}


@pytest.fixture
def jobs(api):
    return RayJobs(api, pause=lambda _seconds: None)


def follow(jobs, *, recorded=lambda: False, seconds=60.0):
    return jobs.follow(MADE, seconds=seconds, recorded=recorded)


@pytest.mark.parametrize("way", WAYS)
def test_following_survives(jobs, server, way):
    server.answers += [(200, {}, ray_job()), *WAYS[way]]
    state = follow(jobs)
    assert (state.status, state.duty) == (RunStatus.SUCCEEDED, Duty.SETTLE)
    assert server.answers == []


def test_a_watch_begins_where_the_reading_ended(jobs, server):
    server.answers += [(200, {}, ray_job(version="77")), seen(), (200, {}, ENDED)]
    follow(jobs)
    assert "resourceVersion=77" in server.asked[1][1]


@pytest.mark.parametrize(
    "answer", [GONE, (200, {}, ray_job(uid="another"))], ids=["deleted", "made anew by another"]
)
def test_a_ray_job_that_is_not_there_any_more_has_vanished(jobs, server, answer):
    server.answers += [(200, {}, ray_job()), seen(("DELETED", ray_job())), answer]
    assert follow(jobs).reason == "Vanished"


def test_a_ledger_that_is_away_does_not_end_it(jobs, server):
    def recorded():
        raise Unavailable("away")

    server.answers += [(200, {}, ray_job()), seen(), (200, {}, ENDED)]
    assert follow(jobs, recorded=recorded).status is RunStatus.SUCCEEDED


def test_an_outcome_ends_it_though_nobody_answers(jobs, server):
    server.answers += [AWAY]
    assert follow(jobs, recorded=lambda: True).duty is Duty.WAIT


def test_the_deadline_holds_though_nobody_answers(api, server):
    now = iter(range(0, 1000, 40))
    jobs = RayJobs(api, monotonic=lambda: next(now), pause=lambda _seconds: None)
    server.answers += [AWAY] * 3
    state = jobs.follow(MADE, seconds=60.0, recorded=lambda: False)
    assert (state.duty, state.reason) == (Duty.STOP, "DeadlineExceeded")


def test_deleting_names_the_one_that_was_made(jobs, server):
    server.answers += [AWAY, (200, {}, {})]
    jobs.delete(MADE)
    assert json.loads(server.asked[-1][3])["preconditions"] == {"uid": UID}
    server.answers += [status(409, "Conflict")]
    jobs.discard(RunningRayJob("job-1", "oncology", UID, "run", "owner"))
    server.answers += [AWAY] * 3
    with pytest.raises(Unavailable):
        jobs.delete(MADE)


def cluster_queue(name, *flavors, cohort=None):
    resources = [
        {"resources": [{"name": "nvidia.com/gpu", **flavor}, {"name": "cpu", "nominalQuota": "64"}]}
        for flavor in flavors
    ]
    spec = {"resourceGroups": [{"flavors": resources}]}
    return {"metadata": {"name": name}, "spec": spec | ({"cohortName": cohort} if cohort else {})}


@pytest.mark.parametrize(
    ("used", "others", "gpus"),
    [
        ([cluster_queue("a", {"nominalQuota": "8"})], [], 8),
        ([cluster_queue("a", {"nominalQuota": 4}, {"nominalQuota": "1k"})], [], 1004),
        ([cluster_queue("a")], [], 0),
        ([{"metadata": {"name": "a"}, "spec": {}}], [], 0),
        (
            [cluster_queue("a", {"nominalQuota": "2"}, cohort="c")],
            [cluster_queue("b", {"nominalQuota": "6"}, cohort="c")],
            8,
        ),
        (
            [cluster_queue("a", {"nominalQuota": "2", "borrowingLimit": "1"}, cohort="c")],
            [cluster_queue("b", {"nominalQuota": "6"}, cohort="c")],
            3,
        ),
        (
            [cluster_queue("a", {"nominalQuota": "2", "borrowingLimit": "90"}, cohort="c")],
            [cluster_queue("b", {"nominalQuota": "6"})],
            2,
        ),
    ],
)
def test_gpus_are_what_the_queues_can_give_at_most(used, others, gpus):
    assert reachable_gpus(used, [*used, *others]) == gpus


def test_gpus_are_read_through_the_queue_of_each_namespace_and_remembered(api, server):
    now = [0.0]
    gpus = QueuedGpus(api, queue="gpu", namespaces=("a", "b", "c"), monotonic=lambda: now[0])
    local = {"metadata": {"name": "gpu"}, "spec": {"clusterQueue": "imaging"}}
    missing = status(404, "NotFound", name="gpu", kind="localqueues")
    everything = {"items": [cluster_queue("imaging", {"nominalQuota": "8"}), cluster_queue("x")]}
    server.answers += [(200, {}, local), (200, {}, local), missing, (200, {}, everything)]
    assert gpus() == gpus() == 8
    assert server.answers == []
    now[0] = 60.0
    server.answers += [missing, missing, missing]
    assert gpus() == 0
    now[0] = 120.0
    for answer in (AWAY, status(403, "Forbidden")):
        server.answers += [answer]
        with pytest.raises(Unavailable):
            gpus()
