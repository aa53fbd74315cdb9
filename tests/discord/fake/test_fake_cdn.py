"""The CDN of the fake Discord: attachments as discord.py and a plain HTTP client read them, and its ways to fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import discord
import pytest

from tests.discord.fake.fake_client import RecordingClient, connected, wait_for
from tests.fakes.discord.server import Attachment, FakeDiscord, User


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
        yield http


async def received(fake: FakeDiscord, client: RecordingClient, ann: User, *files: Attachment) -> discord.Message:
    said = await fake.say(ann, ann, "Look", files=files)
    await wait_for(lambda: client.named("message")[-1:] and client.named("message")[-1].id == said.id)
    message: discord.Message = client.named("message")[-1]
    return message


async def test_discord_py_reads_attachments_of_members_and_of_the_bot(fake: FakeDiscord, ann: User) -> None:
    async with connected(fake) as client:
        seen = await received(fake, client, ann, Attachment("notes.txt", b"abc"), Attachment("code.py", b"x = 1"))
        assert [await each.read() for each in seen.attachments] == [b"abc", b"x = 1"]
        assert seen.attachments[0].content_type == "text/plain; charset=utf-8"
        assert [each.size for each in seen.attachments] == [3, 5]
        sent = await seen.channel.send("Here", file=discord.File(__file__, "test.py"))
        assert b"The CDN of the fake" in await sent.attachments[0].read()
        assert len(fake.cdn.downloads) == 3


async def test_a_link_is_signed_and_expires(fake: FakeDiscord, ann: User, http: aiohttp.ClientSession) -> None:
    async with connected(fake) as client:
        seen = await received(fake, client, ann, Attachment("notes.txt", b"abc"))
        url = seen.attachments[0].url
        fake.advance(24 * 3600 + 1)
        with pytest.raises(discord.NotFound):
            await seen.attachments[0].read()
        fresh = await seen.channel.fetch_message(seen.id)
        assert await fresh.attachments[0].read() == b"abc"
    async with http.get(url.replace("notes", "other")) as response:
        assert response.status == 404
    async with http.get(url.partition("?")[0]) as response:
        assert response.status == 404


async def test_what_discord_says_of_a_file_need_not_be_true(
    fake: FakeDiscord, ann: User, http: aiohttp.ClientSession
) -> None:
    file = Attachment("photo.png", b"MZ...", content_type="image/png", declared_size=10)
    await fake.say(ann, ann, "", files=[file])
    assert (file.json()["content_type"], file.json()["size"]) == ("image/png", 10)
    fake.cdn.fail(file, num_bytes=3_000_000, content_type="text/html")
    async with http.get(file.url) as response:
        assert response.content_type == "text/html"
        assert len(await response.read()) == 3_000_000
    fake.cdn.fail(file, claim=10)
    with pytest.raises(aiohttp.ClientPayloadError):
        async with http.get(file.url) as response:
            await response.read()
    async with http.get(file.url) as response:
        assert await response.read() == b"MZ..."  # each fault was meant for one download


async def test_downloads_that_fail_or_never_end(fake: FakeDiscord, ann: User, http: aiohttp.ClientSession) -> None:
    file, other = Attachment("a.txt", b"abc"), Attachment("b.txt", b"abc")
    await fake.say(ann, ann, "", files=[file, other])
    fake.cdn.fail(file, status=500)
    async with http.get(other.url) as response:
        assert response.status == 200
    async with http.get(file.url) as response:
        assert response.status == 500
    fake.cdn.fail(redirect="http://127.0.0.1:9/secret")
    async with http.get(file.url, allow_redirects=False) as response:
        assert response.headers["Location"] == "http://127.0.0.1:9/secret"
    for effect in ({"trickle": 0.01}, {"stall": True}):
        fake.cdn.fail(file, **effect)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), http.get(file.url) as response:
                await response.read()
    assert fake.cdn.num_bytes_sent > 5


async def test_names_become_what_discord_makes_of_them(fake: FakeDiscord, ann: User) -> None:
    names = {"my notes (1).txt": "my_notes_1.txt", "a/../b`@.md": "a..b.md", "文.md": "md", "ok-1_2.py": "ok-1_2.py"}
    for given, shown in names.items():
        file = Attachment(given, b"x")
        await fake.say(ann, ann, "", files=[file])
        assert file.json()["filename"] == shown
        assert ("title" in file.json()) is (given != shown)
