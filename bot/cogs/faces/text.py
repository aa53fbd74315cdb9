"""What the commands for faces and pictures say. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from models.types import PersonaFace

FACES: Mapping[PersonaFace, str] = {
    "off": "not at all: all answers are mine",
    "name": "by name, in bold above each answer",
}
_SHOWN: Mapping[PersonaFace, str] = {
    "off": "Answers do not say which persona they come from.",
    "name": "The name of the persona that answers stands in bold above each answer.",
    "profile": "This guild's persona is my name and picture here; others have theirs in bold above each answer.",
}


def face_text(face: PersonaFace) -> str:
    """How personas are seen in a guild."""
    return _SHOWN[face]
