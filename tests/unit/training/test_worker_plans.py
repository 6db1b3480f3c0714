"""Several workers in a plan: what they change, what they must not, and who cannot have them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from primum import extensions
from primum.adapters.ray.group import GroupSize, missing
from primum.application import devices
from primum.domain.errors import InvalidValue
from primum.domain.study.spec import DataRole, StudyInput
from primum.resources.jobs import JobResources
from primum_pipelines.kinds.federate.kind import FederateKind
from primum_pipelines.kinds.synthesize.kind import SynthesizeKind
from primum_pipelines.kinds.train.kind import TrainKind

JOB = {"model": "Logistic", "epochs": 20, "batchSize": 128, "maxGradNorm": "1.0"}


@pytest.mark.parametrize("workers", [2, 8])
def test_workers_change_neither_epsilon_nor_noise_nor_rate(study, planning, workers):
    """The batch is one Poisson sample over all workers' units, and noise comes once."""
    one, several = (TrainKind().declare(study(workers=count), planning()) for count in (1, workers))
    assert several.epsilon == one.epsilon
    assert several.accesses == one.accesses
    assert several.mechanism == one.mechanism
    assert several.parameters == {**one.parameters, "workers": workers}


class Alone:
    """A plug-in that would train on the share of one worker."""

    name = "Alone"
    reviewed = False


def test_a_plug_in_that_does_not_read_workers_gets_none(study, planning, monkeypatch):
    real = extensions.load

    def load(group, name):
        return Alone if group == "primum.training_algorithms" else real(group, name)

    monkeypatch.setattr(extensions, "load", load)
    assert TrainKind().declare(study(), planning()).parameters["workers"] == 1
    with pytest.raises(InvalidValue, match="workers must be 1 for DPSGD, which does not read"):
        TrainKind().declare(study(workers=2), planning())


def test_more_workers_than_training_units_are_refused(study, planning, facts):
    with pytest.raises(InvalidValue, match="at most 463, the training units of budget wisconsin"):
        TrainKind().declare(study(workers=464), planning())


def test_where_nothing_is_private_one_worker_is_enough(study, planning):
    public = (StudyInput(DataRole.PUBLIC, uri="sklearn://digits"),)
    with pytest.raises(InvalidValue, match="must be 1 where no data is private"):
        TrainKind().declare(study(workers=2, inputs=public), planning())


def test_a_search_runs_its_trials_with_one_worker(study, planning):
    space = [{"parameter": "learningRate", "low": "0.05", "high": "2", "scale": "Log"}]
    search = {"space": space, "trials": 4, "score": "HeldOut", "noiseMultiplier": "10"}
    with pytest.raises(InvalidValue, match="workers must be 1 for a search"):
        TrainKind().declare(study(workers=2, job={**JOB, "search": search}), planning())


@pytest.mark.parametrize(
    ("kind", "job"),
    [
        (SynthesizeKind(), {"samples": 100}),
        (FederateKind(), {"model": "Logistic", "rounds": 5, "batchSize": 20, "maxGradNorm": "1.0"}),
    ],
)
def test_kinds_that_compute_with_one_worker_get_one(bench, kind, job):
    facts = [bench.images("north"), bench.images("south", seed=1)]
    wanted = replace(bench.study(kind.name, job, facts), workers=2)
    with pytest.raises(InvalidValue, match=f"must be 1 for {kind.name}, which computes with one"):
        kind.declare(wanted, bench.context(facts))


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [
        ({}, 0),
        ({"workers": 3, "gpusPerWorker": 2}, 6),
        ({"workers": 4, "gpusPerWorker": 1, "workersPerGpu": 2}, 2),
        ({"workers": 4, "gpusPerWorker": 1, "workersPerGpu": 4, "cpusPerWorker": 2}, 1),
    ],
)
def test_workers_that_share_a_gpu_are_counted_by_the_gpu(study, resources, gpus):
    asked = JobResources.model_validate(resources)
    wanted = study(
        workers=asked.workers,
        gpus_per_worker=asked.gpus_per_worker,
        workers_per_gpu=asked.workers_per_gpu or 1,
    )
    assert devices.needed(wanted) == gpus


@pytest.mark.parametrize(
    "resources",
    [
        {"workers": 2, "workersPerGpu": 2},
        {"workers": 2, "gpusPerWorker": 2, "workersPerGpu": 2},
        {"workers": 3, "gpusPerWorker": 1, "workersPerGpu": 2},
        {"workers": 0},
        {"workers": [1, 4]},
        {"workers": "1-4"},
        {"cpusPerWorker": 0},
        {"gpusPerWorker": 0.5},
    ],
)
def test_what_cannot_be_shared_out_is_refused(resources):
    """An elastic number of workers among it: there is no way to write one."""
    with pytest.raises(ValidationError):
        JobResources.model_validate(resources)


def test_a_share_of_a_gpu_is_what_ray_can_count():
    """Three thirds must fit on one GPU, so a third is rounded down."""
    third = GroupSize(workers=3, gpus_per_worker=1, workers_per_gpu=3)
    assert third.gpus == 0.3333
    assert missing({"CPU": 3, "GPU": 1}, third) == ""
    assert "3 workers need 3 CPUs; Ray has 2" in missing({"CPU": 2, "GPU": 1}, third)
    assert "GPU" in missing({"CPU": 3}, third)
    assert missing({"CPU": 4}, GroupSize(workers=2, cpus_per_worker=2)) == ""


def test_ray_train_is_asked_for_a_fixed_number_of_workers():
    from primum.adapters.ray.group import scaling

    half = scaling(GroupSize(workers=4, cpus_per_worker=2, gpus_per_worker=1, workers_per_gpu=2))
    assert (half.num_workers, half.elasticity_enabled) == (4, False)
    assert half.resources_per_worker == {"CPU": 2.0, "GPU": 0.5}
    alone = scaling(GroupSize(workers=2))
    assert (alone.use_gpu, alone.resources_per_worker) == (False, {"CPU": 1.0})
