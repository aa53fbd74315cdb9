"""Characters that are ready for prompts, and what one adds to the prompt of a turn.

A card is parsed once and remembered while it is used. Knows cards and messages; knows neither engine nor database.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import structlog

from bot.characters.assembly import OPENING, Character, CharacterPrompt
from bot.characters.card import read_card
from bot.characters.files.json_card import parse
from bot.characters.lore.matching import DEFAULT_BUDGET, LoreContext
from bot.characters.lore.scan import Lore
from bot.characters.macros import Macros
from bot.characters.refused import CardRefused
from bot.text import BYTES_PER_TOKEN
from models.types import Pair, PersonaText

log = structlog.get_logger(__name__)

EVERYONE = "everyone"
"""What `{{user}}` stands for in a dialog of several: a name in the system prompt must not change with the speaker."""
_REMEMBERED = 64
_REMEMBERED_CHARS = 8 << 20
_LARGE = 64 << 10
"""Characters of a card that takes too long to parse for the event loop."""
_LORE_SHARE = 4
"""A lorebook takes at most a quarter of the context."""
_LEAST_LORE_SHARE = 16
"""It may take a sixteenth of the context however long the card is."""


class Characters:
    """The cards of the personas that answer."""

    def __init__(self) -> None:
        self._remembered: OrderedDict[tuple[int, int, int], tuple[Character | None, int]] = OrderedDict()

    async def of(self, persona: PersonaText | None) -> Character | None:
        """The character that this persona is; None for one without a card, or with one that cannot be read."""
        if persona is None or persona.card is None:
            return None
        key = (persona.persona_id, persona.version, hash(persona.card))
        if key in self._remembered:
            self._remembered.move_to_end(key)
            return self._remembered[key][0]
        is_large = len(persona.card) > _LARGE
        character = await asyncio.to_thread(_character, persona.card) if is_large else _character(persona.card)
        self._remembered[key] = character, len(persona.card)
        while len(self._remembered) > 1 and (
            len(self._remembered) > _REMEMBERED
            or sum(size for _, size in self._remembered.values()) > _REMEMBERED_CHARS
        ):
            self._remembered.popitem(last=False)
        return character


def prompt_of(
    character: Character,
    *,
    persona: PersonaText,
    user: str,
    history: Sequence[Pair],
    text: str,
    first: bool,
    dialog_id: int,
    turn_id: int,
    context_length: int | None,
) -> CharacterPrompt:
    """What the character adds to the prompt of a turn. `first`: the conversation begins with its greeting."""
    card = character.card
    steady = Macros(card.char, user, seed=f"dialog {dialog_id}", pick_seed=f"dialog {dialog_id}")
    fresh = replace(steady, seed=f"turn {turn_id}")
    lore: tuple[Lore, ...] = ()
    if character.scanner is not None:
        said = [each for pair in history for each in (pair.user, pair.reply or pair.heard)]
        context = LoreContext(
            messages=[*([character.greeting(steady)] if first else []), *said, text],
            num_replies=len(history) + first,
            greeting=card.greeting,
            macros=fresh,
            count_tokens=estimated_tokens,
            max_tokens=_room_for_lore(character, context_length),
        )
        lore = character.scanner.select(context)
    edited = None if persona.prompt == character.template else persona.prompt
    return character.prompt(steady, lore, late_macros=fresh, system_text=edited)


def _room_for_lore(character: Character, context_length: int | None) -> int:
    """The tokens that lore may take: together with what every prompt of the character has, half of the context."""
    if not context_length:
        return DEFAULT_BUDGET
    left = context_length // 2 - estimated_tokens(character.template + character.card.post_history_instructions)
    return min(context_length // _LORE_SHARE, max(left, context_length // _LEAST_LORE_SHARE))


def with_character(prompt: CharacterPrompt, pairs: Sequence[Pair], *, first: bool) -> list[Pair]:
    """The pairs of a prompt: the examples, which are the first to be left out, the greeting, and what was said."""
    said = list(pairs)
    for depth, note in reversed(prompt.at_depth):  # the shallowest last, so that it stands nearest to the message
        index = max(0, len(said) - depth // 2)
        if index < len(said):
            said[index] = replace(said[index], user=f"{note}\n\n{said[index].user}")
    greeting = [Pair(0, OPENING, prompt.greeting)] if first and prompt.greeting else []
    return [*(Pair(0, user, reply) for user, reply in prompt.examples), *greeting, *said]


def notes_without_history(prompt: CharacterPrompt, pairs: Sequence[Pair]) -> str:
    """What stands in front of the newest message: with no message before it, also what belongs deeper."""
    deeper = [note for _, note in prompt.at_depth] if not pairs else []
    return "\n\n".join(part for part in (*deeper, prompt.late) if part)


def estimated_tokens(text: str) -> int:
    """About the tokens of a text: asking the engine for each entry of a lorebook would take longer than the reply."""
    return len(text.encode()) // BYTES_PER_TOKEN + 1


def _character(card: str) -> Character | None:
    try:
        return Character(read_card(parse(card)))
    except CardRefused as refused:  # it was read before it was stored, so this is a fault of ours
        log.error("a stored card cannot be read", error_id=refused.error_id)
        return None
