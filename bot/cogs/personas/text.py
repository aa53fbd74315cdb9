"""What the persona commands say, in Discord's Markdown. Pure functions.

Names and texts are what members wrote: names are shown escaped and on one line, and no message mentions anyone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from discord.utils import escape_markdown, escape_mentions

from bot.discord_app.permissions.own_persona import OwnBarrier
from bot.discord_app.splitting.code_fences import utf16_length
from bot.guilds.persona_checks import PersonaSize
from bot.guilds.persona_library import PersonaPage
from bot.i18n.language import N_, ngettext
from bot.i18n.language import gettext as _
from models.types import PersonaAssignmentInfo, PersonaInfo, PersonaText, PersonaVersionInfo, ResetCounts, StoredLevel

MODAL_TITLES: Mapping[bool, str] = {False: N_("A persona of this guild"), True: N_("Your own persona for me")}
KEPT = N_("Our conversations go on; /reset starts a new one.")
NOT_SET: Mapping[bool, str] = {
    False: N_("This guild has no persona of its own."),
    True: N_("You have no persona of your own here."),
}
BARRED: Mapping[OwnBarrier, str] = {
    "nobody": N_("this guild does not let members have their own"),
    "roles": N_("only members with certain roles may have their own in this guild"),
    "locked": N_("this place is locked"),
}
KEEP_OR_AFRESH: Mapping[bool, tuple[str, str]] = {
    False: (N_("Keep the conversations"), N_("Begin afresh")),
    True: (N_("Keep the conversation"), N_("Begin afresh")),
}
TOO_LATE_FOR_AFRESH: Mapping[bool, str] = {
    False: N_("-# Too much time has passed since I asked. `/persona set` with `conversations` begins them afresh."),
    True: N_("-# Too much time has passed since I asked. `/reset` starts a new one."),
}
RESTRICTED = "\N{NO ONE UNDER EIGHTEEN SYMBOL}"
"""Stands behind the name of a persona that is restricted by age."""
_PREVIEW_CHARS = 80
_MOST_NAMED = 5
"""Places that are named in one sentence."""
_MAX_LIST = 1_900
"""UTF-16 units of a list; Discord takes 2,000."""


def bold(name: str) -> str:
    """A name in bold, as it was typed."""
    return f"**{escape_mentions(escape_markdown(name))}**"


def name_of(name: str) -> str:
    """The same, or what to call a persona without a name."""
    return bold(name) if name else _("this persona")


def where_of(level: StoredLevel, place_id: int) -> str:
    """A place, as the end of a sentence."""
    text = {
        "guild": _("in this guild"),
        "category": _("in the category {channel}"),
        "channel": _("in {channel}"),
        "thread": _("in the thread {channel}"),
        "member": _("for you here"),
    }[level]
    return text.format(channel=f"<#{place_id}>")


def now_text(name: str, level: StoredLevel, place_id: int) -> str:
    """Who answers from now on."""
    text = _("From the next message on I am {name} {where}.")
    if level == "member":
        text = _("From now on I am {name} {where}.")
    return text.format(name=name_of(name), where=where_of(level, place_id))


def public_text(name: str, level: StoredLevel, place_id: int, *, afresh: bool) -> str:
    """The line that everyone in the channel sees."""
    text = _("-# From now on {name} answers {where}. Our conversations go on.")
    if afresh:
        text = _("-# From now on {name} answers {where}. We begin new conversations.")
    return text.format(name=name_of(name), where=where_of(level, place_id))


def question_text(level: StoredLevel, place_id: int, minutes: int) -> str:
    """The question below the answer to who set a persona, a paragraph of its own."""
    text = _(
        "Shall the conversations {where} go on, or begin afresh? Without an answer within {minutes} minutes they go on."
    )
    if level == "member":
        text = _(
            "Shall our conversation here go on, or begin afresh? Without an answer within {minutes} minutes they go on."
        )
    return text.format(where=where_of(level, place_id), minutes=minutes)


def answered_question(said: str, afresh: str = "") -> str:
    """An answer without its question. `afresh`: what stands there in place of that the conversations go on."""
    text = said.rpartition("\n\n")[0] or said
    if not afresh:
        return text
    kept = _(KEPT)
    return text.replace(kept, afresh, 1) if kept in text else f"{text}\n{afresh}"


def public_afresh_text(level: StoredLevel, place_id: int) -> str:
    """The line that everyone in the channel sees once conversations were ended."""
    return _("-# We begin new conversations {where}.").format(where=where_of(level, place_id))


def public_clear_text(level: StoredLevel, place_id: int) -> str:
    """The same once none is set there any more."""
    text = _("-# The persona that answered {where} is gone. Our conversations go on.")
    return text.format(where=where_of(level, place_id))


def cleared_text(level: StoredLevel, place_id: int) -> str:
    """What was cleared."""
    if level == "guild":
        return _("This guild's persona is gone.")
    if level == "member":
        return _("Your own persona is gone.")
    return _("The persona that answered {where} is gone.").format(where=where_of(level, place_id))


def not_set_text(level: StoredLevel, place_id: int) -> str:
    """There is none at this level."""
    if level in ("guild", "member"):
        return _(NOT_SET[level == "member"])
    return _("No persona is set {where}.").format(where=where_of(level, place_id))


def afresh_text(ended: ResetCounts, *, guild_wide_go_on: bool) -> str:
    """How many conversations were ended."""
    text = ngettext(
        "{number:,} conversation has ended; the next message begins a new one.",
        "{number:,} conversations have ended; the next message begins a new one.",
        ended.dialogs,
    ).format(number=ended.dialogs)
    if ended.dialogs == 0:
        text = _("No conversation had begun.")
        if guild_wide_go_on:
            text = _("No conversation belongs to this place alone.")
    if not guild_wide_go_on:
        return text
    return f"{text} {_('Those that members have with me in the whole guild go on.')}"


def size_text(size: PersonaSize | None) -> str:
    """What a persona takes of the context; "" if the engine could not count."""
    if size is None:
        return ""
    text = _("-# It takes {tokens:,} tokens, {percent} % of the {context:,} that I can keep in mind.")
    return text.format(tokens=size.tokens, percent=size.percent, context=size.context)


def version_line(version: PersonaVersionInfo) -> str:
    """One version in the list: its number, date, name and first words."""
    text = " ".join(version.prompt.split())
    preview = escape_markdown(text if len(text) <= _PREVIEW_CHARS else f"{text[:_PREVIEW_CHARS]}…")
    name = f" · {bold(version.name)}" if version.name else ""
    active = f" · {_('**in force**')}" if version.active else ""
    return f"{version.version}\\. {version.created_at:%Y-%m-%d %H:%M} UTC{name}{active} · {preview}"


def list_text(page: PersonaPage, *, own: bool, tag: str) -> str:
    """A page of a library: names, tags, and where each of them answers, as far as one message has room."""
    if not page.entries:
        if tag:
            return _("No persona here has the tag {tag}.").format(tag=bold(tag))
        return _(NOT_SET[True]) if own else _("This guild keeps no personas yet.")
    if tag:
        title = (
            _("Your own personas here with the tag {tag}:")
            if own
            else _("The personas of this guild with the tag {tag}:")
        )
        title = title.format(tag=bold(tag))
    else:
        title = _("Your own personas here:") if own else _("The personas of this guild:")
    whole = [title, *(_entry_line(each, page.places[each.persona_id]) for each in page.entries)]
    brief = [title, *(f"- {bold(each.name)}" for each in page.entries)]
    return "\n".join(whole if sum(map(utf16_length, whole)) < _MAX_LIST else brief)


def _entry_line(entry: PersonaInfo, places: Sequence[PersonaAssignmentInfo]) -> str:
    tags = "".join(f" `#{tag.replace('`', '')}`" for tag in entry.tags)
    mark = f" {RESTRICTED}" if entry.age_restricted else ""
    line = f"- {bold(entry.name)}{mark}{tags}"
    return _("{entry} – answers {places}").format(entry=line, places=places_text(places)) if places else line


def rating_text(name: str, *, age_restricted: bool) -> str:
    """Where a persona answers from now on, as far as its rating decides it."""
    if age_restricted:
        return _(
            "{name} is age-restricted now: it answers only in channels that Discord restricts by age, and in no direct "
            "messages. Elsewhere the next persona answers."
        ).format(name=bold(name))
    return _("{name} is not age-restricted any more: it answers wherever it is set.").format(name=bold(name))


def restricted_note(*, here: bool) -> str:
    """That a persona is restricted by age. `here`: whether this channel is so too."""
    if here:
        return _("-# It is age-restricted: it answers only in channels that Discord restricts by age, as this one.")
    return _("-# It is age-restricted: it answers only in channels that Discord restricts by age, so not in this one.")


def places_text(places: Sequence[PersonaAssignmentInfo]) -> str:
    """Where a persona is set, in words."""
    rest = _("in {number} more places").format(number=len(places) - _MOST_NAMED)
    return _listed([where_of(each.level, each.place_id) for each in places], rest)


def _listed(named: Sequence[str], rest: str) -> str:
    """The first of them in one phrase. `rest`: what stands for all others, if there are any."""
    shown = [*named[:_MOST_NAMED], *([rest] if len(named) > _MOST_NAMED else [])]
    if len(shown) == 1:
        return shown[0]
    return _("{names} and {last}").format(names=", ".join(shown[:-1]), last=shown[-1])


def scenes_text(scenes: Mapping[int, int]) -> str:
    """The places in whose scenes a persona plays, and where nobody does without it. `scenes`: the number of others."""
    channels = [f"<#{place_id}>" for place_id in scenes]
    ends = [f"<#{place_id}>" for place_id, others in scenes.items() if not others]
    places, lonely = _with_others(channels), _with_others(ends) if ends else ""
    if ends:
        text = ngettext(
            "It plays in the scene of {places}; without it nobody plays in {lonely}.",
            "It plays in the scenes of {places}; without it nobody plays in {lonely}.",
            len(channels),
        )
    else:
        text = ngettext("It plays in the scene of {places}.", "It plays in the scenes of {places}.", len(channels))
    return text.format(places=places, lonely=lonely)


def _with_others(channels: Sequence[str]) -> str:
    return _listed(channels, _("{number} others").format(number=len(channels) - _MOST_NAMED))


def delete_text(entry: PersonaInfo, places: Sequence[PersonaAssignmentInfo], scenes: Mapping[int, int]) -> str:
    """What a deletion would do, and to which places and scenes."""
    sentences = [_("This deletes {name} with all its versions for good.").format(name=bold(entry.name))]
    if places:
        answers = _("It answers {places}; then the next wider persona answers there.")
        sentences.append(answers.format(places=places_text(places)))
    if scenes:
        sentences.append(scenes_text(scenes))
    return " ".join(sentences)


def quoted_prompt(persona: PersonaText) -> str:
    """The text that the model is told."""
    return f"{_('I am told this:')}\n\n{persona.prompt}"
