"""Puts a character together for one prompt: its system text, examples, greeting, lore and late instructions. Pure.

The order is that of the specifications. What stays the same from turn to turn stands first; lore that the card puts
nowhere in particular stands last, in front of the newest message, with the instructions after the history.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bot.characters.card import MAX_GREETING_CHARS, CharacterCard
from bot.characters.examples import MARK, Examples, read_examples
from bot.characters.lore.scan import Lore, LoreScanner
from bot.characters.macros import Macros, expand

SYSTEM_PROMPT = (
    "You are {{char}}, in a conversation with {{user}}. Stay in character, and write only what {{char}} says and does."
)
"""What a card without `system_prompt` gets, and what `{{original}}` stands for in one that has it."""
OPENING = "(The conversation begins.)"
"""What the greeting is the reply to: many chat formats take no dialog that the model begins."""
_EXAMPLES_NOTE = f"Messages that begin with {MARK} show how {{{{char}}}} speaks; they are not part of the conversation."
_PERSONALITY = "{{char}}'s personality: "
_LATE = "[Notes for your next message. The program added them; the sender does not see them.]\n{}\n[End of the notes.]"
_FRAME = re.compile(r"\[(?=\s*(?:speaker\b|notes\b|end\s+of\s+the\s+notes\b))", re.IGNORECASE)
"""What begins or ends a frame of the program: also that of a speaker in a conversation of several."""


@dataclass(frozen=True, slots=True)
class CharacterPrompt:
    """The parts of a prompt that a character adds to a conversation."""

    system: str = field(repr=False)
    examples: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """What a user says and what the character says, before everything that was really said."""
    greeting: str = field(default="", repr=False)
    late: str = field(default="", repr=False)
    """Stands in front of the newest message."""
    at_depth: tuple[tuple[int, str], ...] = field(default=(), repr=False)
    """What stands before the n-th message from the end, the newest being the first."""
    lore: tuple[int, ...] = ()
    """The indexes of the lorebook's entries in it."""


class Character:
    """A card that is ready for prompts."""

    def __init__(self, card: CharacterCard) -> None:
        self.card = card
        self.template = template_of(card)
        self.scanner = LoreScanner(card.book) if card.book and card.book.entries else None

    def greeting(self, macros: Macros) -> str:
        """The chosen greeting as a member reads it."""
        return expand(self.card.chosen_greeting, macros, MAX_GREETING_CHARS).strip()

    def prompt(
        self,
        macros: Macros,
        lore: Sequence[Lore] = (),
        *,
        late_macros: Macros | None = None,
        system_text: str | None = None,
    ) -> CharacterPrompt:
        """The character in a prompt with this lore.

        `late_macros`: for what stands last and may change with each turn. `system_text` stands in for the card's own,
        if somebody has edited it.
        """
        card = self.card
        examples = read_examples(card.examples, card.name, card.nickname, macros) if card.examples else Examples()
        late, at_depth = _late(card, late_macros or macros, lore)
        if system_text is None:
            system = _system(card, macros, lore, examples.prose)
        else:
            system = _edited(expand(system_text, macros), lore)
        if examples.pairs:
            system = f"{system}\n\n{expand(_EXAMPLES_NOTE, macros)}"
        return CharacterPrompt(
            system=system,
            examples=tuple((_unframed(user), _unframed(reply)) for user, reply in examples.pairs),
            greeting=self.greeting(macros),
            late=late,
            at_depth=at_depth,
            lore=tuple(each.entry.index for each in lore),
        )


def template_of(card: CharacterCard) -> str:
    """The card's own system text with its macros as they are: what a persona made of it shows, and what is limited."""
    parts = [card.system_prompt or SYSTEM_PROMPT, card.description]
    if card.system_prompt and not (card.description or card.personality or card.scenario):
        return card.system_prompt
    parts += [_PERSONALITY + card.personality if card.personality else "", _scenario(card.scenario)]
    return _joined(parts)


def _scenario(text: str) -> str:
    return f"Scenario: {text}" if text else ""


def _system(card: CharacterCard, macros: Macros, lore: Sequence[Lore], prose: str) -> str:
    def at(position: str) -> list[str]:
        return [each.text for each in lore if each.entry.position == position]

    fallback = expand(SYSTEM_PROMPT, macros)
    own = _with_original(card.system_prompt, fallback, macros) if card.system_prompt else fallback
    personality = _joined([expand(card.personality, macros), *at("personality")])
    return _joined(
        [
            own,
            *at("before_char"),
            *at("before_desc"),
            expand(card.description, macros),
            *at("after_desc"),
            expand(_PERSONALITY, macros) + personality if personality else "",
            _scenario(_joined([expand(card.scenario, macros), *at("scenario")])),
            f"How {macros.char} speaks:\n{prose}" if prose else "",
            *at("after_char"),
        ]
    )


def _edited(text: str, lore: Sequence[Lore]) -> str:
    before = [each.text for each in lore if each.entry.position in {"before_char", "before_desc"}]
    after = [each.text for each in lore if each.entry.position not in {None, "before_char", "before_desc"}]
    return _joined([*before, text, *after])


def _late(card: CharacterCard, macros: Macros, lore: Sequence[Lore]) -> tuple[str, tuple[tuple[int, str], ...]]:
    """What stands before the newest message, and what stands deeper in the history."""
    free = [each for each in lore if each.entry.position is None]
    near = [each.text for each in free if each.entry.depth is None or each.entry.depth < 2]
    deep: dict[int, str] = {}
    for each in free:
        if each.entry.depth is not None and each.entry.depth >= 2:
            deep[each.entry.depth] = _joined([deep.get(each.entry.depth, ""), each.text])
    instructions = _with_original(card.post_history_instructions, "", macros)
    late = _joined([*near, instructions])
    return framed(late), tuple((depth, framed(text)) for depth, text in sorted(deep.items()))


def framed(text: str) -> str:
    """Notes that stand in a member's message, told apart from it; "" for none. They cannot end their frame."""
    return _LATE.format(_unframed(text)) if text else ""


def _unframed(text: str) -> str:
    """The text of a card, which comes from strangers, without lines that look like the program's own."""
    return _FRAME.sub("(", text)


def _with_original(text: str, original: str, macros: Macros) -> str:
    return expand(text, replace(macros, original=original)).strip()


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(part.strip() for part in parts if part.strip())
