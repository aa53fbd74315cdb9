"""PDFs through the real worker: text out of good ones, one sentence for the others, and no process left behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bot.attachments import reasons
from bot.attachments.pdf import read_pdf
from bot.attachments.types import FileRefused
from bot.attachments.worker_process import WorkerFailed, run_worker
from tests.bot.attachments.pdf_files import bomb, encrypted, pdf, words

LIMIT = 256 << 10


def children() -> set[str]:
    """The workers that run now, as the kernel lists them."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError):  # the thread ended
            found |= set(Path(f"/proc/self/task/{task}/children").read_text().split())
    return found


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before = children()
    yield
    assert children() <= before


async def refusal(data: bytes, **options: float) -> str:
    with pytest.raises(FileRefused) as caught:
        await read_pdf("x.pdf", data, LIMIT, **options)
    return caught.value.reason_text


async def test_the_text_of_one_page():
    read = await read_pdf("x.pdf", pdf(words("Hello from page one")), LIMIT)
    assert (read.name, read.text, read.truncated, read.pages) == ("x.pdf", "Hello from page one", False, 1)


async def test_pages_are_numbered():
    read = await read_pdf("x.pdf", pdf(words("First"), words("Second"), b""), LIMIT)
    assert read.text == "[Page 1]\nFirst\n\n[Page 2]\nSecond\n\n[Page 3]"
    assert read.pages == 3


async def test_a_long_text_is_cut_at_the_limit():
    read = await read_pdf("x.pdf", pdf(*(words(f"page {number} " * 20) for number in range(60))), 2000)
    assert read.truncated
    assert 1500 < len(read.text.encode()) <= 2000
    assert read.pages == 60


@pytest.mark.parametrize("algorithm", ["RC4-40", "RC4-128", "AES-128", "AES-256"])
async def test_locked_with_a_password(algorithm: str):
    data = pdf(words("The secret plan"))
    assert await refusal(encrypted(data, "user", algorithm)) == reasons.PDF_LOCKED
    assert (await read_pdf("x.pdf", encrypted(data, "", algorithm), LIMIT)).text == "The secret plan"


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-1.7\n",
        b"%PDF-1.7\n" + os.urandom(5000),
        pdf(words("x"))[:150],
        b"%PDF-1.7\n" + b"1 0 obj\n" * 5000,
        b"%PDF-1.7\n" + b"[" * 100_000,
        b"%PDF-1.7\n1 0 obj << /Type /Catalog /Pages 1 0 R >> endobj\ntrailer << /Root 1 0 R >>",
        b"%PDF-1.7\ntrailer << /Prev 9 /Root 1 0 R >>\nstartxref\n9\n%%EOF",
    ],
    ids=range(7),
)
async def test_damaged(data: bytes):
    assert await refusal(data) in {reasons.PDF_BROKEN, reasons.PDF_NO_TEXT}


async def test_a_damaged_page_does_not_cost_the_others():
    good = zlib.compress(words("Still here"))
    read = await read_pdf("x.pdf", pdf(good, b"\x00not a stream", good, flate=True), LIMIT)
    assert read.text.count("Still here") == 2


async def test_scanned():
    image = "q 600 0 0 800 0 0 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \x00 EI Q"
    assert await refusal(pdf(image.encode(), image.encode())) == reasons.PDF_NO_TEXT


async def test_a_bomb():
    started = time.monotonic()
    assert await refusal(bomb()) in {reasons.PDF_TOO_BIG, reasons.PDF_TOO_SLOW}
    assert time.monotonic() - started < 25


async def test_pages_that_never_end():
    """A page tree that contains itself."""
    data = pdf(words("x"), extra="").replace(b"/Kids [3 0 R]", b"/Kids [2 0 R]")
    assert await refusal(data) in {reasons.PDF_BROKEN, reasons.PDF_NO_TEXT, reasons.PDF_TOO_SLOW}


async def test_one_that_takes_too_long():
    slow = pdf(b"BT /F1 12 Tf " + b"(a) Tj 1 0 0 1 5 5 Tm " * 400_000 + b"ET")
    started = time.monotonic()
    with capture_logs() as logged:
        assert await refusal(slow, seconds=1.0) == reasons.PDF_TOO_SLOW
    assert time.monotonic() - started < 5
    assert [entry["event"] for entry in logged] == ["a worker took too long"]
    assert "x.pdf" not in str(logged)


async def test_a_cancelled_reader_leaves_no_process():
    slow = pdf(b"BT /F1 12 Tf " + b"(a) Tj 1 0 0 1 5 5 Tm " * 400_000 + b"ET")
    before = children()
    task = asyncio.create_task(read_pdf("x.pdf", slow, LIMIT))
    for _ in range(500):
        await asyncio.sleep(0.02)
        if children() - before:
            break
    assert children() - before
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class TestWorker:
    """The limits of the process itself, with workers that misbehave on purpose."""

    @pytest.fixture
    def start(self, monkeypatch: pytest.MonkeyPatch):
        async def started(code: str, data: bytes = b"x", seconds: float = 20.0, max_output: int = 1000):
            create = asyncio.create_subprocess_exec

            async def replaced(program: str, *arguments: str, **options: object):
                return await create(sys.executable, "-c", code, **options)

            monkeypatch.setattr(asyncio, "create_subprocess_exec", replaced)
            return await run_worker("worker", data, seconds=seconds, max_output=max_output)

        return started

    async def test_memory(self, start):
        answer = await start(
            "from bot.attachments.worker import *\nlimit_resources(memory=200 << 20, cpu_seconds=5)\n"
            "serve(lambda data: Result('ok', payload=bytes(400 << 20)))"
        )
        assert answer.status == "memory"

    async def test_cpu_time(self, start):
        with pytest.raises(WorkerFailed) as caught:
            await start(
                "from bot.attachments.worker import *\nlimit_resources(memory=1 << 30, cpu_seconds=1)\nwhile True: pass"
            )
        assert caught.value.timed_out

    async def test_files_cannot_be_written(self, start, tmp_path):
        answer = await start(
            "from bot.attachments.worker import *\nlimit_resources(memory=1 << 30, cpu_seconds=5)\n"
            f"def work(data):\n    open({str(tmp_path / 'x')!r}, 'wb').write(data * 100000)\n    return Result('ok')\n"
            "serve(work)"
        )
        assert answer.status == "broken"
        assert not any(path.stat().st_size for path in tmp_path.iterdir())

    async def test_output(self, start):
        with pytest.raises(WorkerFailed, match="too much output"):
            await start("import sys\nwhile True: sys.stdout.write('x' * 10000)")

    async def test_death_before_it_has_read(self, start):
        with pytest.raises(WorkerFailed, match="exit code 3"):
            await start("import os; os._exit(3)", data=bytes(5 << 20))

    async def test_an_answer_of_another_shape(self, start):
        for output in ("", "[]", "{}", "hello", "null"):
            with pytest.raises(WorkerFailed, match="unreadable"):
                await start(f"import sys; sys.stdin.buffer.read(); print({output!r})")

    async def test_it_knows_none_of_our_secrets(self, start, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("GUILDLLAMA_DISCORD_TOKEN", "very-secret")
        monkeypatch.setenv("PGPASSWORD", "very-secret")
        answer = await start(
            'import os, sys; sys.stdin.buffer.read(); print(\'{"status": "ok"}\'); print(dict(os.environ))',
            max_output=10_000,
        )
        assert b"PATH" in answer.payload
        assert b"very-secret" not in answer.payload


def test_the_bot_itself_loads_neither_pypdf_nor_pillow():
    code = "import sys, bot.attachments.reader; print(sorted({'pypdf', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
