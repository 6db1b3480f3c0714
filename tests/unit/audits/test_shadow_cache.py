"""Shadows are kept only where a steward says so, only in the zone, and let go when they must."""

from __future__ import annotations

import stat

import numpy as np
import pytest
from shadow_recipes import recipe

torch = pytest.importorskip("torch")

from primum_pipelines.attacks import (  # noqa: E402
    membership,
    scorings,
    shadow_cache,
    shadow_program,
)
from primum_pipelines.attacks.membership import Shop  # noqa: E402
from primum_pipelines.attacks.shadow_cache import ShadowCache  # noqa: E402
from primum_pipelines.attacks.shadow_program import Program  # noqa: E402
from primum_pipelines.datasets.table import UnitTable  # noqa: E402
from primum_pipelines.kinds.training import fresh_model  # noqa: E402
from primum_pipelines.models.artifact import LoadedModel, ModelSpec  # noqa: E402

SPEC = ModelSpec(
    "Logistic", {}, (3,), ("no", "yes"), "yes", ("a", "b", "c"), ("0",) * 3, ("1",) * 3, "s"
)
RECIPE = recipe(steps=4)
EFFORT = membership.Effort(shadows=4, pool=40)


def table(rows=60, *, seed=0):
    generator = np.random.default_rng(seed)
    features = generator.random((rows, 3)).astype(np.float32)
    return UnitTable(
        features=features,
        labels=(features[:, 0] > 0.5).astype(np.int64),
        units=np.arange(rows),
        train=np.arange(rows) % 2 == 0,
        classes=("no", "yes"),
        feature_names=("a", "b", "c"),
    )


def attack(cache, data=None, *, effort=EFFORT, parameters=RECIPE, looks=()):
    module = fresh_model(SPEC)
    architecture = membership.architecture_of(SPEC, effort.shadowing)
    weights = architecture.build().state_dict() if architecture.model != "Logistic" else None
    found = membership.attack(
        LoadedModel(module, SPEC),
        data or table(),
        program=Program(parameters, architecture, weights or module.state_dict()),
        effort=effort,
        scoring=scorings.lira_online,
        looks=looks,
        shop=Shop(cache=cache),
    )
    return list(found)[-1]


@pytest.fixture
def trainings(monkeypatch):
    """How often shadows were trained."""
    counted = []
    train = shadow_program.train_stacked

    def counting(*args, **kwargs):
        counted.append(1)
        return train(*args, **kwargs)

    monkeypatch.setattr(shadow_program, "train_stacked", counting)
    return counted


@pytest.fixture
def zone(tmp_path):
    shadow_cache.keep(str(tmp_path), 2**20)
    return str(tmp_path)


def cache(zone, *, study="study-1", withdrawn=0, account="account-1", others=()):
    return ShadowCache(zone, account=account, study=study, withdrawn=withdrawn, others=others)


def files(zone):
    from pathlib import Path

    return sorted((Path(zone) / shadow_cache.FOLDER).glob("*/*"))


def test_by_default_nothing_is_kept(tmp_path, trainings):
    for _ in range(2):
        attack(cache(str(tmp_path)))
    assert len(trainings) == 2
    assert list(tmp_path.rglob("*")) == []


def test_kept_shadows_are_not_trained_again_and_say_the_same(zone, trainings):
    first = attack(cache(zone))
    again = attack(cache(zone))
    assert len(trainings) == 1
    assert len(first.present) == len(again.present)
    assert shadow_cache.kept(zone)["files"] == 1


def test_only_the_owner_may_read_them(zone):
    attack(cache(zone))
    (path,) = files(zone)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "changed",
    [
        {"data": table(seed=1)},
        {"parameters": recipe(steps=5)},
        {"effort": membership.Effort(shadows=6, pool=40)},
        {"effort": membership.Effort(shadows=4, pool=40, shadowing=membership.Shadowing.BLACK_BOX)},
    ],
)
def test_whatever_they_depend_on_trains_new_ones(zone, trainings, changed):
    attack(cache(zone))
    attack(cache(zone), **changed)
    assert len(trainings) == 2


def test_damaged_ones_are_let_go(zone, trainings):
    attack(cache(zone))
    (path,) = files(zone)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    attack(cache(zone))
    assert len(trainings) == 2


def test_a_withdrawn_consent_lets_them_go(zone, trainings):
    attack(cache(zone))
    attack(cache(zone, withdrawn=1))
    assert len(trainings) == 2
    assert [path.name.split(".")[1] for path in files(zone)] == ["1"]
    shadow_cache.forget_account(zone, "another")
    assert len(files(zone)) == 1
    shadow_cache.forget_account(zone, "account-1")
    assert files(zone) == []


def test_a_study_that_is_gone_lets_its_own_go(zone):
    attack(cache(zone))
    attack(cache(zone, study="study-2"))
    shadow_cache.forget_study(zone, "study-1")
    assert [path.name.split(".")[0] for path in files(zone)] == ["study-2"]


def test_the_least_recently_used_go_first_and_the_limit_holds(zone):
    import os

    attack(cache(zone, study="one"))
    (first,) = files(zone)
    size = first.stat().st_size
    os.utime(first, (first.stat().st_atime, first.stat().st_mtime - 60))
    shadow_cache.keep(zone, 2 * size + 10)
    attack(cache(zone, study="two"))
    attack(cache(zone, study="three"))
    kept = {path.name.split(".")[0] for path in files(zone)}
    assert kept == {"two", "three"}
    assert shadow_cache.kept(zone)["bytes"] <= 2 * size + 10


def test_what_nobody_used_for_long_goes(zone):
    import os

    attack(cache(zone, study="one"))
    (path,) = files(zone)
    old = path.stat().st_mtime - shadow_cache.UNUSED_SECONDS_MAX - 60
    os.utime(path, (old, old))
    attack(cache(zone, study="two"))
    assert [item.name.split(".")[0] for item in files(zone)] == ["two"]


def test_keeping_none_lets_go_what_there_is(zone):
    attack(cache(zone))
    shadow_cache.keep(zone, 0)
    assert shadow_cache.kept(zone) == {"files": 0, "bytes": 0, "limit": 0}


SITES = (("account-2", 0), ("account-3", 5))


def test_shadows_of_a_federation_are_kept_once_for_all_of_its_sites(zone, trainings):
    attack(cache(zone, others=SITES))
    attack(cache(zone, others=SITES))
    assert len(trainings) == 1
    assert shadow_cache.kept(zone)["files"] == 1
    assert {path.parent.name for path in files(zone)} == {"account-1", "account-2", "account-3"}


@pytest.mark.parametrize("account", ["account-1", "account-3"])
def test_whichever_site_lets_them_go_they_are_gone(zone, account):
    attack(cache(zone, others=SITES))
    attack(cache(zone, study="study-2"))
    shadow_cache.forget_account(zone, account)
    left = {path.parent.name for path in files(zone)}
    assert left == ({"account-1"} if account != "account-1" else set())  # That of one site.


def test_a_consent_withdrawn_at_another_site_lets_them_go(zone, trainings):
    attack(cache(zone, others=SITES))
    attack(cache(zone, others=(("account-2", 1), ("account-3", 5))))
    assert len(trainings) == 2
    (mark,) = [path for path in files(zone) if path.parent.name == "account-2"]
    assert mark.name.split(".")[1] == "1"


def test_another_study_of_that_site_that_knows_of_the_withdrawal_lets_them_go(zone):
    attack(cache(zone, others=SITES))
    attack(cache(zone, study="study-2", account="account-2", withdrawn=1))
    assert [path.parent.name for path in files(zone)] == ["account-2"]


def test_without_the_mark_of_every_site_they_are_not_used(zone, trainings):
    attack(cache(zone, others=SITES))
    (mark,) = [path for path in files(zone) if path.parent.name == "account-2"]
    mark.unlink()
    attack(cache(zone, others=SITES))
    assert len(trainings) == 2
