"""A real browser for the pages' tests: Chromium driven by Playwright, with the network off.

Import `browser` and `visit` into a test module to use them as fixtures. Without the extra `browser` of
pyproject.toml, or without a Chromium on the PATH, the tests that use them are skipped and say so.
"""

import os
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = (1400, 900), (390, 844)
LOOKS = [(size, scheme) for size in ((1280, 900), (400, 800)) for scheme in ("light", "dark")]


@pytest.fixture(scope="module", name="browser")
def start_browser():
    """A Chromium for the module's tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install 'minires[browser]'")
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on the PATH: apt-get install chromium")
    options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # Chromium's rule for root
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=options)
        yield chromium
        chromium.close()


@pytest.fixture(name="visit")
def open_pages(browser):
    """visit(path, size, scheme) opens a file as a page; at the end nothing may have gone wrong on any of them."""
    contexts, troubles = [], []

    def visit(path, size=DESKTOP, scheme="light", place=""):
        width, height = size
        context = browser.new_context(
            offline=True, viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)  # a machine may be busy with others' work
        page.on("console", lambda m: troubles.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else troubles.append(r.url))
        page.goto(Path(path).resolve().as_uri() + place)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert troubles == []


def assert_fits(page):
    """Nothing sticks out sideways."""
    width, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= window, f"the page is {width} px wide in a window of {window}"


def assert_accessible(page):
    """axe-core finds no violation: contrast, labels, roles, order of headings."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe: pip install 'minires[browser]'")
    found = axe.Axe().run(page).response["violations"]
    assert not found, [(v["id"], [node["html"][:120] for node in v["nodes"][:3]]) for v in found]


CONTROLS = "a[href], button, input, select, summary, [tabindex='0']"


def assert_keyboard_reaches_all(page):
    """Tab alone comes to everything that can be used, and whoever looks sees where it is."""
    wanted = page.evaluate(
        """(controls) => {
          const open = (e) => !e.disabled && e.checkVisibility() && !(e.type === "radio" && !e.checked);
          window.controls = [...document.querySelectorAll(controls)].filter(open);
          return window.controls.map((e) => e.id || e.textContent.trim().slice(0, 40));
        }""",
        CONTROLS,
    )
    reached, unseen = set(), set()
    for _ in range(len(wanted) + 2):  # past the end the browser's own window has its turn
        page.keyboard.press("Tab")
        at, seen = page.evaluate(
            """() => {
              const { outlineStyle, boxShadow } = getComputedStyle(document.activeElement);
              return [window.controls.indexOf(document.activeElement), outlineStyle !== "none" || boxShadow !== "none"];
            }"""
        )
        reached.add(at)
        if at >= 0 and not seen:
            unseen.add(wanted[at])
    assert set(range(len(wanted))) <= reached, [wanted[i] for i in set(range(len(wanted))) - reached]
    assert not unseen
