"""/me settings: what a member decides for themselves here; and what members are told of their data."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.queries import member_settings
from models.types import DIRECT_MESSAGES, DialogKey, MemberSettings
from tests.discord.commands.config.panel_kit import choose, ids, opened, press, refusal, text_of, write
from tests.discord.harness import World, world
from tests.fakes.discord.server import Guild, User

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def stored(here: World, guild: Guild | None, user: User) -> MemberSettings:
    async with here.database() as database, database.read() as session:
        return await member_settings(session, key=DialogKey(guild.id if guild else DIRECT_MESSAGES, user.id))


async def test_a_member_chooses_less_than_the_guild_allows(both: World) -> None:
    guild, boss = await both.member("boss", manager=True)
    ann, bob = both.discord.user("ann"), both.discord.user("bob")
    await both.use(guild, boss, "config set", max_chat_logs=3, retention_days=20)
    panel = await opened(both, guild, ann, "me settings")
    assert text_of(panel).count("· the default here") == 4
    assert "**3** · the default here" in text_of(panel)
    await write(both, panel, ann, "max_chat_logs", "1")
    await both.discord.until(lambda: "**1** · chosen by you" in text_of(panel))
    assert "from 0 to 20" in await refusal(both, await write(both, panel, ann, "retention_days", "21"))
    await write(both, panel, ann, "retention_days", "2")
    await both.discord.until(lambda: "**2** · chosen by you" in text_of(panel))
    await press(both, panel, ann, "on", "private")
    await choose(both, panel, ann, "language", "ko")
    assert await stored(both, guild, ann) == MemberSettings(1, 2, True, "ko")
    await both.use(guild, ann, "me settings", language="en")
    for user in (ann, bob):
        for text in ("One", "Two", "Three"):
            await both.ask(guild, user, text)
        prompt = [each["content"] for each in both.engine.requests[-1].messages[1:]]
        assert prompt[0] == ("Two" if user is ann else "One")
    assert await stored(both, guild, bob) == MemberSettings()
    await both.use(guild, boss, "config set", retention_days=1)  # the guild allows less now
    again = await opened(both, guild, ann, "me settings")
    assert "**1** · the most that is allowed here (2 was chosen)" in text_of(again)
    await press(both, panel, ann, "reset", "retention_days")
    await both.use(guild, ann, "me settings", reset="everything")
    assert await stored(both, guild, ann) == MemberSettings()


async def test_the_command_sets_and_resets_without_the_panel(both: World) -> None:
    guild, ann = await both.member("ann")
    used = await both.use(guild, ann, "me settings", max_chat_logs=0, private=True, language="en", retention_days=0)
    assert "Saved" in text_of(used.messages()[0])
    assert await stored(both, guild, ann) == MemberSettings(0, 0, True, "en")
    await both.use(guild, ann, "me settings", language="auto", private=False, reset="max_chat_logs")
    assert await stored(both, guild, ann) == MemberSettings(retention_days=0)
    refused = await both.use(guild, ann, "me settings", max_chat_logs=11)
    assert "from 0 to 10" in refused.reply()
    assert await stored(both, guild, ann) == MemberSettings(retention_days=0)


async def test_settings_of_one_place_are_not_those_of_another(both: World) -> None:
    guild, ann = await both.member("ann")
    await both.use(guild, ann, "me settings", max_chat_logs=1)
    panel = await opened(both, ann, ann, "me settings")
    assert "Your settings in direct messages" in text_of(panel)
    await write(both, panel, ann, "max_chat_logs", "2")
    await both.discord.until(lambda: "**2** · chosen by you" in text_of(panel))
    assert (await stored(both, guild, ann)).max_chat_logs == 1
    assert (await stored(both, None, ann)).max_chat_logs == 2


async def test_private_is_the_default_of_commands_and_can_be_overruled(both: World) -> None:
    guild, ann = await both.member("ann")
    assert not (await both.ask(guild, ann, "Hi")).messages()[0].ephemeral
    await both.use(guild, ann, "me settings", private=True)
    assert (await both.ask(guild, ann, "Hi")).messages()[0].ephemeral
    assert (await both.use(guild, ann, "regenerate")).messages()[0].ephemeral
    assert not (await both.ask(guild, ann, "Hi", private=False)).messages()[0].ephemeral
    said = await both.mention(guild, ann, "hi")
    [answer] = await both.discord.answered(said)
    form = await both.discord.menu(answer, ann, "Ask about this")
    await both.discord.done(form)
    assert form.modal
    options = form.modal["components"][1]["component"]["options"]
    assert [each["value"] for each in options if each.get("default")] == ["me"]
    sent = await both.discord.submit(form)
    await both.discord.done(sent)
    assert sent.messages()[0].ephemeral
    await both.use(guild, ann, "me settings", reset="private")
    assert not (await both.ask(guild, ann, "Hi")).messages()[0].ephemeral
    await both.use(ann, ann, "me settings", private=True)
    assert not (await both.ask(ann, ann, "Hi")).messages()[0].ephemeral  # nobody else reads direct messages


async def test_only_the_member_uses_their_panel_and_one_who_opted_out_has_none_stored(both: World) -> None:
    guild, ann = await both.member("ann")
    bob = both.discord.user("bob")
    panel = await opened(both, guild, ann, "me settings")
    for custom_id in [each["custom_id"] for each in panel.all_components()]:
        used = await both.discord.force_component(panel, bob, custom_id)
        assert "Only the member who opened this panel" in await refusal(both, used)
    [switch] = ids(panel, "on", "private")
    await both.use(guild, ann, "privacy optout")
    used = await both.discord.press(panel, ann, custom_id=switch)
    assert "You opted out" in await refusal(both, used)
    assert "You opted out" in (await both.use(guild, ann, "me settings", private=True)).reply()
    assert await stored(both, guild, ann) == MemberSettings()
    await both.use(guild, ann, "privacy optin")


async def test_members_own_settings_are_exported_and_deleted(both: World) -> None:
    guild, ann = await both.member("ann")
    await both.use(guild, ann, "me settings", retention_days=3)
    shown = await both.use(guild, ann, "privacy show")
    assert "member settings: 1" in shown.reply()
    asked = await both.use(guild, ann, "privacy delete")
    await both.discord.press(asked.messages()[0], ann, label="Delete everything")
    await both.discord.until(lambda: "Deleted" in asked.messages()[0].content)
    assert await stored(both, guild, ann) == MemberSettings()
    assert (await both.use(guild, ann, "privacy show")).reply().startswith("I have stored nothing about you.")


async def test_policy_and_contact_are_told(sqlite_url: str, tmp_path: Path) -> None:
    about = {"PRIVACY_POLICY_URL": "https://example.org/privacy", "PRIVACY_CONTACT": "ask_me_*now*@example.org"}
    async with world(sqlite_url, tmp_path, **about) as here:
        guild, boss = await here.member("boss", manager=True)
        for command in ("help", "privacy show"):
            used = await here.use(guild, boss, command)
            await here.discord.until(lambda used=used: "Questions about" in "\n".join(used.texts()))
            told = "\n".join(used.texts())
            assert "Privacy policy: <https://example.org/privacy>" in told
            assert r"Questions about your data: ask\_me\_\*now\*@example.org" in told
