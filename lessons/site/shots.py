"""The README's pictures: `python -m minires.lessons.site.shots FOLDER`, with the extra `browser` and a Chromium.

step.png is the page of `minires step`, on its way back through ResNet-20; lesson.png that of lesson 3; signs.png ten of
the built-in hands of each class.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from minires.lessons.site.build import build
from PIL import Image
from playwright.sync_api import sync_playwright

from minires.cli import main
from minires.data import make_signs

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# picture: the page, the way into it, the window's width and height
SHOTS = {
    "step.png": ("step.html", "location.hash = 105", (1280, 780)),
    "lesson.png": ("site/lesson-03.html", "scrollTo(0, 400)", (1280, 685)),
}


def shoot(pages: Path, folder: Path) -> None:
    """Open each page from the file system, and write its picture into `folder`."""
    with sync_playwright() as driver:
        executable = next(filter(None, map(shutil.which, BROWSERS)))
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])  # pages of our own alone
        for name, (page, way, (width, height)) in SHOTS.items():
            size = {"width": width, "height": height}
            shown = browser.new_page(viewport=size, color_scheme="light", reduced_motion="reduce")
            shown.goto((pages / page).resolve().as_uri())
            shown.evaluate(way)
            shown.wait_for_timeout(500)
            save(Image.open(io.BytesIO(shown.screenshot())), folder / name)
        browser.close()


def hands(each: int = 10) -> Image.Image:
    """The first built-in signs of each class, a row a class."""
    train, _ = make_signs()
    rows = [train.images(np.flatnonzero(train.labels == k)[:each]) for k in range(len(train.classes))]
    return Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))


def save(picture: Image.Image, path: Path) -> None:
    """As a small PNG, of 256 colours."""
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    save(hands(), target / "signs.png")
    with tempfile.TemporaryDirectory() as pages:
        main(["step", "--arch", "resnet20", "--html", f"{pages}/step.html"])
        build(Path(pages) / "site", lessons=[3], quick=True)
        shoot(Path(pages), target)
