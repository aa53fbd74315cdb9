"""Under which name a persona speaks through a webhook, and what else of it stands above its reply. Pure functions."""

from __future__ import annotations

from bot.discord_app.replies.quoting import address_line, speaker_line
from bot.discord_app.rest.account_names import webhook_name
from bot.discord_app.rest.webhook_api import Voice
from models.types import Place, Speaker


def voice_of(place: Place, speaker: Speaker | None) -> Voice | None:
    """The voice in which a reply is given here; None if the bot itself gives it.

    The messages of a reply keep the name that they have begun with: Discord cannot change it.
    """
    if place.webhook_id is None:
        return None
    name = place.webhook_name or (webhook_name(speaker.name) if speaker else None)
    if name is None:
        return None
    same = speaker is not None and webhook_name(speaker.name) == name
    return Voice(name, speaker.persona_id if speaker is not None and same else 0)


def voice_lines(place: Place, speaker: Speaker | None, note: str = "") -> str:
    """What stands above a reply: whom it answers, a note, and the name of who answers, unless the webhook shows it."""
    voice = voice_of(place, speaker)
    if voice is None:
        return note + speaker_line(speaker)
    shown = speaker is None or webhook_name(speaker.name) == voice.name
    return address_line(place) + note + ("" if shown else speaker_line(speaker))
