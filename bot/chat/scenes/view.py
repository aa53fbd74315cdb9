"""A turn as the character sees it that answers: its own replies are its own, those of others are what it heard.

Pure functions. A dialog of one member has no name for them; beside the characters they are called UNNAMED_SPEAKER.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bot.chat.prompts.speakers import character_name, heard, scene_rules
from bot.chat.requests import PendingTurn
from models.types import UNNAMED_SPEAKER, Pair, PersonaText, SceneInfo, Speaker


def as_character(turn: PendingTurn, scene: SceneInfo, chosen: PersonaText) -> PendingTurn:
    """The turn with this character as its persona, and what was said before as it heard that."""
    names = names_of(scene)
    return replace(
        turn,
        persona=chosen,
        speaker=Speaker(chosen.persona_id, chosen.name),
        author=turn.author or UNNAMED_SPEAKER,
        history=[_heard_by(chosen, pair, names) for pair in turn.history],
    )


def names_of(scene: SceneInfo) -> Mapping[int, str]:
    """The characters' names as prompts have them, each another one, by persona."""
    names: dict[int, str] = {}
    for character in scene.characters:
        names[character.persona_id] = character_name(character.name, names.values())
    return names


def rules_for(turn: PendingTurn) -> str:
    """What the character of a turn must know of the others; "" where there is no scene."""
    if turn.scene is None or turn.persona is None:
        return ""
    names = dict(names_of(turn.scene))
    own = names.pop(turn.persona.persona_id, character_name(turn.persona.name, ()))
    return scene_rules(own, tuple(names.values()))


def last_speaker(history: Sequence[Pair], scene: SceneInfo) -> int | None:
    """The index of the character that spoke last; None if none of them has."""
    ids = [character.persona_id for character in scene.characters]
    spoken = (pair.speaker.persona_id for pair in reversed(history) if pair.speaker is not None)
    return next((ids.index(persona_id) for persona_id in spoken if persona_id in ids), None)


def _heard_by(listener: PersonaText, pair: Pair, names: Mapping[int, str]) -> Pair:
    author = pair.author or UNNAMED_SPEAKER
    if pair.speaker is None or pair.speaker.persona_id == listener.persona_id:
        return replace(pair, author=author)  # before there was a scene, the bot answered as itself
    name = names.get(pair.speaker.persona_id) or character_name(pair.speaker.name, names.values())
    return replace(pair, author=author, reply="", heard=heard(name, pair.reply))
