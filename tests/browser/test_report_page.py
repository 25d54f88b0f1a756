"""report.html in a real browser: it draws, stays inside its file and inside the screen, and anyone can read it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import report_runs
from chrome import Chrome

from client.reports import charts

pytestmark = pytest.mark.browser

KINDS = [*report_runs.RUNS, "large", "index"]
WIDTHS = (360, 1440)
LIMIT_BYTES = 5_000_000
LIMIT_MS = 2000.0
SHOTS = os.environ.get("HALFWEIGHT_SHOTS")
"""A folder for pictures of every page, for a person to look at."""

PANELS = "document.querySelectorAll('[data-spec]').length"
DRAWN = (
    "[...document.querySelectorAll('[data-spec]')].filter(place => place.querySelector('svg path, svg text')).length"
)
WIDER = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && !e.closest('.skip')
  && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + '.' + e.getAttribute('class'))"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_page_draws_quietly_and_fits(
    chrome: Chrome, pages: dict[str, Path], kind: str, width: int, dark: bool
) -> None:
    chrome.view(width, dark=dark)
    chrome.open(pages[kind])
    assert chrome.drawn() == "drawn"
    assert chrome.js(DRAWN) == chrome.js(PANELS) > 0
    assert chrome.messages() == []
    assert chrome.requests() == []
    assert chrome.js("document.documentElement.scrollWidth") == width
    assert chrome.js(WIDER) == []
    assert chrome.js("window.pwned") is None
    assert chrome.js("document.querySelectorAll('main img[src=x], main script').length") == 0
    if SHOTS:
        chrome.picture(Path(SHOTS) / f"{kind}-{width}-{'dark' if dark else 'light'}.png")


@pytest.mark.parametrize("kind", ["normal", "invalid", "one-target", "sweep", "all-failed", "sizes", "index"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_serious_stands_in_anyones_way(
    chrome: Chrome, pages: dict[str, Path], axe: str, kind: str, dark: bool
) -> None:
    chrome.view(1440, dark=dark)
    chrome.open(pages[kind])
    chrome.drawn()
    chrome.js("document.querySelectorAll('details').forEach(d => { d.open = true })")
    chrome.js(f"(() => {{ {axe}; window.axe = axe; }})()")
    found: Any = json.loads(
        chrome.js(
            "axe.run().then(r => JSON.stringify(r.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html.slice(0, 200))])))"
        )
    )
    assert [item for item in found if item[0] in ("serious", "critical")] == []
    assert [item for item in found if item[0] == "moderate"] == []


def test_axe_would_see_a_fault(chrome: Chrome, pages: dict[str, Path], axe: str) -> None:
    chrome.view(1440)
    chrome.open(pages["normal"])
    chrome.drawn()
    chrome.js("document.querySelector('h1').style.color = '#fafafa'")
    chrome.js(f"(() => {{ {axe}; window.axe = axe; }})()")
    assert "color-contrast" in chrome.js("axe.run().then(r => r.violations.map(v => v.id).join(' '))")


def test_a_hundred_thousand_requests_stay_small_and_quick(chrome: Chrome, pages: dict[str, Path]) -> None:
    assert pages["large"].stat().st_size <= LIMIT_BYTES
    chrome.view(1440)
    taken = []
    for _ in range(3):
        chrome.open(pages["large"])
        chrome.drawn()
        taken.append(float(chrome.js("performance.getEntriesByName('charts drawn')[0].startTime")))
    # The machine is shared: the quickest of three says what the page needs.
    assert min(taken) <= LIMIT_MS, taken


def test_every_link_and_table_is_reached_by_keyboard(chrome: Chrome, pages: dict[str, Path]) -> None:
    chrome.view(1440)
    chrome.open(pages["sweep"])
    chrome.drawn()
    wanted = chrome.js("document.querySelectorAll('a[href], summary, [tabindex]').length")
    chrome.js("window.met = new Set(); document.addEventListener('focusin', e => met.add(e.target))")
    for _ in range(int(wanted) + 3):
        chrome.press("Tab", 9)
    hidden = "[...document.querySelectorAll('details:not([open]) [tabindex]')].length"
    assert chrome.js("met.size") == wanted - chrome.js(hidden)
    assert chrome.js("document.querySelector('details').open") is False
    chrome.js("document.querySelector('summary').focus()")
    chrome.press("Enter", 13)
    assert chrome.js("document.querySelector('details').open") is True


def test_without_a_script_all_text_and_tables_are_there(chrome: Chrome, pages: dict[str, Path]) -> None:
    chrome.view(1440, script=False)
    try:
        chrome.open(pages["normal"])
        text = str(chrome.js("document.body.innerText"))
        assert chrome.js("document.documentElement.dataset.charts") is None
        for words in (
            "It depends",
            "Latency (E2E), median",
            "Not measured",
            "Charts are drawn by a script",
            "Recommendation",
        ):
            assert words in text
        assert chrome.js("document.querySelectorAll('figure details table tbody tr').length") > 20
    finally:
        chrome.view(1440, script=True)


def test_the_policy_stops_what_escaping_would_miss(chrome: Chrome, pages: dict[str, Path], tmp_path: Path) -> None:
    """A page whose text is markup after all: still nothing runs and nothing is fetched."""
    spoiled = tmp_path / "spoiled.html"
    attack = '<script>window.pwned=1</script><img src="http://127.0.0.1:9/x.png" onerror="window.pwned=1"><iframe src="http://127.0.0.1:9/"></iframe>'
    spoiled.write_text(pages["normal"].read_text().replace("<h1>", f"{attack}<h1>", 1))
    chrome.view(1440)
    chrome.open(spoiled)
    assert chrome.drawn() == "drawn"
    assert chrome.js("window.pwned") is None
    assert len(chrome.requests()) == len(chrome.refused()) > 0
    assert set(chrome.refused()) == {"csp"}
    assert any("Content Security Policy" in message for message in chrome.messages())


def test_a_tooltip_holds_text(chrome: Chrome, pages: dict[str, Path]) -> None:
    chrome.view(1440)
    chrome.open(pages["hostile"])
    chrome.drawn()
    chrome.js("document.querySelector('[data-spec^=spec-boxes]').scrollIntoView({block: 'center'})")
    at = chrome.js(
        "(() => { const r = document.querySelector('[data-spec^=spec-boxes] .mark-symbol path').getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    chrome.send("Input.dispatchMouseEvent", type="mouseMoved", x=at[0], y=at[1])
    assert chrome.js("document.querySelector('#vg-tooltip-element.visible').innerText.includes('<img src=x')")
    assert chrome.js("document.querySelectorAll('#vg-tooltip-element img').length") == 0
    assert chrome.js("window.pwned") is None


def test_on_paper_everything_is_open_and_light(chrome: Chrome, pages: dict[str, Path]) -> None:
    chrome.view(1440, dark=True)
    chrome.open(pages["normal"])
    chrome.drawn()
    chrome.send(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    assert chrome.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert chrome.js("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert chrome.js("document.querySelector('details table').getBoundingClientRect().height") > 50
    chrome.send("Emulation.setEmulatedMedia", media="")


def test_the_bundle_is_the_same_every_time() -> None:
    assert charts.script() == charts.script()
