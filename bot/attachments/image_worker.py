"""Makes one picture small, upright and free of metadata: stdin to stdout.

`python -m bot.attachments.image_worker MAX_SIDE MAX_BYTES [png] [still]` takes pixels and bytes of the result; with
`png` it is never a JPEG, with `still` an animation is refused.

Only ever started by bot.attachments.image, never imported. Everything that Pillow does with a stranger's file happens
within the limits of this process.
"""

from __future__ import annotations

import io
import sys
import warnings
from typing import TYPE_CHECKING

from bot.attachments.worker import Result, limit_resources, serve

if TYPE_CHECKING:
    from PIL import Image

MEMORY = 1 << 30
CPU_SECONDS = 12
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_PIXELS = 64_000_000
_ORIENTATION_TAG = 0x0112
_QUALITIES = (88, 75, 60)
_WHITE = (255, 255, 255)


def convert(data: bytes, max_side: int, max_bytes: int, *, png_only: bool = False, still: bool = False) -> Result:
    """The picture as PNG or JPEG within these limits. An animation is its first frame, or with `still` refused."""
    from PIL import Image  # after the limits are set

    warnings.simplefilter("error", Image.DecompressionBombWarning)
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)  # reads the header only
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Result("too big")
    if opened.width * opened.height > MAX_PIXELS:
        return Result("too big")
    if still and getattr(opened, "is_animated", False):
        return Result("animated")
    is_lossless = opened.format in {"PNG", "GIF"}
    opened.draft("RGB", (max_side, max_side))  # a JPEG is decoded at the size that is needed
    opened.load()
    image = _plain(opened)
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    if (turn := _turn(opened)) is not None:
        image = image.transpose(turn)
    return _encoded(image, max_bytes, as_png=png_only or is_lossless or image.mode == "RGBA", png_only=png_only)


def _plain(image: Image.Image) -> Image.Image:
    """The pixels as RGB or RGBA."""
    if image.mode.startswith(("I", "F")):  # 16 bits a pixel and more: scaled, where a conversion would clip
        image = image.convert("F").point(lambda value: value * (1 / 257) + 0).convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How a camera's orientation tag wants the picture turned."""
    from PIL import Image

    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged metadata of a good picture
        return None
    turns = Image.Transpose
    known = [None, turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM]
    known += [turns.TRANSPOSE, turns.ROTATE_270, turns.TRANSVERSE, turns.ROTATE_90]
    return known[orientation - 1] if isinstance(orientation, int) and 1 <= orientation <= 8 else None


def _encoded(image: Image.Image, max_bytes: int, *, as_png: bool, png_only: bool) -> Result:
    from PIL import Image

    while True:
        if as_png and len(payload := _save(image, "PNG", optimize=True)) <= max_bytes:
            return Result("ok", {"media_type": "image/png"}, payload)
        if png_only:
            image = image.reduce(2)
            continue
        flat = image
        if image.mode == "RGBA":
            flat = Image.new("RGB", image.size, _WHITE)
            flat.paste(image, mask=image.getchannel("A"))
        for quality in _QUALITIES:
            if len(payload := _save(flat, "JPEG", quality=quality)) <= max_bytes:
                return Result("ok", {"media_type": "image/jpeg"}, payload)
        image = image.reduce(2)


def _save(image: Image.Image, form: str, **options: object) -> bytes:
    output = io.BytesIO()
    image.info = {}  # no comment, no profile, no EXIF
    image.save(output, form, **options)
    return output.getvalue()


if __name__ == "__main__":
    limit_resources(memory=MEMORY, cpu_seconds=CPU_SECONDS)
    side, size = int(sys.argv[1]), int(sys.argv[2])
    serve(lambda data: convert(data, side, size, png_only="png" in sys.argv[3:], still="still" in sys.argv[3:]))
