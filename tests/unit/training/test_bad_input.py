"""What cannot be trained: is it one clear error, charged what ran, and nothing lost?"""

from __future__ import annotations

import errno
import os
from decimal import Decimal

import pytest
import torch
from torch import nn

from primum import extensions
from primum.domain.accounting.events import NoEvent, covers, event_from_json
from primum.domain.errors import InvalidValue
from primum_pipelines.kinds.train.kind import TrainKind
from primum_pipelines.kinds.train.step import train

KIND = TrainKind()
HELD_OUT = {"earlyStopping": {"score": "HeldOut", "patience": 9, "noiseMultiplier": "20"}}


class Own(nn.Module):
    """A plug-in's network of thirty columns and two classes; says what it does to its rows."""

    def __init__(self, within):
        super().__init__()
        self.first, self.within, self.last = nn.Linear(30, 8), within, nn.Linear(8, 2)

    def forward(self, rows):
        return self.last(self.within(self.first(rows)))


class Centered(nn.Module):
    """Takes the mean over the batch away: every row knows of the others."""

    def forward(self, rows):
        return rows - rows.mean(dim=0)


class Scaled(nn.Module):
    """Uses a parameter of its own without being a layer that any rule knows."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, rows):
        return rows @ self.inner.weight.t()


class Remembering(nn.Module):
    """Keeps a mean of what passed, which would be released beside the weights without noise."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, rows):
        if self.training:
            self.mean.lerp_(rows.detach().mean(dim=0), 0.1)
        return rows


@pytest.fixture
def plug_in(monkeypatch):
    """Has the name MLP mean another network."""

    def use(within):
        class Model:
            name = "MLP"

            def check(self, parameters):
                return {}

            def build(self, parameters, *, input_shape, classes):
                return Own(within())

        real = extensions.load
        monkeypatch.setattr(
            extensions,
            "load",
            lambda group, name: Model if group == "primum.models" else real(group, name),
        )

    return use


@pytest.mark.parametrize(
    ("within", "named"),
    [
        (lambda: nn.BatchNorm1d(8), "model layer within must not compute statistics over the"),
        (Centered, "loss must treat every unit by itself"),
        (Scaled, "model parameter within.inner.weight must be used by its own layer alone"),
        (Remembering, "model buffer within.mean must stay as it is while rows pass"),
    ],
    ids=["batch-norm", "mixes-rows", "unseen-parameter", "keeps-rows"],
)
@pytest.mark.parametrize("extra", [{}, HELD_OUT], ids=["alone", "with-looks"])
def test_a_model_that_cannot_be_private_is_refused_for_nothing(
    make_zone, study, plug_in, within, named, extra
):
    plug_in(within)
    zone = make_zone(study=study(job={**study().job, "model": "MLP", **extra}))
    result = train(zone.request("job"))
    assert result.status == "Failed"
    assert named in result.message
    assert "before its first step" in result.message
    charged = {a.name for a in zone.plan.accesses if a.treatment.value == "Charged"}
    assert {item["access"] for item in result.receipts} == charged
    assert {event_from_json(item["event"]) for item in result.receipts} == {NoEvent()}
    assert list(result.artifacts) == []


def test_refusing_looks_at_no_private_value(make_zone, study, plug_in):
    """The rows of the rehearsal are made up: the module sees none of the table before it."""
    seen = []

    class Looking(nn.Module):
        def forward(self, rows):
            seen.append(rows.detach().clone())
            return rows - rows.mean(dim=0)

    plug_in(Looking)
    zone = make_zone(study=study(job={**study().job, "model": "MLP"}))
    first = train(zone.request("job")).message
    count = len(seen)
    assert train(zone.request("job")).message == first
    again = seen[count:]
    assert all(torch.equal(a, b) for a, b in zip(seen[:count], again, strict=True))
    assert max(len(rows) for rows in seen) <= 4


@pytest.mark.parametrize(
    ("changes", "epsilon", "named"),
    [
        ({"batchSize": 464}, "3", r"batchSize must be at most 463, the training units of budget"),
        ({"maxGradNorm": "0"}, "3", r"maxGradNorm must be above 0; found 0"),
        ({"maxGradNorm": "-1"}, "3", r"maxGradNorm must be above 0; found -1"),
        ({}, "0.000000001", r"epsilon .*noise"),
    ],
)
def test_what_no_mechanism_can_do_is_refused_before_anything(
    study, planning, changes, epsilon, named
):
    asked = study(job={**study().job, **changes}, epsilon=Decimal(epsilon))
    with pytest.raises(InvalidValue, match=named):
        KIND.declare(asked, planning())


@pytest.mark.parametrize("full_at", [1, 3])
def test_a_full_disk_at_a_checkpoint_charges_what_ran(make_zone, study, monkeypatch, full_at):
    job = {**study().job, "noiseMultiplier": "20", "epochs": 40}
    zone = make_zone(study=study(job=job))
    written, real = [], os.fsync

    def fsync(handle):
        written.append(handle)
        if len(written) >= full_at:
            raise OSError(errno.ENOSPC, "full")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    result = train(zone.request("job"))
    monkeypatch.undo()
    assert result.status == "Failed"
    assert "Free space in the steward's zone" in result.message
    assert "full" not in result.message.replace("steward", "")
    (receipt,) = result.receipts
    executed = event_from_json(receipt["event"])
    planned = next(a.event for a in zone.plan.accesses if a.step == "job")
    if full_at == 1:
        assert executed == NoEvent()
    else:
        assert covers(planned, executed)
        assert executed.count == 20  # Two checkpoints, ten steps each.


def test_weights_that_become_nan_in_the_middle_end_it_where_they_did(make_zone, study, monkeypatch):
    """The loss of every row is poisoned from step 7 on; what ran is charged, the weights are not
    kept."""
    from primum_pipelines.optimization import noisy_sums

    zone = make_zone(study=study())
    steps, real = [], noisy_sums.NoisySums.release

    def release(self):
        steps.append(1)
        noisy = real(self)
        if len(steps) == 7:
            next(iter(noisy.values())).fill_(float("nan"))
        return noisy

    monkeypatch.setattr(noisy_sums.NoisySums, "release", release)
    result = train(zone.request("job"))
    assert result.status == "Failed"
    assert "weights must stay finite" in result.message
    assert event_from_json(result.receipts[0]["event"]).count == 7
    assert list(result.artifacts) == []


def test_rows_whose_loss_is_nan_are_left_out_of_every_step(make_zone, study, plug_in):
    """A gradient that is no number is a gradient of zero: nothing stops, nothing is told."""

    class Broken(nn.Module):
        def forward(self, rows):
            return torch.where(rows > 2.5, torch.sqrt(rows - 1e9), rows)

    plug_in(Broken)
    zone = make_zone(study=study(job={**study().job, "model": "MLP"}))
    result = train(zone.request("job"))
    assert result.status == "Succeeded"
    planned = next(a.event for a in zone.plan.accesses if a.step == "job")
    assert event_from_json(result.receipts[0]["event"]) == planned
