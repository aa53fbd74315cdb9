"""Pictures through the real worker: what comes out is small, upright and bare; bombs are refused by their header."""

from __future__ import annotations

import io
import os
import random
import struct
import time
import zlib

import pytest
from PIL import Image

from bot.attachments import reasons
from bot.attachments.image import read_image
from bot.attachments.types import FileRefused, ImageInput

RED, BLUE = (255, 0, 0), (0, 0, 255)


def saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def noisy(width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), random.Random(1).randbytes(width * height * 3))


def opened(read: ImageInput) -> Image.Image:
    image = Image.open(io.BytesIO(read.data))
    image.load()
    assert read.media_type == Image.MIME[image.format or ""]
    assert max(image.size) <= 1024
    assert len(read.data) <= 1 << 20
    assert not image.getexif()
    assert not {"exif", "icc_profile", "comment", "xmp", "photoshop"} & set(image.info)
    assert not getattr(image, "text", {})
    return image


async def refusal(data: bytes, **options: float) -> str:
    with pytest.raises(FileRefused) as caught:
        await read_image("x.png", data, **options)
    return caught.value.reason_text


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
async def test_every_format_that_is_read(form: str):
    image = opened(await read_image("x", saved(Image.new("RGB", (40, 30), RED), form)))
    assert image.size == (40, 30)
    red, green, blue = image.convert("RGB").getpixel((20, 15))
    assert red > 240 > 15 > max(green, blue)


@pytest.mark.parametrize("form", ["BMP", "TIFF", "ICO", "PPM", "TGA", "PCX"])
async def test_no_other_format_is_opened(form: str):
    assert await refusal(saved(Image.new("RGB", (32, 32), RED), form)) == reasons.IMAGE_BROKEN


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
async def test_every_mode(mode: str):
    if mode == "I;16":
        image = Image.frombytes(mode, (60, 40), struct.pack("<H", 200 * 257) * 2400)
    else:
        image = Image.new("L", (60, 40), 255 if mode == "1" else 200).convert(mode)
    read = opened(await read_image("x", saved(image, "JPEG" if mode == "CMYK" else "PNG")))
    assert abs(read.convert("L").getpixel((30, 20)) - (255 if mode == "1" else 200)) < 12


async def test_a_large_photograph_becomes_small():
    image = opened(await read_image("x", saved(noisy(3000, 2000), "JPEG", quality=60)))
    assert image.size == (1024, 683)


async def test_a_picture_that_no_png_can_hold_becomes_a_jpeg():
    assert (await read_image("x", saved(noisy(1024, 1024)))).media_type == "image/jpeg"
    opened(await read_image("x", saved(noisy(1024, 1024))))


async def test_a_transparent_one_too():
    image = noisy(1024, 1024)
    image.putalpha(0)
    flat = opened(await read_image("x", saved(image)))
    assert flat.getpixel((500, 500)) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_turned_as_the_camera_was_held(orientation: int):
    """The picture's upper left is red when it is looked at upright."""
    upright = Image.new("RGB", (64, 32), BLUE)
    upright.paste(RED, (0, 0, 16, 16))
    turns = Image.Transpose
    undo = [None, turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM]
    undo += [turns.TRANSPOSE, turns.ROTATE_90, turns.TRANSVERSE, turns.ROTATE_270]
    turn = undo[orientation - 1]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera and where it was"
    image = opened(await read_image("x", saved(stored, "JPEG", exif=exif, quality=95, comment=b"secret")))
    assert image.size == (64, 32)
    red, _, blue = image.getpixel((5, 5))
    assert red > 200 > 60 > blue


async def test_damaged_metadata_does_not_cost_the_picture():
    data = saved(Image.new("RGB", (32, 32), RED), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff" + os.urandom(40))
    opened(await read_image("x", data))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
async def test_an_animation_is_its_first_frame(form: str):
    frames = [Image.new("RGB", (20, 20), RED), Image.new("RGB", (20, 20), BLUE)]
    data = saved(frames[0], form, save_all=True, append_images=frames[1:])
    image = opened(await read_image("x", data))
    assert getattr(image, "n_frames", 1) == 1
    assert image.convert("RGB").getpixel((10, 10))[0] > 200


def png_header(width: int, height: int, body: bytes = b"") -> bytes:
    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", body) + part(b"IEND", b"")


@pytest.mark.parametrize("size", [(20_000, 20_000), (65_000, 1_000), (2**31 - 1, 2**31 - 1), (100_000, 100_000)])
async def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]):
    started = time.monotonic()
    packed = zlib.compress(bytes(10_000_000))
    assert await refusal(png_header(*size, packed)) in {reasons.IMAGE_TOO_BIG, reasons.IMAGE_BROKEN}
    assert time.monotonic() - started < 10


async def test_a_bomb_in_a_text_chunk():
    data = saved(Image.new("RGB", (8, 8), RED))
    packed = b"comment\x00\x00" + zlib.compress(bytes(200_000_000))
    chunk = struct.pack(">I", len(packed)) + b"zTXt" + packed + struct.pack(">I", zlib.crc32(b"zTXt" + packed))
    assert await refusal(data[:33] + chunk + data[33:]) in {reasons.IMAGE_TOO_BIG, reasons.IMAGE_BROKEN}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n" + os.urandom(2000),
        saved(Image.new("RGB", (300, 300), RED), "JPEG")[:400],
        saved(noisy(100, 100))[:9000],
        b"GIF89a" + os.urandom(500),
        b"RIFF\xff\xff\xff\xffWEBPVP8X" + os.urandom(200),
        png_header(0, 0),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
    ids=range(10),
)
async def test_damaged(data: bytes):
    assert await refusal(data) in {reasons.IMAGE_BROKEN, reasons.IMAGE_TOO_BIG}  # random headers may name any size


async def test_one_that_takes_too_long():
    assert await refusal(saved(noisy(2000, 2000)), seconds=0.01) == reasons.IMAGE_TOO_BIG


async def test_a_portrait_is_a_png_also_where_a_jpeg_would_be_larger():
    read = await read_image("x", saved(noisy(900, 900), "JPEG"), png_only=True)
    assert (read.media_type, opened(read).size) == ("image/png", (450, 450))
    small = await read_image("x", saved(noisy(64, 64), "JPEG"), png_only=True)
    assert (small.media_type, opened(small).size) == ("image/png", (64, 64))
