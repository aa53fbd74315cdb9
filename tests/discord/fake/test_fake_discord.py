"""The fake Discord itself: it must be as strict as the real one, or tests against it prove nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.fakes.discord.server import FakeDiscord, Guild, Interaction, User

PLAIN = {"content": "Hello", "allowed_mentions": {"parse": []}}


@dataclass
class Client:
    """A client that checks nothing: sends what it is told and returns the response."""

    discord: FakeDiscord
    http: aiohttp.ClientSession
    guild: Guild
    ann: User

    async def interaction(self) -> Interaction:
        return await self.discord.force_command(self.guild.channel, self.guild, self.ann, "1", "chat", message="Hi")

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        async with self.http.request(method, self.discord.url + path, json=body, headers=headers) as response:
            raw = await response.read()
            return response.status, json.loads(raw) if raw else None

    async def callback(self, interaction: Interaction, body: Any) -> tuple[int, Any]:
        return await self.send("POST", f"/interactions/{interaction.id}/{interaction.token}/callback", body)

    async def webhook(self, method: str, interaction: Interaction, body: Any = None) -> tuple[int, Any]:
        base = f"/webhooks/{self.discord.bot.id}/{interaction.token}"
        return await self.send(method, base if method == "POST" else f"{base}/messages/@original", body)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with FakeDiscord() as discord, aiohttp.ClientSession() as http:
        yield Client(discord, http, discord.guild("Alpha"), discord.user("ann"))


async def test_an_interaction_has_one_callback_within_three_seconds(client: Client) -> None:
    first, second = await client.interaction(), await client.interaction()
    assert (await client.callback(first, {"type": 5}))[0] == 204
    status, body = await client.callback(first, {"type": 4, "data": PLAIN})
    assert (status, body["code"]) == (400, 40060)
    client.discord.advance(3.1)
    status, body = await client.callback(second, {"type": 5})
    assert (status, body["code"]) == (404, 10062)
    second.token = "another"
    assert (await client.callback(second, {"type": 5}))[1]["code"] == 10062


async def test_a_token_lives_for_fifteen_minutes(client: Client) -> None:
    asked = await client.interaction()
    assert (await client.webhook("PATCH", asked, PLAIN))[1]["code"] == 10015  # there is no callback yet
    await client.callback(asked, {"type": 5})
    client.discord.advance(899)
    assert (await client.webhook("PATCH", asked, PLAIN))[0] == 200
    client.discord.advance(2)
    status, body = await client.webhook("PATCH", asked, PLAIN)
    assert (status, body["code"]) == (401, 50027)


async def test_a_defer_fixes_whether_the_response_is_ephemeral(client: Client) -> None:
    asked = await client.interaction()
    await client.callback(asked, {"type": 5})
    await client.webhook("POST", asked, {**PLAIN, "flags": 64})  # replaces the public "thinking…"
    assert [message.ephemeral for message in asked.messages()] == [False]
    await client.webhook("POST", asked, {**PLAIN, "flags": 64})
    assert [message.ephemeral for message in asked.messages()] == [False, True]
    await client.webhook("DELETE", asked)
    assert [message.ephemeral for message in asked.messages()] == [True]
    assert (await client.webhook("PATCH", asked, PLAIN))[1]["code"] == 10008


@pytest.mark.parametrize("content", ["x" * 2001, "   ", ""])
async def test_a_message_has_between_one_and_2000_characters(client: Client, content: str) -> None:
    asked = await client.interaction()
    await client.callback(asked, {"type": 5})
    status, body = await client.webhook("PATCH", asked, {**PLAIN, "content": content})
    assert (status, body["code"]) == (400, 50035 if content.startswith("x") else 50006)
    assert (await client.webhook("PATCH", asked, {**PLAIN, "content": "x" * 2000}))[0] == 200


async def test_request_bodies_are_checked_and_violations_kept(client: Client) -> None:
    asked = await client.interaction()
    assert (await client.callback(asked, {"type": 5, "data": {"flags": "64"}}))[1]["code"] == 50035
    await client.callback(asked, {"type": 5})
    await client.webhook("PATCH", asked, {"content": "@everyone"})
    assert len(client.discord.violations) == 2  # flags that are no number; allowed_mentions left out
    assert (await client.send("POST", "/no/such/path"))[0] == 404


async def test_a_request_without_the_bots_token_is_refused(client: Client) -> None:
    channel = f"/channels/{client.guild.channel.id}/messages"
    assert (await client.send("POST", channel, PLAIN))[0] == 401
    mine = {"Authorization": f"Bot {client.discord.token}", "User-Agent": "DiscordBot (test, 1)"}
    assert (await client.send("POST", channel, PLAIN, **mine))[0] == 200
    client.guild.channel.bot_may_send = False
    assert (await client.send("POST", channel, PLAIN, **mine))[1]["code"] == 50013


async def test_too_many_edits_get_a_429_as_discord_sends_it(client: Client) -> None:
    asked = await client.interaction()
    await client.callback(asked, {"type": 5})
    url = f"{client.discord.url}/webhooks/{client.discord.bot.id}/{asked.token}/messages/@original"
    statuses = []
    for _ in range(6):
        async with client.http.patch(url, json=PLAIN) as response:
            statuses.append(response.status)
            headers, body = response.headers, await response.json()
    assert statuses == [200] * 5 + [429]
    assert 0 < body["retry_after"] <= 2
    assert {"Via", "Retry-After", "X-RateLimit-Bucket", "X-RateLimit-Reset-After"} <= set(headers)
    assert headers["X-RateLimit-Remaining"] == "0"


async def test_the_gateway_requires_a_token_and_heartbeats(client: Client) -> None:
    gateway = client.discord.gateway
    gateway.heartbeat_interval = 0.1
    url = f"{gateway.url}?v=10&encoding=json"
    identify = {"token": client.discord.token, "intents": 1, "properties": {}}
    for change, code in (({"token": "no"}, 4004), ({"intents": 1 << 15}, 4014), ({"intents": "1"}, 4013)):
        async with client.http.ws_connect(url) as socket:
            assert (await socket.receive_json())["op"] == 10
            await socket.send_json({"op": 2, "d": {**identify, **change}})
            await socket.receive()
            assert socket.close_code == code
    async with client.http.ws_connect(url) as socket:
        await socket.receive_json()
        await socket.send_json({"op": 2, "d": identify})
        assert (await socket.receive_json())["t"] == "READY"
        assert (await socket.receive_json())["t"] == "GUILD_CREATE"
        await socket.receive(timeout=2)
        assert socket.close_code == 4009
    assert gateway.num_zombies == 1


async def test_a_resume_replays_what_was_missed(client: Client) -> None:
    gateway = client.discord.gateway
    url = f"{gateway.url}?v=10&encoding=json"
    async with client.http.ws_connect(url) as socket:
        await socket.receive_json()
        await socket.send_json({"op": 2, "d": {"token": client.discord.token, "intents": 1, "properties": {}}})
        ready = await socket.receive_json()
        await socket.receive_json()
        await gateway.close(4000)
    missed = await client.interaction()
    async with client.http.ws_connect(url) as socket:
        await socket.receive_json()
        resume = {"token": client.discord.token, "session_id": ready["d"]["session_id"], "seq": 2}
        await socket.send_json({"op": 6, "d": {**resume, "session_id": "unknown"}})
        assert await socket.receive_json() == {"op": 9, "d": False}
        await socket.send_json({"op": 6, "d": resume})
        replayed = await socket.receive_json()
        assert (replayed["t"], replayed["s"], replayed["d"]["id"]) == ("INTERACTION_CREATE", 3, str(missed.id))
        assert (await socket.receive_json())["t"] == "RESUMED"
