"""Webhooks on the fake Discord: who may make and see them, names, limits, threads, and what their messages are."""

from __future__ import annotations

from typing import Any

import pytest

from tests.discord.fake.fake_client import PLAIN, RawClient, connected, wait_for
from tests.fakes.discord.server import FakeDiscord, Guild, Permission

ROW = {"type": 1, "components": [{"type": 2, "style": 2, "label": "Stop", "custom_id": "stop:1"}]}


@pytest.fixture
def guild(guild: Guild) -> Guild:
    guild.bot_role.permissions |= Permission.MANAGE_WEBHOOKS
    return guild


async def made(raw: RawClient, guild: Guild) -> dict[str, Any]:
    status, webhook = await raw.send("POST", f"/channels/{guild.channel.id}/webhooks", {"name": "Personas"})
    assert status == 200
    assert isinstance(webhook, dict)
    return webhook


async def test_its_messages_are_the_webhooks(fake: FakeDiscord, raw: RawClient, guild: Guild) -> None:
    async with connected(fake) as client:
        webhook = await made(raw, guild)
        path = f"/webhooks/{webhook['id']}/{webhook['token']}"
        body = {**PLAIN, "username": "Jack", "components": [ROW]}
        _, sent = await raw.send("POST", f"{path}?wait=true", body)
        assert (sent["author"]["username"], sent["author"]["id"]) == ("Jack", webhook["id"])
        assert sent["application_id"] == str(fake.bot.id)
        await wait_for(lambda: client.named("message"))
        [heard] = client.named("message")
        assert (heard.webhook_id, heard.application_id) == (int(webhook["id"]), fake.bot.id)
        assert heard.content == ""  # without the message content intent
        ann = fake.user("ann")
        asked = await fake.say(guild, ann, "Well?", reply_to=fake.rest.messages[int(sent["id"])])
        assert asked.mentions == []
        assert await raw.code("PATCH", f"{path}/messages/{sent['id']}", {**PLAIN, "content": "Hi"}) == 0
        assert await raw.code("PATCH", f"{path}/messages/{asked.id}", PLAIN) == 10008
        _, read = await raw.send("GET", f"{path}/messages/{sent['id']}")
        assert read["content"] == "Hi"
        assert await raw.code("DELETE", f"{path}/messages/{sent['id']}") == 0
    assert fake.violations == []


async def test_who_may_make_and_see_them(fake: FakeDiscord, raw: RawClient, guild: Guild) -> None:
    where = f"/channels/{guild.channel.id}/webhooks"
    webhook = await made(raw, guild)
    feed = fake.webhook(guild.channel, "Feed")
    fake.webhook(guild.channel, "Another bot", application_id=7)
    _, listed = await raw.send("GET", where)
    assert [each.get("token") for each in listed] == [webhook["token"], feed.token, None]
    for _ in range(12):
        assert await raw.code("POST", where, {"name": "More"}) == 0
    assert await raw.code("POST", where, {"name": "Too many"}) == 30007
    guild.bot_role.permissions = 0
    assert await raw.code("GET", where) == 50013
    assert await raw.code("POST", where, {"name": "X"}) == 50013
    assert await raw.code("GET", f"/webhooks/{webhook['id']}") == 0
    assert await raw.code("DELETE", f"/webhooks/{webhook['id']}/{webhook['token']}") == 0
    assert await raw.code("GET", f"/webhooks/{webhook['id']}") == 10015


@pytest.mark.parametrize(
    ("change", "code"),
    [({"username": "my Discord"}, 50035), ({"username": "Clyde"}, 50035), ({"username": "x" * 81}, 50035),
     ({"nonce": "1"}, 50035), ({"message_reference": {"message_id": "1"}}, 50035), ({"content": ""}, 50006)],
)  # fmt: skip
async def test_what_it_refuses(raw: RawClient, guild: Guild, change: dict[str, Any], code: int) -> None:
    webhook = await made(raw, guild)
    assert await raw.code("POST", f"/webhooks/{webhook['id']}/{webhook['token']}", {**PLAIN, **change}) == code


async def test_threads_tokens_and_other_webhooks(fake: FakeDiscord, raw: RawClient, guild: Guild) -> None:
    webhook = await made(raw, guild)
    path = f"/webhooks/{webhook['id']}/{webhook['token']}"
    thread = fake.channel(guild, "thread", parent=guild.channel)
    other = fake.channel(guild, "other")
    _, sent = await raw.send("POST", f"{path}?wait=true&thread_id={thread.id}", PLAIN)
    assert sent["channel_id"] == str(thread.id)
    assert await raw.code("PATCH", f"{path}/messages/{sent['id']}", {**PLAIN, "content": "Hi"}) == 10008
    assert await raw.code("PATCH", f"{path}/messages/{sent['id']}?thread_id={thread.id}", {"content": "Hi"}) == 0
    assert await raw.code("POST", f"{path}?thread_id={other.id}", PLAIN) == 10003
    assert await raw.code("POST", f"/webhooks/{webhook['id']}/wrong", PLAIN) == 50027
    assert await raw.code("POST", f"/channels/{thread.id}/webhooks", {"name": "X"}) == 50024
    feed = fake.webhook(guild.channel, "Feed")
    with_button = {**PLAIN, "components": [ROW]}
    assert await raw.code("POST", f"/webhooks/{feed.id}/{feed.token}", PLAIN) == 0
    assert await raw.code("POST", f"/webhooks/{feed.id}/{feed.token}", with_button) == 50035
