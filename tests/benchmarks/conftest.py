"""Measured figures: collected while the benchmarks run, shown as one table at the end.

Run by ``make bench`` only. Ratios within one run, CPU seconds and counts are asserted always;
wall times are asserted where the machine was quiet, since a loaded one would only measure its load.
"""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, field

import pytest

HERE = pathlib.Path(__file__).parent
MEMORY = "/dev/shm"
QUIET = 0.5  # Waiting processes per core at the start, above which wall times are not judged.


def pytest_addoption(parser):
    parser.addoption("--benchmark", action="store_true", help="run tests/benchmarks")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--benchmark", default=False):
        return
    skip = pytest.mark.skip(reason="measures for minutes; run `make bench`")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(skip)


@dataclass
class Figures:
    """What was measured, and what was to be reached."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    quiet: bool = True

    def show(self, what, measured, target="", verdict=""):
        """Note a figure that nothing depends on."""
        self.rows.append((what, measured, target, verdict))

    def at_most(self, what, value, limit, unit="s", note=""):
        """Note a figure that must not exceed a limit, and hold it to that."""
        met = value <= limit
        self.show(what, f"{value:.2f} {unit}{note}", f"<= {limit:g} {unit}", _word(met))
        assert met, f"{what} must be at most {limit:g} {unit}; found {value:.2f}"

    def at_least(self, what, value, limit, unit="x", note=""):
        """Note a figure that must reach a limit, and hold it to that."""
        met = value >= limit
        self.show(what, f"{value:,.2f} {unit}{note}", f">= {limit:,g} {unit}", _word(met))
        assert met, f"{what} must be at least {limit:g} {unit}; found {value:.2f}"

    def wall_at_most(self, what, value, limit, note=""):
        """Note a wall time; held to its limit on a quiet machine only."""
        if value <= limit or self.quiet:
            self.at_most(what, value, limit, note=note)
        else:
            self.show(what, f"{value:.2f} s{note}", f"<= {limit:g} s", "not judged: machine busy")

    def goal(self, what, ratio, target):
        """Note a ratio whose target may be missed: the caller holds it to what was reached."""
        relation, limit = target.split()[:2]
        met = ratio >= float(limit) if relation == ">=" else ratio <= float(limit)
        self.show(what, f"{ratio:.2f} x", target, _word(met))


def _word(met):
    return "met" if met else "missed"


_FIGURES = Figures()


@pytest.fixture(scope="session")
def figures():
    import metering

    _FIGURES.quiet = metering.load() <= QUIET
    _FIGURES.show("load per core at the start", f"{metering.load():.2f}")
    return _FIGURES


@pytest.fixture(scope="module")
def plane(pytestconfig):
    """API servers with our definitions; pods of Jobs are not what is measured."""
    from control_plane import ControlPlane, MissingAssets, find_assets

    from primum.resources.kinds import KINDS
    from primum_operators.schema import crd

    try:
        assets = find_assets(pytestconfig.cache.mkdir("kube-assets"))
    except MissingAssets as missing:
        pytest.skip(str(missing))
    assets.pop("kube-controller-manager", None)
    made = ControlPlane(assets)
    try:
        made.start()
        made.install([crd(kind) for kind in KINDS.values()])
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def database():
    """The URL of a PostgreSQL that writes to memory: what is measured is not the disk."""
    import postgresql

    parent = MEMORY if pathlib.Path(MEMORY).is_dir() else None
    with postgresql.running(parent, "fsync=off") as server:
        yield server.url


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    if not _FIGURES.rows:
        return
    import metering

    terminalreporter.section("measured")
    terminalreporter.write_line(metering.machine())
    terminalreporter.write_line("")
    terminalreporter.write_line("| what | measured | target | |")
    terminalreporter.write_line("| --- | --- | --- | --- |")
    for row in _FIGURES.rows:
        terminalreporter.write_line(f"| {' | '.join(row)} |")
