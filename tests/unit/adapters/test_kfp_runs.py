"""Runs on Kubeflow Pipelines: made once whatever happens on the way, told truly, ended for good."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import ssl

import pytest
from simulated_kfp import ENDED, SimulatedKfp
from simulated_secrets import SimulatedSecrets
from simulated_tls import authority

from primum import signing
from primum.adapters.kfp_api import ApiSettings, KfpApi
from primum.adapters.kfp_runs import KfpRunner, KfpSettings
from primum.adapters.kube.api import KubeApi
from primum.adapters.kube.pods import JobSettings
from primum.adapters.memory import ManualClock, MemorySigner
from primum.application.ports import RunStatus
from primum.domain.errors import InvalidValue, NotFound, PrimumError, Refused, Unavailable
from primum.domain.study.steps import StepContext

RUN = "5d1c7f0e-0000-5000-8000-000000000001"
UID = "0d1c7f0e-0000-5000-8000-00000000000a"
OTHER = "0d1c7f0e-0000-5000-8000-00000000000b"
RESERVATION = "7d1c7f0e-0000-5000-8000-00000000000c"
SPACE = "oncology"
JOBS = JobSettings(
    image="registry.example.org/primum/worker@sha256:" + "0" * 64,
    ledger_url="https://primum-api.primum-system.svc:8399",
    data_claim="primum-dataset-scans",
)
SECRET = f"/api/v1/namespaces/{SPACE}/secrets/primum-{RUN}"


def ticket():
    claims = json.dumps({"reservationId": RESERVATION}).encode()
    return signing.encode_token(MemorySigner().sign(signing.TICKET_TYPE, claims))


def contexts(uid=UID, run=RUN):
    study = {"namespace": SPACE, "name": "risk", "uid": uid, "generation": 1, "kind": "Train"}
    return [
        StepContext(
            step=step,
            entry="package.module:function",
            study=study,
            run_id=run,
            outcome_id=f"outcome-{step}",
            plan={},
            datasets={},
            synthetic={},
            expectations=(),
            audits=(),
            tickets={f"{step}@scans": ticket()},
            upstream={},
            owner={"kind": "Study", "name": "risk"},
        )
        for step in ("validate", "job")
    ]


@pytest.fixture
def secrets(tmp_path):
    with SimulatedSecrets(tmp_path) as made:
        yield made


@pytest.fixture
def kfp(secrets):
    with SimulatedKfp(secrets) as made:
        yield made


class Place:
    """A runner, and how to begin again as another process would."""

    def __init__(self, kfp, secrets, clock, **api):
        self.kfp, self.secrets, self.clock, self._api = kfp, secrets, clock, api
        self._clients = []
        self.recorded = []
        self.runner = self.restarted()

    def restarted(self, namespaces=("radiology", SPACE)):
        client = KubeApi(self.secrets.kubeconfig)
        self._clients.append(client)
        settings = KfpSettings(ApiSettings(self.kfp.url, **self._api), namespaces)
        api = KfpApi(settings.api, timeout_seconds=1.0)
        self.runner = KfpRunner(
            api,
            client,
            jobs=JOBS,
            settings=settings,
            clock=self.clock,
            record=lambda kind, key, fact: self.recorded.append((kind, key, fact)),
        )
        return self.runner

    def launch(self, uid=UID, run=RUN):
        self.runner.launch(run, name="oncology-risk-1", steps=contexts(uid, run))

    def launched(self):
        self.launch()
        (run,) = self.kfp.runs
        return run

    def close(self):
        for client in self._clients:
            client.close()


@pytest.fixture
def place(kfp, secrets):
    made = Place(kfp, secrets, ManualClock())
    yield made
    made.close()


def test_a_run_is_made_once(place, kfp):
    place.launch()
    place.launch()
    place.restarted()
    place.launch()
    (run,) = kfp.runs
    assert run["display_name"] == f"primum-{RUN}"
    assert run["service_account"] == "primum-pipeline"
    assert run["namespace"] == SPACE
    assert [e["display_name"] for e in kfp.experiments] == ["primum"]


def test_which_run_is_ours_is_recorded_once_by_each_process(place, kfp):
    run = place.launched()
    place.runner.status(RUN)
    assert place.recorded == [("KfpRun", run["run_id"], {"runId": RUN})]
    place.restarted()
    place.runner.status(RUN)
    place.runner.status(RUN)
    assert place.recorded == [("KfpRun", run["run_id"], {"runId": RUN})] * 2


def test_a_run_that_has_ended_is_not_made_again(place, kfp):
    run = place.launched()
    for state in ENDED:
        kfp.move(run, state)
        place.restarted()
        place.launch()
    assert len(kfp.runs) == 1


def test_no_ticket_is_in_what_kubeflow_is_sent(place, kfp, secrets):
    run = place.launched()
    told = [
        t
        for text in secrets.kept[SECRET]["data"].values()
        for t in json.loads(base64.b64decode(text))["tickets"].values()
    ]
    assert told
    assert not any(each in json.dumps(run) for each in told)


def test_the_secret_is_there_before_the_run_and_belongs_to_the_study(place, kfp, secrets):
    kfp.fail("POST .*/runs", 503)
    with pytest.raises(Unavailable):
        place.launch()
    assert kfp.runs == []
    assert secrets.kept[SECRET]["metadata"]["ownerReferences"][0]["uid"] == UID
    place.launch()
    assert len(kfp.runs) == 1


def test_every_pod_of_a_step_says_what_it_runs_under(place):
    pods = place.launched()["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]
    executors = pods["deploymentSpec"]["executors"]
    for step in ("validate", "job"):
        labels = executors[f"exec-{step}"]["podMetadata"]["labels"]
        assert labels["primum.dev/run"] == RUN
        assert labels["primum.dev/reservation"] == RESERVATION
        annotations = executors[f"exec-{step}"]["podMetadata"]["annotations"]
        assert annotations == {"primum.dev/reservations": RESERVATION}
        claims = {item["constant"] for item in executors[f"exec-{step}"]["pvcMount"]}
        assert claims == {"primum-artifacts", "primum-dataset-scans"}
    assert "primum.dev/reservation" not in executors["exec-notify"]["podMetadata"]["labels"]


def test_an_answer_that_was_lost_makes_no_second_run(place, kfp):
    kfp.fail("POST .*/runs", "lost")
    place.launch()
    assert len(kfp.runs) == 1
    assert place.runner.status(RUN) is RunStatus.RUNNING


def test_an_answer_that_was_lost_and_then_none_is_looked_for_again(place, kfp):
    kfp.fail("POST .*/runs", "lost")
    kfp.fail("GET .*/runs", 503, after="POST .*/runs$")
    with pytest.raises(Unavailable, match="503"):
        place.launch()
    place.launch()
    assert len(kfp.runs) == 1


def test_of_two_runs_the_oldest_is_kept(place, kfp):
    first = place.launched()
    second = kfp.twin(first)
    assert place.runner.status(RUN) is RunStatus.RUNNING
    assert kfp.alive() == [first]
    assert second["state"] in ("CANCELING", "CANCELED")
    kfp.move(first, "SUCCEEDED")
    assert place.runner.status(RUN) is RunStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("PENDING", RunStatus.RUNNING),
        ("RUNNING", RunStatus.RUNNING),
        ("PAUSED", RunStatus.RUNNING),
        ("CANCELING", RunStatus.RUNNING),
        ("", RunStatus.RUNNING),
        ("RUNTIME_STATE_UNSPECIFIED", RunStatus.RUNNING),
        ("A_WORD_OF_TOMORROW", RunStatus.RUNNING),
        ("SUCCEEDED", RunStatus.SUCCEEDED),
        ("SKIPPED", RunStatus.FAILED),
        ("FAILED", RunStatus.FAILED),
        ("CANCELED", RunStatus.FAILED),
    ],
)
def test_what_each_state_means(place, kfp, state, status):
    kfp.move(place.launched(), state)
    assert place.runner.status(RUN) is status


def test_a_run_that_could_not_be_read_is_no_end(place, kfp):
    run = place.launched()
    for name in ("state", "description"):
        del run[name]
    run["error"] = {"code": 13, "message": "database"}
    run["state"] = ""
    assert place.runner.status(RUN) is RunStatus.RUNNING


UGLY = (400, 401, 403, 409, 410, 429, 500, 502, 503, 504)
UGLIER = ("redirect", "page", "gone page", "garbage", "lost", "hang")


@pytest.mark.parametrize("how", [*UGLY, *UGLIER])
def test_whatever_goes_wrong_a_run_is_never_said_to_be_gone(place, kfp, how):
    place.launch()
    kfp.fail("GET ", how, times=2)
    with pytest.raises(PrimumError) as raised:
        place.runner.status(RUN)
    assert not isinstance(raised.value, NotFound)
    kfp.troubles.clear()
    assert place.runner.status(RUN) is RunStatus.RUNNING
    assert len(kfp.runs) == 1


def test_a_proxys_404_for_a_run_is_not_its_end(place, kfp):
    run = place.launched()
    kfp.vanish(run)
    kfp.fail(f"GET .*/runs/{run['run_id']}", "gone page")
    with pytest.raises(Unavailable):
        place.runner.status(RUN)
    assert place.runner.status(RUN) is RunStatus.UNKNOWN


def test_how_long_to_wait_is_what_the_api_says(place, kfp):
    kfp.fail("GET ", 429, Retry_After="17")
    with pytest.raises(Unavailable) as raised:
        place.runner.status(RUN)
    assert raised.value.retry_seconds == 17


def test_a_list_that_leaves_a_known_run_out_is_not_believed(place, kfp, monkeypatch):
    run = place.launched()
    run["display_name"] = "renamed"
    assert place.runner.status(RUN) is RunStatus.RUNNING


def test_a_run_whose_record_was_deleted_is_unknown_and_made_anew(place, kfp):
    kfp.vanish(place.launched())
    assert place.runner.status(RUN) is RunStatus.UNKNOWN
    place.launch()
    assert [run["state"] for run in kfp.runs] == ["PENDING"]


def test_what_was_never_launched_is_unknown(place):
    assert place.runner.status(RUN) is RunStatus.UNKNOWN
    place.runner.stop(RUN)
    with pytest.raises(NotFound):
        place.runner.logs(RUN)


def test_stopping_ends_the_run_and_takes_its_tickets_away(place, kfp, secrets):
    run = place.launched()
    place.runner.stop(RUN)
    place.runner.stop(RUN)
    assert run["state"] in ("CANCELING", "CANCELED")
    assert SECRET not in secrets.kept
    assert kfp.requests.count(f"POST /apis/v2beta1/runs/{run['run_id']}:terminate") == 1


def test_stopping_what_has_just_ended_is_no_fault(place, kfp):
    run = place.launched()
    kfp.fail("POST .*:terminate", 400)
    kfp.fail("POST .*:terminate", 404)
    with pytest.raises(Unavailable):  # It runs, and would not end.
        place.runner.stop(RUN)
    place.runner.stop(RUN)
    kfp.move(run, "SUCCEEDED")
    place.runner.stop(RUN)
    assert run["state"] == "SUCCEEDED"


def test_a_run_that_was_stopped_before_anybody_knew_of_it_finds_no_tickets(place, kfp, secrets):
    kfp.fail("POST .*/runs", 503)
    with pytest.raises(Unavailable):
        place.launch()
    place.runner.stop(RUN)
    assert secrets.kept == {}


def test_a_run_that_cancels_for_ever_has_ended(place, kfp):
    run = place.launched()
    run["stuck"] = True
    place.runner.stop(RUN)
    assert place.runner.status(RUN) is RunStatus.RUNNING
    place.clock.advance(16 * 60)
    assert place.runner.status(RUN) is RunStatus.FAILED


def test_tickets_are_thrown_away_when_the_run_ends_also_by_another_process(place, kfp, secrets):
    run = place.launched()
    place.runner.status(RUN)
    assert SECRET in secrets.kept
    kfp.move(run, "FAILED")
    place.restarted()
    place.runner.status(RUN)
    place.runner.status(RUN)
    assert SECRET not in secrets.kept
    assert secrets.requests.count(f"DELETE {SECRET}") == 1


def test_the_sweep_sees_runs_under_way_and_ends_them(place, kfp, secrets):
    run = place.launched()
    runner = place.restarted()
    assert list(runner.owners()) == [(RUN, SPACE, UID)]
    runner.discard(RUN, SPACE)
    assert run["state"] in ("CANCELING", "CANCELED")
    assert secrets.kept == {}
    assert list(runner.owners()) == []


def test_the_sweep_sees_every_page_and_nobody_elses_runs(place, kfp):
    first = place.launched()
    for number in range(2, 206):
        kfp.twin(first)["display_name"] = f"primum-5d1c7f0e-0000-5000-8000-{number:012d}"
    theirs = kfp.twin(first)
    theirs["display_name"], theirs["description"] = "not-primum-at-all", ""
    assert len({run for run, _, _ in place.runner.owners()}) == 205


def test_the_sweep_leaves_what_has_ended_alone(place, kfp):
    run = place.launched()
    for state in (*ENDED, "CANCELING"):
        kfp.move(run, state)
        assert list(place.runner.owners()) == [], state
    for state in ("", "PAUSED", "A_WORD_OF_TOMORROW"):
        kfp.move(run, state)
        assert list(place.runner.owners()) == [(RUN, SPACE, UID)], state


def test_a_run_of_that_name_that_is_anothers_is_not_taken(place, kfp):
    place.launch(uid=OTHER)
    place.restarted()
    with pytest.raises(Refused, match="not of this Study"):
        place.launch()


def test_an_experiment_that_another_replica_makes_meanwhile_is_found(place, kfp):
    place.launch()
    kfp.runs.clear()
    place.restarted()
    kfp.fail("GET .*/experiments", "empty")
    place.launch()
    assert len(kfp.experiments) == 1


def test_an_experiment_that_was_removed_is_made_again(place, kfp):
    place.launch()
    kfp.runs.clear()
    kfp.experiments.clear()
    with pytest.raises(Unavailable):
        place.launch()
    place.launch()
    assert len(kfp.runs) == len(kfp.experiments) == 1


def test_what_the_api_cannot_take_is_told_and_costs_no_run(place, kfp):
    kfp.fail("POST .*/runs", 400)
    with pytest.raises(InvalidValue, match="simulated"):
        place.launch()
    assert kfp.runs == []


def test_logs_say_where_they_are(place):
    run = place.launched()
    assert run["run_id"] in place.runner.logs(RUN)
    assert f"primum.dev/run={RUN}" in place.runner.logs(RUN)


def test_the_token_is_read_for_every_request(kfp, secrets, tmp_path):
    file = tmp_path / "token"
    file.write_text("first\n")
    kfp.tokens = {"first"}
    place = Place(kfp, secrets, ManualClock(), token_path=str(file))
    place.launch()
    kfp.tokens = {"second"}
    with pytest.raises(Refused):
        place.runner.status(RUN)
    file.write_text("second\n")
    assert place.runner.status(RUN) is RunStatus.RUNNING
    file.unlink()
    with pytest.raises(Unavailable, match="token"):
        place.runner.status(RUN)
    place.close()


def test_a_401_is_asked_again_once_because_the_token_may_just_have_been_replaced(place, kfp):
    place.launch()
    kfp.fail("GET ", 401)
    assert place.runner.status(RUN) is RunStatus.RUNNING


def test_the_token_follows_no_redirect(place, kfp):
    place.launch()
    kfp.fail("GET ", "redirect")
    with pytest.raises(Unavailable, match="302"):
        place.runner.status(RUN)


def test_the_certificate_is_checked_with_the_authority_that_was_named(secrets, tmp_path):
    ours, theirs = authority(tmp_path / "ours"), authority(tmp_path / "theirs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ours.certificate, ours.key)
    with SimulatedKfp(secrets, tls=context) as kfp:
        place = Place(kfp, secrets, ManualClock(), ca_path=str(ours.authority))
        place.launch()
        assert len(kfp.runs) == 1
        other = Place(kfp, secrets, ManualClock(), ca_path=str(theirs.authority))
        with pytest.raises(Unavailable, match="SSLCertVerificationError"):
            other.runner.status(RUN)
        place.close()
        other.close()


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("ftp://host", "must be http"),
        ("host:8888", "must be http"),
        ("https://user:secret@host", "must hold no password"),
        ("https://host?token=1", "must be http"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(url, rule):
    with pytest.raises(InvalidValue, match=rule) as raised:
        ApiSettings(url)
    if "password" in rule:
        assert "secret" not in str(raised.value)


def test_authorities_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(InvalidValue, match="PEM"):
        KfpApi(ApiSettings("https://host", ca_path=str(tmp_path / "none.pem")))


def test_namespaces_must_be_named():
    with pytest.raises(InvalidValue, match="namespaces must be named"):
        KfpSettings(ApiSettings("https://host"), ())


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_launched_twice_under_any_sequence(kfp, secrets, seed):
    """Faults, restarts and replicas that were late, in any order; then one quiet look."""
    chance = random.Random(seed)
    place = Place(kfp, secrets, ManualClock())
    deeds = ("launch", "status", "restart", "twin", "fault", "fault", "launch")
    for _ in range(30):
        with contextlib.suppress(PrimumError):
            match chance.choice(deeds):
                case "launch":
                    place.launch()
                case "status":
                    place.runner.status(RUN)
                case "restart":
                    place.restarted()
                case "twin" if kfp.runs:
                    kfp.twin(kfp.runs[-1], seconds=chance.randint(0, 3))
                case "fault":
                    how = chance.choice([*UGLY, "redirect", "page", "gone page", "garbage", "lost"])
                    kfp.fail(chance.choice(["GET ", "POST .*/runs$", "terminate"]), how)
    kfp.troubles.clear()
    place.launch()
    place.runner.status(RUN)
    assert kfp.created == 1
    assert len(kfp.alive()) == 1
    oldest = min(kfp.runs, key=lambda run: (run["created_at"], run["run_id"]))
    assert kfp.alive() == [oldest]
    place.close()
