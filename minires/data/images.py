"""One image file of any usual kind to a uint8 RGB array.

Decoders fill up what a damaged file lacks: libjpeg with grey, without a word. So a JPEG's data have to end where its
last row does, and a PNG's checksums are compared. Progressive JPEG and the formats without checksums (BMP, GIF, WebP)
are taken as their decoders give them.
"""

import io
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from minires.data.dataset import as_size
from minires.data.kinds import HEAD, described, of_head
from minires.errors import DataError

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
    | ({".avif"} if features.check("avif") else set())
)
MAX_PIXELS = 50_000_000
MAX_BYTES = 2**29
_PNG = b"\x89PNG\r\n\x1a\n"
_FIRST_BYTES = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP", re.DOTALL)
_SPARE = 16  # bytes that a JPEG's decoder may read beyond its data


def is_image(path: Path) -> bool:
    """Whether a file is one by its ending, or has none and begins as JPEG, PNG, GIF or WebP do."""
    if path.suffix:
        return path.suffix.lower() in EXTENSIONS
    try:
        with path.open("rb") as raw:
            return bool(_FIRST_BYTES.match(raw.read(12)))
    except OSError:
        return False


def read_image(path: str | os.PathLike, size: int | tuple[int, int] | None = None) -> np.ndarray:
    """Read an image file as uint8 (H, W, 3), resized (bilinear, antialiased) to `size` where given.

    The EXIF rotation is applied; grey, palette and CMYK become RGB; transparency shows white; 16 bits are
    scaled to 8; of an animation the first frame counts. The whole image is squeezed to the size, nothing is
    cut off. Raises DataError for a file that is missing, no image, damaged, of other dimensions than it says, or of
    more than 50 megapixels.
    """
    size = None if size is None else as_size(size)
    try:
        if not Path(path).is_file() and Path(path).stat():
            what = "a folder" if Path(path).is_dir() else "a device or a pipe"
            raise DataError(f"{path}: expected an image, but it is {what}: give a file")
        if Path(path).stat().st_size > MAX_BYTES:
            raise DataError(_too_large(path, f"a file of more than {MAX_BYTES:,} bytes"))
        content = Path(path).read_bytes()
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: expected an image, but there is no such file: check the path") from None
    except (OSError, ValueError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: expected an image, but it cannot be decoded ({problem}): replace or remove it"
        ) from None
    return decode_image(content, path, size)


def decode_image(content: bytes, path: str | os.PathLike, size: tuple[int, int] | None = None) -> np.ndarray:
    """`read_image` of the bytes of a file; path: its name, for the errors."""
    try:
        scan = _jpeg_scan(content)
        if content.startswith(_PNG):
            with Image.open(io.BytesIO(content)) as image:
                image.verify()
        # without the mark of its end a JPEG that is too short for its dimensions is one that is truncated
        source = io.BytesIO(content if scan is None else content[: scan[1]] + bytes(_SPARE))
        with Image.open(source) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise DataError(_too_large(path, f"{width}x{height} pixels"))
            if size:
                # JPEG decodes to a half, quarter or eighth for free; stay at twice the size or more
                image.draft(None, (2 * max(size), 2 * max(size)))
            if scan is not None:
                image.decodermaxblock = (
                    scan[1] - _SPARE - (scan[1] - scan[0]) // 64
                )  # read all but the end, then the end
                image.load()
                if source.tell() < scan[1]:
                    problem = f"its {width}x{height} pixels end before its data do"
                    raise DataError(f"{path}: expected an image, but {problem}: replace or remove it")
            rgb = _to_rgb(ImageOps.exif_transpose(image), path)
            if size and rgb.size != size[::-1]:
                rgb = rgb.resize(size[::-1], Image.Resampling.BILINEAR)
            return np.array(rgb)
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(_too_large(path, f"more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels")) from None
    except UnidentifiedImageError:
        what, remedy = described(Path(path)) if os.path.isfile(path) else of_head(content[:HEAD])
        raise DataError(f"{path}: expected an image, but it is {what}: {remedy}") from None
    except Exception as error:  # on damaged files Pillow's decoders raise almost anything
        problem = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: expected an image, but it cannot be decoded ({problem}): replace or remove it"
        ) from None


def _jpeg_scan(content: bytes) -> tuple[int, int] | None:
    """(start, end) of the pixels' data in a JPEG with a single scan; None for any other file."""
    if not content.startswith(b"\xff\xd8"):
        return None
    at, sequential = 2, False
    while content[at : at + 1] == b"\xff" and at + 4 <= len(content):
        kind, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        sequential |= kind in (0xC0, 0xC1)
        at += 2 + length
        if kind == 0xDA:
            end = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]").search(content, at)
            if end is None:  # cut off: its decoder says so
                return None
            return (at, end.start()) if sequential and end[0][1] == 0xD9 else None
    return None


def _too_large(path, found: str) -> str:
    return f"{path}: expected an image of at most {MAX_PIXELS // 10**6} megapixels, got {found}: scale it down"


def _to_rgb(image: Image.Image, path) -> Image.Image:
    if image.mode == "F":
        raise DataError(f"{path}: expected an image of 8 or 16 bits, got floating point: save it as 8-bit PNG")
    if image.mode.startswith("I"):  # 16-bit grey; convert() would clip at 255
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise DataError(f"{path}: expected an image of 8 or 16 bits, got 32: save it as 8-bit PNG")
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
