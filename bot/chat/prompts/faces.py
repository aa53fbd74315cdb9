"""Whether the name of a persona stands above its replies. Pure function."""

from __future__ import annotations

from models.types import PersonaFace, PersonaText, Speaker


def named_speaker(persona: PersonaText | None, face: PersonaFace, profile_id: int | None) -> Speaker | None:
    """The persona as it is named above its reply; None where it has no name, or the guild does not want it shown.

    With the face "webhook" it speaks under this name, where that works. With "profile" the bot itself is called like
    one persona, `profile_id`, and only others need their name: also the guild's, while Discord has not taken its name.
    """
    if persona is None or not persona.name or face == "off":
        return None
    if face == "profile" and persona.persona_id == profile_id:
        return None
    return Speaker(persona.persona_id, persona.name)
