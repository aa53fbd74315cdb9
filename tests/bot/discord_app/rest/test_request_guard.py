"""Requests that Discord refuses are counted, whoever made them, and writing stops in time."""

from __future__ import annotations

import discord
import pytest
from discord.http import HTTPClient, Route
from structlog.testing import capture_logs

from bot.discord_app.rest.request_guard import MAX_INVALID, PERIOD, RequestGuard, WritingStopped
from tests.fakes.discord.server import FakeDiscord


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_b34_writing_stops_at_five_thousand_in_ten_minutes_and_goes_on_afterwards() -> None:
    clock = Clock()
    guard = RequestGuard(clock=clock)
    for status in (403, 429) * (MAX_INVALID // 2):
        guard.check("POST")
        guard.count(status, "/channels/1/messages")
        clock.now += 0.01
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(WritingStopped):
                guard.check("PATCH")
        guard.check("GET")
    assert len(logs) == 1, "said once"
    clock.now += PERIOD - 40
    with pytest.raises(WritingStopped):  # a few have grown old: not one request for each of them
        guard.check("POST")
    clock.now += 40
    with capture_logs() as logs:
        guard.check("POST")
    assert [line["log_level"] for line in logs] == ["info"]
    assert guard.num_invalid == 0


async def test_b34_what_discord_does_not_count_is_not_counted() -> None:
    guard = RequestGuard(max_invalid=2)
    for status in (200, 400, 404, 500):
        guard.count(status, "/channels/1/messages")
    guard.count(429, "/channels/1/messages", shared=True)
    guard.count(401, "/webhooks/1/token/messages/@original")
    assert guard.num_invalid == 1
    guard.check("POST")
    assert not guard.unauthorised.is_set()


async def test_b34_every_request_of_discord_py_passes_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeDiscord() as fake:
        monkeypatch.setattr(Route, "BASE", fake.url)
        guard = RequestGuard(max_invalid=3)
        client = discord.Client(intents=discord.Intents.none(), http_trace=guard.trace)
        http: HTTPClient = client.http
        await client.login(fake.token)
        fake.fail("DELETE", "/channels/", times=9, status=403, code=50013)
        for _ in range(3):
            with pytest.raises(discord.Forbidden):
                await http.request(Route("DELETE", "/channels/{channel_id}/messages/{message_id}",
                                         channel_id=1, message_id=2))  # fmt: skip
        before = len(fake.rest.requests)
        with pytest.raises(WritingStopped):
            await http.request(Route("POST", "/channels/{channel_id}/messages", channel_id=1), json={"content": "x"})
        assert len(fake.rest.requests) == before, "not even sent"
        await http.request(Route("GET", "/users/@me"))
        await client.close()
