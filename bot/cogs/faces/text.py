"""What the commands for faces and pictures say. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from bot.discord_app.rest.channel_webhooks import WebhookProblem
from bot.guilds.profiles import Outcome
from models.types import PersonaFace, ProfileProblem

FACES: Mapping[PersonaFace, str] = {
    "off": "not at all: all answers are mine",
    "name": "by name, in bold above each answer",
    "profile": "the guild's persona as my own name and picture here, others by name",
    "webhook": "each under its own name, as a webhook (I need Manage Webhooks)",
}
_SHOWN: Mapping[PersonaFace, str] = {
    "off": "Answers do not say which persona they come from.",
    "name": "The name of the persona that answers stands in bold above each answer.",
    "profile": "This guild's persona is my name and picture here; others have theirs in bold above each answer.",
    "webhook": "Each persona answers messages under its own name, the guild's also with its picture. Answers to "
    "commands are mine, with the name in bold above them.",
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


_WEBHOOK_PROBLEMS: Mapping[WebhookProblem, str] = {
    "forbidden": "I may not use webhooks here: I need the permissions Manage Webhooks and Send Messages (in threads, "
    "Send Messages in Threads).",
    "full": "This channel has as many webhooks as Discord allows, 15. Please delete one.",
    "gone": "My webhook here was deleted. I make another one in a minute.",
    "refused": "Discord has refused an answer through my webhook here, maybe for the persona's name.",
    "away": "Discord did not let me use webhooks here just now.",
}
NEEDS_MENTION = (
    "Members who reply to such an answer must mention me, too: Discord shows me other replies only with the message "
    "content intent, which I do not have."
)


def webhook_text(problem: WebhookProblem | None) -> str:
    """Why personas do not speak through a webhook here now, and what happens instead; "" if they do."""
    if problem is None:
        return ""
    return f"{_WEBHOOK_PROBLEMS[problem]} Without a webhook, names stand in bold above answers."


def problem_text(problem: ProfileProblem | None) -> str:
    """What Discord has against the present profile; "" where an admin can do nothing about it."""
    return _MENDABLE.get(problem or "", "")


def picture_text(name: str, *, removed: bool | None) -> str:
    """What became of the picture of a persona, whose name is shown in bold. `removed`: None if there was none."""
    if removed is None:
        return f"{name} has no picture. With `file` you give it one."
    return f"The picture of {name} is gone." if removed else f"This is {name} now."
