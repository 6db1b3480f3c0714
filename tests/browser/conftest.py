"""The pages on a real port over a real database, looked at with a real browser.

Chromium comes from the system (``apt-get install chromium``), because a test must not download a
browser; ``PRIMUM_TEST_CHROMIUM`` names another one. Where there is none, these tests skip.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
import threading
import time
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import pytest
import uvicorn
from api_platform import make_platform
from command_line import EXAMPLES
from ledger_words import request, terms

from primum.adapters import identity
from primum.adapters.identity import Role
from primum.adapters.memory import (
    ManualClock,
    MemoryAnchor,
)
from primum.adapters.sql import migrate, open_stores
from primum.application import budgets, planning
from primum.application.platform import Platform
from primum.domain.accounting.events import Gaussian, Repeated, SubsampledGaussian
from primum.domain.budget.layout import BlockLayout, Division
from primum.domain.budget.rules import (
    Quota,
    QuotaScope,
    Rules,
    SchedulerName,
    Scheduling,
    Unlocking,
    UnlockingRule,
)
from primum.domain.canonical import canonical_json
from primum.domain.conditions import Reason
from primum.domain.names import ResourceKey
from primum.domain.study.lifecycle import Refusal
from primum.entrypoints.api.app import create_app
from primum.resources.loading import load_files

DAY = 86400.0


def chromium() -> str:
    """The browser's path, or empty."""
    named = os.environ.get("PRIMUM_TEST_CHROMIUM", "")
    return named or shutil.which("chromium") or shutil.which("chromium-browser") or ""


@pytest.fixture(scope="session")
def browser():
    path = chromium()
    if not path:
        pytest.skip("no Chromium: apt-get install chromium, or name one in PRIMUM_TEST_CHROMIUM")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as driver:
        # A container has no user namespaces for Chromium's own sandbox; it only loads our pages.
        launched = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@dataclass
class Hospital:
    """A platform with a year behind it, and its server."""

    platform: Platform
    clock: ManualClock
    database: Path
    home: Path
    url: str
    tokens: dict[str, str]
    wisconsin: str
    scans: str
    wards: str


class Year:
    """Writes what a year of Studies leaves in a ledger."""

    def __init__(self, platform):
        self.platform, self.ledger = platform, platform.ledger

    def study(self, account, name, event, *, asker, group, purpose, blocks=()):
        held = request(
            account,
            f"reservation-{name}",
            event=event,
            study=f"oncology/{name}",
            study_uid=f"uid-{name}",
            requester=asker,
            group=group,
            purpose=purpose,
            blocks=blocks,
        )
        result = self.ledger.reserve([held], lease_seconds=600.0, actor="platform/control-loop")
        if not result.stands:
            told = Refusal("Reserve", Reason.DENIED, f"{result.message} What would fit: 3 epochs")
            key = f"uid-{name}/1"
            fact = {"stage": "Reserve", "reason": told.reason.value, "message": told.message}
            self.platform.evidence.put_fact(planning.REFUSAL, key, fact)
            return None
        return held.reservation_id

    def done(self, reservation):
        if reservation is None:
            return
        fence = self.ledger.reservation(reservation).fence
        for access in ("validate", "train"):
            self.ledger.expose(reservation, access=access, fence=fence, actor="step/job")
        self.ledger.charge(
            reservation, executed=None, reason="settled", actor="platform/control-loop"
        )


PEOPLE = (
    ("ada", "oncology", "Tell malignant from benign in fine-needle aspirates"),
    ("grace", "oncology", "Tell malignant from benign in fine-needle aspirates"),
    ("emmy", "radiology", "Find scans that need a second look"),
)


def lived(platform):
    """A year: two budgets, Studies of three people, refusals, one that runs, one that is refused
    before the ledger is asked."""
    clock, year = platform.clock, Year(platform)
    for item in load_files([EXAMPLES / "breast-cancer" / "budget.yaml"]):
        platform.resources.apply(item.key, item.spec_mapping(), labels={})
    key = ResourceKey("PrivacyBudget", "oncology", "wisconsin")
    budgets.reconcile_budget(platform, platform.resources.get(key))
    wisconsin = platform.ledger.accounts()[0].account_id
    scans, _ = platform.ledger.open_account(
        terms(
            dataset_uri="file:///scans",
            dataset_digest="",
            policy="GDP",
            epsilon=Decimal("4"),
            units=18_250,
        ),
        actor="steward/registration",
    )
    small = Repeated(SubsampledGaussian(Decimal("4"), Decimal("0.1")), 60)
    for number in range(9):
        clock.advance((9 + 4 * (number % 3)) * DAY)
        asker, group, purpose = PEOPLE[number % 3]
        year.done(
            year.study(
                wisconsin, f"biopsy-{number}", small, asker=asker, group=group, purpose=purpose
            )
        )
        if number % 3 == 0:
            year.done(
                year.study(
                    scans,
                    f"scan-{number}",
                    Gaussian(Decimal("3")),
                    asker="emmy",
                    group="radiology",
                    purpose="Find scans that need a second look",
                )
            )
            platform.ledger.checkpoint(platform.signer, actor="platform/control-loop")
    clock.advance(5 * DAY)
    huge = Repeated(SubsampledGaussian(Decimal("1"), Decimal("0.1")), 400)
    year.study(
        wisconsin, "greedy", huge, asker="ada", group="oncology", purpose="As sharp as can be"
    )
    clock.advance(3 * DAY)
    running = year.study(
        wisconsin, "running", small, asker="grace", group="oncology", purpose="Under way"
    )
    fence = platform.ledger.reservation(running).fence
    platform.ledger.expose(running, access="validate", fence=fence, actor="step/validate")
    fact = {
        "stage": "Plan",
        "reason": "NoMechanism",
        "message": "spec.privacy must be given; found nothing. Say which epsilon and delta.",
    }
    platform.evidence.put_fact(planning.REFUSAL, "uid-open/1", fact)
    clock.advance(1 * DAY)
    return wisconsin, scans, divided(platform, year)


def divided(platform, year):
    """A budget by ward whose room comes with time: a quota, a Study done, and one that waits."""
    layout = BlockLayout(Division.COHORT, "ward", ("cardiology", "intensive care"))
    wards, _ = platform.ledger.open_account(
        terms(
            dataset_uri="file:///wards",
            dataset_digest="",
            epsilon=Decimal("6"),
            layout=canonical_json(layout.fixed).decode(),
        ),
        actor="steward/registration",
    )
    platform.ledger.divide(wards, layout.values, actor="steward/registration")
    rules = Rules(
        Unlocking(UnlockingRule.PER_TIME, days=Decimal(60)),
        Scheduling(SchedulerName.DPF, wait_days=Decimal(30)),
        (Quota(QuotaScope.REQUESTER, Decimal("3")),),
    )
    platform.ledger.configure(wards, rules, key="rules", actor="steward/ada")
    platform.clock.advance(9 * DAY)
    small = Repeated(SubsampledGaussian(Decimal("4"), Decimal("0.1")), 20)
    asked = {"asker": "emmy", "group": "radiology", "purpose": "Who needs a bed tomorrow"}
    held = year.study(wards, "beds", small, blocks=("cardiology",), **asked)
    platform.ledger.schedule(lease_seconds=600.0, actor="platform/control-loop")
    year.done(held)
    large = Repeated(SubsampledGaussian(Decimal("2"), Decimal("0.1")), 80)
    year.study(wards, "later", large, blocks=("cardiology", "intensive care"), **asked)
    return wards


@dataclass
class Lived:
    """A year, to be copied."""

    platform: Platform
    database: Path
    wisconsin: str
    scans: str
    wards: str


@pytest.fixture(scope="session")
def year(tmp_path_factory):
    """The database of a year, made once."""
    database = tmp_path_factory.mktemp("year") / "primum.db"
    migrate(f"sqlite:///{database}")
    clock = ManualClock("2026-01-05T08:00:00.000000Z")
    ledger = open_stores(f"sqlite:///{database}", clock, anchor=MemoryAnchor()).ledger
    platform = make_platform(clock, ledger)
    return Lived(platform, database, *lived(platform))


@contextlib.contextmanager
def served(platform, home):
    """The API and its pages on a free port."""
    app = create_app(platform, lambda token: identity.identify(home, token))
    config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()


@contextlib.contextmanager
def opened(year, folder):
    """A server over a copy of the year's database."""
    database = folder / "primum.db"
    with sqlite3.connect(year.database) as source, sqlite3.connect(database) as target:
        source.backup(target)
    clock = ManualClock(year.platform.clock.now())
    stores = open_stores(f"sqlite:///{database}", clock, anchor=MemoryAnchor())
    platform = replace(year.platform, ledger=stores.ledger, clock=clock)
    tokens = {
        role.value: identity.issue(folder, name=f"{role.value}-person", roles=(role,))
        for role in Role
    }
    with served(platform, folder) as url:
        yield Hospital(
            platform, clock, database, folder, url, tokens, year.wisconsin, year.scans, year.wards
        )


@pytest.fixture(scope="session")
def shared_hospital(year, tmp_path_factory):
    """One for every test that only looks."""
    with opened(year, tmp_path_factory.mktemp("shared")) as made:
        yield made


@pytest.fixture
def own_hospital(year, tmp_path):
    """One for a test that verifies, writes or tampers."""
    with opened(year, tmp_path) as made:
        yield made


@dataclass
class Visit:
    """A browser window, and everything it asked for and complained about."""

    page: object
    hospital: Hospital
    asked: list[str]
    complaints: list[str]

    def go(self, path):
        return self.page.goto(self.hospital.url + path)

    def sign_in(self, role="compliance"):
        self.go("/login")
        self.page.get_by_label("Your token").fill(self.hospital.tokens[role])
        self.page.get_by_role("button", name="Sign in").click()
        return self.page


@contextlib.contextmanager
def visited(browser, hospital):
    """A window on the pages, which must ask for nothing elsewhere and complain of nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(10_000)
    made = Visit(page, hospital, [], [])
    page.on("request", lambda request: made.asked.append(request.url))
    page.on(
        "console",
        lambda said: made.complaints.append(said.text) if said.type in ("error", "warning") else 0,
    )
    page.on("pageerror", lambda error: made.complaints.append(str(error)))
    yield made
    context.close()
    assert [url for url in made.asked if not url.startswith(hospital.url)] == []
    assert made.complaints == []


@pytest.fixture
def visit(browser, shared_hospital):
    with visited(browser, shared_hospital) as made:
        yield made


@pytest.fixture
def own_visit(browser, own_hospital):
    with visited(browser, own_hospital) as made:
        yield made
