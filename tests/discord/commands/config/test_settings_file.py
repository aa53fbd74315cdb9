"""/config export and import: what a file would change is shown, and changed only on a press."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.types import GuildSettings, RolePolicy
from tests.discord.commands.command_kit import audited, stored
from tests.discord.commands.config.panel_kit import refusal
from tests.discord.harness import World
from tests.fakes.discord.server import Attachment, Guild, Interaction, Message, User

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def exported(here: World, guild: Guild, user: User) -> dict[str, Any]:
    used = await here.use(guild, user, "config export")
    [message] = used.messages()
    assert message.ephemeral
    [file] = message.attachments
    found: dict[str, Any] = json.loads(file.content)
    return found


async def give(here: World, guild: Guild, user: User, file: object) -> Interaction:
    data = file if isinstance(file, bytes) else json.dumps(file).encode()
    return await here.use(guild, user, "config import", file=Attachment("settings.json", data))


async def pressed(here: World, message: Message, user: User, label: str, says: str) -> None:
    await here.discord.press(message, user, label=label)
    await here.discord.until(lambda: says in message.content)


async def guild_of(here: World) -> tuple[Guild, User]:
    """A guild whose roles and channels the bot knows."""
    boss = here.discord.user("boss")
    guild = here.discord.guild("boss's guild", managers=(boss,))
    here.discord.role(guild, "friends")
    here.discord.channel(guild, "bots")
    await here.discord.join(guild)
    return guild, boss


async def test_a_file_brings_back_what_it_was_made_of(both: World) -> None:
    guild, boss = await guild_of(both)
    [friends], bots = guild.roles, guild.channels[1]
    await both.use(
        guild, boss, "config set", max_chat_logs=3, idle_time="36h", daily_messages=9, scope="thread", language="ko"
    )
    await both.use(guild, boss, "config set", streaming=False, files=False, retention_days=5)
    await both.use(guild, boss, "config channels add", channel=bots)
    await both.use(guild, boss, "config channels scope", channel=bots, scope="member-channel")
    await both.use(guild, boss, "config roles add", role=friends)
    await both.use(guild, boss, "config roles quota", role=friends, daily_messages=4)
    await both.use(guild, boss, "config limits role", role=friends, minute_messages=3, daily_tokens=5000)
    await both.use(guild, boss, "config limits set", running_replies=1, guild_daily_messages=700)
    await both.use(guild, boss, "config filter words", action="add", words="gosh*, very silly")
    await both.use(guild, boss, "config filter threshold", category="violence", score=0.25)
    await both.use(guild, boss, "config memory on")
    before = await stored(both, guild)
    file = await exported(both, guild, boss)
    assert file["guildllama_settings"] == 1
    assert file["guild"] == {"id": str(guild.id), "name": "boss's guild"}
    assert file["settings"]["channels"] == [{"id": str(bots.id), "name": "bots"}]
    assert file["settings"]["roles"][0]["name"] == "friends"
    assert "Nothing would change" in (await give(both, guild, boss, file)).reply()
    await both.use(guild, boss, "config reset", setting="everything")
    num_audited = len(await audited(both, guild))
    asked = await give(both, guild, boss, file)
    [question] = asked.messages()
    assert question.ephemeral
    assert "- Exchanges that I keep in mind: **10** → **3**" in question.content
    assert f"- Roles that may talk to me: **everybody** → <@&{friends.id}>" in question.content
    assert "- Words that are kept out: **none** → **2 words**" in question.content
    assert "gosh" not in question.content
    assert await stored(both, guild) == GuildSettings()  # nothing yet
    await both.bot.stop()
    await both.start_bot()  # the button outlives it
    await pressed(both, question, boss, "Apply", "Saved")
    assert question.buttons() == []
    assert await stored(both, guild) == before
    records = await audited(both, guild)
    assert len(records) == num_audited + 1
    action, actor, details = records[0]
    assert (action, actor, details["session_ttl"]) == ("config.import", boss.id, {"old": None, "new": 129_600})
    assert details["roles"]["new"] == [
        {
            "role_id": friends.id,
            "allowed": True,
            "daily_turns": 4,
            "own_persona": False,
            "minute_messages": 3,
            "daily_tokens": 5000,
        }
    ]
    assert details["filter_words"] == {"old": 0, "new": 2}
    file["settings"]["filter_words"] = ["other", "ones"]
    asked = await give(both, guild, boss, file)
    assert "- Words that are kept out: **2 words**, but others than now" in asked.reply()


async def test_a_part_of_a_file_changes_only_that_part(both: World) -> None:
    guild, boss = await guild_of(both)
    await both.use(guild, boss, "config set", max_chat_logs=3, daily_messages=9)
    asked = await give(both, guild, boss, {"guildllama_settings": 1, "settings": {"max_chat_logs": None}})
    assert "change 1 setting:" in asked.reply()
    [question] = asked.messages()
    await pressed(both, question, boss, "Leave it", "I changed nothing")
    assert (await stored(both, guild)).max_chat_logs == 3
    asked = await give(both, guild, boss, {"guildllama_settings": 1, "settings": {"max_chat_logs": None}})
    await pressed(both, asked.messages()[0], boss, "Apply", "Saved")
    assert await stored(both, guild) == GuildSettings(daily_turns=9)


async def test_channels_and_roles_of_elsewhere_are_left_out_and_named(both: World) -> None:
    """A list of which nothing exists here stays as it was: an empty one would let everybody in."""
    guild, boss = await guild_of(both)
    [friends], bots = guild.roles, guild.channels[1]
    await both.use(guild, boss, "config roles add", role=friends)
    listed = {
        "channels": [{"id": str(bots.id), "name": "bots"}, {"id": "123", "name": "else**where**`"}],
        "roles": [{"id": "456", "name": "strangers", "may_chat": True}],
        "persona_locks": [{"id": "789"}],
        "own_personas": "roles",
    }
    asked = await give(both, guild, boss, {"guildllama_settings": 1, "settings": listed})
    text = asked.reply()
    assert f"- Channels in which I answer: **all channels** → <#{bots.id}>" in text
    assert "left out: elsewhere (123), 789, strangers (456)." in text
    assert "Left as it is, since nothing of it exists here: `persona_locks`, `roles`, `own_personas`." in text
    await pressed(both, asked.messages()[0], boss, "Apply", "Saved")
    after = await stored(both, guild)
    assert after == GuildSettings(channels=frozenset({bots.id}), roles=(RolePolicy(friends.id, allowed=True),))


async def test_settings_that_changed_meanwhile_are_compared_again(both: World) -> None:
    guild, boss = await guild_of(both)
    asked = await give(both, guild, boss, {"guildllama_settings": 1, "settings": {"max_chat_logs": 2}})
    [question] = asked.messages()
    await both.use(guild, boss, "config set", max_chat_logs=5)
    await pressed(both, question, boss, "Apply", "changed meanwhile")
    assert "**5** → **2**" in question.content
    assert (await stored(both, guild)).max_chat_logs == 5
    await pressed(both, question, boss, "Apply", "Saved")
    assert (await stored(both, guild)).max_chat_logs == 2


async def test_only_a_manager_who_asked_may_apply_a_file(both: World) -> None:
    guild, boss = await guild_of(both)
    ann, other = both.discord.user("ann"), both.discord.user("other")
    guild.managers.add(other.id)
    asked = await give(both, guild, boss, {"guildllama_settings": 1, "settings": {"max_chat_logs": 2}})
    [question] = asked.messages()
    [apply, _] = [each["custom_id"] for each in question.buttons()]
    used = await both.discord.force_component(question, ann, apply)
    assert "Manage Server" in await refusal(both, used)
    used = await both.discord.force_component(question, other, apply)
    assert "Only the member" in await refusal(both, used)
    # Without the message that has the file, there is nothing to apply.
    shown = await both.use(guild, boss, "config show")
    used = await both.discord.force_component(shown.messages()[0], boss, apply)
    assert "use the command again" in await refusal(both, used)
    guild.managers.discard(boss.id)
    used = await both.discord.press(question, boss, label="Apply")
    assert "Manage Server" in await refusal(both, used)
    assert await stored(both, guild) == GuildSettings()
    for command in ("config export", "config panel"):
        registered = both.discord.registered("config")
        used = await both.discord.force_command(guild.channel, guild, ann, registered["id"], command)
        assert "Manage Server" in await refusal(both, used)


GOOD: dict[str, Any] = {"guildllama_settings": 1, "settings": {}}


@pytest.mark.parametrize(
    ("file", "because"),
    [
        (b"", "This file is empty"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 50_000, "not JSON"),
        (b'{"guildllama_settings": 1, "settings": {"max_chat_logs": NaN}}', "not JSON"),
        (b'{"guildllama_settings": 1, "settings": {"files": true, "files": true}}', "`files` stands in this file"),
        (b" " * (513 << 10), "too large"),
        ([], "no file that"),
        ({"settings": {}}, "no file that"),
        ({"guildllama_settings": 2, "settings": {}}, "read version 1"),
        ({"guildllama_settings": True, "settings": {}}, "no file that"),
        ({"guildllama_settings": 1}, "The value of `settings` does not fit"),
        ({**GOOD, "more": 1, "settings": {"a`b": 1}}, "`more`"),
        ({**GOOD, "settings": {"a`b@everyone": 1}}, "do not know these keys, so I took nothing from this file: "
         "`settings.ab@everyone`"),
        ({**GOOD, "settings": {"max_chat_logs": "3"}}, "The value of `settings.max_chat_logs` does not fit"),
        ({**GOOD, "settings": {"max_chat_logs": 3.0}}, "`settings.max_chat_logs`"),
        ({**GOOD, "settings": {"max_chat_logs": True}}, "`settings.max_chat_logs`"),
        ({**GOOD, "settings": {"max_chat_logs": 11}}, "`max_chat_logs` can be 10 at most"),
        ({**GOOD, "settings": {"max_reply_tokens": 513}}, "`max_reply_tokens` can be 512 at most"),
        ({**GOOD, "settings": {"retention_days": 31}}, "`retention_days` can be 30 at most"),
        ({**GOOD, "settings": {"idle_time": 604_801}}, "`idle_time` can be from"),
        ({**GOOD, "settings": {"idle_time": 10**12}}, "`settings.idle_time`"),
        ({**GOOD, "settings": {"daily_messages": -1}}, "`settings.daily_messages`"),
        ({**GOOD, "settings": {"scope": "user"}}, "`settings.scope`"),
        ({**GOOD, "settings": {"minute_messages": 31}}, "`minute_messages` can be 30 at most"),
        ({**GOOD, "settings": {"guild_running_replies": 65}}, "`guild_running_replies` can be 64 at most"),
        ({**GOOD, "settings": {"moderation": True}}, "offers no moderation"),
        ({**GOOD, "settings": {"language": "tlh"}}, "`settings.language`"),
        ({**GOOD, "settings": {"channels": [{"id": 5}]}}, "`settings.channels.0.id`"),
        ({**GOOD, "settings": {"channels": [{"id": "5"}] * 101}}, "`settings.channels`"),
        ({**GOOD, "settings": {"roles": [{"id": "5", "admin": True}]}}, "`settings.roles.0.admin`"),
    ],
    ids=range(30),
)  # fmt: skip
async def test_a_file_that_does_not_fit_is_refused_by_name(here: World, file: object, because: str) -> None:
    guild, boss = await guild_of(here)
    asked = await give(here, guild, boss, file)
    [message] = asked.messages()
    assert because in message.content
    assert message.ephemeral
    assert message.buttons() == []
    assert await stored(here, guild) == GuildSettings()
