"""A persona as a card's file: JSON of version 3, or a PNG that has it for readers of version 2 as well. Pure.

Everything that a card came with goes out again as it came: unknown fields, extensions, the entries of its lorebook.
Only what is ours (`extensions.guildllama`) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bot.characters.card import OWN_EXTENSION, card_data
from bot.characters.files.json_card import write
from bot.characters.files.png_card import blank_png, write_png
from bot.characters.lore.decorators import split_decorators
from bot.characters.values import flag

_TEXTS = ("name", "description", "personality", "scenario", "first_mes", "mes_example")
_NEW_TEXTS = ("creator_notes", "system_prompt", "post_history_instructions", "creator", "character_version")
_WARNING = (
    "This character card is Character Card V3, but it is loaded as a Character Card V2. Please use a Character Card V3 "
    "compatible application to use this character card properly."
)


def plain_card(name: str, prompt: str) -> dict[str, Any]:
    """A persona that is no card, as one: its prompt is the card's system prompt, which replaces every other."""
    return as_version_3({"name": name or "Persona", "system_prompt": prompt})


def edited_card(raw: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """A card whose system text somebody has written anew: it stands in for all the fields that it was made of."""
    card = as_version_3(raw)
    card["data"] = {**card["data"], "system_prompt": prompt, "description": "", "personality": "", "scenario": ""}
    return card


def as_version_3(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The card with the form of version 3, and every field that it had."""
    data = dict(card_data(raw))
    is_flat = not isinstance(raw.get("data"), dict)
    for name in (*_TEXTS, *_NEW_TEXTS):
        data.setdefault(name, "")
    for name in ("alternate_greetings", "tags", "group_only_greetings"):
        data.setdefault(name, [])
    data["extensions"] = _extensions(data.get("extensions"))
    kept = {key: value for key, value in raw.items() if key not in {"spec", "spec_version", "data"} and not is_flat}
    version = raw.get("spec_version") if raw.get("spec") == "chara_card_v3" and "spec_version" in raw else "3.0"
    return {"spec": "chara_card_v3", "spec_version": version, "data": data, **kept}


def as_version_2(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The same for readers of version 2: without decorators, and with a word about what such a reader misses."""
    card = as_version_3(raw)
    data = dict(card["data"])
    if raw.get("spec") == "chara_card_v3":
        notes = data.get("creator_notes")
        data["creator_notes"] = f"{_WARNING}\n\n{notes}" if notes and notes != _WARNING else _WARNING
    book = data.get("character_book")
    if isinstance(book, dict) and isinstance(book.get("entries"), list):
        data["character_book"] = {**book, "entries": [_undecorated(entry) for entry in book["entries"]]}
    return {**card, "spec": "chara_card_v2", "spec_version": "2.0", "data": data}


def export_json(raw: Mapping[str, Any]) -> bytes:
    """The card as a file of JSON."""
    return write(as_version_3(raw)).encode()


def export_png(raw: Mapping[str, Any], picture: bytes, *, for_version_2: bool = True) -> bytes:
    """The card in this PNG, or in a plain one if there is none (b""). Raises CardRefused for a damaged picture."""
    texts = {"chara": write(as_version_2(raw)).encode()} if for_version_2 else {}
    return write_png(picture or blank_png(), {**texts, "ccv3": write(as_version_3(raw)).encode()})


def _extensions(value: object) -> dict[str, Any]:
    return {key: each for key, each in value.items() if key != OWN_EXTENSION} if isinstance(value, dict) else {}


def _undecorated(entry: object) -> object:
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str) or flag(entry, "enabled") is False:
        return entry
    return {**entry, "content": split_decorators(entry["content"])[1]}
