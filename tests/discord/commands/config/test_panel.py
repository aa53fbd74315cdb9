"""/config panel: every setting is shown with its source, changed and reset by those who may, and audited."""

from __future__ import annotations

import json

import pytest

from bot.cogs.settings_panel.guild_entries import guild_entries, guild_pages
from bot.settings import load_settings
from models.types import GuildSettings
from tests.discord.commands.command_kit import audited, stored
from tests.discord.commands.config.panel_kit import choose, ids, opened, press, refusal, text_of, write
from tests.discord.harness import World
from tests.fakes.discord.server import Attachment, Message, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE_OF = {entry.name: entry.page for entry in guild_entries(GuildSettings(), load_settings(env_file=None))}
NAMES = list(PAGE_OF)


async def turn_to(here: World, panel: Message, user: User, page: str) -> None:
    [menu] = ids(panel, "page")
    name = next(each for each in NAMES if PAGE_OF[each] == page)
    if f":{name}:" in str(panel.components):
        return  # an edit that shows the same could come after the next one
    await here.discord.select(panel, user, page, custom_id=menu)
    await here.discord.until(lambda: f":{name}:" in str(panel.components))


async def test_every_setting_is_on_a_page_with_its_value_and_source(both: World) -> None:
    guild, boss = await both.member("boss", manager=True)
    panel = await opened(both, guild, boss)
    shown = []
    for page in guild_pages():
        await turn_to(both, panel, boss, page)
        text = text_of(panel)
        sources = text.count("· the default") + text.count("· the owner of this bot offers no moderation")
        assert sources == sum(PAGE_OF[name] == page for name in NAMES)
        shown += [name for name in NAMES if f":{name}:" in str(panel.components)]
        assert ids(panel, "reset") == []  # nothing was chosen, so nothing can be reset
    assert shown == NAMES


async def test_numbers_are_changed_by_a_form_and_reset(both: World) -> None:
    guild, boss = await both.member("boss", manager=True)
    panel = await opened(both, guild, boss)
    await write(both, panel, boss, "max_chat_logs", "4")
    await both.discord.until(lambda: "**4** · chosen by this guild" in text_of(panel))
    await write(both, panel, boss, "idle_time", "90m")
    await both.discord.until(lambda: "**90 minutes** · chosen by this guild" in text_of(panel))
    for name, typed, says in (
        ("max_chat_logs", "11", "from 0 to 10"),
        ("max_chat_logs", "many", "a whole number"),
        ("idle_time", "8d", "from 10 minutes to 7 days"),
        ("idle_time", "5m", "from 10 minutes to 7 days"),
        ("idle_time", "soon", "36h or 7d"),
    ):
        assert says in await refusal(both, await write(both, panel, boss, name, typed))
    after = await stored(both, guild)
    assert (after.max_chat_logs, after.session_ttl and after.session_ttl.total_seconds()) == (4, 5400)
    await press(both, panel, boss, "reset", "max_chat_logs")
    await write(both, panel, boss, "idle_time", "")
    await both.discord.until(lambda: "**7 days** · the default" in text_of(panel))
    assert await stored(both, guild) == GuildSettings()
    assert await audited(both, guild) == [
        ("config.set", boss.id, {"session_ttl": {"old": 5400, "new": None}}),
        ("config.set", boss.id, {"max_chat_logs": {"old": 4, "new": None}}),
        ("config.set", boss.id, {"session_ttl": {"old": None, "new": 5400}}),
        ("config.set", boss.id, {"max_chat_logs": {"old": None, "new": 4}}),
    ]


async def test_channels_roles_and_choices_are_changed_by_menus(both: World) -> None:
    guild, boss = await both.member("boss", manager=True)
    bots = both.discord.channel(guild, "bots")
    library = both.discord.category(guild, "library")
    friends, poets = both.discord.role(guild, "friends"), both.discord.role(guild, "poets")
    await both.use(guild, boss, "config roles quota", role=friends, daily_messages=3)
    panel = await opened(both, guild, boss)
    await choose(both, panel, boss, "scope", "thread")
    assert "nobody finds it in a shared conversation" in text_of(panel)
    await turn_to(both, panel, boss, "where")
    await choose(both, panel, boss, "channels", bots)
    await choose(both, panel, boss, "roles", friends)
    await choose(both, panel, boss, "persona_roles", poets)
    assert "**Members with some roles** · chosen" in text_of(panel)
    await choose(both, panel, boss, "persona_locks", library, bots)
    after = await stored(both, guild)
    assert (after.dialog_scope, after.channels, after.locked_channels) == ("thread", {bots.id}, {library.id, bots.id})
    roles = {role.role_id: (role.allowed, role.daily_turns, role.own_persona) for role in after.roles}
    assert roles == {friends.id: (True, 3, False), poets.id: (False, None, True)}
    ann = both.discord.user("ann")
    assert f"Ask me in <#{bots.id}>" in (await both.ask(guild, ann, "Hi")).reply()
    await choose(both, panel, boss, "channels")  # nothing chosen: the list is empty
    await press(both, panel, boss, "reset", "roles")
    await press(both, panel, boss, "reset", "persona_roles")
    after = await stored(both, guild)
    assert (after.channels, after.own_personas) == (frozenset(), "members")
    assert [(role.role_id, role.daily_turns) for role in after.roles] == [(friends.id, 3)]  # its quota stays
    assert "Hi" in (await both.ask(guild, ann, "Hi")).reply()


async def test_own_personas_for_roles_need_a_role(both: World) -> None:
    guild, boss = await both.member("boss", manager=True)
    panel = await opened(both, guild, boss)
    await turn_to(both, panel, boss, "where")
    [menu] = ids(panel, "set", "own_personas")
    used = await both.discord.select(panel, boss, "roles", custom_id=menu)
    assert "choose the roles" in await refusal(both, used)
    assert await stored(both, guild) == GuildSettings()


async def test_a_value_that_another_admin_changed_meanwhile_is_not_overwritten(both: World) -> None:
    guild, boss = await both.member("boss", manager=True)
    other = both.discord.user("other")
    guild.managers.add(other.id)
    panel = await opened(both, guild, boss)
    [menu] = ids(panel, "set", "scope")
    await both.use(guild, other, "config set", scope="channel", max_chat_logs=3)
    await both.discord.select(panel, boss, "member-thread", custom_id=menu)
    await both.discord.until(lambda: "was changed meanwhile" in text_of(panel))
    assert "**All members, by channel** · chosen" in text_of(panel)
    assert (await stored(both, guild)).dialog_scope == "channel"
    await choose(both, panel, boss, "scope", "member-thread")  # now that it was seen
    after = await stored(both, guild)
    assert (after.dialog_scope, after.max_chat_logs) == ("member-thread", 3)


async def test_only_a_manager_who_opened_the_panel_may_press(both: World) -> None:
    guild, boss = await both.member("boss", manager=True)
    ann, other = both.discord.user("ann"), both.discord.user("other")
    guild.managers.add(other.id)
    panel = await opened(both, guild, boss)
    [reset_id] = ids(panel, "set", "scope")
    everything = [each["custom_id"] for each in panel.all_components()]
    assert all(each.split(":")[2] == str(boss.id) for each in everything)
    for custom_id in everything:  # a member, with a modified client: their own id in the custom id does not help
        forged = ":".join((*custom_id.split(":")[:2], str(ann.id), *custom_id.split(":")[3:]))
        for each in (custom_id, forged):
            used = await both.discord.force_component(panel, ann, each, kind=3, values=("channel",))
            assert "Manage Server" in await refusal(both, used)
    used = await both.discord.force_component(panel, other, reset_id, kind=3, values=("channel",))
    assert "Only the member who opened this panel" in await refusal(both, used)
    # In another guild the press is about that guild, and this one's manager is a member there.
    elsewhere, _ = await both.member("elsewhere")
    used = await both.discord.force_component(panel, boss, reset_id, guild=elsewhere, kind=3, values=("channel",))
    assert "Manage Server" in await refusal(both, used)
    in_dm = await both.discord.force_component(
        panel, boss, reset_id, both.discord.dm(boss), kind=3, values=("channel",)
    )
    assert "not in direct messages" in await refusal(both, in_dm)
    form = await both.discord.press(panel, boss, custom_id=ids(panel, "open", "max_chat_logs")[0])
    await both.discord.done(form)
    guild.managers.discard(boss.id)  # the permission was taken away while the panel and a form were open
    used = await both.discord.select(panel, boss, "channel", custom_id=reset_id)
    assert "Manage Server" in await refusal(both, used)
    assert "Manage Server" in await refusal(both, await both.discord.submit(form, value="1"))
    assert await stored(both, guild) == GuildSettings()
    assert await stored(both, elsewhere) == GuildSettings()
    assert await audited(both, guild) == []


async def test_forged_values_are_refused(both: World) -> None:
    guild, boss = await both.member("boss", manager=True)
    foreign = (await both.member("elsewhere"))[0].channel
    panel = await opened(both, guild, boss)
    await turn_to(both, panel, boss, "where")
    [channels] = ids(panel, "set", "channels")
    [roles] = ids(panel, "set", "roles")
    [personas] = ids(panel, "set", "own_personas")
    word = f"config:%s:{boss.id}:%s:"
    for custom_id, kind, values in (
        (channels, 8, [str(foreign.id)]),  # Discord names no channel of another guild
        (channels, 8, ["1; DROP TABLE"]),
        (roles, 6, [str(each) for each in range(30)]),
        (personas, 3, ["everyone"]),
        (personas, 3, []),
        (word % ("set", "daily_turns"), 3, ["1"]),
        (word % ("set", "nothing"), 3, ["1"]),
        (word % ("delete", "channels"), 2, []),
        (word % ("on", "scope"), 2, []),
        (word % ("set", "channel_scopes"), 3, ["1"]),
        (word % ("open", "scope"), 2, []),
        ("config:set", 2, []),
        ("config:import:1", 2, []),
        (f"config:import:{boss.id}:apply:x", 2, []),
    ):
        used = await both.discord.force_component(panel, boss, custom_id, kind=kind, values=values)
        said = await refusal(both, used)
        assert "use the command again" in said or "Only the member" in said, (custom_id, said)
    assert await stored(both, guild) == GuildSettings()


async def test_a_panel_of_before_a_restart_works(both: World) -> None:
    guild, boss = await both.member("boss", manager=True)
    panel = await opened(both, guild, boss)
    form = await both.discord.press(panel, boss, custom_id=ids(panel, "open", "max_reply_tokens")[0])
    await both.discord.done(form)
    await both.bot.stop()
    await both.start_bot()
    await both.discord.submit(form, value="77")
    await both.discord.until(lambda: "**77** · chosen" in text_of(panel))
    await choose(both, panel, boss, "scope", "channel")
    after = await stored(both, guild)
    assert (after.max_reply_tokens, after.dialog_scope) == (77, "channel")


async def test_a_reply_is_shown_once_where_streaming_is_off(both: World) -> None:
    guild, boss = await both.member("boss", manager=True)
    ann = both.discord.user("ann")
    panel = await opened(both, guild, boss)
    await turn_to(both, panel, boss, "replies")
    await press(both, panel, boss, "off", "streaming")
    words = [f"word{number} " for number in range(12)]
    both.engine.reply(*words[:6], pace=0.25)
    asked = await both.ask(guild, ann, "Talk")
    [message] = asked.messages()
    assert [text for _, text in message.edits if "word" in text and "word5" not in text] == []
    assert "word5" in message.content
    both.engine.reply(*words, pace=0.25)
    said = await both.mention(guild, ann, "talk")
    [answer] = await both.discord.answered(said)
    shown = [text for _, text in answer.edits]
    assert "I am writing" in shown[0]  # a button to stop it needs a message
    assert [text for text in shown if "word" in text] == [answer.content]
    await press(both, panel, boss, "on", "streaming")
    both.engine.reply(*words[:6], pace=0.3)
    asked = await both.ask(guild, ann, "Talk")
    [message] = asked.messages()
    assert len([text for _, text in message.edits if "word" in text]) > 1


async def test_files_are_left_aside_where_they_are_off(both: World) -> None:
    guild, boss = await both.member("boss", manager=True)
    ann = both.discord.user("ann")
    panel = await opened(both, guild, boss)
    await turn_to(both, panel, boss, "replies")
    await press(both, panel, boss, "off", "files")
    fetched = both.discord.rest.cdn.num_bytes_sent
    asked = await both.ask(guild, ann, "What is this?", file=Attachment("secret.txt", b"the word is anchor"))
    assert "I do not read files here" in asked.messages()[0].content
    assert "You said" in asked.messages()[0].content
    assert "anchor" not in json.dumps(both.engine.requests[-1].messages)
    alone = await both.mention(guild, ann, "", files=[Attachment("secret.txt", b"the word is anchor")])
    [answer] = await both.discord.answered(alone)
    assert "I do not read files here" in answer.content
    assert both.discord.rest.cdn.num_bytes_sent == fetched  # nothing is loaded to be left aside
    await press(both, panel, boss, "on", "files")
    await both.ask(guild, ann, "What is this?", file=Attachment("secret.txt", b"the word is anchor"))
    assert "anchor" in json.dumps(both.engine.requests[-1].messages)


async def test_set_shows_and_resets_what_had_no_command(both: World) -> None:
    guild, boss = await both.member("boss", manager=True)
    said = await both.use(
        guild, boss, "config set", idle_time="36h", streaming=False, files=False, language="ko", max_chat_logs=2
    )
    for text in ("`idle_time` **36 hours**", "`streaming` **off**", "`files` **off**", "`language` **ko**"):
        assert text in said.reply()
    assert "from 10 minutes to 7 days" in (await both.use(guild, boss, "config set", idle_time="30d")).reply()
    assert "36h or 7d" in (await both.use(guild, boss, "config set", idle_time="a while")).reply()
    for setting in ("idle_time", "streaming", "files", "language"):
        await both.use(guild, boss, "config reset", setting=setting)
    assert await stored(both, guild) == GuildSettings(max_chat_logs=2)
    await both.use(guild, boss, "config set", language="en")
    await both.use(guild, boss, "config set", language="auto")
    assert (await stored(both, guild)).locale is None


async def test_limits_and_filters_are_changed_shown_and_reset(both: World) -> None:
    guild, boss = await both.member("boss", manager=True)
    friends = both.discord.role(guild, "friends")
    await both.use(guild, boss, "config limits role", role=friends, minute_messages=9, daily_messages=4)
    await both.use(guild, boss, "config filter words", action="add", words="gosh, darn")
    await both.use(guild, boss, "config filter threshold", category="violence", score=0.5)
    panel = await opened(both, guild, boss)
    await turn_to(both, panel, boss, "limits")
    assert f"<@&{friends.id}> `minute_messages` 9, `daily_messages` 4" in text_of(panel)
    await write(both, panel, boss, "minute_messages", "5")
    await both.discord.until(lambda: "**5** · chosen by this guild" in text_of(panel))
    assert "from 1 to 30" in await refusal(both, await write(both, panel, boss, "minute_messages", "31"))
    assert "from 1 to 2" in await refusal(both, await write(both, panel, boss, "running_replies", "0"))
    await press(both, panel, boss, "reset", "role_limits")
    await turn_to(both, panel, boss, "together")
    await write(both, panel, boss, "guild_daily_messages", "1,000")
    await both.discord.until(lambda: "**1,000** · chosen by this guild" in text_of(panel))
    await turn_to(both, panel, boss, "safety")
    assert "**2 words** · chosen by this guild" in text_of(panel)
    assert "`violence` from 0.5 · chosen by this guild" in text_of(panel)
    assert "gosh" not in str(panel.components)
    assert ids(panel, "on", "moderation") == []  # the button cannot be pressed
    [off] = [each["custom_id"] for each in panel.all_components() if ":on:" in each["custom_id"]]
    used = await both.discord.force_component(panel, boss, off)
    assert "offers no moderation" in await refusal(both, used)
    after = await stored(both, guild)
    assert after == GuildSettings(
        minute_messages=5,
        guild_daily_turns=1000,
        filter_words=("gosh", "darn"),
        moderation_thresholds=(("violence", 0.5),),
    )
    await press(both, panel, boss, "reset", "filter_words")
    await press(both, panel, boss, "reset", "moderation_thresholds")
    assert await stored(both, guild) == GuildSettings(minute_messages=5, guild_daily_turns=1000)
    await both.use(guild, boss, "config reset", setting="guild_limits")
    await both.use(guild, boss, "config reset", setting="minute_messages")
    assert await stored(both, guild) == GuildSettings()
