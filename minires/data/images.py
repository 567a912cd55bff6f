"""One image file of any usual kind to a uint8 RGB array."""

import os

import numpy as np
from PIL import Image, ImageOps

from minires.data.dataset import as_size
from minires.errors import DataError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})
MAX_PIXELS = 50_000_000


def read_image(path: str | os.PathLike, size: int | tuple[int, int] | None = None) -> np.ndarray:
    """Read an image file as uint8 (H, W, 3), resized (bilinear, antialiased) to `size` where given.

    The EXIF rotation is applied; grey, palette and CMYK become RGB; transparency shows white; 16 bits are
    scaled to 8; of an animation the first frame counts. The whole image is squeezed to the size, nothing is
    cut off. Raises DataError for a file that is missing, no image, damaged, or of more than 50 megapixels.
    """
    size = None if size is None else as_size(size)
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise DataError(_too_large(path, f"{width}x{height} pixels"))
            if size:
                # JPEG decodes to a half, quarter or eighth for free; stay at twice the size or more
                image.draft(None, (2 * max(size), 2 * max(size)))
            rgb = _to_rgb(ImageOps.exif_transpose(image), path)
            if size and rgb.size != size[::-1]:
                rgb = rgb.resize(size[::-1], Image.Resampling.BILINEAR)
            return np.array(rgb)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: expected an image, but there is no such file: check the path") from None
    except Image.DecompressionBombError:
        raise DataError(_too_large(path, f"more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels")) from None
    except Exception as error:  # on damaged files Pillow's decoders raise almost anything
        problem = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: expected an image, but it cannot be decoded ({problem}): replace or remove it"
        ) from None


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
