"""The site in a real browser: opened from the file system, with the network off."""

import re
from itertools import pairwise

import pytest
from browser import (
    DESKTOP,
    LOOKS,
    PHONE,
    assert_accessible,
    assert_fits,
    assert_keyboard_reaches_all,
    open_pages,  # noqa: F401
    start_browser,  # noqa: F401
)
from demand import on_demand
from site_pages import LESSONS, OTHERS, cells, small_site

pytestmark = pytest.mark.slow

PAGES = [*(f"lesson-{n:02}" for n in (*LESSONS, *OTHERS)), "index", "exercises", "teachers", "stepper"]
PAGES += [f"exercise-{n:02}" for n in range(1, 14)]


# pages of lessons and of exercises are of one form each: a few stand for all
ALIKE = {name for name in PAGES if name[-2:].isdigit() and name not in ("lesson-01", "exercise-01")}


@pytest.mark.parametrize("name", [pytest.param(n, marks=on_demand) if n in ALIKE else n for n in PAGES])
def test_every_page_passes_axe_fits_and_can_be_used_by_keyboard(visit, name):
    folder = small_site(OTHERS if name in [f"lesson-{n:02}" for n in OTHERS] else LESSONS)
    for size, scheme in LOOKS if not name.startswith("exercise-") else LOOKS[::3]:  # exercises are of one form
        opened = visit(folder / f"{name}.html", size, scheme)
        assert_accessible(opened)
        assert_fits(opened)
    assert_keyboard_reaches_all(opened)


def test_an_exercise_shows_its_file_whole_on_a_desk(visit):
    opened = visit(small_site() / "exercise-07.html", (1280, 900))
    for code in opened.locator(".task .code").all():
        assert code.evaluate(
            "code => [code.scrollWidth - code.clientWidth, code.scrollHeight - code.clientHeight]"
        ) == [0, 0]


def shown(opened) -> dict:
    """What the explorer shows now."""
    return {
        "curve": opened.locator("#chart0 path.this").get_attribute("d"),
        "numbers": opened.locator("#numbers dd").all_inner_texts(),
        "says": opened.locator("#says").inner_text(),
        "command": opened.locator("#command").inner_text(),
    }


def assert_cell(opened, number, key):
    cell = cells(number)["cells"][key]
    seen = shown(opened)
    assert seen["says"] == cell["says"]
    assert seen["numbers"] == [text for _, text in cell["numbers"]]
    assert seen["command"] == cell["command"]


@pytest.mark.parametrize("n", [3, 4])
def test_a_knob_changes_the_curve_and_the_numbers(visit, n):
    opened = visit(small_site() / f"lesson-{n:02}.html")
    seen = [shown(opened)]
    assert_cell(opened, n, "50|none|on|he")
    opened.locator("#depth").focus()
    opened.keyboard.press("ArrowLeft")  # the slider is an ordinary one
    assert_cell(opened, n, "10|none|on|he")
    assert opened.locator("#depth").get_attribute("aria-valuetext") == "10 layers"
    seen.append(shown(opened))
    opened.get_by_role("radio", name="post-activation").check(force=True)
    assert_cell(opened, n, "10|post|on|he")
    seen.append(shown(opened))
    for one, other in pairwise(seen):
        for part in ("curve", "numbers", "says", "command"):
            assert one[part] != other[part]


def test_the_curve_is_where_the_numbers_are(visit):
    opened = visit(small_site() / "lesson-03.html")
    points = [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", shown(opened)["curve"])]
    data = cells(3)
    curve = data["curves"][data["cells"]["50|none|on|he"]["show"][0]]
    assert len(points) == len(curve["mean"])
    ticks = opened.locator("#chart0 line").evaluate_all("lines => lines.map(l => +l.getAttribute('y1'))")
    (one, y_one), (other, y_other) = ((data["charts"][0]["yticks"][i][0], ticks[i]) for i in (0, -1))
    for (_, y), value in zip(points, curve["mean"], strict=True):
        assert y == pytest.approx(y_one + (value - one) / (other - one) * (y_other - y_one), abs=0.2)
    assert len(opened.locator("#chart0 path.faint").all()) == 11
    assert opened.locator("#chart0 path.theory").count() == 1


def test_the_theme_is_kept_from_page_to_page(visit):
    opened = visit(small_site() / "index.html", scheme="light")

    def paper():
        return opened.evaluate("getComputedStyle(document.body).backgroundColor")

    light = paper()
    button = opened.locator("#theme")
    assert button.inner_text() == "Auto"
    button.click()
    button.click()
    assert button.inner_text() == "Dark"
    dark = paper()
    assert dark != light
    opened.get_by_role("link", name="Do the weights starve too?").click()
    assert opened.locator("h1").inner_text() == "Do the weights starve too?"
    assert paper() == dark
    opened.get_by_role("link", name="Step through").click()
    opened.wait_for_load_state()  # the page's script names the theme
    assert opened.locator("#theme").inner_text() == "Dark"
    assert paper() == dark


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_stepper_is_one_click_away_and_so_are_the_lessons(visit, size):
    opened = visit(small_site() / "lesson-03.html", size)
    opened.get_by_role("link", name="Step through").click()
    opened.locator("#slider").wait_for()
    assert_accessible(opened)
    assert_fits(opened)
    opened.get_by_role("link", name="All lessons").click()
    assert opened.locator("h1").inner_text().startswith("Three lessons")


def test_a_phone_scrolls_only_in_a_picture_that_can_be_neither_divided_nor_drawn_for_it(visit):
    for name, hint in (("lesson-01", True), ("lesson-03", False)):
        opened = visit(small_site() / f"{name}.html", PHONE)
        said = opened.evaluate("getComputedStyle(document.querySelector('.picture figcaption'), '::before').content")
        assert ("scrolls sideways" in said) == hint
        whole = opened.locator(".picture .whole")
        assert whole.evaluate("whole => whole.scrollWidth > whole.clientWidth + 50") == hint
