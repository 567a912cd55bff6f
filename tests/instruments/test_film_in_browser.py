"""A watched run's film in a real browser, alone and beside another's: it plays, by keyboard alone, without errors."""

from dataclasses import replace

import pytest
from browser import assert_accessible, assert_fits, open_pages, start_browser  # noqa: F401
from slowed import undrawn
from stripes import RECIPE, TRAIN, classifier

from minires.instruments.report import page as report_page
from minires.instruments.report import write_report
from minires.instruments.watch import Watcher, film
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


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Runs of 10 and of 6 steps, five and two an epoch: without skips, and without normalisation."""
    films = {}
    for name, options, recipe in (
        ("no <skips>", {"skip": False}, replace(RECIPE, epochs=2)),
        ("no norm", {"norm": False}, replace(RECIPE, epochs=3, batch_size=36)),
    ):
        watcher = Watcher(2)
        fit(classifier(**options), TRAIN, None, recipe, reporter=watcher)
        films[name] = watcher.film()
    path = tmp_path_factory.mktemp("two") / "two.html"
    section = film.side_by_side(films, "Two of them.", "")
    path.write_text(report_page("Two runs", "about", [section], film.style()), encoding="utf-8")
    return path


def told(page):
    return [page.inner_text(f"#film-told{k}").partition(":")[0].partition(", loss")[0] for k in ("", "-1")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (400, 800)])
def test_two_films_fit_and_can_be_read(visit, two, size, scheme):
    page = visit(two, size, scheme)
    assert page.locator("#film h3").all_inner_texts() == ["no <skips>", "no norm"]
    assert_fits(page)
    assert_accessible(page)
    tops = [page.locator(f"#film-map{k}").bounding_box()["y"] for k in ("", "-1")]
    assert (abs(tops[0] - tops[1]) < 60) == (size[0] > 1000)  # beside each other, or one below the other


def test_one_slider_moves_both_by_step_or_by_epoch(visit, two):
    page = visit(two)
    assert told(page) == ["Step 0", "Step 0"]
    page.focus("#film-slider")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert told(page) == ["Step 4", "Step 4"]
    page.keyboard.press("End")
    assert told(page) == ["Step 8", "Step 4, its last record"]
    page.select_option("#film-by", "epoch")
    assert page.locator("#film-line-up").is_visible()
    page.focus("#film-slider")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert told(page) == ["Step 2, epoch 0.4", "Step 0, epoch 0"]
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert told(page) == ["Step 4, epoch 0.8", "Step 2, epoch 1"]


def test_both_are_on_one_scale_and_what_a_network_has_not_is_said(visit, two):
    page = visit(two)
    ticks = [page.locator(f"#film-profile{k} text").all_text_contents() for k in ("", "-1")]
    assert ticks[0][1:] == ticks[1][1:]
    assert ["rings" in texts[0] for texts in ticks] == [False, True]  # the one has no shortcut
    page.select_option("#film-quantity", "drift_mean")
    assert "it has no such layer" in page.inner_text("#film-told-1")
    assert page.locator("#film-map").is_visible()
    assert not page.locator("#film-map-1").is_visible()


def test_one_film_has_nothing_to_line_up(visit, path):
    assert not visit(path).locator("#film-line-up").is_visible()
