"""What the persona commands say, in Discord's Markdown. Pure functions.

Names and texts are what members wrote: names are shown escaped and on one line, and no message mentions anyone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from discord.utils import escape_markdown, escape_mentions

from bot.discord_app.code_fences import utf16_length
from bot.discord_app.permissions import OwnBarrier
from bot.guilds.persona_checks import PersonaSize
from bot.guilds.persona_library import PersonaPage
from bot.i18n.language import gettext as _
from models.types import PersonaAssignmentInfo, PersonaInfo, PersonaText, PersonaVersionInfo, ResetCounts, StoredLevel

MODAL_TITLES: Mapping[bool, str] = {False: "A persona of this guild", True: "Your own persona for me"}
KEPT = "Our conversations go on; /reset starts a new one."
NOT_SET: Mapping[bool, str] = {
    False: "This guild has no persona of its own.",
    True: "You have no persona of your own here.",
}
BARRED: Mapping[OwnBarrier, str] = {
    "nobody": "this guild does not let members have their own",
    "roles": "only members with certain roles may have their own in this guild",
    "locked": "this place is locked",
}
KEEP_OR_AFRESH: Mapping[bool, tuple[str, str]] = {
    False: ("Keep the conversations", "Begin afresh"),
    True: ("Keep the conversation", "Begin afresh"),
}
TOO_LATE_FOR_AFRESH: Mapping[bool, str] = {
    False: "-# Too much time has passed since I asked. `/persona set` with `conversations` begins them afresh.",
    True: "-# Too much time has passed since I asked. `/reset` starts a new one.",
}
RESTRICTED = "\N{NO ONE UNDER EIGHTEEN SYMBOL}"
"""Stands behind the name of a persona that is restricted by age."""
_QUESTION = "Shall"
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
    return bold(name) if name else "this persona"


def where_of(level: StoredLevel, place_id: int) -> str:
    """A place, as the end of a sentence."""
    return {
        "guild": "in this guild",
        "category": f"in the category <#{place_id}>",
        "channel": f"in <#{place_id}>",
        "thread": f"in the thread <#{place_id}>",
        "member": "for you here",
    }[level]


def now_text(name: str, level: StoredLevel, place_id: int) -> str:
    """Who answers from now on."""
    since = "From now on" if level == "member" else "From the next message on"
    return f"{since} I am {name_of(name)} {where_of(level, place_id)}."


def public_text(name: str, level: StoredLevel, place_id: int, *, afresh: bool) -> str:
    """The line that everyone in the channel sees."""
    end = "We begin new conversations." if afresh else "Our conversations go on."
    return f"-# From now on {name_of(name)} answers {where_of(level, place_id)}. {end}"


def question_text(level: StoredLevel, place_id: int, minutes: int) -> str:
    """The question below the answer to who set a persona; it begins with _QUESTION."""
    whose = "our conversation here" if level == "member" else f"the conversations {where_of(level, place_id)}"
    return f"{_QUESTION} {whose} go on, or begin afresh? Without an answer within {minutes} minutes they go on."


def answered_question(said: str, afresh: str = "") -> str:
    """An answer without its question. `afresh`: what stands there in place of that the conversations go on."""
    text = said.rpartition(f"\n\n{_QUESTION} ")[0] or said
    if not afresh:
        return text
    return text.replace(KEPT, afresh, 1) if KEPT in text else f"{text}\n{afresh}"


def public_afresh_text(level: StoredLevel, place_id: int) -> str:
    """The line that everyone in the channel sees once conversations were ended."""
    return f"-# We begin new conversations {where_of(level, place_id)}."


def public_clear_text(level: StoredLevel, place_id: int) -> str:
    """The same once none is set there any more."""
    return f"-# The persona that answered {where_of(level, place_id)} is gone. Our conversations go on."


def cleared_text(level: StoredLevel, place_id: int) -> str:
    """What was cleared."""
    plain = {"guild": "This guild's persona is gone.", "member": "Your own persona is gone."}
    return plain.get(level) or f"The persona that answered {where_of(level, place_id)} is gone."


def not_set_text(level: StoredLevel, place_id: int) -> str:
    """There is none at this level."""
    if level in ("guild", "member"):
        return NOT_SET[level == "member"]
    return f"No persona is set {where_of(level, place_id)}."


def afresh_text(ended: ResetCounts, *, guild_wide_go_on: bool) -> str:
    """How many conversations were ended."""
    count = "1 conversation has" if ended.dialogs == 1 else f"{ended.dialogs:,} conversations have"
    text = f"{count} ended; the next message begins a new one."
    if ended.dialogs == 0:
        text = "No conversation belongs to this place alone." if guild_wide_go_on else "No conversation had begun."
    return f"{text} Those that members have with me in the whole guild go on." if guild_wide_go_on else text


def size_text(size: PersonaSize | None) -> str:
    """What a persona takes of the context; "" if the engine could not count."""
    if size is None:
        return ""
    return f"-# It takes {size.tokens:,} tokens, {size.percent} % of the {size.context:,} that I can keep in mind."


def version_line(version: PersonaVersionInfo) -> str:
    """One version in the list: its number, date, name and first words."""
    text = " ".join(version.prompt.split())
    preview = escape_markdown(text if len(text) <= _PREVIEW_CHARS else f"{text[:_PREVIEW_CHARS]}…")
    name = f" · {bold(version.name)}" if version.name else ""
    active = " · **in force**" if version.active else ""
    return f"{version.version}\\. {version.created_at:%Y-%m-%d %H:%M} UTC{name}{active} · {preview}"


def list_text(page: PersonaPage, *, own: bool, tag: str) -> str:
    """A page of a library: names, tags, and where each of them answers, as far as one message has room."""
    if not page.entries:
        if tag:
            return f"No persona here has the tag {bold(tag)}."
        return NOT_SET[True] if own else "This guild keeps no personas yet."
    title = "Your own personas here" if own else "The personas of this guild"
    title += f" with the tag {bold(tag)}:" if tag else ":"
    whole = [title, *(_entry_line(each, page.places[each.persona_id]) for each in page.entries)]
    brief = [title, *(f"- {bold(each.name)}" for each in page.entries)]
    return "\n".join(whole if sum(map(utf16_length, whole)) < _MAX_LIST else brief)


def _entry_line(entry: PersonaInfo, places: Sequence[PersonaAssignmentInfo]) -> str:
    tags = "".join(f" `#{tag.replace('`', '')}`" for tag in entry.tags)
    answers = f" – answers {places_text(places)}" if places else ""
    mark = f" {RESTRICTED}" if entry.age_restricted else ""
    return f"- {bold(entry.name)}{mark}{tags}{answers}"


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
    return _listed([where_of(each.level, each.place_id) for each in places], "more places", "in ")


def _listed(named: Sequence[str], more: str, before: str = "") -> str:
    """The first of them in one phrase. `more`: what the rest is called, with what stands before its number."""
    rest = len(named) - _MOST_NAMED
    shown = [*named[:_MOST_NAMED], *([f"{before}{rest} {more}"] if rest > 0 else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def scenes_text(scenes: Mapping[int, int]) -> str:
    """The places in whose scenes a persona plays, and where nobody does without it. `scenes`: the number of others."""
    channels = [f"<#{place_id}>" for place_id in scenes]
    ends = [f"<#{place_id}>" for place_id, others in scenes.items() if not others]
    text = f"It plays in the scene{'' if len(channels) == 1 else 's'} of {_listed(channels, 'others')}"
    return f"{text}; without it nobody plays in {_listed(ends, 'others')}." if ends else f"{text}."


def delete_text(entry: PersonaInfo, places: Sequence[PersonaAssignmentInfo], scenes: Mapping[int, int]) -> str:
    """What a deletion would do, and to which places and scenes."""
    answers = f" It answers {places_text(places)}; then the next wider persona answers there." if places else ""
    plays = f" {scenes_text(scenes)}" if scenes else ""
    return f"This deletes {bold(entry.name)} with all its versions for good.{answers}{plays}"


def quoted_prompt(persona: PersonaText) -> str:
    """The text that the model is told."""
    return f"I am told this:\n\n{persona.prompt}"
