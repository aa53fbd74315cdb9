"""Who answers a member here, and why this one: the levels in order, as text. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cogs.faces.text import face_text, problem_text, webhook_text
from bot.cogs.personas.text import BARRED, RESTRICTED, bold, name_of
from bot.discord_app.caller import Caller
from bot.discord_app.permissions.own_persona import OwnBarrier
from bot.discord_app.rest.channel_webhooks import WebhookProblem
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from models.queries.tenants.personas import shown_name
from models.types import (
    DIRECT_MESSAGES,
    PersonaFace,
    PersonaLevelInfo,
    PersonaText,
    ProfileProblem,
    SceneInfo,
    StoredLevel,
)

_SHARED = N_("everyone here shares one conversation")
_WHY = {
    "member": N_("you chose it for yourself"),
    "thread": N_("it is set for this thread"),
    "channel": N_("it is set for this channel"),
    "category": N_("it is set for this category"),
    "guild": N_("it is this guild's persona"),
    "default": N_("no persona is set here"),
}
_MISSING = {
    "member": N_("your own – you have no persona of your own here"),
    "thread": N_("this thread – none"),
    "channel": N_("this channel – none"),
    "category": N_("this category – none"),
    "guild": N_("this guild – no persona of its own"),
}
_LABELS = {
    "member": N_("your own – {name}"),
    "thread": N_("this thread – {name}"),
    "channel": N_("this channel – {name}"),
    "category": N_("this category – {name}"),
    "guild": N_("this guild – {name}"),
}


def answering_text(
    caller: Caller,
    persona: PersonaText,
    levels: Sequence[PersonaLevelInfo],
    barrier: OwnBarrier | None,
    *,
    shared: bool,
    face: PersonaFace = "off",
    problem: ProfileProblem | None = None,
    scene: SceneInfo | None = None,
    webhook_problem: WebhookProblem | None = None,
) -> str:
    """Who answers, why, and every level from the narrowest on. `shared`: the caller's conversation is everyone's."""
    winner = bold(persona.name) if persona.name else _("A persona without a name")
    winner = winner if persona.level != "default" else _("The persona of this bot's owner")
    answers = _("{persona} answers you here: {why}.").format(persona=winner, why=_(_WHY[persona.level]))
    lines, wins = [answers, ""], _("answers you")
    if scene is not None:
        names = ", ".join(bold(each.name) for each in scene.characters)
        plays = _("In {channel} a scene plays: {names} answer you here.")
        without = _("Without the scene {persona} would answer you: {why}.")
        lines = [
            plays.format(channel=f"<#{scene.place_id}>", names=names),
            "",
            without.format(persona=winner, why=_(_WHY[persona.level])),
            "",
        ]
        wins = _("would answer you")
    found = {each.level: each for each in levels}
    why_not = _(_SHARED) if shared else _(BARRED[barrier]) if barrier else ""
    for level in _levels_of(caller):
        each = found.get(level)
        if each is None:
            missing = _(_MISSING[level])
            barred = f" ({why_not})" if level == "member" and why_not else ""
            lines.append(f"- {missing}{barred}")
            continue
        named = _(_LABELS[level]).format(name=name_of(shown_name(each.name)))
        state = f" · **{wins}**" if level == persona.level else ""
        if level == "member" and why_not:
            state = " · " + _("not here: {why}").format(why=why_not)
        elif each.age_restricted and not caller.age_restricted:
            state = " · " + _("not here: it is age-restricted, and this channel is not")
        mark = f" {RESTRICTED}" if each.age_restricted else ""
        lines.append(f"- {named}{mark}{state}")
    otherwise = _("otherwise – that of this bot's owner")
    state = f" · **{wins}**" if persona.level == "default" else ""
    lines.append(f"- {otherwise}{state}")
    if face != "off":
        lines.append(f"-# {face_text(face)}")
    missing = problem_text(problem) if face == "profile" else webhook_text(webhook_problem) if face == "webhook" else ""
    if missing:
        lines.append(f"-# {missing}")
    return "\n".join(lines)


def _levels_of(caller: Caller) -> tuple[StoredLevel, ...]:
    """The levels that there are where the caller is, the narrowest first."""
    if caller.guild_id == DIRECT_MESSAGES:
        return ("member",)
    thread: tuple[StoredLevel, ...] = ("thread",) if caller.in_thread else ()
    category: tuple[StoredLevel, ...] = ("category",) if caller.category_id else ()
    return ("member", *thread, "channel", *category, "guild")
