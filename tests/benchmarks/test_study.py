"""The breast-cancer Study from apply to served: cold, and with the platform up."""

from __future__ import annotations

import os
import pathlib
import statistics
import sys
import time

import metering
import pytest

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "breast-cancer"
WARM_STUDIES = 3  # Four of epsilon 3 fit beside the cold one; the first pays for late imports.
IDLE_SECONDS = 5.0

pytestmark = [
    pytest.mark.skipif(not metering.PROC.is_dir(), reason="reads /proc, which only Linux has"),
    pytest.mark.timeout(1200),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    from primum.adapters.ray import ray_down

    metering.adopt_orphans()
    folder = tmp_path_factory.mktemp("platform") / ".primum"
    yield folder
    metering.command(["primum", "down"], home=folder, environment=_environment(folder))
    ray_down(folder)


@pytest.fixture(scope="module")
def cold(home):
    return _apply(home, "cold")


@pytest.fixture(scope="module")
def up(home, cold):
    """The platform, started and warm: the Study of ``cold`` is served by it already."""
    environment = _environment(home)
    cost = metering.command(["primum", "up", "--detach"], home=home, environment=environment)
    from primum.adapters.ray.compute import RayCompute

    compute = RayCompute(home, environment=environment)
    for entry in ("primum_pipelines.steps.validate:run", "primum_pipelines.steps.audit:run"):
        compute.ready(entry)
    return cost


@pytest.fixture(scope="module")
def warm(home, up):
    return [_apply(home, f"warm{number}") for number in range(WARM_STUDIES)]


def test_a_cold_study(cold, figures):
    _show_way(figures, "cold", cold)
    figures.show("Study, cold: CPU of everything, Ray's own included", f"{cold.cpu:.1f} CPU s")
    figures.wall_at_most("Study, cold", cold.wall, 40)
    figures.wall_at_most("overhead, cold: wall minus step bodies", cold.overhead, 25)


def test_memory_of_an_idle_platform(home, up, figures):
    time.sleep(IDLE_SECONDS)
    before, start = metering.cpu_seconds(home), time.monotonic()
    time.sleep(IDLE_SECONDS)
    busy = (metering.cpu_seconds(home) - before) / (time.monotonic() - start)
    used = metering.memory_mb(home)
    figures.show("`primum up` idle, CPU of one core, Ray included", f"{100 * busy:.1f} %")
    figures.show("Ray and its warm workers, resident", f"{used['ray']:.0f} MB")
    figures.at_most(
        "`primum up` idle, Ray not counted", used["control"] + used["serving"], 300, unit="MB"
    )


def test_warm_studies(warm, figures):
    _show_way(figures, "warm", warm[-1])
    median = sorted(warm, key=lambda item: item.wall)[len(warm) // 2]
    each = ", ".join(f"{item.wall:.1f}" for item in warm)
    cpu = statistics.median(item.cpu for item in warm)
    figures.show("Study, warm: CPU of everything", f"{cpu:.1f} CPU s")
    figures.wall_at_most("Study, warm (median)", median.wall, 15, note=f" ({each})")
    overhead = statistics.median(item.overhead for item in warm)
    figures.wall_at_most("overhead, warm: wall minus step bodies", overhead, 8)


def test_a_warm_study_costs_less_than_a_cold_one(cold, warm, figures):
    ratio = cold.cpu / statistics.median(item.cpu for item in warm)
    figures.at_least("cold / warm, CPU seconds", ratio, 1.5)


def test_commands(home, cold, figures):
    for words in (("--help",), ("get", "studies")):
        environment = _environment(home)
        costs = [metering.alone(["primum", *words], environment=environment) for _ in range(7)]
        name = f"`primum {' '.join(words)}`"
        cpu = statistics.median(item.cpu for item in costs)
        least = min(item.cpu for item in costs)  # Two processes on one core's threads inflate it.
        figures.at_most(f"{name}, CPU", least, 0.5, note=f" (median {cpu:.2f})")
        figures.wall_at_most(f"{name}, wall", statistics.median(item.wall for item in costs), 0.5)


def _apply(home, name):
    """Apply the example under another name and follow it to its end."""
    study = home.parent / f"{name}.yaml"
    text = (EXAMPLE / "study.yaml").read_text()
    study.write_text(text.replace("malignancy", name))
    files = ["-f", str(EXAMPLE / "budget.yaml"), "-f", str(study)]
    started = time.time()
    cost = metering.command(["primum", "apply", *files], home=home, environment=_environment(home))
    return metering.study_cost(cost, home=home, study=name, started=started)


_PORTS = {
    "PRIMUM_API_PORT": str(metering.free_port()),
    "PRIMUM_SERVING_PORT": str(metering.free_port()),
}


def _environment(home):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PRIMUM_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return kept | _PORTS | {"PRIMUM_HOME": str(home), "PATH": path, "OMP_NUM_THREADS": "1"}


def _show_way(figures, which, cost):
    bodies = ", ".join(f"{step} {seconds:.1f}" for step, seconds in cost.bodies.items())
    ways = ("Planned", "Launched", "DataValidated", "JobSucceeded", "Audited", "Succeeded")
    shown = ", ".join(f"{way} {cost.milestones[way]:.1f}" for way in ways if way in cost.milestones)
    figures.show(f"Study, {which}: seconds after apply", shown)
    figures.show(f"Study, {which}: seconds in step bodies", bodies)
