"""One reply of the model: the prompt made to fit, the stream watched, and every way in which it may end.

Knows the engine's client and the rules of `bot.chat.prompt`. Knows nothing of the database, of who asks, or of Discord.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from bot.chat.prompt import Message, build_messages, clean_piece, max_token_count, trim_to_tokens
from bot.engine_client.client import Delta, EngineClient, Finished
from bot.engine_client.errors import ContextExceeded
from bot.errors import EngineTimeout, PromptTooLong, ShuttingDown
from bot.settings import Settings
from models.types import Pair

OnDelta = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """All that a reply depends on."""

    persona: str
    history: Sequence[Pair]
    text: str
    user: str
    cache_salt: str
    max_reply_tokens: int


@dataclass(frozen=True, slots=True)
class Generated:
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    pairs_in_prompt: int
    first_token_ms: int
    total_ms: int


class Interruption:
    """The handle on a reply that is being generated: it ends when silent for too long, or when somebody says so."""

    def __init__(self, silence: float) -> None:
        self.reason: Literal["stopped", "shutdown"] | None = None
        self.silence = silence
        self._scope: asyncio.Timeout | None = None

    def scope(self) -> asyncio.Timeout:
        """The block that ends; it raises TimeoutError when it does."""
        self._scope = asyncio.timeout(0 if self.reason else self.silence)
        return self._scope

    @property
    def expired(self) -> bool:
        return self._scope is not None and self._scope.expired()

    def heard(self) -> None:
        """Something came: the silence begins anew."""
        if self._scope is not None and self.reason is None:
            self._scope.reschedule(asyncio.get_running_loop().time() + self.silence)

    def interrupt(self, reason: Literal["stopped", "shutdown"]) -> bool:
        """End it now. False when it has ended already."""
        self.reason = self.reason or reason
        if self._scope is None:
            return True
        try:
            self._scope.reschedule(asyncio.get_running_loop().time())
        except RuntimeError:  # the block was left already
            return False
        return True


@dataclass(slots=True)
class _Draft:
    """What has come so far."""

    started: float
    messages: Sequence[Message] = ()
    tokens: int = 0
    pieces: list[str] = field(default_factory=list)
    first: float | None = None
    end: Finished | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Generator:
    def __init__(self, engine: EngineClient, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    async def reply(self, job: GenerationRequest, on_delta: OnDelta, interruption: Interruption) -> Generated:
        """Generate, handing on each piece. Raises PromptTooLong, Busy, EngineUnavailable or ShuttingDown."""
        draft = _Draft(time.monotonic())
        try:
            async with interruption.scope():
                await self._stream(job, draft, on_delta, interruption)
        except TimeoutError:
            if not interruption.expired:
                raise
            if interruption.reason is None:
                self._engine.on_timeout()
                raise EngineTimeout(interruption.silence) from None
            if interruption.reason == "shutdown":
                raise ShuttingDown() from None
        end = draft.end or Finished(interruption.reason or "stop", None, None)
        now = time.monotonic()
        return Generated(
            text=draft.text,
            finish_reason=end.finish_reason,
            prompt_tokens=draft.tokens if end.prompt_tokens is None else end.prompt_tokens,
            completion_tokens=len(draft.pieces) if end.completion_tokens is None else end.completion_tokens,
            pairs_in_prompt=_pairs_in(draft.messages),
            first_token_ms=round(((draft.first or now) - draft.started) * 1000),
            total_ms=round((now - draft.started) * 1000),
        )

    async def _stream(
        self, job: GenerationRequest, draft: _Draft, on_delta: OnDelta, interruption: Interruption
    ) -> None:
        draft.messages, draft.tokens, max_tokens = await self._prompt(job)
        pairs = job.history[len(job.history) - _pairs_in(draft.messages) :]
        while True:
            try:
                return await self._receive(job, max_tokens, draft, on_delta, interruption)
            except ContextExceeded as exceeded:
                # A server that does not count: it says so only now, and nothing was generated.
                if draft.pieces:
                    raise
                if pairs:
                    pairs = pairs[1:]
                elif 0 < exceeded.got < exceeded.limit and max_tokens > exceeded.limit - exceeded.got:
                    max_tokens = exceeded.limit - exceeded.got  # the prompt fits, only not with a reply that long
                else:
                    raise PromptTooLong(exceeded.limit, exceeded.got) from exceeded
                draft.messages = build_messages(job.persona, pairs, job.text)

    async def _receive(
        self, job: GenerationRequest, max_tokens: int, draft: _Draft, on_delta: OnDelta, interruption: Interruption
    ) -> None:
        events = self._engine.stream(
            draft.messages,
            temperature=self._settings.temperature,
            top_p=self._settings.top_p,
            max_tokens=max_tokens,
            user=job.user,
            cache_salt=job.cache_salt,
        )
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Finished):
                    draft.end = event
                    return
                interruption.heard()
                await self._hand_on(event, draft, on_delta)
                interruption.heard()

    async def _hand_on(self, delta: Delta, draft: _Draft, on_delta: OnDelta) -> None:
        piece = clean_piece(delta.text)
        if piece:
            draft.first = draft.first or time.monotonic()
            draft.pieces.append(piece)
            await on_delta(piece)

    async def _prompt(self, job: GenerationRequest) -> tuple[list[Message], int, int]:
        """The messages that fit, what they take (0 where nobody counted), and how long the reply may be."""
        wanted = job.max_reply_tokens
        messages = build_messages(job.persona, job.history, job.text)
        if self._engine.limit is None:
            await self._engine.model()  # its listing may name the context
        if (known := self._engine.limit) is not None:
            limit = self._capped(known)
            if max_token_count(messages) + reserve(wanted, limit) <= limit:
                return messages, 0, min(wanted, limit - max_token_count(messages))
        counted = await self._engine.count(messages)
        if counted is None:
            return messages, 0, wanted
        limit = self._capped(counted.limit)
        room = limit - reserve(wanted, limit)
        messages, tokens = await trim_to_tokens(
            job.persona, job.history, job.text, room=room, tokens=counted.count, count=self._count
        )
        if tokens > room:
            raise PromptTooLong(room, tokens)
        return messages, tokens, min(wanted, limit - tokens)

    async def _count(self, messages: Sequence[Message]) -> int:
        counted = await self._engine.count(messages)
        return max_token_count(messages) if counted is None else counted.count

    def _capped(self, limit: int) -> int:
        return min(limit, self._settings.max_seq_len or limit)


def _pairs_in(messages: Sequence[Message]) -> int:
    return sum(message["role"] == "assistant" for message in messages)


def reserve(max_reply_tokens: int, limit: int) -> int:
    """Room kept free for the reply: all of it, but never more than half of a small context."""
    return min(max_reply_tokens, limit // 2)
