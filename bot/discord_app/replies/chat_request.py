"""A member's question as a request to the chat service, and what the service's answers change on the screen.

Knows the guild's rules that a request carries; sends and stores nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from bot.chat.prompts.speakers import speaker_name
from bot.chat.requests import ChatRequest, PendingTurn
from bot.discord_app.permissions.own_persona import persona_scope
from bot.discord_app.replies.final_text import outgoing_messages, with_note
from bot.discord_app.replies.question import Question
from bot.discord_app.replies.quoting import small_lines, speaker_line
from bot.discord_app.replies.sinks.sink import ReplySink
from bot.discord_app.replies.streamed_reply import StreamedReply
from bot.discord_app.replies.waiting_text import thought_line
from bot.discord_app.replies.webhooks.voices import voice_lines
from bot.i18n.language import N_, current_language, use_language
from bot.i18n.language import gettext as _
from bot.safety.content import ContentFilter
from models.types import DialogKey, GuildSettings, OutgoingMessage, ReplyLimits

RETRACTED = N_("-# Forgotten: what was asked before this was changed.")


def chat_request(
    question: Question,
    key: DialogKey,
    settings: GuildSettings,
    limits: ReplyLimits,
    content_filter: ContentFilter | None,
    sink: ReplySink,
    reply: StreamedReply,
    own_names: Callable[[int], tuple[str, ...]],
) -> ChatRequest:
    """The request to the chat service. What becomes known of the turn sets what stands above the reply in `sink`.

    `limits`, `content_filter`: what applies to the caller and the guild. `own_names`: the bot's names in a guild, which
    no member has in a prompt.
    """
    continued, language = "", current_language()

    def begun(turn: PendingTurn) -> None:
        nonlocal continued
        continued = turn.prefix or turn.greeting
        reply.grows = turn.settings.streaming and (content_filter is None or content_filter.shows_live)
        sink.record.begin(turn.delivery_id)
        sink.name_line = speaker_line(turn.speaker)
        sink.prefix += voice_lines(question.place, turn.speaker, small_lines(turn.files_note))
        sink.speak_as(turn.speaker)
        reply.begin_with(sink.prefix, continued)

    def thought(seconds: float | None) -> None:
        with use_language(language):
            sink.prefix += thought_line(seconds)
        reply.begin_with(sink.prefix, continued)

    def messages(text: str, finish_reason: str) -> tuple[OutgoingMessage, ...]:
        with use_language(language):
            return outgoing_messages(with_note(text, finish_reason), sink.prefix)

    return ChatRequest(
        key=key,
        text=question.text,
        # The id of a repeated message is known already: it would count as a duplicate.
        interaction_id=None if question.is_repeat else question.place.nonce,
        is_repeat=question.is_repeat,
        model=settings.model,
        limits=limits,
        content_filter=content_filter,
        author=speaker_name(question.caller.name, own_names(key.guild_id)) if key.shared else None,
        name=question.caller.name,
        persona_scope=persona_scope(question.caller, settings, key.user_id),
        offers=question.offers,
        offers_kind=question.offers_kind,
        offers_author_id=question.offers_author_id,
        reads_files=settings.files,
        files=question.files,
        retraction=_(RETRACTED),
        place=question.place,
        in_place=question.turn is not None and question.kind != "new",
        messages=messages,
        on_begun=begun,
        on_thought=thought,
        turn_id=None if question.turn is None else question.turn.turn_id,
        replied_to=question.replied_to,
    )
