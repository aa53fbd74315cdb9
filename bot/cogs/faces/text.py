"""What the commands for faces and pictures say. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from bot.guilds.profiles import Outcome
from models.types import PersonaFace, ProfileProblem

FACES: Mapping[PersonaFace, str] = {
    "off": "not at all: all answers are mine",
    "name": "by name, in bold above each answer",
    "profile": "the guild's persona as my own name and picture here, others by name",
}
_SHOWN: Mapping[PersonaFace, str] = {
    "off": "Answers do not say which persona they come from.",
    "name": "The name of the persona that answers stands in bold above each answer.",
    "profile": "This guild's persona is my name and picture here; others have theirs in bold above each answer.",
}


def face_text(face: PersonaFace) -> str:
    """How personas are seen in a guild."""
    return _SHOWN[face]


_MENDABLE: Mapping[str, str] = {
    "forbidden": "I may not change my nickname here. Please give me the permission Change Nickname, then use "
    "`/persona face` again.",
    "refused": "Discord does not take this persona's name or picture for my profile. Another name or picture may "
    "help; then use `/persona face` again.",
}


def outcome_text(outcome: Outcome, face: PersonaFace) -> str:
    """What became of the bot's profile after a change; "" if there is nothing to say."""
    if outcome == "later":
        mine = "change" if face == "profile" else "are my own again"
        return f"My name and picture here {mine} within a few minutes: Discord lets me do that only now and then."
    return _MENDABLE.get(outcome, "")


def problem_text(problem: ProfileProblem | None) -> str:
    """What Discord has against the present profile; "" where an admin can do nothing about it."""
    return _MENDABLE.get(problem or "", "")


def picture_text(name: str, *, removed: bool | None) -> str:
    """What became of the picture of a persona, whose name is shown in bold. `removed`: None if there was none."""
    if removed is None:
        return f"{name} has no picture. With `file` you give it one."
    return f"The picture of {name} is gone." if removed else f"This is {name} now."
