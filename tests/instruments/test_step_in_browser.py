"""The step-through page in a real browser, opened from the file system with the network off."""

import numpy as np
import pytest
from browser import DESKTOP, PHONE, assert_accessible, assert_fits, open_pages, start_browser  # noqa: F401

from minires.data import make_signs
from minires.instruments.step.page import write_page
from minires.instruments.step.tape import record
from minires.nn import plain_twin, resnet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tapes():
    part, _ = make_signs(n_train=4, n_test=1, size=16)
    images = part.images(np.arange(4))
    x = (images / 255 - 0.5).astype(np.float32)
    model = resnet("resnet14", (16, 16, 3), 6)
    return [record(m, x, part.labels, classes=part.classes, image=images[0]) for m in (model, plain_twin(model))]


@pytest.fixture(scope="module")
def path(tapes, tmp_path_factory):
    return write_page(*tapes, tmp_path_factory.mktemp("pages") / "step.html", note="minires step")


def told(page):
    """(name of the step, its sentence, where the cursor stands)."""
    return tuple(page.inner_text(f"#{part}") for part in ("name", "text", "where"))


def go(page, tape, name, direction):
    """Put the cursor on this step."""
    page.evaluate(f"go({[(s.name, s.direction) for s in tape.steps].index((name, direction))})")


def test_it_opens_at_the_first_step(visit, path, tapes):
    page = visit(path)
    assert page.title() == "One batch, forward and back"
    forward = sum(s.direction == "forward" for s in tapes[0].steps)
    assert told(page) == ("conv1", tapes[0].sentence(0), f"forward 1 of {forward}")
    assert page.inner_text("h1") == "One batch, forward and back"
    assert page.locator("#image").get_attribute("aria-label") == "The first image of the batch, class 0"
    assert page.inner_text("#source").startswith("def conv2d_forward(")
    assert_fits(page)


def test_arrow_keys_step(visit, path, tapes):
    page, steps = visit(path), tapes[0].steps
    seen = [told(page)]
    for key in ("ArrowRight", "ArrowRight", "n"):
        page.keyboard.press(key)
        seen.append(told(page))
    assert [name for name, *_ in seen] == [s.name for s in steps[:4]]
    assert len(set(seen)) == 4
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("p")
    assert told(page) == seen[1]
    page.keyboard.press("End")
    assert told(page)[0] == steps[-1].name
    assert page.is_disabled("#next")
    page.keyboard.press("ArrowRight")
    assert told(page)[0] == steps[-1].name
    page.keyboard.press("Home")
    assert told(page) == seen[0]
    page.keyboard.press("PageDown")
    assert told(page)[0] == "layer1.0.conv1"
    page.keyboard.press("PageDown")
    page.keyboard.press("PageUp")
    assert told(page)[0] == "layer1.0.conv1"


def test_buttons_slider_list_chips_and_map_lead_to_steps(visit, path, tapes):
    page, steps = visit(path), tapes[0].steps
    page.click("#next")
    assert told(page)[0] == steps[1].name
    page.click("#previous")
    assert told(page)[0] == steps[0].name
    page.focus("#slider")
    page.keyboard.press("ArrowRight")
    assert told(page)[0] == steps[1].name
    page.locator("#slider").fill("60")
    assert told(page)[0] == steps[60].name
    assert page.get_attribute("#slider", "aria-valuetext").endswith(steps[60].name)
    page.select_option("#jump", "layer2.0")
    assert told(page)[0].startswith("layer2.0")
    page.get_by_role("button", name="layer2.0.add").click()
    assert told(page)[0] == "layer2.0.add"
    assert page.get_attribute("[aria-current=step]", "aria-label") == "layer2.0.add"
    page.locator(".lane").nth(1).locator("[data-cell]").first.click()
    assert page.input_value("#jump") == "stem"


def test_play_runs_until_it_is_paused(visit, path):
    page = visit(path)
    page.keyboard.press(" ")
    page.locator("#previous:enabled").wait_for()  # it has left the first step
    assert page.get_attribute("#told", "aria-live") == "off"  # nobody wants eight sentences a second read out
    page.click("#play")
    stopped = told(page)
    page.wait_for_timeout(300)
    assert told(page) == stopped
    assert page.get_attribute("#told", "aria-live") == "polite"


def test_the_wave_passes_forward_and_then_back(visit, path, tapes):
    page = visit(path)
    lit = "[...document.querySelector('.lane').querySelectorAll('.fill')].map((f) => +f.getAttribute('height'))"
    back = "document.querySelector('.lane').querySelectorAll('.fill.back').length"
    assert [h > 0 for h in page.evaluate(lit)] == [True] + [False] * 8
    go(page, tapes[0], "loss", "forward")
    assert min(page.evaluate(lit)) > 0
    assert page.evaluate(back) == 0
    go(page, tapes[0], "layer3.0.fork", "backward")
    assert page.evaluate(back) == 4
    page.keyboard.press("End")
    assert page.evaluate(back) == 9


def test_the_plain_map_differs_from_the_residual_one(visit, path):
    page = visit(path)
    page.keyboard.press("End")
    picture = "(i) => [...document.querySelectorAll('.lane')[i].querySelectorAll('.fill')].map((f) => f.style.fill)"
    residual, plain = (page.evaluate(picture, i) for i in (0, 1))
    assert len(residual) == len(plain) == 9
    assert sum(a != b for a, b in zip(residual, plain, strict=True)) >= 6
    assert [page.locator(".lane").nth(i).locator(".arc").count() for i in (0, 1)] == [6, 0]


def test_add_nodes_split_and_forks_sum(visit, path, tapes):
    page = visit(path)
    go(page, tapes[0], "layer1.1.add", "backward")
    residual, plain = page.locator("#cards article").all()
    assert residual.inner_text().count("the same array") == 2
    assert "dy = dF = dshortcut" in residual.inner_text()
    assert "No such step here" in plain.inner_text()
    go(page, tapes[0], "layer1.1.fork", "backward")
    assert "this sum, to the bit" in residual.inner_text()
    assert residual.locator(".triangle path.sum").count() == 1


def test_the_tiles_are_drawn_and_differ_between_the_networks(visit, path, tapes):
    page = visit(path)
    go(page, tapes[0], "layer3.1.conv1", "backward")
    pixels = """(i) => [...document.querySelectorAll('#cards article')[i].querySelectorAll('canvas')]
      .map((c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].join())"""
    residual, plain = (page.evaluate(pixels, i) for i in (0, 1))
    assert len(residual) == 16
    assert len(set(residual)) == 16
    assert not set(residual) & set(plain)


def test_no_horizontal_scroll_on_a_phone(visit, path, tapes):
    """Neither at the first step nor at any kind of step in either direction."""
    page = visit(path, PHONE)
    assert_fits(page)
    kinds = {(s.kind, s.direction): i for i, s in enumerate(tapes[0].steps)}
    widths = page.evaluate("(at) => at.map((i) => (go(i), document.documentElement.scrollWidth))", list(kinds.values()))
    assert len(widths) >= 14
    assert set(widths) == {PHONE[0]}


@pytest.mark.parametrize(
    ("size", "scheme", "name", "direction"),
    [
        (DESKTOP, "light", "conv1", "forward"),
        (DESKTOP, "dark", "layer1.0.fork", "backward"),
        (PHONE, "light", "layer2.0.add", "backward"),
        (PHONE, "dark", "loss", "forward"),
    ],
    ids=["desktop-light", "desktop-dark", "phone-light", "phone-dark"],
)
def test_axe_finds_nothing(visit, path, tapes, size, scheme, name, direction):
    page = visit(path, size, scheme)
    go(page, tapes[0], name, direction)
    assert_accessible(page)


def test_the_theme_follows_the_system_or_the_button(visit, path):
    page = visit(path, scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.click("#theme")  # light
    light = page.evaluate(colour)
    assert light != dark
    assert page.get_attribute("#theme", "aria-label") == "Colours: light"
    page.click("#theme")
    assert page.evaluate(colour) == dark
    assert visit(path, scheme="light").evaluate(colour) == light


def test_by_keyboard_alone(visit, path):
    """Tab goes through the controls in the order in which they stand; a step is reached and read out."""
    page = visit(path)
    order = []
    for _ in range(6):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.ariaLabel"))
    assert order == ["theme", "play", "next", "slider", "jump", "conv1"]  # there is no previous step yet
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert told(page)[0] == "bn1"
    assert page.get_attribute("#told", "aria-live") == "polite"
    assert page.inner_text("#told").startswith("Each channel is brought to mean 0")


def test_one_network_alone(visit, tapes, tmp_path):
    page = visit(write_page(None, tapes[1], tmp_path / "plain.html"))
    page.keyboard.press("End")
    assert page.locator(".lane").count() == page.locator("#cards article").count() == 1
    assert_accessible(page)


def test_a_place_in_the_address(visit, path, tapes):
    page = visit(path, place="#60")
    assert told(page)[0] == tapes[0].steps[60].name


def test_two_runs_of_any_name_and_depth(visit, tapes, tmp_path):
    """Names of folders are text; where the lead has a block that the other lacks, a click leads nowhere wrong."""
    shallow = record(resnet("resnet8", (16, 16, 3), 6), np.zeros((4, 16, 16, 3), np.float32), np.arange(4))
    names = ['<img src=x onerror="throw 1">', 'a" onload="throw 2']
    page = visit(write_page(shallow, tapes[0], tmp_path / "two.html", labels=names))
    assert [page.locator(".lane strong").nth(i).inner_text() for i in (0, 1)] == names
    assert page.locator("#cards h3").all_inner_texts() == names
    assert page.locator("#lanes img, #cards img").count() == 0
    page.locator(".lane").nth(1).locator(".cell").nth(2).click()
    assert told(page)[0] == "conv1"
    swapped = visit(write_page(tapes[0], shallow, tmp_path / "deep.html", labels=names))
    go(swapped, tapes[0], "layer1.1.conv1", "forward")
    assert "No such step here. It waits after layer1.0." in swapped.locator("#cards article").nth(1).inner_text()
