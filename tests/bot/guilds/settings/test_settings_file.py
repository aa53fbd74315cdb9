"""A guild's settings as a file: nothing of them is lost on the way, and no field is forgotten."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.errors import Hint
from bot.guilds.settings.settings_file.importing import imported
from bot.guilds.settings.settings_file.reading import read_file
from bot.guilds.settings.settings_file.schema import MAX_BYTES
from bot.guilds.settings.settings_file.writing import as_file
from bot.safety.words import listed_words
from models.types import GuildSettings, RolePolicy

AT = datetime(2026, 11, 29, 12, tzinfo=UTC)
IDS = st.integers(1, 2**62)
SCOPES = st.sampled_from(["member", "channel", "thread", "member-channel", "member-thread"])
A_MINUTE, AT_ONCE = st.none() | st.integers(1, 1_000_000), st.none() | st.integers(1, 100_000)
A_DAY = st.none() | st.integers(0, 1_000_000_000)
ROLES = st.dictionaries(IDS, st.tuples(st.booleans(), A_DAY, st.booleans(), A_MINUTE, AT_ONCE, A_DAY), max_size=5).map(
    lambda found: tuple(
        RolePolicy(role_id, *found[role_id])
        for role_id in sorted(found)
        if RolePolicy(role_id, *found[role_id]) != RolePolicy(role_id)
    )
)
WORDS = st.lists(st.text(max_size=20), max_size=8).map(lambda texts: listed_words(",".join(texts))[0])
SCORES = st.dictionaries(st.from_regex(r"[a-z][a-z/_-]{0,9}", fullmatch=True), st.floats(0, 1), max_size=5)
SETTINGS = st.builds(
    GuildSettings,
    dialog_scope=SCOPES,
    max_chat_logs=st.none() | st.integers(0, 1000),
    max_reply_tokens=st.none() | st.integers(1, 1_000_000),
    retention_days=st.none() | st.integers(0, 36_525),
    session_ttl=st.none() | st.integers(1, 3_000_000).map(lambda seconds: timedelta(seconds=seconds)),
    minute_messages=A_MINUTE,
    running_replies=AT_ONCE,
    daily_turns=A_DAY,
    daily_tokens=A_DAY,
    guild_minute_messages=A_MINUTE,
    guild_running_replies=AT_ONCE,
    guild_daily_turns=A_DAY,
    guild_daily_tokens=A_DAY,
    filter_words=WORDS.map(lambda words: tuple(dict.fromkeys(words))),
    moderation=st.booleans(),
    moderation_thresholds=SCORES.map(lambda scores: tuple(sorted(scores.items()))),
    own_personas=st.sampled_from(["members", "nobody"]),
    streaming=st.booleans(),
    locale=st.sampled_from([None, "en", "ko"]),
    channels=st.frozensets(IDS, max_size=5),
    roles=ROLES,
    channel_scopes=st.dictionaries(IDS, SCOPES, max_size=5).map(lambda found: tuple(sorted(found.items()))),
    locked_channels=st.frozensets(IDS, max_size=5),
    memory=st.booleans(),
    persona_face=st.sampled_from(["off", "name", "profile", "webhook"]),
    files=st.booleans(),
    model=st.sampled_from([None, "large", "Small-2.1"]),
)


@given(settings=SETTINGS, old=SETTINGS, name=st.text(max_size=100))
def test_a_file_gives_the_settings_that_it_was_made_of(settings: GuildSettings, old: GuildSettings, name: str) -> None:
    data = as_file(settings, guild_id=1, guild_name=name, name_of=lambda _: name, at=AT)
    found = imported(read_file(data), old, channels=lambda _: True, roles=lambda _: True, models=lambda _: True)
    assert found.settings == settings
    assert (found.skipped, found.kept) == ((), ())


def test_every_setting_is_in_the_file() -> None:
    """A field that is new in `GuildSettings` must be in the file as well, or an import would lose it."""
    changed = GuildSettings(
        dialog_scope="thread", max_chat_logs=1, max_reply_tokens=1, retention_days=1, session_ttl=timedelta(hours=1),
        daily_turns=1, daily_tokens=1, own_personas="nobody", streaming=False, locale="ko", channels=frozenset({1}),
        roles=(RolePolicy(2, True, 1, True, 1, 1, 1),), channel_scopes=((3, "channel"),),
        locked_channels=frozenset({4}), memory=True,
        persona_face="name", files=False, minute_messages=1, running_replies=1, guild_minute_messages=1,
        guild_running_replies=1, guild_daily_turns=1, guild_daily_tokens=1, filter_words=("sna*", "two words"),
        moderation=True, moderation_thresholds=(("violence", 0.25),), model="large",
    )  # fmt: skip
    for field in dataclasses.fields(GuildSettings):
        assert getattr(changed, field.name) != getattr(GuildSettings(), field.name), f"set {field.name} here"
    for field in dataclasses.fields(RolePolicy):
        assert getattr(changed.roles[0], field.name) != getattr(RolePolicy(0), field.name), f"set {field.name} here"
    data = as_file(changed, guild_id=1, guild_name="", name_of=lambda _: "", at=AT)
    there = imported(
        read_file(data), GuildSettings(), channels=lambda _: True, roles=lambda _: True, models=lambda _: True
    )
    assert there.settings == changed


def test_a_model_that_is_not_offered_leaves_the_one_that_was() -> None:
    data = as_file(GuildSettings(model="large"), guild_id=1, guild_name="", name_of=lambda _: "", at=AT)
    for old in (None, "small"):
        found = imported(
            read_file(data),
            GuildSettings(model=old),
            channels=lambda _: True,
            roles=lambda _: True,
            models=lambda name: name == "small",
        )
        assert (found.settings.model, found.kept) == (old, ("model",))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_settings_are_refused(data: bytes) -> None:
    with pytest.raises(Hint):
        read_file(data)


def test_words_are_taken_as_the_command_takes_them() -> None:
    words = '["Sna**KE", "\uff33\uff30\uff21\uff2d, Two  Words", "spam"]'
    text = f'{{"guildllama_settings": 1, "settings": {{"filter_words": {words}}}}}'
    found = imported(read_file(text.encode()), GuildSettings(), channels=lambda _: True, roles=lambda _: True)
    assert found.settings.filter_words == ("sna*ke", "spam", "two words")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ('"filter_words": ["good", "***"]', "settings.filter_words.1"),
        ('"filter_words": ["' + "a" * 101 + '"]', "settings.filter_words.0"),
        ('"filter_words": ["' + "a " * 9 + '"]', "settings.filter_words.0"),
        ('"filter_words": ["a"' + ', "a"' * 200 + "]", "settings.filter_words"),
        ('"moderation": 1', "settings.moderation"),
        ('"moderation_thresholds": {"violence": 1.5}', "settings.moderation_thresholds.violence"),
        ('"moderation_thresholds": {"violence": true}', "settings.moderation_thresholds.violence"),
        ('"moderation_thresholds": {"violence": 1e999}', "settings.moderation_thresholds.violence"),
        ('"moderation_thresholds": {"a$": 0.5}', "settings.moderation_thresholds.a$"),
        ('"minute_messages": 0', "settings.minute_messages"),
        ('"guild_running_replies": 100001', "settings.guild_running_replies"),
        ('"roles": [{"id": "5", "running_replies": 0}]', "settings.roles.0.running_replies"),
    ],
)
def test_limits_and_filters_that_do_not_fit_are_refused_by_name(settings: str, key: str) -> None:
    with pytest.raises(Hint, match=f"`{re.escape(key)}"):
        read_file(f'{{"guildllama_settings": 1, "settings": {{{settings}}}}}'.encode())


def test_the_longest_file_can_be_read() -> None:
    """With every list full, and names and words of the longest letters."""
    ids = range(2**62, 2**62 + 100)
    settings = GuildSettings(
        channels=frozenset(ids),
        locked_channels=frozenset(ids),
        channel_scopes=tuple((each, "member-channel") for each in ids),
        roles=tuple(RolePolicy(each, True, 10**9, True, 10**6, 10**5, 10**9) for each in ids),
        filter_words=tuple("\U00020000" * 97 + f"{each:03}" for each in range(200)),
        moderation_thresholds=tuple((f"{each:02}" + "a" * 48, 0.123456789) for each in range(40)),
    )
    data = as_file(settings, guild_id=1, guild_name="", name_of=lambda _: "\U0001f600" * 100, at=AT)
    assert len(data) <= MAX_BYTES
    assert (
        imported(read_file(data), GuildSettings(), channels=lambda _: True, roles=lambda _: True).settings == settings
    )
