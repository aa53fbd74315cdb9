"""Generates one reply: fits the prompt into the context, forwards the stream, and handles every end of the stream.

Knows the engine's client and the rules of `bot.chat.prompt`. Knows nothing of the database, of members, or of Discord.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog

from bot.chat.prompt import build_messages, max_token_count, pairs_to_drop, trim_to_tokens
from bot.chat.reply_control import ReplyControl
from bot.engine_client.client import EngineClient
from bot.engine_client.errors import ContextExceeded, PromptRefused
from bot.engine_client.messages import Finished, Message
from bot.errors import EngineTimeout, EngineUnreadable, PromptTooLong, ShuttingDown
from bot.settings import Settings
from bot.text import clean_piece
from models.types import Pair

log = structlog.get_logger(__name__)

_CHARS_PER_TOKEN = 16
"""More than any text in words has on the average; the longest tokens are long runs of spaces."""
_MIN_CHARS, _MAX_CHARS = 65_536, 400_000
_MIN_PIECES = 4096
"""The server applies max_tokens. The bot's own limits stop a server that ignores it, and are far above: servers count
tokens in other ways, and send less than a token in a piece."""
_REFUSALS_WITH_PAIRS = 2
"""A prompt that is refused for no known reason is sent with half of its pairs, a quarter of them, then with none."""

OnDelta = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Everything that a reply depends on, except the server and the operator's settings."""

    persona: str
    history: Sequence[Pair]
    text: str
    user: str
    cache_salt: str
    max_reply_tokens: int
    prefix: str = ""
    """The beginning of the reply, if it is to be continued. It is not repeated in the generated text."""


@dataclass(frozen=True, slots=True)
class GeneratedReply:
    """A complete reply, or the part of it that was generated before a member stopped it."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    pairs_in_prompt: int
    first_token_ms: int
    total_ms: int


@dataclass(slots=True)
class _PartialReply:
    """The state of a reply that is being generated."""

    started_at: float
    messages: Sequence[Message] = ()
    num_prompt_tokens: int = 0
    pieces: list[str] = field(default_factory=list)
    first_token_at: float | None = None
    finished: Finished | None = None


class ReplyGenerator:
    """Generates replies with one engine. Holds no state of its own."""

    def __init__(self, engine: EngineClient, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    async def generate(self, request: GenerationRequest, on_delta: OnDelta, control: ReplyControl) -> GeneratedReply:
        """Generate a reply and pass each piece to `on_delta`.

        Raises PromptTooLong, Busy, EngineUnavailable or ShuttingDown, or what `on_delta` raised.
        """
        partial = _PartialReply(time.monotonic())
        try:
            async with control.scope():
                await self._generate(request, partial, on_delta, control)
        except TimeoutError:
            if not control.expired:
                raise
            if control.reason is None:
                self._engine.on_timeout()
                raise EngineTimeout(control.idle_timeout) from None
            if control.reason == "shutdown":
                raise ShuttingDown() from None
        finished = partial.finished or Finished(control.reason or "stop", None, None)
        prompt_tokens, completion_tokens = finished.prompt_tokens, finished.completion_tokens
        now = time.monotonic()
        return GeneratedReply(
            text="".join(partial.pieces),
            finish_reason=finished.finish_reason,
            prompt_tokens=partial.num_prompt_tokens if prompt_tokens is None else prompt_tokens,
            completion_tokens=len(partial.pieces) if completion_tokens is None else completion_tokens,
            pairs_in_prompt=_count_pairs(partial.messages),
            first_token_ms=round(((partial.first_token_at or now) - partial.started_at) * 1000),
            total_ms=round((now - partial.started_at) * 1000),
        )

    async def _generate(
        self, request: GenerationRequest, partial: _PartialReply, on_delta: OnDelta, control: ReplyControl
    ) -> None:
        partial.messages, partial.num_prompt_tokens, max_tokens = await self._fit_prompt(request)
        pairs = request.history[len(request.history) - _count_pairs(partial.messages) :]
        refusals = 0
        while True:
            try:
                return await self._stream(request, max_tokens, partial, on_delta, control)
            except ContextExceeded as exceeded:
                # A server without /tokenize refuses a prompt that is too long only here, before it generates anything.
                if partial.pieces:
                    raise EngineUnreadable(
                        "the server found the prompt too long in the middle of its reply"
                    ) from exceeded
                room = exceeded.context_length - exceeded.num_prompt_tokens
                if pairs:
                    surplus = max_tokens - room
                    pairs = pairs[pairs_to_drop(pairs, refusals, exceeded.num_prompt_tokens, surplus) :]
                elif exceeded.num_prompt_tokens > 0 and 0 < room < max_tokens:
                    max_tokens = room  # the prompt fits; shorten the reply
                else:
                    raise PromptTooLong(exceeded.context_length, exceeded.num_prompt_tokens) from exceeded
            except PromptRefused:
                # It may be too long in words that are not known. With the message alone it counts as refused.
                if partial.pieces or not pairs:
                    raise
                pairs = pairs[(len(pairs) + 1) // 2 :] if refusals < _REFUSALS_WITH_PAIRS else ()
            refusals += 1
            partial.messages, partial.num_prompt_tokens = build_messages(request.persona, pairs, request.text), 0

    async def _stream(
        self,
        request: GenerationRequest,
        max_tokens: int,
        partial: _PartialReply,
        on_delta: OnDelta,
        control: ReplyControl,
    ) -> None:
        events = self._engine.stream(
            partial.messages,
            temperature=self._settings.temperature,
            top_p=self._settings.top_p,
            max_tokens=max_tokens,
            user=request.user,
            cache_salt=request.cache_salt,
            on_activity=control.sign_of_life,
        )
        max_pieces = max(4 * max_tokens, _MIN_PIECES)
        room = min(max(max_tokens * _CHARS_PER_TOKEN, _MIN_CHARS), _MAX_CHARS)
        async with aclosing(events):
            try:
                async for event in events:
                    if isinstance(event, Finished):
                        partial.finished = event
                        return
                    control.restart_timeout()
                    if piece := clean_piece(event.text)[:room]:
                        if len(partial.pieces) >= max_pieces:
                            partial.finished = Finished("length", None, None)
                            return
                        partial.first_token_at = partial.first_token_at or time.monotonic()
                        partial.pieces.append(piece)
                        room -= len(piece)
                        await on_delta(piece)
                    if room <= 0:
                        partial.finished = Finished("length", None, None)
                        return
                    control.restart_timeout()  # the time spent in `on_delta` does not count
            except EngineUnreadable as error:
                if not partial.pieces:
                    raise
                log.warning("a reply ends early", error_id=error.error_id, reason=error.reason)
                partial.finished = Finished("other", None, None)  # what came is kept

    async def _fit_prompt(self, request: GenerationRequest) -> tuple[list[Message], int, int]:
        """The messages that fit, their number of tokens (0 if the server cannot count), and max_tokens of the reply."""
        wanted = request.max_reply_tokens
        messages = build_messages(request.persona, request.history, request.text)
        if self._engine.context_length is None:
            await self._engine.model()  # the list of models may state the context length
        if (known := self._engine.context_length) is not None:
            limit = self._capped(known)
            if max_token_count(messages) + _reply_reserve(wanted, limit) <= limit:
                return messages, 0, min(wanted, limit - max_token_count(messages))
        counted = await self._engine.count(messages)
        if counted is None:
            return messages, 0, wanted
        limit = self._capped(counted.context_length)
        room = limit - _reply_reserve(wanted, limit)
        messages, num_tokens = await trim_to_tokens(
            request.persona, request.history, request.text, room=room, tokens=counted.count, count=self._count
        )
        if num_tokens > room:
            raise PromptTooLong(room, num_tokens)
        return messages, num_tokens, min(wanted, limit - num_tokens)

    async def _count(self, messages: Sequence[Message]) -> int:
        counted = await self._engine.count(messages)
        return max_token_count(messages) if counted is None else counted.count

    def _capped(self, limit: int) -> int:
        return min(limit, self._settings.max_seq_len or limit)


def _count_pairs(messages: Sequence[Message]) -> int:
    return sum(message["role"] == "assistant" for message in messages)


def _reply_reserve(max_reply_tokens: int, limit: int) -> int:
    """Tokens reserved for the reply: `max_reply_tokens`, but at most half of the context."""
    return min(max_reply_tokens, limit // 2)
