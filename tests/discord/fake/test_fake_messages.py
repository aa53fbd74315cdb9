"""The messages of the fake Discord, as discord.py sees them: intents, mentions, replies, reactions, the bot's own."""

from __future__ import annotations

import asyncio

import discord
import pytest

from tests.discord.fake.fake_client import PLAIN, RawClient, RecordingClient, connected, wait_for
from tests.fakes.discord.gateway import MESSAGE_CONTENT
from tests.fakes.discord.server import Attachment, FakeDiscord, Guild, Message, Permission, User


async def seen(client: RecordingClient, message: Message) -> discord.Message:
    """The message as the client received it."""
    await wait_for(lambda: message.id in [each.id for each in client.named("message")])
    return next(each for each in client.named("message") if each.id == message.id)


def path(message: Message, more: str = "") -> str:
    return f"/channels/{message.channel.id}/messages/{message.id}{more}"


async def test_a_message_comes_with_its_content_only_if_it_concerns_the_bot(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    file = Attachment("a.txt", b"secret")
    plain = await seen(client, await fake.say(guild, ann, "Hello all", files=[file]))
    assert (plain.content, plain.attachments, plain.author.id, plain.guild.id) == ("", [], ann.id, guild.id)
    mention = await seen(client, await fake.say(guild, ann, f"<@!{fake.bot.id}> hello"))
    assert mention.content.endswith("hello")
    assert client.user in mention.mentions
    in_code = await seen(client, await fake.say(guild, ann, f"`<@{fake.bot.id}>` ```\n<@{fake.bot.id}>``` hello"))
    assert (in_code.content, in_code.mentions) == ("", [])
    direct = await seen(client, await fake.say(ann, ann, "Hello you"))
    assert (direct.content, direct.guild) == ("Hello you", None)


async def test_a_reply_shows_its_content_if_it_pings_a_regular_message_of_the_bot(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    sent = await client.get_channel(guild.channel.id).send("I am here")
    own = fake.rest.messages[sent.id]
    reply = await seen(client, await fake.say(guild, ann, "Are you?", reply_to=own))
    assert (reply.content, reply.type) == ("Are you?", discord.MessageType.reply)
    assert reply.reference.resolved.content == "I am here"
    assert client.user in reply.mentions
    silent = await seen(client, await fake.say(guild, ann, "Are you?", reply_to=own, ping=False))
    assert silent.content == ""
    await fake.delete(own)
    late = await seen(client, await fake.say(guild, ann, f"<@{fake.bot.id}> gone?", reply_to=own))
    assert isinstance(late.reference.resolved, discord.DeletedReferencedMessage)


async def test_with_the_content_intent_everything_is_told_and_the_flags_say_so(
    fake: FakeDiscord, guild: Guild, ann: User
) -> None:
    with pytest.raises(discord.PrivilegedIntentsRequired):
        async with connected(fake, message_content=True):
            pass
    fake.gateway.allowed_intents |= MESSAGE_CONTENT
    async with connected(fake, message_content=True) as client:
        file = Attachment("voice.ogg", b"OggS", content_type="audio/ogg", duration=2.5)
        voice = await seen(client, await fake.say(guild, ann, "", files=[file]))
        assert voice.flags.voice
        assert voice.attachments[0].is_voice_message()
        assert (await client.application_info()).flags.gateway_message_content_limited


async def test_without_message_intents_no_message_is_told(fake: FakeDiscord, guild: Guild, ann: User) -> None:
    async with connected(fake, messages=False, reactions=False) as client:
        said = await fake.say(guild, ann, f"<@{fake.bot.id}>")
        await fake.say(ann, ann, "psst")
        await fake.react(said, ann, "👍")
        await fake.delete(said)
        await client.application_info()
        assert not client.named("message") + client.named("raw_reaction_add") + client.named("raw_message_delete")


async def test_edits_deletes_and_reactions_of_users_are_told(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    said = await fake.say(guild, ann, f"<@{fake.bot.id}> one")
    await fake.edit(said, f"<@{fake.bot.id}> two")
    await fake.react(said, ann, "❌")
    await fake.unreact(said, ann, "❌")
    await fake.delete(said)
    await fake.delete(await fake.say(guild, ann, "a"), await fake.say(guild, ann, "b"))
    await wait_for(lambda: client.named("raw_bulk_message_delete"))
    (before, after) = next(args for name, args in client.events if name == "message_edit")
    assert (before.content[-3:], after.content[-3:]) == ("one", "two")
    assert after.edited_at is not None
    added, removed = client.named("raw_reaction_add")[0], client.named("raw_reaction_remove")[0]
    assert (added.emoji.name, added.user_id, added.member.id, added.message_author_id) == ("❌", ann.id, ann.id, ann.id)
    assert removed.emoji.name == "❌"
    assert client.named("raw_message_delete")[0].message_id == said.id


async def test_a_preview_of_a_link_is_an_update_and_no_edit(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    said = await fake.say(guild, ann, f"<@{fake.bot.id}> https://example.org")
    await fake.unfurl(said)
    await wait_for(lambda: client.named("raw_message_edit"))
    update = client.named("raw_message_edit")[0].data
    assert (update["edited_timestamp"], len(update["embeds"]), update["content"]) == (None, 1, said.content)


async def test_roles_and_everyone_are_mentioned_as_far_as_the_author_may(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    friends = fake.role(guild, "friends", ann)
    said = await fake.say(guild, ann, f"@everyone <@&{friends.id}>")
    assert (said.mention_everyone, said.mention_roles) == (True, [friends])
    guild.everyone &= ~Permission.MENTION_EVERYONE
    said = await fake.say(guild, ann, f"@everyone <@&{friends.id}>")
    assert (said.mention_everyone, said.mention_roles) == (False, [])


async def test_the_bots_own_messages_come_back_as_events(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    question = await fake.say(guild, ann, f"<@{fake.bot.id}> hello")
    asked = await seen(client, question)
    answer = await asked.reply("Thinking", mention_author=False)
    assert fake.answers(question) == [fake.rest.messages[answer.id]]
    await answer.edit(content="Hello")
    await answer.add_reaction("🔁")
    await answer.remove_reaction("🔁", client.user)
    await answer.delete()
    await wait_for(lambda: client.named("message_delete"))
    own = [each for each in client.named("message") if each.author == client.user]
    assert [each.id for each in own] == [answer.id]
    assert own[0].webhook_id is None
    assert client.named("raw_message_edit")[0].data["content"] == "Hello"
    assert client.named("raw_reaction_add")[0].user_id == fake.bot.id
    assert client.named("raw_reaction_remove")
    assert fake.answers(question) == []
    assert fake.violations == []


async def test_a_nonce_is_enforced_also_when_a_response_was_lost(
    fake: FakeDiscord, client: RecordingClient, raw: RawClient, guild: Guild
) -> None:
    where = f"/channels/{guild.channel.id}/messages"
    body = {**PLAIN, "nonce": "job-1", "enforce_nonce": True}
    _, first = await raw.send("POST", where, body)
    _, again = await raw.send("POST", where, {**body, "content": "Hello again"})
    assert (again["id"], again["content"], again["nonce"]) == (first["id"], "Hello", "job-1")
    fake.advance(400)
    assert (await raw.send("POST", where, body))[1]["id"] != first["id"]
    fake.fail("POST", where, status=502, lose="answer")
    await client.get_channel(guild.channel.id).send("Once", nonce="job-2")
    assert [message.content for message in fake.posts(guild)].count("Once") == 1


async def test_what_the_bot_may_not_do_with_messages(
    fake: FakeDiscord, raw: RawClient, guild: Guild, ann: User
) -> None:
    said = await fake.say(guild, ann, "Hello")
    where = f"/channels/{guild.channel.id}/messages"
    _, own = await raw.send("POST", where, PLAIN)
    gone = await fake.say(guild, ann, "Gone")
    await fake.delete(gone)
    assert await raw.code("PATCH", path(said), PLAIN) == 50005
    assert await raw.code("DELETE", path(said)) == 50013
    assert await raw.code("PATCH", path(gone), PLAIN) == 10008
    assert await raw.code("POST", where, {**PLAIN, "content": "  "}) == 50006
    assert await raw.code("POST", where, {**PLAIN, "content": "😀" * 1001}) == 50035
    assert await raw.code("POST", where, {**PLAIN, "flags": 64}) == 50035
    assert await raw.code("PUT", path(said, "/reactions/x/@me")) == 10014
    reply = {**PLAIN, "message_reference": {"message_id": str(gone.id)}}
    assert await raw.code("POST", where, reply) == 50035
    reply["message_reference"]["fail_if_not_exists"] = False
    fake.rest.buckets.clear()
    assert (await raw.send("POST", where, reply))[1]["type"] == 0
    embeds = [{"description": "x" * 4000}, {"description": "x" * 2001}]
    assert await raw.code("POST", where, {**PLAIN, "embeds": embeds}) == 50035
    assert await raw.code("PATCH", f"{where}/{own['id']}", {**PLAIN, "content": "x" * 2001}) == 50035
    assert (await raw.send("GET", f"{where}/{own['id']}"))[1]["content"] == "Hello"
    assert (await raw.send("GET", f"{where}/{said.id}"))[1]["content"] == ""  # the intent is not allowed
    _, listed = await raw.send("GET", f"{where}?limit=2")
    assert len(listed) == 2
    assert int(listed[0]["id"]) > int(listed[1]["id"])


async def test_files_are_stored_kept_and_limited(fake: FakeDiscord, raw: RawClient, guild: Guild) -> None:
    where = f"/channels/{guild.channel.id}/messages"
    body = {**PLAIN, "attachments": [{"id": 0, "filename": "a b.md", "description": "An answer"}]}
    _, sent = await raw.send("POST", where, body, {"a b.md": b"# Hi"})
    (file,) = sent["attachments"]
    assert (file["filename"], file["title"], file["description"], file["size"]) == ("a_b.md", "a b", "An answer", 4)
    edit = {**PLAIN, "attachments": [{"id": file["id"]}, {"id": 0, "filename": "new.md"}]}
    _, edited = await raw.send("PATCH", f"{where}/{sent['id']}", edit, {"new.md": b"!"})
    assert [each["filename"] for each in edited["attachments"]] == ["a_b.md", "new.md"]
    _, edited = await raw.send("PATCH", f"{where}/{sent['id']}", {**PLAIN, "attachments": []})
    assert edited["attachments"] == []
    guild.file_limit = 100
    assert await raw.send("POST", where, PLAIN, {"big": b"x" * 101}) == (
        413, {"message": "Request entity too large", "code": 40005}
    )  # fmt: skip
    assert await raw.code("POST", where, PLAIN, {f"{number}": b"x" for number in range(11)}) == 50035


async def test_old_messages_have_a_limit_of_edits_of_their_own(fake: FakeDiscord, raw: RawClient, guild: Guild) -> None:
    where = f"/channels/{guild.channel.id}/messages"
    _, own = await raw.send("POST", where, PLAIN)
    fake.advance(3601)
    codes = [await raw.send("PATCH", f"{where}/{own['id']}", PLAIN) for _ in range(4)]
    assert [status for status, _ in codes] == [200, 200, 200, 429]
    assert codes[3][1]["code"] == 30046
    assert fake.rest.num_invalid == 1


async def test_direct_messages_can_be_closed(fake: FakeDiscord, raw: RawClient, ann: User) -> None:
    _, channel = await raw.send("POST", "/users/@me/channels", {"recipient_id": str(ann.id)})
    where = f"/channels/{channel['id']}/messages"
    assert await raw.code("POST", where, PLAIN) == 0
    ann.dms_open = False
    assert await raw.code("POST", where, PLAIN) == 50007
    ann.dms_open, ann.blocked_bot = True, True
    assert await raw.code("POST", where, PLAIN) == 50007
    assert await raw.code("POST", "/users/@me/channels", {"recipient_id": "5"}) == 50033


async def test_webhooks_and_other_bots_are_told_apart(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    hook = await seen(client, await fake.say(guild, ann, f"<@{fake.bot.id}> hi", webhook=True))
    assert (hook.webhook_id, hook.author.bot) == (hook.author.id, True)
    other = await seen(client, await fake.say(guild, fake.user("other", bot=True), f"<@{fake.bot.id}> hi"))
    assert other.author.bot


async def test_messages_of_an_outage_are_replayed_after_a_resume(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    session = fake.gateway.connected[0]
    await fake.gateway.close(4000)
    said = await fake.say(guild, ann, f"<@{fake.bot.id}> still there?")
    await wait_for(lambda: session.num_resumes == 1, timeout=15)
    assert (await seen(client, said)).content.endswith("still there?")
    assert [each.id for each in client.named("message")] == [said.id]


async def test_each_kind_of_route_has_its_own_limit(fake: FakeDiscord, raw: RawClient, guild: Guild, ann: User) -> None:
    said = await fake.say(guild, ann, "Hello")
    where = f"/channels/{guild.channel.id}/messages"
    assert [(await raw.send("POST", where, PLAIN))[0] for _ in range(6)] == [200] * 5 + [429]
    own = fake.posts(guild)[0]
    assert (await raw.send("PATCH", path(own), PLAIN))[0] == 200
    assert [(await raw.send("PUT", path(said, f"/reactions/{emoji}/@me")))[0] for emoji in "👍👎"] == [204, 429]
    other = fake.channel(guild, "other")
    assert (await raw.send("POST", f"/channels/{other.id}/messages", PLAIN))[0] == 200
    await asyncio.sleep(0.3)
    assert (await raw.send("PUT", path(said, "/reactions/👎/@me")))[0] == 204
    fake.rest.limits["global"] = (1, 1.0)
    fake.rest.buckets.clear()
    await raw.send("GET", "/users/@me")
    status, body = await raw.send("GET", "/users/@me")
    assert (status, body["global"]) == (429, True)
