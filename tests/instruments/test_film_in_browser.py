"""A watched run's report in a real browser: the film plays, by the keyboard alone, and no page says an error."""

from dataclasses import replace

import pytest
from browser import assert_accessible, assert_fits, open_pages, start_browser  # noqa: F401
from slowed import undrawn
from stripes import RECIPE, TRAIN, classifier

from minires.instruments.report import write_report
from minires.instruments.watch import Watcher
from minires.train import fit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[True, False], ids=["skip", "plain"])
def path(request, tmp_path_factory):
    watcher, skip = Watcher(2), request.param
    progress = fit(classifier(skip=skip), TRAIN, None, replace(RECIPE, epochs=2), reporter=watcher)
    with pytest.MonkeyPatch.context() as patch:
        undrawn(patch.setattr)
        manifest = {"arch": "resnet8", "architecture": {"skip": skip}, "data": {"spec": "/data/stripes.h5"}}
        none = {"labels": None, "probs": None, "images": None}
        facts = {"history": progress.history, "manifest": manifest, "classes": TRAIN.classes}
        return write_report(tmp_path_factory.mktemp("report"), **facts, **none, watched=watcher.film())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (400, 800)])
def test_it_fits_and_can_be_read(visit, path, size, scheme):
    page = visit(path, size, scheme)
    assert page.title() == "stripes"
    assert page.inner_text("#film-told").startswith("Step 0, loss ")
    assert_fits(page)
    assert_accessible(page)
    page.evaluate("document.querySelector('#film details').open = true")
    assert_fits(page)


def test_no_heading_stands_twice(visit, path):
    headings = [h.inner_text() for h in visit(path).locator("h1, h2, h3").all()]
    assert len(headings) == len(set(headings)) > 2


def test_the_keyboard_moves_it(visit, path):
    page = visit(path)
    page.focus("#film-slider")
    first = page.inner_html("#film-profile")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#film-told").startswith("Step 2, ")
    assert page.inner_html("#film-profile") != first
    page.keyboard.press("End")
    assert page.inner_text("#film-told").startswith("Step 8, ")
    page.keyboard.press("Shift+Tab")  # to Play, which begins anew at the end
    page.keyboard.press("Enter")
    assert page.inner_text("#film-play") == "Pause"
    page.wait_for_function("document.getElementById('film-play').textContent === 'Play'")
    assert page.inner_text("#film-told").startswith("Step 8, ")


def test_each_quantity_is_drawn(visit, path):
    page = visit(path)
    seen = set()
    for name in ("gradient", "weight_gradient", "update", "dead", "drift_mean", "drift_var"):
        page.select_option("#film-quantity", name)
        drawn = page.evaluate("document.getElementById('film-map').toDataURL()")
        assert page.locator("#film-profile circle").count() > 5
        assert page.locator("#film-numbers tr").count() == page.evaluate("document.getElementById('film-map').height")
        seen.add(drawn)
    assert len(seen) == 6


def test_a_click_on_the_map_goes_there(visit, path):
    page = visit(path)
    box = page.locator("#film-map").bounding_box()
    page.mouse.click(box["x"] + box["width"] - 3, box["y"] + 5)
    assert page.inner_text("#film-told").startswith("Step 8, ")
