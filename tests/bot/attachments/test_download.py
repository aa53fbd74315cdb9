"""Loading from the CDN: which addresses, how much, how long, and what a member is told of a failure."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from bot.attachments import reasons
from bot.attachments.download import Downloader
from bot.attachments.types import FileRefused
from tests.bot.attachments.cdn import Cdn

LIMIT = 20_000


@pytest.fixture
async def cdn() -> AsyncIterator[Cdn]:
    async with Cdn() as server:
        yield server


@pytest.fixture
async def downloader(cdn: Cdn) -> AsyncIterator[Downloader]:
    opened = Downloader(cdn.url, total_seconds=2.0)
    yield opened
    await opened.close()


def any_head(head: bytes) -> int:
    return LIMIT


async def refusal(downloader: Downloader, url: str) -> str:
    with pytest.raises(FileRefused) as caught:
        await downloader.load(url, LIMIT, any_head)
    return caught.value.reason_text


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, LIMIT])
async def test_a_file_comes_whole(cdn: Cdn, downloader: Downloader, size: int):
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert await downloader.load(cdn.add("a", data), LIMIT, any_head) == data
    assert cdn.requests[0].headers["Accept-Encoding"] == "identity"


async def test_discords_own_address_is_led_to_the_configured_one(cdn: Cdn, downloader: Downloader):
    cdn.add("1/2/a b.txt", b"hello")
    url = "https://cdn.discordapp.com/attachments/1/2/a%20b.txt?ex=1&hm=abc"
    assert await downloader.load(url, LIMIT, any_head) == b"hello"
    assert cdn.requests[0].query_string == "ex=1&hm=abc"


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.discordapp.com/a",
        "https://cdn.discordapp.com:8443/a",
        "https://cdn.discordapp.com.evil.example/a",
        "https://cdn.discordapp.com@evil.example/a",
        "https://me@cdn.discordapp.com/a",
        "https://evil.example/cdn.discordapp.com",
        "https://discord.com/a",
        "http://127.0.0.1/a",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1/a",
        "https://cdn.discordapp.com:port/a",
        "file:///etc/passwd",
        "",
        "a",
    ],
)
async def test_no_other_host(cdn: Cdn, downloader: Downloader, url: str):
    without_base = Downloader()
    assert await refusal(downloader, url) == reasons.FOREIGN_HOST
    assert await refusal(without_base, url) == reasons.FOREIGN_HOST
    assert cdn.requests == []


async def test_without_the_setting_the_test_host_is_a_foreign_one(cdn: Cdn):
    assert await refusal(Downloader(), cdn.add("a", b"x")) == reasons.FOREIGN_HOST
    assert cdn.requests == []


async def test_a_redirect_within_the_host(cdn: Cdn, downloader: Downloader):
    cdn.add("a", b"hello")
    for target in (f"{cdn.url}/attachments/a", "/attachments/a", "https://media.discordapp.net/attachments/a"):
        cdn.redirect_to = target
        assert await downloader.load(f"{cdn.url}/odd/redirect", LIMIT, any_head) == b"hello"


async def test_a_redirect_to_another_host_is_not_followed(cdn: Cdn, downloader: Downloader):
    async with Cdn() as other:
        cdn.redirect_to = other.add("a", b"secret of the network")
        assert await refusal(downloader, f"{cdn.url}/odd/redirect") == reasons.FOREIGN_HOST
        assert other.requests == []


async def test_redirects_end(cdn: Cdn, downloader: Downloader):
    cdn.redirect_to = f"{cdn.url}/odd/redirect"
    assert await refusal(downloader, f"{cdn.url}/odd/redirect") == reasons.NOT_LOADED
    assert len(cdn.requests) <= 8


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_file_that_vanished(cdn: Cdn, downloader: Downloader, status: int):
    assert await refusal(downloader, f"{cdn.url}/odd/{status}") == reasons.GONE
    assert len(cdn.requests) == 1


@pytest.mark.parametrize("what", ["206", "400", "429", "500", "gzip"])
async def test_other_answers(cdn: Cdn, downloader: Downloader, what: str):
    assert await refusal(downloader, f"{cdn.url}/odd/{what}") == reasons.NOT_LOADED


async def test_a_failure_of_the_moment_is_tried_once_more(cdn: Cdn, downloader: Downloader):
    cdn.failures = 1
    assert await downloader.load(cdn.add("a", b"hello"), LIMIT, any_head) == b"hello"
    cdn.failures = 5
    assert await refusal(downloader, f"{cdn.url}/attachments/a") == reasons.NOT_LOADED
    assert cdn.failures == 3


async def test_one_that_never_ends(cdn: Cdn, downloader: Downloader):
    assert await refusal(downloader, f"{cdn.url}/odd/endless") == reasons.too_large(None, LIMIT)
    assert cdn.sent < 20_000_000


@pytest.mark.parametrize("what", ["trickle", "silent"])
async def test_one_that_is_too_slow(cdn: Cdn, downloader: Downloader, what: str):
    started = time.monotonic()
    assert await refusal(downloader, f"{cdn.url}/odd/{what}") == reasons.TOO_SLOW
    assert time.monotonic() - started < 8


async def test_one_that_is_shorter_than_its_length(cdn: Cdn, downloader: Downloader):
    assert await refusal(downloader, f"{cdn.url}/odd/cut") in {reasons.INCOMPLETE, reasons.NOT_LOADED}


async def test_no_server_at_all():
    downloader = Downloader("http://127.0.0.1:9", total_seconds=3.0)
    assert await refusal(downloader, "http://127.0.0.1:9/a") == reasons.NOT_LOADED
    await downloader.close()


async def test_its_beginning_decides(cdn: Cdn, downloader: Downloader):
    seen = []

    def small(head: bytes) -> int:
        seen.append(head)
        return 6000

    url = cdn.add("a", b"x" * 6001)
    with pytest.raises(FileRefused):
        await downloader.load(url, LIMIT, small)
    assert seen == [b"x" * 4096]

    def never(head: bytes) -> int:
        raise FileRefused("not this one")

    with pytest.raises(FileRefused, match="not this one"):
        await downloader.load(f"{cdn.url}/odd/endless", LIMIT, never)


async def test_no_log_has_the_address(cdn: Cdn, downloader: Downloader):
    with capture_logs() as logged:
        for what in ("500", "400", "cut", "silent"):
            await refusal(downloader, f"{cdn.url}/odd/{what}?secret-name.txt")
        await refusal(downloader, "https://evil.example/secret-name.txt")
    assert logged
    assert "secret-name" not in str(logged)
    assert "127.0.0.1" not in str(logged)
