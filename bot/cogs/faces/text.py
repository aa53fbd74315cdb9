"""What the commands for faces and pictures say. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from bot.discord_app.rest.channel_webhooks import WebhookProblem
from bot.guilds.profiles import Outcome
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from models.types import PersonaFace, ProfileProblem

FACES: Mapping[PersonaFace, str] = {
    "off": N_("not at all: all answers are mine"),
    "name": N_("by name, in bold above each answer"),
    "profile": N_("the guild's persona as my own name and picture here, others by name"),
    "webhook": N_("each under its own name, as a webhook (I need Manage Webhooks)"),
}
_SHOWN: Mapping[PersonaFace, str] = {
    "off": N_("Answers do not say which persona they come from."),
    "name": N_("The name of the persona that answers stands in bold above each answer."),
    "profile": N_("This guild's persona is my name and picture here; others have theirs in bold above each answer."),
    "webhook": N_(
        "Each persona answers messages under its own name, the guild's also with its picture. Answers to "
        "commands are mine, with the name in bold above them."
    ),
}


def face_text(face: PersonaFace) -> str:
    """How personas are seen in a guild."""
    return _(_SHOWN[face])


_MENDABLE: Mapping[str, str] = {
    "forbidden": N_(
        "I may not change my nickname here. Please give me the permission Change Nickname, then use "
        "`/persona face` again."
    ),
    "refused": N_(
        "Discord does not take this persona's name or picture for my profile. Another name or picture may "
        "help; then use `/persona face` again."
    ),
}


def outcome_text(outcome: Outcome, face: PersonaFace) -> str:
    """What became of the bot's profile after a change; "" if there is nothing to say."""
    if outcome == "later":
        if face == "profile":
            return _("My name and picture here change within a few minutes: Discord lets me do that only now and then.")
        return _(
            "My name and picture here are my own again within a few minutes: Discord lets me do that only now and then."
        )
    return _(_MENDABLE[outcome]) if outcome in _MENDABLE else ""


_WEBHOOK_PROBLEMS: Mapping[WebhookProblem, str] = {
    "forbidden": N_(
        "I may not use webhooks here: I need the permissions Manage Webhooks and Send Messages (in threads, "
        "Send Messages in Threads)."
    ),
    "full": N_("This channel has as many webhooks as Discord allows, 15. Please delete one."),
    "gone": N_("My webhook here was deleted. I make another one in a minute."),
    "refused": N_("Discord has refused an answer through my webhook here, maybe for the persona's name."),
    "away": N_("Discord did not let me use webhooks here just now."),
}
NEEDS_MENTION = N_(
    "Members who reply to such an answer must mention me, too: Discord shows me other replies only with the message "
    "content intent, which I do not have."
)


def webhook_text(problem: WebhookProblem | None) -> str:
    """Why personas do not speak through a webhook here now, and what happens instead; "" if they do."""
    if problem is None:
        return ""
    return f"{_(_WEBHOOK_PROBLEMS[problem])} {_('Without a webhook, names stand in bold above answers.')}"


def problem_text(problem: ProfileProblem | None) -> str:
    """What Discord has against the present profile; "" where an admin can do nothing about it."""
    return _(_MENDABLE[problem]) if problem is not None and problem in _MENDABLE else ""


def picture_text(name: str, *, removed: bool | None) -> str:
    """What became of the picture of a persona, whose name is shown in bold. `removed`: None if there was none."""
    if removed is None:
        return _("{name} has no picture. With `file` you give it one.").format(name=name)
    text = _("The picture of {name} is gone.") if removed else _("This is {name} now.")
    return text.format(name=name)
