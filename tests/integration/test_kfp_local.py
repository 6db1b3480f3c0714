"""Pipelines on this machine, run by the real kfp.local in a real detached process.

The steps are the real step runtime over a platform that keeps its state in files; inside the step
processes ``sitecustomize`` puts it in the place of the platform's own step entry point.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from primum import signing
from primum.adapters.kfp import LocalKfpRunner
from primum.application.ports import RunStatus
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.study.steps import StepContext, context_from_json

STEPS = ("validate", "job", "evaluate", "audit")
TICKET = "a-ticket-that-nobody-may-read"
CREDENTIAL = "a-credential-that-nobody-may-read"
WAIT_SECONDS = 60

PLATFORM = '''
"""A platform in a folder: each fact is a file."""
import json, os, sys, types
from pathlib import Path

HOME = Path(os.environ["TRIAL_HOME"])


class FolderServices:
    def __init__(self, context):
        self.context = context

    def _path(self, kind, name):
        return HOME / f"{kind}-{name}"

    def outcome(self, outcome_id):
        from primum.domain.study.steps import outcome_from_json
        path = self._path("outcome", outcome_id)
        return outcome_from_json(json.loads(path.read_text())) if path.exists() else None

    def begun(self, outcome_id):
        return "Exposed" if self._path("exposed", self.context.step).exists() else "Fresh"

    def ready(self, entry):
        pass

    def redeem(self, ticket):
        from primum import signing
        from primum.domain.canonical import canonical_json
        from primum.domain.study.steps import DataToken
        self._path("exposed", self.context.step).touch()
        key = (HOME / "key.pem").read_text()
        access = self.context.step
        claims = canonical_json({"id": access, "reservationId": ""})
        envelope = signing.sign(key, signing.DATA_TOKEN_TYPE, claims)
        return DataToken(signing.encode_token(envelope), access, "b", "u")

    def compute(self, entry, request):
        from primum.domain.study.steps import work_result_from_json
        from primum_pipelines.runtime import work
        with (HOME / "bodies").open("a") as file:
            file.write(self.context.step + "\\n")
        return work_result_from_json(work(entry, request.to_json()))

    def record(self, outcome, evidence):
        draft = self._path("draft", outcome.outcome_id)
        draft.write_text(json.dumps(outcome.to_json()))
        draft.replace(self._path("outcome", outcome.outcome_id))

    def lineage(self, event):
        pass

    def public_key(self):
        return ""

    def artifacts_uri(self, study_uid, generation):
        return str(HOME / "artifacts")

    def data_dirs(self):
        return ()

    def zone_dir(self):
        return ""


def run_step(context):
    from primum.domain.study.steps import context_from_json
    from primum_pipelines.runtime import execute
    (HOME / f"context-{json.loads(context)['step']}").write_text(context)
    told = context_from_json(json.loads(context))
    outcome = execute(told, FolderServices(told))
    if outcome.status.value != "Succeeded":
        raise SystemExit(1)


def run(request):
    import time
    from primum.domain.study.steps import WorkResult
    step = request.context["step"]
    if (HOME / f"fail-{step}").exists():
        raise ValueError("patient 42 is 63 years old")
    while (HOME / f"hold-{step}").exists():
        time.sleep(0.02)
    return WorkResult("Succeeded", "StepSucceeded", "", (), (), (), "0")


sys.modules["trial_bodies"] = module = types.ModuleType("trial_bodies")
module.run = run
sys.modules["primum.entrypoints.step"] = module = types.ModuleType("primum.entrypoints.step")
module.run_step = run_step
'''


class Trial:
    """A runner, the folder its steps keep facts in, and a run."""

    def __init__(self, folder: Path) -> None:
        self.facts = folder / "facts"
        site = folder / "site"
        for path in (self.facts, site):
            path.mkdir()
        (site / "sitecustomize.py").write_text(PLATFORM)
        (self.facts / "key.pem").write_text(signing.generate()[0])
        paths = [str(site), os.environ.get("PYTHONPATH", "")]
        environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "TRIAL_HOME": str(self.facts),
        }
        self.runner = LocalKfpRunner(folder / "home", environment=environment)
        self.folder = folder / "home" / "runs" / "run-1"

    def launch(self, **changes: object) -> None:
        contexts = [make_context(step, **changes) for step in STEPS]
        self.runner.launch("run-1", name="trial", steps=contexts)

    def wait(self, *expected: RunStatus) -> RunStatus:
        self.until(lambda: self.runner.status("run-1") in expected)
        return self.runner.status("run-1")

    def until(self, condition) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.runner.logs("run-1")
            time.sleep(0.02)

    def hold(self, step: str) -> Path:
        path = self.facts / f"hold-{step}"
        path.touch()
        return path

    @property
    def bodies(self) -> list[str]:
        path = self.facts / "bodies"
        return path.read_text().split() if path.exists() else []

    def runner_process(self) -> int:
        """The detached process: the leader of the session that the run's processes are in."""
        from primum.adapters import processes

        found = list(processes._marked(self.folder / "lock"))
        return next(number for number in found if os.getsid(number) == number)


def make_context(step: str, **changes: object) -> StepContext:
    fields: dict[str, object] = {
        "step": step,
        "entry": "trial_bodies:run",
        "study": {"namespace": "n", "name": "s", "uid": "u", "generation": 1, "kind": "Train"},
        "run_id": "run-1",
        "outcome_id": f"o-{step}",
        "plan": {"accesses": [{"name": step, "step": step, "budget": "b"}], "epochs": 20},
        "datasets": {"b": {"uri": "file:///usr/lib/python3/data.csv"}},
        "synthetic": {},
        "expectations": [],
        "audits": [],
        "tickets": {step: TICKET},
        "credential": CREDENTIAL,
        "upstream": {},
    }
    return StepContext(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def trial(tmp_path):
    trial = Trial(tmp_path)
    yield trial
    trial.runner.stop("run-1")


def test_a_run_walks_every_step_and_says_so(trial):
    assert trial.runner.status("run-1") is RunStatus.UNKNOWN
    trial.launch()

    assert trial.wait(RunStatus.SUCCEEDED, RunStatus.FAILED) is RunStatus.SUCCEEDED
    assert trial.bodies == list(STEPS)


def test_a_context_arrives_unchanged_whatever_kfp_would_replace(trial):
    """kfp.local replaces ``python3`` and its own placeholders in every argument."""
    plan = {"accesses": [], "note": "{{$.pipeline_job_name}} {{$}} python3", "one": 1}
    trial.launch(plan=plan)
    trial.wait(RunStatus.SUCCEEDED)

    for step in STEPS:
        told = context_from_json(json.loads((trial.facts / f"context-{step}").read_text()))
        assert told == make_context(step, plan=plan)


def test_launching_again_changes_nothing_while_it_runs_or_after_it_ended(trial):
    held = trial.hold("job")
    trial.launch()
    trial.until(lambda: "job" in trial.bodies)
    trial.launch()
    assert trial.runner.status("run-1") is RunStatus.RUNNING
    held.unlink()
    trial.wait(RunStatus.SUCCEEDED)

    trial.launch()

    assert trial.runner.status("run-1") is RunStatus.SUCCEEDED
    assert trial.bodies == list(STEPS)


def test_another_runner_object_sees_the_same_run(trial):
    """The control loop may have been restarted in between."""
    held = trial.hold("validate")
    trial.launch()
    other = LocalKfpRunner(trial.folder.parent.parent, environment={})

    assert other.status("run-1") is RunStatus.RUNNING
    held.unlink()
    trial.wait(RunStatus.SUCCEEDED)
    assert other.status("run-1") is RunStatus.SUCCEEDED


def test_a_failed_step_ends_the_run_and_leaves_no_value_in_its_log(trial):
    (trial.facts / "fail-job").touch()
    trial.launch()

    assert trial.wait(RunStatus.FAILED) is RunStatus.FAILED
    assert trial.bodies == ["validate", "job"]
    assert "patient 42" not in trial.runner.logs("run-1")


def test_no_ticket_stays_behind(trial):
    trial.launch()
    trial.wait(RunStatus.SUCCEEDED)

    left = [path for path in trial.folder.rglob("*") if path.is_file()]
    assert left
    for secret in (TICKET, CREDENTIAL):
        assert not [path for path in left if secret in path.read_text(errors="replace")]
    assert not list((trial.folder / "tmp").glob("*"))


@pytest.mark.slow
def test_a_run_killed_in_a_step_is_resumed_and_the_exposed_step_is_not_run_again(trial):
    """kill -9 of runner and step, launch again: what stands is skipped, the exposed step lost."""
    held = trial.hold("job")
    trial.launch()
    trial.until(lambda: "job" in trial.bodies)
    os.killpg(trial.runner_process(), signal.SIGKILL)
    trial.until(lambda: trial.runner.status("run-1") is RunStatus.UNKNOWN)
    held.unlink()

    trial.launch()

    assert trial.wait(RunStatus.FAILED) is RunStatus.FAILED
    assert trial.bodies == ["validate", "job"]
    assert json.loads((trial.facts / "outcome-o-job").read_text())["reason"] == "StepLost"


@pytest.mark.slow
def test_a_step_orphaned_by_its_runner_s_death_never_runs_beside_its_successor(trial):
    held = trial.hold("job")
    trial.launch()
    trial.until(lambda: "job" in trial.bodies)
    os.kill(trial.runner_process(), signal.SIGKILL)  # The step's own process lives on.
    trial.until(lambda: trial.runner.status("run-1") is RunStatus.UNKNOWN)

    trial.launch()
    trial.wait(RunStatus.FAILED)
    held.unlink()
    time.sleep(0.2)  # Ten times the orphan's own pause: it would have recorded by now.

    assert json.loads((trial.facts / "outcome-o-job").read_text())["reason"] == "StepLost"


def test_a_run_that_dies_every_time_is_given_up(trial):
    trial.hold("validate")
    for _ in range(5):
        trial.launch()
        os.killpg(trial.runner_process(), signal.SIGKILL)
        trial.until(lambda: trial.runner.status("run-1") is RunStatus.UNKNOWN)

    trial.launch()

    assert trial.runner.status("run-1") is RunStatus.FAILED


def test_a_stopped_run_leaves_nothing_running_and_stays_stopped(trial):
    from primum.adapters import processes

    trial.hold("job")
    trial.launch()
    trial.until(lambda: "job" in trial.bodies)

    trial.runner.stop("run-1")
    trial.runner.stop("run-1")
    trial.launch()

    assert trial.runner.status("run-1") is RunStatus.FAILED
    assert not list(processes._marked(trial.folder / "lock"))


def test_stopping_or_asking_about_an_unknown_run_does_nothing(trial):
    trial.runner.stop("never")

    assert trial.runner.status("never") is RunStatus.UNKNOWN
    with pytest.raises(NotFound):
        trial.runner.logs("never")


def test_a_context_too_large_for_an_argument_is_refused_before_anything_starts(trial):
    with pytest.raises(InvalidValue, match="context of step validate"):
        trial.launch(plan={"accesses": [], "text": "x" * 100_000})

    assert trial.runner.status("run-1") is RunStatus.UNKNOWN


@pytest.mark.parametrize("run_id", ["", "..", "a/b", "-x", "x" * 200])
def test_a_run_id_cannot_leave_its_folder(trial, run_id):
    with pytest.raises(InvalidValue):
        trial.runner.status(run_id)
