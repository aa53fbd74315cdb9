"""Generates one reply: sends the prompt until it fits, forwards the stream, and handles every end of the stream.

Knows the engine's client and `bot.chat.prompts.prompt_fit`. Knows nothing of the database, of members, or of Discord.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog

from bot.chat.prompts.echoed_frame import EchoedFrameFilter
from bot.chat.prompts.memory_notes import NO_MEMORY, UsedMemory
from bot.chat.prompts.prompt_fit import FittedPrompt, GenerationRequest, PromptFitter
from bot.chat.prompts.sent_prompt import digest, with_digests
from bot.chat.reply.repetition import RepetitionDetector
from bot.chat.reply.reply_control import ReplyControl
from bot.engine_client.engine import Engine
from bot.engine_client.errors import ContextExceeded, PromptRefused
from bot.engine_client.messages import Finished, Thinking
from bot.errors import EngineTimeout, EngineUnreadable, ShuttingDown
from bot.settings import Settings
from bot.telemetry.tracing import span
from bot.text import clean_piece
from models.types import PromptInputs

log = structlog.get_logger(__name__)

_CHARS_PER_TOKEN = 16
"""More than any text in words has on the average; the longest tokens are long runs of spaces."""
_MIN_CHARS, _MAX_CHARS = 65_536, 400_000
_MIN_PIECES = 4096
"""The server applies max_tokens. The bot's own limits stop a server that ignores it, and are far above: servers count
tokens in other ways, and send less than a token in a piece."""

MAX_LOADING = 600.0
"""Seconds for which a message waits for the model to be loaded. The token of an interaction lives for 900."""
_LOADING_POLL = 0.2  # seconds
REPETITION = "repetition"
"""The finish reason of a reply that was ended since it had begun to repeat itself."""

OnPiece = Callable[[str, int], Awaitable[None]]
"""Told of text, and in how many pieces the server sent it."""


@dataclass(frozen=True, slots=True)
class ThoughtWatcher:
    """Callbacks for a model that thinks before it answers."""

    on_thinking: Callable[[int], None] = lambda count: None
    """Called when the model thinks on, with the number of pieces."""
    on_thought: Callable[[float], None] = lambda seconds: None
    """Called with the seconds of thinking, before the first piece of the answer. Pieces that `on_piece` got before
    that were thoughts as well."""


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
    first_turn_id: int | None = None
    """The turn of the oldest pair in the prompt."""
    memory: UsedMemory = NO_MEMORY
    num_examples: int = 0
    """Example turns of a character in the prompt."""
    greeting: int | None = None
    """Which greeting of the character stands in it."""
    lore: tuple[int, ...] = ()
    """Entries of its lorebook."""
    prompt_digest: str | None = None
    """Of the messages as they were sent."""
    inputs: PromptInputs | None = None
    """What else they depended on."""
    model: str | None = None
    """Which model wrote it, as its server calls it."""


@dataclass(slots=True)
class _PartialReply:
    """The state of a reply that is being generated."""

    started_at: float
    prompt: FittedPrompt | None = None
    pieces: list[str] = field(default_factory=list)
    num_texts: int = 0
    """In how many pieces the server sent them."""
    first_token_at: float | None = None
    finished: Finished | None = None
    thinking_since: float | None = None
    num_thoughts: int = 0
    """Number of pieces of thought."""
    repetition: RepetitionDetector = field(default_factory=RepetitionDetector)
    echo: EchoedFrameFilter | None = None
    """Only in a shared dialog, whose prompt has speaker lines that the model may copy."""
    cut_at: int | None = None
    """The length of the text without the loop that the model had fallen into."""

    @property
    def num_pieces(self) -> int:
        """Number of pieces so far, roughly the number of tokens."""
        return self.num_texts + self.num_thoughts

    def take_thought(self, thought: Thinking) -> None:
        """Count a thought. If it retracts, the pieces so far count as thoughts as well."""
        self.num_thoughts += thought.count
        if thought.retracts:
            self.num_thoughts += self.num_texts
            self.num_texts = 0
            self.thinking_since = self.first_token_at
            self.pieces.clear()
            self.repetition = RepetitionDetector()
            if self.echo is not None:
                self.echo = EchoedFrameFilter()  # the answer only begins now
        self.thinking_since = self.thinking_since or time.monotonic()
        self.first_token_at = self.first_token_at or time.monotonic()


_NO_WATCHER = ThoughtWatcher()


class ReplyGenerator:
    """Generates replies with one engine."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._fitter = PromptFitter(engine, settings)

    async def generate(
        self,
        request: GenerationRequest,
        on_piece: OnPiece,
        control: ReplyControl,
        watcher: ThoughtWatcher = _NO_WATCHER,
    ) -> GeneratedReply:
        """Generate a reply and pass each piece to `on_piece`.

        Raises PromptTooLong, Busy, EngineUnavailable or ShuttingDown, or what `on_piece` raised.
        """
        is_new_text = request.author is not None and not request.prefix
        partial = _PartialReply(time.monotonic(), echo=EchoedFrameFilter() if is_new_text else None)
        try:
            async with control.scope():
                if control.reason is None:  # it may have been interrupted before it began
                    await self._until_loaded(control)
                    await self._generate(request, partial, on_piece, control, watcher)
        except TimeoutError:
            if not control.expired:
                raise
            if control.reason is None:
                self._engine.on_timeout()
                raise EngineTimeout(control.idle_timeout) from None
        if control.reason == "shutdown" and partial.finished is None:
            raise ShuttingDown()
        if partial.echo is not None and (rest := partial.echo.end()):
            partial.pieces.append(rest)
        finished = partial.finished or Finished(control.reason or "stop", None, None)
        prompt_tokens, completion_tokens = finished.prompt_tokens, finished.completion_tokens
        now = time.monotonic()
        prompt = partial.prompt
        return GeneratedReply(
            text="".join(partial.pieces)[: partial.cut_at],
            finish_reason=finished.finish_reason,
            prompt_tokens=prompt_tokens if prompt_tokens is not None else prompt.num_tokens if prompt else 0,
            completion_tokens=partial.num_pieces if completion_tokens is None else completion_tokens,
            pairs_in_prompt=sum(pair.turn_id != 0 for pair in prompt.pairs) if prompt else 0,
            first_token_ms=round(((partial.first_token_at or now) - partial.started_at) * 1000),
            total_ms=round((now - partial.started_at) * 1000),
            first_turn_id=next((pair.turn_id for pair in prompt.pairs if pair.turn_id), None) if prompt else None,
            memory=prompt.request.memory if prompt else NO_MEMORY,
            num_examples=prompt.num_examples if prompt else 0,
            greeting=prompt.greeting_index if prompt else None,
            lore=prompt.request.lore if prompt else (),
            prompt_digest=digest(prompt.messages) if prompt else None,
            inputs=with_digests(prompt.request.inputs, prompt.messages) if prompt else None,
            model=self._engine.known_model,
        )

    async def _until_loaded(self, control: ReplyControl) -> None:
        """Wait while our own engine loads its model for the first time; after MAX_LOADING, ask it all the same."""
        give_up_at = time.monotonic() + MAX_LOADING
        while self._engine.state == "loading" and time.monotonic() < give_up_at:
            control.sign_of_life()
            await asyncio.sleep(_LOADING_POLL)

    async def _generate(
        self,
        request: GenerationRequest,
        partial: _PartialReply,
        on_piece: OnPiece,
        control: ReplyControl,
        watcher: ThoughtWatcher,
    ) -> None:
        with span("fit prompt"):
            partial.prompt = prompt = await self._fitter.fit(request)
        while True:
            try:
                with span("stream"):
                    await self._stream(prompt, partial, on_piece, control, watcher)
                return self._fitter.accepted(prompt)
            except ContextExceeded as exceeded:
                # A server without /tokenize refuses a prompt that is too long only here, before it generates anything.
                if partial.pieces:
                    raise EngineUnreadable(
                        "the server found the prompt too long in the middle of its reply"
                    ) from exceeded
                self._fitter.too_long(prompt, exceeded)
            except PromptRefused:
                if partial.pieces or not self._fitter.refused(prompt):
                    raise

    async def _stream(
        self,
        prompt: FittedPrompt,
        partial: _PartialReply,
        on_piece: OnPiece,
        control: ReplyControl,
        watcher: ThoughtWatcher,
    ) -> None:
        request, max_tokens = prompt.request, prompt.max_tokens
        events = self._engine.stream(
            prompt.messages,
            temperature=self._settings.temperature,
            top_p=self._settings.top_p,
            frequency_penalty=self._settings.frequency_penalty,
            max_tokens=max_tokens,
            user=request.user,
            cache_salt=request.cache_salt,
            on_activity=control.sign_of_life,
        )
        max_pieces = max(4 * max_tokens, _MIN_PIECES)
        room = thinking_room = min(max(max_tokens * _CHARS_PER_TOKEN, _MIN_CHARS), _MAX_CHARS)
        async with aclosing(events):
            try:
                async for event in events:
                    if isinstance(event, Finished):
                        partial.finished = event
                        if event.finish_reason == REPETITION:
                            partial.cut_at = partial.repetition.cut_known_loop()
                        return
                    if isinstance(event, Thinking):
                        partial.take_thought(event)
                        thinking_room -= event.chars
                        watcher.on_thinking(event.count)
                        if partial.num_pieces >= max_pieces or thinking_room <= 0:
                            partial.finished = Finished("length", None, None)
                            return
                        continue
                    control.restart_timeout()
                    piece = clean_piece(event.text)[:room]
                    if piece and partial.echo is not None:
                        piece = partial.echo.push(piece)
                    if piece:
                        if partial.num_pieces >= max_pieces:
                            partial.finished = Finished("length", None, None)
                            return
                        partial.first_token_at = partial.first_token_at or time.monotonic()
                        if not partial.pieces and partial.thinking_since is not None:
                            watcher.on_thought(time.monotonic() - partial.thinking_since)
                        partial.pieces.append(piece)
                        partial.num_texts += event.count
                        room -= len(piece)
                        partial.cut_at = partial.repetition.push(piece)
                        if partial.cut_at is not None:
                            log.info("a reply repeats itself and is ended", pieces=len(partial.pieces))
                            partial.finished = Finished(REPETITION, None, None)
                            return
                        await on_piece(piece, event.count)
                    if room <= 0:
                        partial.finished = Finished("length", None, None)
                        return
                    control.restart_timeout()  # the time spent in `on_piece` does not count
            except EngineUnreadable as error:
                if not partial.pieces:
                    raise
                log.warning("a reply ends early", error_id=error.error_id, reason=error.reason)
                partial.finished = Finished("other", None, None)  # what came is kept
