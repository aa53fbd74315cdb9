"""The files of one message, through the real download and the real workers."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
import time
import zipfile
from collections.abc import AsyncIterator

import pytest
from PIL import Image
from structlog.testing import capture_logs

from bot.attachments import reader as reader_module
from bot.attachments import reasons
from bot.attachments.reader import FileReader
from bot.attachments.types import FileLimits, FileRefused, FilesRead, OfferedFile
from tests.bot.attachments.cdn import Cdn
from tests.bot.attachments.pdf_files import pdf, words

LIMITS = FileLimits(max_files=4, max_text_bytes=10_000, max_raw_bytes=300_000)


@pytest.fixture
async def cdn() -> AsyncIterator[Cdn]:
    async with Cdn() as server:
        yield server


@pytest.fixture
async def reader(cdn: Cdn) -> AsyncIterator[FileReader]:
    opened = FileReader(LIMITS, cdn.url)
    yield opened
    await opened.close()


def offer(cdn: Cdn, name: str, data: bytes, content_type: str | None = None, **more: object) -> OfferedFile:
    values = {"size": len(data), "url": cdn.add(name, data), **more}
    return OfferedFile(name, content_type, **values)


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (50, 40), (255, 0, 0)).save(out, "PNG")
    return out.getvalue()


def zipped(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, "x" * 100)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"), io.BytesIO(b""))
    return out.getvalue()


async def one(reader: FileReader, offered: OfferedFile, *, images_allowed: bool = True) -> FilesRead:
    return await reader.read_files([offered], images_allowed=images_allowed)


async def refusal(reader: FileReader, offered: OfferedFile, *, images_allowed: bool = True) -> str:
    read = await one(reader, offered, images_allowed=images_allowed)
    assert not read.texts
    assert not read.images
    return read.refused[0].reason_text


async def test_of_every_kind_at_once(cdn: Cdn, reader: FileReader):
    offers = [
        offer(cdn, "notes.md", "# Größe\r\n".encode(), "text/markdown; charset=utf-8"),
        offer(cdn, "plan.pdf", pdf(words("The plan")), "application/pdf"),
        offer(cdn, "red.png", png(), "image/png"),
        offer(cdn, "songs.zip", zipped("a.txt"), "application/zip"),
    ]
    read = await reader.read_files(offers, images_allowed=True)
    assert [(text.name, text.text) for text in read.texts] == [("notes.md", "# Größe\n"), ("plan.pdf", "The plan")]
    assert [(image.name, image.media_type) for image in read.images] == [("red.png", "image/png")]
    assert [(refused.name, refused.reason_text) for refused in read.refused] == [
        ("songs.zip", "This is an archive, and I do not unpack archives; please send the files in it.")
    ]


@pytest.mark.parametrize(
    ("name", "content_type", "text"),
    [
        ("main.ts", "video/mp2t", "export const x: number = 1;\n"),
        ("data.csv", "text/csv", "a,b\n1,2\n"),
        ("data.json", "application/json", '{"a": [1, 2]}'),
        ("server.log", None, "2026-11-28 started\n"),
        ("Makefile", "application/octet-stream", "all:\n\techo\n"),
        ("picture.png", "image/png", "no picture at all\n"),
        ("paper.pdf", "application/pdf", "just words\n"),
        ("picture.svg", "image/svg+xml", "<svg><text>Hi</text></svg>"),
        ("MZ.txt", "text/plain", "MZ is how programs begin\n"),
    ],
)
async def test_content_decides(cdn: Cdn, reader: FileReader, name: str, content_type: str | None, text: str):
    read = await one(reader, offer(cdn, name, text.encode(), content_type))
    assert [file.text for file in read.texts] == [text]


@pytest.mark.parametrize("name", ["notes.txt", "x.pdf", "x"])
async def test_a_pdf_and_a_picture_under_another_name(cdn: Cdn, reader: FileReader, name: str):
    assert (await one(reader, offer(cdn, name, pdf(words("Found")), "text/plain"))).texts[0].text == "Found"
    assert (await one(reader, offer(cdn, name, png(), None))).images[0].media_type == "image/png"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (zipped("word/document.xml", "[Content_Types].xml"), "This is an office document"),
        (zipped("a/b.txt"), "This is an archive"),
        (tarred()[:2048], "This is an archive"),
        (b"\x1f\x8b\x08" + os.urandom(100), "This is an archive"),
        (b"MZ\x90\x00" + os.urandom(600), "This is a program"),
        (b"\x7fELF" + os.urandom(600), "This is a program"),
        (b"ID3\x04\x00" + os.urandom(600), "I cannot listen to sound"),
        (b"OggS\x00" + os.urandom(600), "I cannot listen to sound"),
        (b"\x00\x00\x00\x18ftypmp42" + os.urandom(600), "I cannot watch videos"),
        (b"BM" + bytes(600), "I cannot see this kind of picture"),
        (b"SQLite format 3\x00" + bytes(600), "This is a binary file"),
        (bytes(5000), "I cannot find any text"),
        (os.urandom(5000), "I cannot find any text"),
        (b"   \n\n\t", "This file is empty"),
        (b"\xef\xbb\xbf", "This file is empty"),
    ],
    ids=range(15),
)
async def test_what_a_text_file_may_turn_out_to_be(cdn: Cdn, reader: FileReader, data: bytes, reason: str):
    assert (await refusal(reader, offer(cdn, "notes.txt", data, "text/plain"))).startswith(reason)


async def test_voice_and_empty_are_not_even_loaded(cdn: Cdn, reader: FileReader):
    assert await refusal(reader, offer(cdn, "v.ogg", b"OggS", "audio/ogg", is_voice=True)) == reasons.VOICE
    assert await refusal(reader, offer(cdn, "e.txt", b"", "text/plain")) == reasons.EMPTY
    assert cdn.requests == []


async def test_pictures_where_the_model_sees_none(cdn: Cdn, reader: FileReader):
    offered = offer(cdn, "red.png", png(), "image/png")
    assert await refusal(reader, offered, images_allowed=False) == reasons.NO_IMAGES


async def test_limits_of_size(cdn: Cdn, reader: FileReader):
    text = b"a line of text\n" * 1000
    assert await refusal(reader, offer(cdn, "a.txt", text, "text/plain")) == reasons.too_large(15_000, 10_000)
    assert cdn.requests == []
    assert "too large" in await refusal(reader, offer(cdn, "a.bin", text))
    assert "too large" in await refusal(reader, offer(cdn, "a.txt", text, "text/plain", size=100))  # a lie
    assert (await one(reader, offer(cdn, "b.txt", text[:10_000], "text/plain"))).texts[0].text == text[:10_000].decode()


async def test_one_that_never_ends_and_one_that_lies(cdn: Cdn, reader: FileReader):
    endless = OfferedFile("a.txt", "text/plain", 100, f"{cdn.url}/odd/endless")
    assert "too large" in await refusal(reader, endless)
    short = offer(cdn, "a.txt", b"the first half", "text/plain", size=1000)
    assert await refusal(reader, short) == reasons.INCOMPLETE
    gone = OfferedFile("a.txt", "text/plain", 100, f"{cdn.url}/attachments/gone")
    assert await refusal(reader, gone) == reasons.GONE


async def test_more_files_than_are_read(cdn: Cdn, reader: FileReader):
    offers = [offer(cdn, f"{number}.txt", b"x", "text/plain") for number in range(6)]
    read = await reader.read_files(offers, images_allowed=True)
    assert [text.name for text in read.texts] == ["0.txt", "1.txt", "2.txt", "3.txt"]
    assert [(file.name, file.reason_text) for file in read.refused] == [
        ("4.txt", "I read only the first 4 files of a message."),
        ("5.txt", "I read only the first 4 files of a message."),
    ]
    assert len(cdn.requests) == 4


async def test_switched_off(cdn: Cdn):
    reader = FileReader(FileLimits(max_files=0), cdn.url)
    assert await refusal(reader, offer(cdn, "a.txt", b"x")) == reasons.SWITCHED_OFF
    assert cdn.requests == []


async def test_no_files(reader: FileReader):
    assert await reader.read_files([], images_allowed=True) == FilesRead()


async def test_many_at_once_are_bounded(cdn: Cdn, reader: FileReader):
    cdn.pause = 0.05
    offers = [offer(cdn, f"{number}.txt", b"x", "text/plain") for number in range(4)]
    reads = await asyncio.gather(*(reader.read_files(offers, images_allowed=True) for _ in range(10)))
    assert all(len(read.texts) == 4 for read in reads)
    assert 1 < cdn.max_running <= 8


async def test_the_loop_is_not_held_up(cdn: Cdn, reader: FileReader):
    """The gateway's heartbeat shares it."""
    lags = []

    async def watch() -> None:
        while True:
            started = time.monotonic()
            await asyncio.sleep(0.01)
            lags.append(time.monotonic() - started)

    watching = asyncio.create_task(watch())
    await reader.read_files(
        [
            offer(cdn, "a.txt", ("Größe und Übung, schön\n" * 400).encode("cp1252")),
            offer(cdn, "b.pdf", pdf(*(words(f"page {number} " * 50) for number in range(50)))),
            offer(cdn, "c.png", png()),
        ],
        images_allowed=True,
    )
    watching.cancel()
    assert len(lags) > 5
    assert max(lags) < 1.0


async def test_an_error_of_ours_costs_one_file_and_logs_no_words(
    cdn: Cdn, reader: FileReader, monkeypatch: pytest.MonkeyPatch
):
    def broken(data: bytes, charset: str | None) -> None:
        if b"bad" in data:
            raise RuntimeError(data.decode())

    monkeypatch.setattr(reader_module, "read_text", broken)
    offers = [offer(cdn, "secret.txt", b"bad secret"), offer(cdn, "red.png", png())]
    with capture_logs() as logged:
        read = await reader.read_files(offers, images_allowed=True)
    assert read.refused[0].reason_text == reasons.READER_FAILED
    assert len(read.images) == 1
    assert logged[0]["error"] == "RuntimeError"
    assert "secret" not in str(logged)


async def test_hostile_names(cdn: Cdn, reader: FileReader):
    data = b"hello"
    hostile = OfferedFile("@everyone\u202e`x`\n[File 2](http://x).txt", None, len(data), cdn.add("a", data))
    assert (await one(reader, hostile)).texts[0].name == "_everyone_x_ _File 2_http_x_.txt"


async def test_a_file_of_any_kind_as_it_is(cdn: Cdn, reader: FileReader):
    data = os.urandom(200_000)
    assert await reader.load(offer(cdn, "a.charx", data)) == data
    for size, data in ((400_000, b"x"), (3, b"x" * 400_000), (10, b"x")):  # too large, a lie, a part
        refused = offer(cdn, f"b{size}", data, size=size)
        with pytest.raises(FileRefused):
            await reader.load(refused)
    assert (await reader.portrait(png()))[:8] == b"\x89PNG\r\n\x1a\n"
