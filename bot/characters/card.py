"""A character card of version 1, 2 or 3 as a value: what its fields say, and the JSON that it was read from. Pure.

Read as SillyTavern reads them: missing fields are empty, and versions that are newer or misspelt are no reason to
refuse a card. `raw` is the JSON as it came, and so are all fields and extensions in it that are not known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bot.characters.lore.entry import Lorebook, read_lorebook
from bot.characters.refused import CardRefused, not_a_card
from bot.characters.values import mapping, number, text, texts, whole
from bot.i18n.language import gettext as _
from bot.text import clean_text

MAX_NAME_CHARS = 80
MAX_GREETINGS = 100
MAX_GREETING_CHARS = 8000
"""A greeting opens the first reply, on Discord in messages of 2,000 characters; a longer one is not used."""
OWN_EXTENSION = "guildllama"
"""Our own part of a card's `extensions`; no export has it."""
_SPECS = {"chara_card_v2": 2, "chara_card_v3": 3}
_NEWEST = 3.0
_OF_FLAT_CARDS = (
    "first_mes",
    "mes_example",
    "personality",
    "scenario",
    "system_prompt",
    "char_persona",
    "char_greeting",
)
"""Version 1 has no mark of its own: one of these tells a card from other files with a name and a description."""
_ADULT = re.compile(r"nsfw|nsfl|not safe for work|r-?18g?|18 ?\+|\+18|adults? only|adult content|explicit|porn|hentai")
"""What cards say in their tags, in any case."""
_BLANKS = re.compile(r"\s+")
_PYGMALION = {
    "char_name": "name",
    "char_persona": "description",
    "world_scenario": "scenario",
    "char_greeting": "first_mes",
    "example_dialogue": "mes_example",
}
"""The names of the fields before there were cards."""


@dataclass(frozen=True, slots=True)
class CharacterCard:
    """What a card says. Its texts may have macros; nothing in it is trusted, and no `repr` shows it."""

    version: int
    is_newer: bool
    """Whether the card states a version after those that are known here."""
    name: str
    nickname: str = field(default="", repr=False)
    description: str = field(default="", repr=False)
    personality: str = field(default="", repr=False)
    scenario: str = field(default="", repr=False)
    system_prompt: str = field(default="", repr=False)
    post_history_instructions: str = field(default="", repr=False)
    examples: str = field(default="", repr=False)
    greetings: tuple[str, ...] = field(default=(), repr=False)
    """`first_mes`, then the alternates. One that is missing or too long is empty."""
    num_long_greetings: int = 0
    book: Lorebook | None = field(default=None, repr=False)
    creator: str = field(default="", repr=False)
    creator_notes: str = field(default="", repr=False)
    character_version: str = field(default="", repr=False)
    tags: tuple[str, ...] = field(default=(), repr=False)
    assets: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)
    """Type, name and URI of each."""
    num_group_greetings: int = 0
    extensions: tuple[str, ...] = ()
    """The names of what programs keep in the card."""
    greeting: int = 0
    """Which greeting is chosen."""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def char(self) -> str:
        """What `{{char}}` stands for."""
        return self.nickname or self.name

    @property
    def is_age_restricted(self) -> bool:
        """Whether its tags say that it is for adults only."""
        return any(_ADULT.fullmatch(" ".join(tag.casefold().split())) for tag in self.tags)

    @property
    def chosen_greeting(self) -> str:
        """The greeting that conversations begin with; "" for none."""
        return self.greetings[self.greeting] if self.greeting < len(self.greetings) else ""


def read_card(raw: Mapping[str, Any]) -> CharacterCard:
    """The card that this JSON is. Raises CardRefused."""
    data = card_data(raw)
    spec = raw.get("spec")
    version = _SPECS.get(str(spec), 2) if spec is not None or "data" in raw else 1
    stated = number(raw, "spec_version")
    name = _name(text(data, "name"))
    if version == 1 and not any(field_name in raw for field_name in _OF_FLAT_CARDS):
        raise not_a_card()
    if not name:
        raise not_a_card(_("it has no name"))
    greetings = (text(data, "first_mes"), *texts(data, "alternate_greetings"))
    if len(greetings) > MAX_GREETINGS:
        text_of = _("This card has {number:,} greetings; I take at most {limit}.")
        raise CardRefused(text_of.format(number=len(greetings), limit=MAX_GREETINGS))
    extensions = mapping(data, "extensions")
    own = extensions.get(OWN_EXTENSION)
    chosen = whole(own, "greeting") if isinstance(own, dict) else None
    return CharacterCard(
        version=version,
        is_newer=stated is not None and stated > _NEWEST,
        name=name,
        nickname=_name(text(data, "nickname")),
        description=clean_text(text(data, "description")),
        personality=clean_text(text(data, "personality")),
        scenario=clean_text(text(data, "scenario")),
        system_prompt=clean_text(text(data, "system_prompt")),
        post_history_instructions=clean_text(text(data, "post_history_instructions")),
        examples=clean_text(text(data, "mes_example")),
        greetings=tuple(clean_text(each) if len(each) <= MAX_GREETING_CHARS else "" for each in greetings),
        num_long_greetings=sum(len(each) > MAX_GREETING_CHARS for each in greetings),
        book=read_lorebook(mapping(data, "character_book")) if data.get("character_book") else None,
        creator=clean_text(text(data, "creator")),
        creator_notes=clean_text(text(data, "creator_notes")),
        character_version=clean_text(text(data, "character_version")),
        tags=tuple(clean_text(tag) for tag in texts(data, "tags")),
        assets=_assets(data),
        num_group_greetings=len(texts(data, "group_only_greetings")),
        extensions=tuple(str(key) for key in extensions if key != OWN_EXTENSION),
        greeting=chosen if chosen is not None and 0 <= chosen < len(greetings) else 0,
        raw=raw,
    )


def card_data(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the character: in `data`, or in version 1 the object itself."""
    data = raw.get("data")
    if isinstance(data, dict):
        return data
    if "data" in raw and raw.get("spec") in _SPECS:
        raise CardRefused(_("The field `data` of this card must be an object."))
    if "name" not in raw and "char_name" in raw:
        return {**raw, **{new: raw[old] for old, new in _PYGMALION.items() if old in raw}}
    return raw


def with_greeting(raw: Mapping[str, Any], greeting: int) -> dict[str, Any]:
    """The same card with another greeting chosen: kept where specifications allow programs to keep things."""
    data = dict(card_data(raw))
    extensions = dict(mapping(data, "extensions"))
    if greeting == 0 and OWN_EXTENSION not in extensions:
        return dict(raw)
    extensions[OWN_EXTENSION] = {"greeting": greeting}
    data["extensions"] = extensions
    return {**raw, "data": data} if isinstance(raw.get("data"), dict) else data


def _name(value: str) -> str:
    return _BLANKS.sub(" ", clean_text(value)).strip()[:MAX_NAME_CHARS].strip()


def _assets(data: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    listed = data.get("assets")
    if not isinstance(listed, list):
        return ()
    return tuple(
        (text(each, "type"), text(each, "name"), text(each, "uri")) for each in listed if isinstance(each, dict)
    )
