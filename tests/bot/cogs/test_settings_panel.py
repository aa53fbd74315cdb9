"""The panel of a guild's settings: what its pages say, whether they fit into a message, what a reset takes back."""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

from bot.cogs.config.changes import RESETS, Setting
from bot.cogs.settings_panel.draw import Panel, draw
from bot.cogs.settings_panel.entries import value_text
from bot.cogs.settings_panel.guild_entries import guild_entries, guild_pages, guild_source
from bot.guilds.settings.limits import OPERATORS
from bot.settings import load_settings
from models.types import GuildSettings, RolePolicy
from tests.fakes.discord.forms import check_message, number_components


def test_every_page_fits_into_a_message() -> None:
    """With everything chosen, long lists and the longest texts."""
    many = [1_000_000_000_000_000_000 + number for number in range(100)]
    operator = load_settings(env_file=None)
    settings = GuildSettings(
        channels=frozenset(many),
        locked_channels=frozenset(many),
        channel_scopes=tuple((each, "member-channel") for each in many),
        roles=tuple(RolePolicy(each, True, 10**9, True, 10**6, 10**5, 10**9) for each in many),
        own_personas="roles",
        **dict.fromkeys(OPERATORS, 10**6),
        filter_words=tuple(f"secret{each}" for each in range(200)),
        moderation=True,
        moderation_thresholds=tuple((f"{each:02}" + "a" * 48, 0.123456) for each in range(40)),
    )
    entries = guild_entries(settings, operator)
    panel = Panel("config", "Settings", guild_pages(), entries, settings, guild_source(), 10**18)
    for page in guild_pages():
        components = draw(panel, page, note="x" * 300).to_components()
        check_message("", (), number_components(components), (), v2=True)


def test_what_the_operator_allows_no_more_is_shown_as_that() -> None:
    chosen = GuildSettings(max_chat_logs=50, session_ttl=timedelta(days=30), memory=True)
    entries = guild_entries(chosen, load_settings(env_file=None, memory=False))
    shown = {entry.name: value_text(entry, chosen, guild_source()) for entry in entries}
    assert shown["max_chat_logs"] == "**10** · the limit of this bot's owner (50 was chosen)"
    assert shown["idle_time"] == "**7 days** · the limit of this bot's owner (30 days was chosen)"
    assert shown["memory"] == "**off** · the owner of this bot allows none"
    assert shown["daily_messages"] == "**no limit** · the default"


def test_limits_have_the_operators_numbers_and_bounds() -> None:
    operator = load_settings(env_file=None, member_daily_messages=50)
    chosen = GuildSettings(minute_messages=5, guild_minute_messages=1000, daily_tokens=7)
    shown = {entry.name: value_text(entry, chosen, guild_source()) for entry in guild_entries(chosen, operator)}
    assert shown["minute_messages"] == "**5** · chosen by this guild"
    assert shown["running_replies"] == "**2** · the default"
    assert shown["daily_messages"] == "**50** · the default"
    assert shown["daily_tokens"] == "**7** · chosen by this guild"
    assert shown["guild_minute_messages"] == "**600** · the limit of this bot's owner (1,000 was chosen)"
    assert shown["guild_daily_messages"] == "**no limit** · the default"


def test_a_reset_is_that_of_the_command_where_it_has_the_same_name() -> None:
    """But for `roles`: the command also takes the roles' daily numbers back, which the panel has on another page."""
    everything = GuildSettings(
        dialog_scope="thread", max_chat_logs=1, max_reply_tokens=1, retention_days=1, session_ttl=timedelta(hours=1),
        own_personas="roles", streaming=False, locale="ko", channels=frozenset({1}),
        roles=(RolePolicy(2, True, 1, True, 1, 1, 1),), channel_scopes=((3, "channel"),),
        locked_channels=frozenset({4}), memory=True, persona_face="name", files=False, filter_words=("a",),
        moderation=True, moderation_thresholds=(("violence", 0.25),), model="large", **dict.fromkeys(OPERATORS, 1),
    )  # fmt: skip
    resets = dict(RESETS)
    reset = everything
    for entry in guild_entries(everything, load_settings(env_file=None)):
        after = entry.reset(everything)
        assert after != everything, entry.name
        if entry.name in resets and entry.name != "roles":
            assert after == resets[entry.name](everything), entry.name
        reset = entry.reset(reset)
    assert reset == GuildSettings()  # nothing is left that only `everything` takes back
    assert len(get_args(Setting)) <= 25  # Discord's limit for the choices of an option
    assert set(get_args(Setting)) == set(resets)
