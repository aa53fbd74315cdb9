"""Threads and permissions of the fake Discord, as discord.py sees them and as the REST API enforces them."""

from __future__ import annotations

import discord
import pytest

from tests.discord.fake.fake_client import PLAIN, RawClient, RecordingClient, connected, wait_for
from tests.fakes.discord.server import Channel, FakeDiscord, Guild, Permission, User

P = Permission


def messages(channel: Channel) -> str:
    return f"/channels/{channel.id}/messages"


async def test_a_thread_of_a_user_is_told_with_its_messages(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    thread = await fake.thread(guild.channel, "Llamas", user=ann)
    said = await fake.say(thread, ann, f"<@{fake.bot.id}> hello")
    await wait_for(lambda: said.id in [each.id for each in client.named("message")])
    known = client.get_channel(thread.id)
    assert isinstance(known, discord.Thread)
    assert (known.name, known.parent_id, known.owner_id) == ("Llamas", guild.channel.id, ann.id)
    assert client.named("message")[0].type == discord.MessageType.thread_created
    assert client.named("message")[-1].channel is known
    assert known.me is not None  # who is mentioned in a thread joins it


async def test_a_thread_at_a_message_has_its_id_and_is_the_only_one(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User, raw: RawClient
) -> None:
    said = await fake.say(guild, ann, f"<@{fake.bot.id}> hello")
    await wait_for(lambda: client.named("message"))
    thread = await client.named("message")[0].create_thread(name="About this")
    assert (thread.id, fake.rest.channels[thread.id].owner) == (said.id, fake.bot)
    assert await raw.code("POST", f"{messages(guild.channel)}/{said.id}/threads", {"name": "Again"}) == 160004
    assert said.json()["thread"]["id"] == str(thread.id)
    await wait_for(lambda: any(each.type == discord.MessageType.thread_starter_message
                               for each in client.named("message")))  # fmt: skip
    await thread.send("Here we are")
    await thread.edit(name="Llamas")
    await thread.leave()
    await thread.join()
    await wait_for(lambda: client.named("thread_update"))
    assert fake.rest.channels[thread.id].name == "Llamas"
    assert len(client.named("thread_remove")) == 1
    assert fake.violations == []


async def test_who_writes_opens_an_archived_thread_unless_it_is_locked(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User, raw: RawClient
) -> None:
    thread = await fake.thread(guild.channel, "Llamas", user=ann)
    _, own = await raw.send("POST", messages(thread), PLAIN)
    await fake.archive(thread)
    await wait_for(lambda: client.get_channel(thread.id) is None)
    assert await raw.code("PATCH", f"{messages(thread)}/{own['id']}", PLAIN) == 50083
    assert await raw.code("PUT", f"/channels/{thread.id}/thread-members/@me") == 50083
    assert await raw.code("POST", messages(thread), PLAIN) == 0
    assert not thread.archived
    await wait_for(lambda: client.get_channel(thread.id))
    await fake.archive(thread, locked=True)
    assert await raw.code("POST", messages(thread), PLAIN) == 50083
    assert await raw.code("PATCH", f"/channels/{thread.id}", {"archived": False}) == 50013
    with pytest.raises(Exception, match="50083"):
        await fake.say(thread, ann, "Anybody?")
    guild.bot_role.permissions |= P.MANAGE_THREADS
    assert await raw.code("PATCH", f"/channels/{thread.id}", {"archived": False}) == 0
    assert await raw.code("POST", messages(thread), PLAIN) == 0
    await fake.unarchive(thread)
    assert not thread.locked


async def test_threads_come_with_the_guild_and_end(fake: FakeDiscord, guild: Guild, ann: User, raw: RawClient) -> None:
    known = await fake.thread(guild.channel, "Known", user=ann)
    old = await fake.thread(guild.channel, "Old", user=ann)
    secret = await fake.thread(guild.channel, "Secret", user=ann, private=True)
    await fake.archive(old)
    async with connected(fake) as client:
        assert [thread.id for thread in client.guilds[0].threads] == [known.id]
        assert await raw.code("POST", messages(secret), PLAIN) == 50001
        await fake.say(secret, ann, f"<@{fake.bot.id}> come in")  # a mention invites
        await wait_for(lambda: client.get_channel(secret.id))
        assert await raw.code("POST", messages(secret), PLAIN) == 0
        await fake.delete_channel(known)
        await wait_for(lambda: client.named("raw_thread_delete"))
        assert await raw.code("POST", messages(known), PLAIN) == 10003
        await fake.delete_channel(guild.channel)
        await wait_for(lambda: client.named("guild_channel_delete"))
        assert not client.guilds[0].threads


async def test_what_a_thread_needs(fake: FakeDiscord, guild: Guild, ann: User, raw: RawClient) -> None:
    threads = f"/channels/{guild.channel.id}/threads"
    body = {"name": "Mine", "type": 11, "auto_archive_duration": 60}
    _, thread = await raw.send("POST", threads, body)
    assert (thread["type"], thread["thread_metadata"]["auto_archive_duration"]) == (11, 60)
    assert thread["member"]["user_id"] == str(fake.bot.id)
    assert await raw.code("POST", threads, {**body, "name": "x" * 101}) == 50035
    assert await raw.code("POST", threads, {**body, "auto_archive_duration": 61}) == 50035
    assert await raw.code("POST", f"/channels/{thread['id']}/threads", body) == 50024
    assert await raw.code("PATCH", f"/channels/{thread['id']}", {"archived": True}) == 0  # its own
    assert await raw.code("PATCH", f"/channels/{thread['id']}", {"name": "New"}) == 50083
    assert await raw.code("DELETE", f"/channels/{thread['id']}") == 50013
    await fake.permit(guild.channel, None, deny=P.CREATE_PUBLIC_THREADS)
    assert await raw.code("POST", threads, body) == 50013
    assert await raw.code("POST", threads, {**body, "type": 12}) == 0
    theirs = await fake.thread(guild.channel, "Theirs", user=fake.user("bob"), private=True)
    assert await raw.code("PATCH", f"/channels/{theirs.id}", {"archived": True}) == 50001


@pytest.mark.parametrize(
    ("denied", "body", "code"),
    [
        (P.VIEW_CHANNEL, PLAIN, 50001),
        (P.SEND_MESSAGES, PLAIN, 50013),
        (P.EMBED_LINKS, {**PLAIN, "embeds": [{"title": "A"}]}, 50013),
        (P.ATTACH_FILES, PLAIN, 50013),
        (P.READ_MESSAGE_HISTORY, PLAIN, 160002),
        (P.SEND_MESSAGES_IN_THREADS, PLAIN, 0),
    ],
)
async def test_permissions_are_those_that_the_client_computes(
    fake: FakeDiscord,
    client: RecordingClient,
    guild: Guild,
    ann: User,
    raw: RawClient,
    denied: P,
    body: dict[str, object],
    code: int,
) -> None:
    said = await fake.say(guild, ann, "Hello")
    await fake.permit(guild.channel, guild.bot_role, deny=denied)
    await wait_for(lambda: client.named("guild_channel_update") or client.named("guild_channel_delete"))
    if denied is P.READ_MESSAGE_HISTORY:
        body = {**body, "message_reference": {"message_id": str(said.id)}}
    files = {"a": b"x"} if denied is P.ATTACH_FILES else None
    assert await raw.code("POST", messages(guild.channel), body, files) == code
    known, known_guild = client.get_channel(guild.channel.id), client.guilds[0]
    allowed = guild.permissions(fake.bot, guild.channel)
    if known is None:
        assert denied is P.VIEW_CHANNEL
    else:
        theirs = known.permissions_for(known_guild.me).value
        assert [bool(theirs & each) for each in P] == [bool(allowed & each) for each in P]
    asked = await fake.force_command(guild.channel, guild, ann, "1", "chat")
    assert int(asked.json(1)["app_permissions"]) == allowed


async def test_a_permission_may_be_given_to_one_member_or_taken_from_the_bot(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User, raw: RawClient
) -> None:
    staff = fake.channel(guild, "staff")
    await fake.permit(staff, None, deny=P.SEND_MESSAGES)
    await fake.permit(staff, ann, allow=P.SEND_MESSAGES)
    await fake.say(staff, ann, "Only I write here")
    assert await raw.code("POST", messages(staff), PLAIN) == 50013
    with pytest.raises(AssertionError, match="may not write"):
        await fake.say(staff, fake.user("bob"), "Me too")
    guild.channel.bot_may_send = False
    await fake.announce(guild.channel)
    await wait_for(lambda: len(client.named("guild_channel_update")) == 2)
    assert not client.get_channel(guild.channel.id).permissions_for(client.guilds[0].me).send_messages
    assert await raw.code("POST", messages(guild.channel), PLAIN) == 50013


async def test_members_have_the_permissions_of_their_roles(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    bob, owner = fake.user("bob"), fake.user("owner")
    guild.owner = owner
    fake.role(guild, "staff", ann, permissions=P.MANAGE_GUILD)
    guild.managers.add(bob.id)
    carl = fake.user("carl")
    for user, expected in ((ann, True), (bob, True), (owner, True), (carl, False)):
        asked = await fake.force_command(guild.channel, guild, user, "1", "chat")
        allowed = int(asked.json(1)["member"]["permissions"])
        assert bool(allowed & P.MANAGE_GUILD) is expected
        assert bool(allowed & P.ADMINISTRATOR) is (user is owner)


async def test_a_channel_that_is_hidden_and_shown_again(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    thread = await fake.thread(guild.channel, "Llamas", user=ann)
    await fake.permit(guild.channel, fake.bot, deny=P.VIEW_CHANNEL)
    hidden = await fake.say(guild, ann, f"<@{fake.bot.id}> can you hear me?")
    await fake.permit(guild.channel, fake.bot)
    shown = await fake.say(guild, ann, f"<@{fake.bot.id}> and now?")
    await wait_for(lambda: shown.id in [each.id for each in client.named("message")])
    ids = [each.id for each in client.named("message")]
    assert (shown.id in ids, hidden.id in ids) == (True, False)
    assert client.get_channel(guild.channel.id)
    assert client.get_channel(thread.id)
