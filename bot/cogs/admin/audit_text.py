"""Entries of the audit log as sentences, for a page on Discord and for a file. Pure functions.

An entry has ids and numbers, never a text of a member. Personas are named as they are called now.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from discord.utils import format_dt

from bot.cogs.admin.member_text import lasts_labels
from bot.cogs.personas.text import bold
from bot.discord_app.splitting.code_fences import utf16_length
from bot.guilds.settings.limits import shown_name
from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext
from bot.text import duration_text
from models.types import AuditRecord

GROUPS = ("config", "persona", "scene", "member", "purge", "report", "privacy", "operator")
"""What the actions of an entry begin with: the choices of the filter."""
_CALLED = {
    "dialog_scope": "scope",
    "session_ttl": "idle_time",
    "locale": "language",
    "channel_scopes": "channels scope",
    "own_personas": "/persona allow",
    "locked_channels": "/persona lock",
    "persona_face": "/persona face",
    "filter_words": "filter words",
    "moderation": "filter moderation",
    "moderation_thresholds": "filter threshold",
}
"""Settings that admins know by another name than the column; limits have theirs from `shown_name`."""
_MAX_SETTINGS = 8

Mention = Callable[[str, int], str]
"""Names a member ("@") or a channel ("#") by an id."""


def on_discord(kind: str, number: int) -> str:
    """As Discord's clients show it."""
    return f"<{kind}{number}>"


def in_file(kind: str, number: int) -> str:
    """As a number."""
    return f"{kind}{number}"


def sentence(record: AuditRecord, names: Mapping[int, str], mention: Mention = on_discord) -> str:
    """What was done, as a sentence."""
    details = _details(record)
    template = _templates().get(record.action)
    if template is None:
        return _("{admin} did “{action}”.").format(admin=_who(record.actor_id, mention), action=record.action)
    return template.format(**_values(record, details, names, mention))


def persona_ids(records: Sequence[AuditRecord]) -> list[int]:
    """The personas that entries are about."""
    found = {_details(each).get("persona") for each in records}
    return sorted(each for each in found if isinstance(each, int))


def page_text(title: str, records: Sequence[AuditRecord], names: Mapping[int, str], most: int) -> tuple[str, int]:
    """As many entries as there is room for, newest first, one at least; and how many they are."""
    text, count = title, 0
    for each in records:
        line = f"\n{format_dt(each.created_at, 'f')} {sentence(each, names)}"
        if count and utf16_length(text + line) > most:
            break
        text, count = text + line, count + 1
    return text, count


def as_csv(records: Sequence[AuditRecord], names: Mapping[int, str]) -> str:
    """All entries as a table, the oldest first."""
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(["time_utc", "action", "admin", "member", "sentence", "details"])
    for each in reversed(records):
        table.writerow(
            [
                f"{each.created_at:%Y-%m-%d %H:%M:%S}",
                each.action,
                each.actor_id or "",
                each.target_id or "",
                sentence(each, names, in_file),
                each.details,
            ]
        )
    return out.getvalue()


def _details(record: AuditRecord) -> dict[str, Any]:
    try:
        found = json.loads(record.details)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _templates() -> dict[str, str]:
    return {
        "config.set": _("{admin} changed settings: {settings}."),
        "config.import": _("{admin} imported settings from a file: {settings}."),
        "member.block": _("{admin} blocked {member}: {lasts}."),
        "member.unblock": _("{admin} ended the block of {member}."),
        "purge": _("{admin} deleted {what}: {counts}."),
        "purge.undo": _("{admin} brought back conversations: {counts}."),
        "privacy.delete": _("{admin} deleted a member's data: {counts}. Receipt {receipt}."),
        "privacy.delete_guild": _("{admin} deleted all data of the guild. Receipt {receipt}."),
        "report.close": _("{admin} closed report {report}."),
        "report.open": _("{admin} opened report {report} again."),
        "report.delete": _("{admin} deleted report {report}."),
        "report.channel": _("{admin} chose where new reports are announced: {channel}."),
        "persona.create": _("{admin} created the persona {persona}."),
        "persona.edit": _("{admin} changed the persona {persona} (version {version})."),
        "persona.rename": _("{admin} renamed the persona {persona}."),
        "persona.tags": _("{admin} changed the tags of the persona {persona}."),
        "persona.rating": _("{admin} chose where the persona {persona} answers: {rating}."),
        "persona.rollback": _("{admin} put version {version} of the persona {persona} in force."),
        "persona.delete": _("{admin} deleted the persona {persona}."),
        "persona.import": _("{admin} imported the persona {persona} from a card."),
        "persona.greeting": _("{admin} chose another greeting of the persona {persona}."),
        "persona.picture": _("{admin} gave the persona {persona} a picture."),
        "persona.picture.remove": _("{admin} took the picture of the persona {persona} away."),
        "persona.set": _("{admin} set the persona {persona} for {place}."),
        "persona.clear": _("{admin} took the persona of {place} away."),
        "persona.begin_afresh": _("{admin} let conversations begin afresh: {counts}."),
        "operator.read": _("{admin} read a conversation of {member}."),
        "operator.persona": _("{admin} read a persona of {member}."),
        "operator.search": _("{admin} searched, and read parts of {counts}."),
        "operator.end": _("{admin} ended a conversation of {member}."),
        "scene.add": _("{admin} added {persona} to the scene in {place}."),
        "scene.remove": _("{admin} took {persona} out of the scene in {place}."),
        "scene.speak": _("{admin} changed who speaks in the scene in {place}."),
    }


def _values(
    record: AuditRecord, details: Mapping[str, Any], names: Mapping[int, str], mention: Mention
) -> dict[str, object]:
    channel = details.get("channel")
    return {
        "admin": _actor(record, mention),
        "member": _("a member") if record.target_id is None else mention("@", record.target_id),
        "settings": _settings(details, mention),
        "lasts": _lasts(details),
        "what": _what(record, details, mention),
        "counts": _counts(details),
        "receipt": details.get("receipt", "?"),
        "report": details.get("report", "?"),
        "channel": mention("#", channel) if isinstance(channel, int) else _("nowhere"),
        "persona": _persona(details.get("persona"), names),
        "version": details.get("version", "?"),
        "rating": _("only in age-restricted channels") if details.get("age_restricted") else _("in all channels"),
        "place": _place(details, mention),
    }


def _actor(record: AuditRecord, mention: Mention) -> str:
    if record.actor_id is None and record.action.startswith("operator."):
        return _("The person who runs the bot")
    return _who(record.actor_id, mention)


def _who(user_id: int | None, mention: Mention) -> str:
    return _("Somebody") if user_id is None else mention("@", user_id)


def _persona(persona_id: object, names: Mapping[int, str]) -> str:
    if isinstance(persona_id, int) and persona_id in names:
        return bold(names[persona_id])
    return _("that is gone (number {number})").format(number=persona_id)


def _place(details: Mapping[str, Any], mention: Mention) -> str:
    place = details.get("place")
    return mention("#", place) if isinstance(place, int) and place else _("the whole guild")


def _lasts(details: Mapping[str, Any]) -> str:
    seconds = details.get("seconds")
    return duration_text(timedelta(seconds=seconds)) if isinstance(seconds, int) else lasts_labels()["forever"]


def _what(record: AuditRecord, details: Mapping[str, Any], mention: Mention) -> str:
    kinds = {
        "conversations": _("conversations"),
        "memory": _("notes"),
        "personas": _("personas"),
        "everything": _("conversations, notes and personas"),
    }
    what = kinds.get(str(details.get("what")), _("data"))
    days = details.get("older_than_days")
    if record.target_id is not None:
        what = _("{what} of {member}").format(what=what, member=mention("@", record.target_id))
    return what if not days else _("{what} older than {days} days").format(what=what, days=days)


def _counts(details: Mapping[str, Any]) -> str:
    """The numbers of an entry, each with what it counts; rows of tables are summed up as records."""
    numbers = {
        name: number for name, number in details.items() if type(number) is int and number and name != "older_than_days"
    }
    if "receipt" in details:  # of a person's or a guild's data, by table
        numbers = {"": sum(numbers.values())}
    shown = [_counted(name, number).format(number=f"{number:,}") for name, number in numbers.items()]
    return ", ".join(shown) or _("nothing")


def _counted(name: str, number: int) -> str:
    if name == "dialogs":
        return ngettext("{number} conversation", "{number} conversations", number)
    if name == "pairs":
        return ngettext("{number} answer", "{number} answers", number)
    if name == "facts":
        return ngettext("{number} note about members", "{number} notes about members", number)
    if name == "summaries":
        return ngettext("{number} summary of a conversation", "{number} summaries of conversations", number)
    if name == "personas":
        return ngettext("{number} persona", "{number} personas", number)
    return ngettext("{number} record", "{number} records", number)


_OF_OLD_ENTRIES = {"None": None, "True": True, "False": False}
"""Entries of 0.2 and earlier hold values as Python writes them."""


def _said(value: object) -> str:
    value = _OF_OLD_ENTRIES.get(value, value) if isinstance(value, str) else value
    if value is None:
        return _("the default")
    if isinstance(value, bool):
        return _("on") if value else _("off")
    return f"{value:,}" if isinstance(value, int) else str(value).strip("'\"")


def _settings(details: Mapping[str, Any], mention: Mention) -> str:
    """The settings with their new values; of a list only its name."""
    shown = []
    for name, change in details.items():
        value = change.get("new") if isinstance(change, dict) else change
        if name == "session_ttl" and isinstance(value, int):
            value = duration_text(timedelta(seconds=value))
        called = f"`{_CALLED.get(name) or shown_name(name)}`"
        said = _said(value)
        shown.append(f"{called} {said}" if len(said) <= 40 and not any(mark in said for mark in "({[<") else called)
    more = len(shown) - _MAX_SETTINGS
    return ", ".join(shown[:_MAX_SETTINGS]) + (", …" if more > 0 else "") if shown else _("nothing")
