"""The compliance officer's pages as a person meets them: a real browser, a real port, a database.

Every visit also proves, when it ends, that nothing was asked for elsewhere and that the browser had
nothing to complain about (``visit`` in conftest).
"""

from __future__ import annotations

import re
import sqlite3

import pytest

# One server and one browser for all of them: one worker.
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]

PATHS = ("/", "/ledger", "/refusals", "/releases", "/verification")


def main_text(page):
    return page.get_by_role("main").inner_text()


def test_a_token_of_nobody_is_refused_and_nothing_is_shown(visit):
    page = visit.page
    visit.go("/")
    assert page.url.endswith("/login")
    page.get_by_label("Your token").fill("primum_guessed")
    page.get_by_role("button", name="Sign in").click()
    assert "must be somebody's" in page.get_by_role("alert").inner_text()
    assert visit.page.context.cookies() == []
    visit.go("/ledger")
    assert page.url.endswith("/login")
    visit.complaints[:] = [text for text in visit.complaints if "401" not in text]


def test_a_role_that_may_not_read_the_ledger_is_told_which_may(visit):
    visit.sign_in("scientist")
    said = visit.page.get_by_role("alert").inner_text()
    assert "compliance, steward, auditor" in said
    visit.complaints[:] = [text for text in visit.complaints if "403" not in text]


def test_the_overview_shows_what_is_spent_and_left_as_the_ledger_does(visit):
    page = visit.sign_in()
    view = visit.hospital.platform.ledger.account(visit.hospital.wisconsin)
    card = page.get_by_role("region", name="oncology/wisconsin")
    shown = dict(
        zip(
            card.get_by_role("term").all_inner_texts(),
            card.get_by_role("definition").all_inner_texts(),
            strict=True,
        )
    )
    assert float(shown["Spent"]) == pytest.approx(float(view.epsilon_spent), abs=0.01)
    assert float(shown["Spent"]) >= view.epsilon_spent
    assert float(shown["Spent or held"]) >= view.epsilon_reserved > view.epsilon_spent
    assert float(shown["Left"]) <= view.epsilon_left
    said = card.inner_text()
    assert re.search(r"\d+ more Studies like the last one would fit", said)
    assert re.search(r"it runs out about 20\d\d-\d\d-\d\d, four times in five between", said)
    scans = page.get_by_role("region", name="file:///scans").inner_text()
    assert "Not enough history: 2 charges in 90 days" in scans


def test_a_chart_says_in_words_what_it_shows(visit):
    page = visit.sign_in()
    drawings = page.get_by_role("img")
    labels = [drawings.nth(n).get_attribute("aria-label") for n in range(drawings.count())]
    assert all(labels)
    assert any("what is left went from epsilon 8 to" in label for label in labels)
    assert any(label.endswith("% of the budget is spent or held") for label in labels)


def test_a_budget_shows_three_figures_with_their_assumptions(visit):
    page = visit.sign_in()
    page.get_by_role("link", name="oncology/wisconsin").click()
    said = main_text(page)
    assert "Spent of the budget, as its filter counts (RDP)" in said
    assert "Running bound (odometer): holds at every moment at once" in said
    assert "If the plan had been fixed in advance. It was not" in said
    held = page.get_by_role("region", name="Held and waiting").inner_text()
    assert "oncology/running" in held
    assert "Exposed" in held
    by = page.get_by_role("region", name="Spending by requester").inner_text()
    assert {"ada", "grace", "emmy"} <= set(by.split())
    table = page.get_by_role("region", name="Burn-down")
    assert not table.is_visible()
    page.get_by_text("The same as a table").click()
    assert table.get_by_role("row").count() > 10


def test_a_divided_budget_shows_its_blocks_its_quotas_and_who_waits_until_when(visit):
    page = visit.sign_in()
    page.get_by_role("link", name="file:///wards").click()
    blocks = page.get_by_role("region", name="Blocks").inner_text()
    assert "cardiology" in blocks
    assert "intensive care" in blocks
    assert "15.0 %" in blocks
    assert "Requester=emmy" in page.get_by_role("region", name="Quotas").inner_text()
    waiting = page.get_by_role("region", name="Held and waiting").inner_text()
    assert "oncology/later" in waiting
    assert "Queued" in waiting
    assert "Wait until 2026-" in waiting, "what it waits for, and until when"
    assert "85.0 % of the budget still to be unlocked" in main_text(page)
    page.get_by_role("link", name="intensive care").click()
    assert "block intensive care" in page.locator("figcaption").inner_text()


def test_spending_is_shown_between_two_days(visit):
    page = visit.sign_in()
    visit.go(f"/budgets/{visit.hospital.wisconsin}")
    studies = page.get_by_role("region", name="Spending by study").get_by_role("row")
    assert studies.count() == 1 + 9
    page.get_by_label("From", exact=True).fill("2026-02-01")
    page.get_by_label("To", exact=True).fill("2026-02-28")
    page.get_by_role("button", name="Show").click()
    assert studies.count() == 1 + 2
    assert "Only from 2026-02-01 to 2026-02-28" in main_text(page)


def test_a_search_narrows_what_is_shown(visit):
    page = visit.sign_in()
    page.get_by_role("link", name="Ledger").click()
    rows = page.get_by_role("region", name="Entries").get_by_role("row")
    assert rows.count() == 51
    page.get_by_label("Kind").select_option("Charged")
    page.get_by_label("Study").fill("BIOPSY")
    page.get_by_label("From", exact=True).fill("2026-02-01")
    page.get_by_label("To", exact=True).fill("2026-03-31")
    page.get_by_role("button", name="Search").click()
    assert rows.count() == 1 + 4
    kinds = page.locator("table.entries .kind").all_inner_texts()
    assert set(kinds) == {"Charged"}
    assert page.get_by_label("Study").input_value() == "BIOPSY"
    page.get_by_label("Actor").fill("nobody")
    page.get_by_role("button", name="Search").click()
    assert "Nothing was found." in main_text(page)
    page.get_by_role("link", name="Clear").click()
    assert rows.count() == 51


def test_pages_of_entries_join_without_gap_or_overlap(visit):
    page = visit.sign_in()
    visit.go("/ledger")
    seen = page.locator("table.entries tbody td:first-child").all_inner_texts()
    page.get_by_role("link", name="Older").click()
    seen += page.locator("table.entries tbody td:first-child").all_inner_texts()
    head, _ = visit.hospital.platform.ledger.head()
    assert [int(text) for text in seen] == list(range(head, head - len(seen), -1))
    assert len(seen) == min(head, 100)


def test_an_entry_shows_what_it_holds(visit):
    page = visit.sign_in()
    visit.go("/ledger?kind=Denied")
    summary = page.locator("table.entries summary")
    assert summary.count() == 1
    assert not page.locator("table.entries pre").is_visible()
    summary.focus()
    page.keyboard.press("Enter")
    assert '"code": "OverBudget"' in page.locator("table.entries pre").inner_text()


def test_a_refusal_says_how_much_short_under_which_accountant_and_what_would_fit(visit):
    page = visit.sign_in()
    page.get_by_role("link", name="Refusals").click()
    said = main_text(page)
    assert re.search(r"RDP has epsilon [\d.]+ left of 8 at delta", said)
    assert re.search(r"short by [\d.]+ at order \d+", said)
    assert "What would fit: 3 epochs" in said
    assert "NoMechanism" in page.get_by_role("region", name="Refused plans").inner_text()


def test_verification_says_what_it_covers_and_until_when(own_visit):
    visit = own_visit
    page = visit.sign_in()
    assert "Not verified since this server started" in page.locator(".record").inner_text()
    page.get_by_role("link", name="Verification").click()
    assert "States entry" in main_text(page)
    page.get_by_role("button", name="Verify the whole record now").click()
    head, _ = visit.hospital.platform.ledger.head()
    assert f"entries 1 to {head} were intact" in page.locator(".record").inner_text()
    visit.hospital.platform.ledger.freeze(
        visit.hospital.scans, reason="doubt", key="k", actor="steward/ada"
    )
    visit.go("/")
    assert "1 came since." in page.locator(".record").inner_text()
    assert "Frozen: doubt" in main_text(page)


def tampered(database, seq, change):
    """An entry's payload as somebody with a database tool leaves it."""
    with sqlite3.connect(database) as connection:
        triggers = connection.execute("select name from sqlite_master where type = 'trigger'")
        for (name,) in triggers.fetchall():
            connection.execute(f"drop trigger {name}")
        query = "select payload from ledger_entries where seq = ?"
        (text,) = connection.execute(query, (seq,)).fetchone()
        assert change(text) != text
        update = "update ledger_entries set payload = ? where seq = ?"
        connection.execute(update, (change(text), seq))


def test_a_flipped_byte_makes_every_page_shout(own_visit):
    visit = own_visit
    page = visit.sign_in()
    visit.go("/verification")
    page.get_by_role("button", name="Verify the whole record now").click()
    assert page.get_by_role("alert").count() == 0
    tampered(visit.hospital.database, 3, lambda text: text.replace("18250", "18251"))
    visit.go("/ledger?order=oldest")
    assert "do not match their hashes" in page.get_by_role("alert").inner_text()
    assert page.locator("tr.wrong").count() == 1
    visit.go("/verification")
    page.get_by_role("button", name="Verify the whole record now").click()
    for path in ("/verification", "/", "/ledger?kind=Denied", "/refusals", "/releases"):
        visit.go(path)
        alert = page.get_by_role("alert").first
        assert "The record is not intact" in alert.inner_text(), path
        assert "Entry 3 must" in alert.inner_text()


def test_an_entry_that_cannot_be_read_shouts_too(own_visit):
    visit = own_visit
    page = visit.sign_in()
    tampered(visit.hospital.database, 3, lambda _: "{")
    visit.go("/ledger?order=oldest")
    assert "The record is not intact" in page.get_by_role("alert").inner_text()
    page.get_by_role("link", name="Verify the whole record").click()
    page.get_by_role("button", name="Verify the whole record now").click()
    assert "The record is not intact" in page.get_by_role("alert").inner_text()
    visit.complaints[:] = [text for text in visit.complaints if "500" not in text]


def paths(visit):
    return (*PATHS, f"/budgets/{visit.hospital.wisconsin}")


def test_every_page_has_a_strict_policy_and_fits_a_phone(visit):
    visit.sign_in()
    visit.page.set_viewport_size({"width": 375, "height": 800})
    for path in paths(visit):
        answer = visit.go(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "script-src" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 375, path
        assert visit.page.locator("script, [style]").count() == 0


def test_every_control_has_a_name_and_every_page_one_heading(visit):
    page = visit.sign_in()
    for path in paths(visit):
        visit.go(path)
        check_names(page)


def check_names(page):
    assert page.get_by_role("heading", level=1).count() == 1
    controls = page.locator("input:not([type=hidden]), select, button, a[href], summary")
    named = "e.getAttribute('aria-label') || (e.labels && e.labels.length) || e.textContent.trim()"
    nameless = f"all => all.filter(e => !({named})).map(e => e.outerHTML)"
    assert controls.evaluate_all(nameless) == []
    assert page.locator("table th:not([scope])").count() == 0
    assert page.locator("html").get_attribute("lang") == "en"


LUMINANCE = """
([selector, dark]) => {
  const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const lum = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$|\\/ 0\\)$|transparent/.test(color) && !/0\\.18/.test(color)) return rgb(color);
    }
    return dark ? [0, 0, 0] : [255, 255, 255];
  };
  return [...document.querySelectorAll(selector)].filter(e => e.innerText).map(e => {
    const [a, b] = [lum(rgb(getComputedStyle(e).color)), lum(ground(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.innerText.slice(0, 40)];
  });
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(visit, scheme):
    """WCAG 2.2 AA: at least 4.5 to 1, in both color schemes."""
    page = visit.sign_in()
    page.emulate_media(color_scheme=scheme)
    elements = "p, h1, h2, dt, dd, th, td, a, button, label, summary, .tag, caption, figcaption"
    for path in paths(visit):
        visit.go(path)
        measured = page.evaluate(LUMINANCE, [elements, scheme == "dark"])
        assert len(measured) > 10
        assert [found for found in measured if found[0] < 4.5] == [], path


def test_everything_can_be_reached_with_the_keyboard(visit):
    page = visit.sign_in()
    visit.go("/ledger")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "account"
    reached = set()
    for _ in range(24):
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
        page.keyboard.press("Tab")
    assert {"account", "kind", "study", "actor", "order", "Search"} <= reached


def test_paper_shows_the_figures_and_no_controls(visit, tmp_path):
    page = visit.sign_in()
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 within its margins.
    for path in (*paths(visit), "/ledger?kind=Charged"):
        visit.go(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 718, path
    assert "Only kind Charged." in main_text(page)
    visit.go("/")
    assert not page.get_by_role("navigation", name="Pages").is_visible()
    assert not page.get_by_role("button").first.is_visible()
    assert page.get_by_role("region", name="oncology/wisconsin").is_visible()
    written = page.pdf(path=str(tmp_path / "page.pdf"), format="A4")
    assert written.startswith(b"%PDF-")


def test_whoever_signs_out_is_out(visit):
    page = visit.sign_in()
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    page.get_by_role("button", name="Sign out").click()
    assert page.url.endswith("/login")
    page.context.add_cookies(
        [{"name": cookie["name"], "value": cookie["value"], "url": visit.hospital.url}]
    )
    visit.go("/")
    assert page.url.endswith("/login")
