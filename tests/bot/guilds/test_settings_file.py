"""A guild's settings as a file: nothing of them is lost on the way, and no field is forgotten."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.errors import Hint
from bot.guilds.settings_file import as_file, imported, read_file
from models.types import GuildSettings, RolePolicy

AT = datetime(2026, 11, 29, 12, tzinfo=UTC)
IDS = st.integers(1, 2**62)
SCOPES = st.sampled_from(["member", "channel", "thread", "member-channel", "member-thread"])
ROLES = st.dictionaries(
    IDS, st.tuples(st.booleans(), st.none() | st.integers(0, 1_000_000), st.booleans()), max_size=5
).map(
    lambda found: tuple(
        RolePolicy(role_id, *found[role_id]) for role_id in sorted(found) if found[role_id] != (False, None, False)
    )
)
SETTINGS = st.builds(
    GuildSettings,
    dialog_scope=SCOPES,
    max_chat_logs=st.none() | st.integers(0, 1000),
    max_reply_tokens=st.none() | st.integers(1, 1_000_000),
    retention_days=st.none() | st.integers(0, 36_525),
    session_ttl=st.none() | st.integers(1, 3_000_000).map(lambda seconds: timedelta(seconds=seconds)),
    daily_turns=st.none() | st.integers(0, 1_000_000),
    daily_tokens=st.none() | st.integers(0, 1_000_000_000),
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
)


@given(settings=SETTINGS, old=SETTINGS, name=st.text(max_size=100))
def test_a_file_gives_the_settings_that_it_was_made_of(settings: GuildSettings, old: GuildSettings, name: str) -> None:
    data = as_file(settings, guild_id=1, guild_name=name, name_of=lambda _: name, at=AT)
    found = imported(read_file(data), old, channels=lambda _: True, roles=lambda _: True)
    assert found.settings == settings
    assert (found.skipped, found.kept) == ((), ())


def test_every_setting_is_in_the_file() -> None:
    """A field that is new in `GuildSettings` must be in the file as well, or an import would lose it."""
    changed = GuildSettings(
        dialog_scope="thread", max_chat_logs=1, max_reply_tokens=1, retention_days=1, session_ttl=timedelta(hours=1),
        daily_turns=1, daily_tokens=1, own_personas="nobody", streaming=False, locale="ko", channels=frozenset({1}),
        roles=(RolePolicy(2, True),), channel_scopes=((3, "channel"),), locked_channels=frozenset({4}), memory=True,
        persona_face="name", files=False,
    )  # fmt: skip
    for field in dataclasses.fields(GuildSettings):
        assert getattr(changed, field.name) != getattr(GuildSettings(), field.name), f"set {field.name} here"
    data = as_file(changed, guild_id=1, guild_name="", name_of=lambda _: "", at=AT)
    there = imported(read_file(data), GuildSettings(), channels=lambda _: True, roles=lambda _: True)
    assert there.settings == changed


@given(st.binary(max_size=300))
def test_bytes_that_are_no_settings_are_refused(data: bytes) -> None:
    with pytest.raises(Hint):
        read_file(data)
