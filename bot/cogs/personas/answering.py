"""Who answers a member here, and why this one: the levels in order, as text. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cogs.faces.text import face_text, problem_text, webhook_text
from bot.cogs.personas.text import BARRED, RESTRICTED, bold, name_of
from bot.discord_app.caller import Caller
from bot.discord_app.permissions import OwnBarrier
from bot.discord_app.rest.channel_webhooks import WebhookProblem
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

_SHARED = "everyone here shares one conversation"
_WHY = {
    "member": "you chose it for yourself",
    "thread": "it is set for this thread",
    "channel": "it is set for this channel",
    "category": "it is set for this category",
    "guild": "it is this guild's persona",
    "default": "no persona is set here",
}
_MISSING = {
    "member": "your own – you have no persona of your own here",
    "thread": "this thread – none",
    "channel": "this channel – none",
    "category": "this category – none",
    "guild": "this guild – no persona of its own",
}
_LABELS = {"member": "your own", "thread": "this thread", "channel": "this channel", "category": "this category",
           "guild": "this guild"}  # fmt: skip


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
    winner = bold(persona.name) if persona.name else "A persona without a name"
    winner = winner if persona.level != "default" else "The persona of this bot's owner"
    lines, wins = [f"{winner} answers you here: {_WHY[persona.level]}.", ""], "answers you"
    if scene is not None:
        names = ", ".join(bold(each.name) for each in scene.characters)
        lines = [
            f"In <#{scene.place_id}> a scene plays: {names} answer you here.",
            "",
            f"Without the scene {winner} would answer you: {_WHY[persona.level]}.",
            "",
        ]
        wins = "would answer you"
    found = {each.level: each for each in levels}
    why_not = _SHARED if shared else BARRED[barrier] if barrier else ""
    for level in _levels_of(caller):
        each = found.get(level)
        if each is None:
            missing = _MISSING[level]
            barred = f" ({why_not})" if level == "member" and why_not else ""
            lines.append(f"- {missing}{barred}")
            continue
        name = name_of(shown_name(each.name))
        state = f" · **{wins}**" if level == persona.level else ""
        if level == "member" and why_not:
            state = f" · not here: {why_not}"
        elif each.age_restricted and not caller.age_restricted:
            state = _(" · not here: it is age-restricted, and this channel is not")
        mark = f" {RESTRICTED}" if each.age_restricted else ""
        lines.append(f"- {_LABELS[level]} – {name}{mark}{state}")
    state = f" · **{wins}**" if persona.level == "default" else ""
    lines.append(f"- otherwise – that of this bot's owner{state}")
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
