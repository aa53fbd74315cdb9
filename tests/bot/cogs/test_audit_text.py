"""Every action that the program records in the audit log is said as a sentence, in full."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import UTC, datetime
from pathlib import Path

from bot.cogs.admin.audit_text import GROUPS, on_discord, page_text, sentence
from bot.guilds.settings.settings_file.schema import Listed
from bot.i18n.language import use_language
from models.types import AuditRecord, GuildSettings

ROOT = Path(__file__).parents[3]
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def record(action: str, details: str = "{}", actor: int | None = 7, target: int | None = 8) -> AuditRecord:
    return AuditRecord(1, actor, target, action, details, NOW, 1)


def recorded_actions() -> set[str]:
    """As they stand in the code, where an action is given to the audit log."""
    found: set[str] = set()
    for folder in ("bot/guilds", "bot/admin", "models/queries"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if "audit" in text or "receipt" in text or "record_look" in text:
                found |= set(re.findall(rf'"((?:{"|".join(GROUPS)})(?:\.[a-z_]+)+)"', text))
    return found | {"purge", "config.import"}


def test_every_action_has_a_sentence() -> None:
    actions = recorded_actions()
    assert {"config.set", "member.block", "persona.set", "scene.add", "purge.undo", "report.delete"} <= actions
    assert len(actions) > 20
    for action in actions:
        said = sentence(record(action), {})
        assert f"“{action}”" not in said, action
        assert said.startswith("<@7> ")
        assert said.endswith(".")
        assert "{" not in said


def test_an_unknown_action_and_damaged_details_are_said_as_well() -> None:
    assert sentence(record("config.export"), {}) == "<@7> did “config.export”."
    assert sentence(record("member.block", "[1", actor=None), {}, on_discord).startswith("Somebody blocked <@8>")
    looked = sentence(record("operator.read", '{"dialog": 5}', actor=None, target=None), {})
    assert looked == "The person who runs the bot read a conversation of a member."


def test_numbers_and_names_are_in_it() -> None:
    purge = '{"what": "everything", "older_than_days": 7, "dialogs": 3, "pairs": 1200}'
    assert sentence(record("purge", purge), {}) == (
        "<@7> deleted conversations, notes and personas of <@8> older than 7 days: 3 conversations, 1,200 answers."
    )
    receipt = '{"receipt": "ab12", "turns": 2, "dialogs": 1, "audit_log": 1}'
    assert sentence(record("privacy.delete", receipt), {}) == ("<@7> deleted a member's data: 4 records. Receipt ab12.")
    set_here = '{"persona": 5, "level": "channel", "place": 9, "version": 2}'
    assert sentence(record("persona.set", set_here), {5: "Jack_"}) == "<@7> set the persona **Jack\\_** for <#9>."
    assert "that is gone (number 5)" in sentence(record("persona.set", set_here), {})


def test_settings_are_said_with_their_new_values() -> None:
    changed = {"max_chat_logs": (5, 9), "locale": ("ko", None), "session_ttl": (None, 129_600), "channels": ([], [1])}
    details = json.dumps({name: {"old": old, "new": new} for name, (old, new) in changed.items()})
    assert sentence(record("config.import", details), {}) == (
        "<@7> imported settings from a file: "
        "`max_chat_logs` 9, `language` the default, `idle_time` 36 hours, `channels`."
    )


def test_settings_of_entries_of_an_earlier_version_are_said_as_well() -> None:
    old = {"max_chat_logs": "5", "locale": "'ko'", "daily_turns": "None", "memory": "True", "roles": "(RolePolicy(1),)"}
    assert sentence(record("config.set", json.dumps(old)), {}) == (
        "<@7> changed settings: `max_chat_logs` 5, `language` ko, `daily_messages` the default, `memory` on, `roles`."
    )


def test_how_long_a_block_lasts_is_said_in_the_readers_language() -> None:
    lasts = ((604_800, "7 days", "7일"), (5400, "90 minutes", "90분"), (None, "For good", "영구"))
    for seconds, english, korean in lasts:
        details = json.dumps({"seconds": seconds})
        assert sentence(record("member.block", details), {}) == f"<@7> blocked <@8>: {english}."
        with use_language("ko"):
            assert korean in sentence(record("member.block", details), {})


def test_limits_and_filters_are_said_by_the_names_of_their_commands() -> None:
    changed = {
        "minute_messages": (None, 5), "running_replies": (2, None), "daily_turns": (None, 1200),
        "guild_daily_turns": (None, 5000), "filter_words": (0, 3), "moderation": (False, True),
        "moderation_thresholds": ([], [["violence", 0.5]]),
    }  # fmt: skip
    details = json.dumps({name: {"old": old, "new": new} for name, (old, new) in changed.items()})
    assert sentence(record("config.set", details), {}) == (
        "<@7> changed settings: `minute_messages` 5, `running_replies` the default, `daily_messages` 1,200, "
        "`guild_daily_messages` 5,000, `filter words` 3, `filter moderation` on, `filter threshold`."
    )
    for restricted, where in ((True, "only in age-restricted channels"), (False, "in all channels")):
        rated = json.dumps({"persona": 5, "age_restricted": restricted})
        assert sentence(record("persona.rating", rated), {5: "Jack"}) == (
            f"<@7> chose where the persona **Jack** answers: {where}."
        )


def test_every_setting_is_named_as_config_names_it() -> None:
    """By the option of a command, the names of a subcommand, or a command that is not of `/config`."""
    options = set(Listed.model_fields) | {f"channels {each}" for each in ("scope",)}
    options |= {f"filter {each}" for each in ("words", "moderation", "threshold")}
    for field in dataclasses.fields(GuildSettings):
        details = json.dumps({field.name: {"old": None, "new": 1}})
        [said] = re.findall("`([^`]+)`", sentence(record("config.set", details), {}))
        assert said in options or said.startswith("/persona "), said


def test_a_page_holds_what_there_is_room_for() -> None:
    records = [record("member.block") for _ in range(10)]
    all_of_them, count = page_text("Log", records, {}, 2000)
    assert count == 10
    some, count = page_text("Log", records, {}, 200)
    assert 1 < count < 10
    assert len(some) <= 200
    assert all_of_them.startswith(f"{some}\n")
    assert len(page_text("Log", records[: count + 1], {}, 2000)[0]) > 200  # one more had no room
    assert page_text("Log", records, {}, 1)[1] == 1
