"""The client of an OpenAI-compatible server: our engine, vLLM, llama.cpp's server, Ollama or a hosted one.

/health, /tokenize and usage may be missing there, and an extra field that the server rejects is left out from then on.
A request that may have started a reply is never retried: that could generate a second reply. Knows the protocol; knows
neither dialogs nor members.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import httpx2
import openai
import structlog

from bot.engine_client.chunks import ChunkReader
from bot.engine_client.errors import ContextExceeded, refusal_of, translate
from bot.engine_client.event_payload import Event
from bot.engine_client.event_stream import EventStream
from bot.engine_client.images.refusal import refuses_images
from bot.engine_client.images.support import ImageSupport
from bot.engine_client.messages import (
    Delta,
    Finished,
    Message,
    ReplyEvent,
    Thinking,
    TokenCount,
    continuation_fields,
    count_images,
    text_of,
)
from bot.engine_client.optional_fields import refused_field
from bot.engine_client.overflow import overflow
from bot.engine_client.reasoning import ReasoningSplitter, Split, has_mark
from bot.engine_client.served_model import ServedModel
from bot.engine_client.transport import CONNECT_SECONDS, Transport
from bot.errors import EngineUnavailable, ImagesNotSeen

log = structlog.get_logger(__name__)

EngineState = Literal["loading", "ready", "restarting", "unreachable"]

_NOT_READY_MESSAGES = {
    "loading": "The model is still loading. Please try again in a minute.",
    "restarting": "The model is restarting. Please try again in a moment.",
}
_DIED_MESSAGE = "The model stopped in the middle of this reply. Please ask again in a moment."
_HEALTH_SECONDS = 5.0
_REQUESTS = re.compile(r"^guildllama_engine_(?:running|waiting) (\d+(?:\.\d+)?)", re.MULTILINE)
"""The gauges of our own engine that count requests (engine/server/metrics.py)."""
_MAY_NAME_A_FIELD = {400, 422}
_NO_SUCH_ENDPOINT = {404, 405, 501}
_NO_HEALTH_ENDPOINT = {401, 403, 404, 405, 501}


class EngineClient:
    """One server. Every method but `ready` raises a BotError for whatever goes wrong there.

    `state` is what the supervisor knows of the process, and chooses the words for a server that does not answer.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        uds: str | None = None,
        model: str | None = None,
        state: EngineState = "unreachable",
        thinking: bool = False,
    ) -> None:
        """`thinking`: whether a model that can think first is asked to, where the server lets one choose."""
        self.state: EngineState = state
        self.on_timeout: Callable[[], None] = lambda: None
        """Called when a reply timed out, so that the supervisor checks the process at once."""
        self.completed_replies = 0
        self._transport = Transport(base_url, api_key, uds=uds)
        self._served = ServedModel(self._transport, model, thinking=thinking)
        self._begins_inside = False
        """Whether the model's prompt opens its thoughts, as a reply has shown."""
        self._rejected_fields: set[str] = set()
        self._secrets = [api_key] if api_key else []
        self._images = ImageSupport()
        self._can_erase = True  # until the server turns out not to know how

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; running replies end."""
        await self._transport.close()

    @property
    def context_length(self) -> int | None:
        """The model's context in tokens, or None until the server has reported it."""
        return self._served.context_length

    async def ready(self) -> bool:
        """Whether the server would answer now. One without /health is ready if it lists its models."""
        with contextlib.suppress(httpx2.HTTPError, OSError):
            response = await self._transport.get("/health", timeout=_HEALTH_SECONDS)
            if response.status_code in _NO_HEALTH_ENDPOINT:
                response = await self._transport.list_models()
            return response.status_code == 200
        return False

    async def is_busy(self) -> bool:
        """Whether our own engine serves requests now, or has some that wait, whoever sent them.

        False if that is not known: other servers call these numbers otherwise, or have none.
        """
        with contextlib.suppress(httpx2.HTTPError, OSError):
            response = await self._transport.get("/metrics", timeout=_HEALTH_SECONDS)
            if response.status_code == 200:
                return any(float(number) > 0 for number in _REQUESTS.findall(response.text))
        return False

    async def model(self) -> str:
        """The name to ask for: the configured one if the server has a choice of models, else the one it serves."""
        with self._translated_errors():
            return await self._served.name()

    async def count(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> TokenCount | None:
        """The tokens of a prompt, or None if the server cannot count them.

        With `max_tokens` our engine leaves out the oldest exchanges until the prompt has no more tokens than that.
        """
        with self._translated_errors():
            return await self._served.count(messages, max_tokens=max_tokens)

    async def erase_cache(self, cache_salt: str) -> bool:
        """Have the server drop what it caches of prompts with this salt; whether it has. Never raises.

        Only our engine can. Another server is asked once.
        """
        if not self._can_erase:
            return False
        try:
            response = await self._transport.post("/cache/erase", {"cache_salt": cache_salt})
        except (httpx2.HTTPError, OSError) as error:
            log.warning("the engine's cache could not be erased", reason=type(error).__name__)
            return False
        self._can_erase = response.status_code not in _NO_SUCH_ENDPOINT
        if self._can_erase and response.status_code != 200:
            log.warning("the engine's cache could not be erased", status=response.status_code)
        return response.status_code == 200

    async def accepts_images(self) -> bool:
        """Whether the model sees pictures. It is shown one, once; its refusal of another one answers this too.

        Raises Busy or EngineUnavailable, and then asks again the next time.
        """
        return await self._images.find_out(await self.model(), self._show)

    def _show(self, messages: Sequence[Message]) -> AsyncGenerator[ReplyEvent, None]:
        return self.stream(messages, temperature=0, top_p=1, max_tokens=16, user="sight-test", cache_salt="sight-test")

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        temperature: float,
        top_p: float,
        max_tokens: int,
        user: str,
        cache_salt: str,
        frequency_penalty: float = 0.0,
        response_format: dict[str, object] | None = None,
        on_activity: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[ReplyEvent, None]:
        """The reply piece by piece, without what the model thinks, and `Finished` last.

        Closing the iterator cancels the generation. `response_format` is left out where the server turns it down: the
        prompt must ask for the format as well. `on_activity` is called at every event of the stream, also at those
        without text: a model that thinks, or a comment that keeps the connection alive. Raises ContextExceeded, Busy or
        EngineUnavailable, and ImagesNotSeen for a prompt with pictures where the model sees none.
        """
        fields: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        fields |= {"user": user, "stream_options": {"include_usage": True}, "cache_salt": cache_salt}
        if frequency_penalty:
            fields["frequency_penalty"] = frequency_penalty
        if response_format is not None:
            fields["response_format"] = response_format
        fields |= continuation_fields(messages)
        sent = [*(text_of(message) for message in messages), user, cache_salt]
        # A model that has read a picture complains of this one, not of pictures.
        has_images = count_images(messages) > 0 and not self._images.known(self._served.known_name)
        with self._translated_errors(sent, has_images=has_images):
            events, event = await self._start(messages, fields, on_activity, has_images=has_images)
        reader = ChunkReader()
        splitter = ReasoningSplitter(
            begins_inside=self._begins_inside,
            only_answer=bool(continuation_fields(messages)),
            quotes_marks=has_mark(sent),
        )
        try:
            with self._translated_errors(sent, in_reply=True, has_images=has_images):
                for piece in _read(reader, splitter, event):
                    yield piece
                async for event in events:
                    on_activity()
                    for piece in _read(reader, splitter, event):
                        yield piece
        except EngineUnavailable:
            if reader.finish_reason is None:
                raise
            # The reply is complete; only its last words of protocol are missing.
        finally:
            await events.close()
        finish_reason = reader.finish_reason or ("stop" if events.done else None)
        if finish_reason is None or finish_reason == "error":
            raise EngineUnavailable(f"the stream ended with {finish_reason or 'no finish_reason'}", _DIED_MESSAGE)
        for piece in _pieces(splitter.end(finish_reason)):
            yield piece
        self._begins_inside = (self._begins_inside or splitter.saw_lone_close) and not splitter.never_closed
        self.state = "ready"
        self.completed_replies += 1
        yield Finished(finish_reason, reader.prompt_tokens, reader.completion_tokens)

    async def _start(
        self, messages: Sequence[Message], fields: dict[str, Any], on_activity: Callable[[], None], *, has_images: bool
    ) -> tuple[EventStream, Event]:
        """Start the request without the fields that this server rejects: the stream and its first event, if any.

        A rejected request has generated nothing, whether the refusal is the answer or the first event of a stream.
        """
        model = await self._served.name()
        fields = {**fields, **self._served.template_fields}
        rejected = set(self._rejected_fields)
        while True:
            offered = dict(fields)
            if "max_tokens" in rejected:
                offered["max_completion_tokens"] = fields["max_tokens"]
            extra = {name: value for name, value in offered.items() if name not in rejected}
            try:
                # `chat.completions.create` would validate each message and build a model of each chunk: twice the CPU.
                events = await self._transport.openai.post(
                    "/chat/completions",
                    body={"model": model, "messages": list(messages), "stream": True, **extra},
                    cast_to=object,
                    stream=True,
                    stream_cls=EventStream,
                    # No timeout between two chunks: the caller has its own.
                    options={"timeout": httpx2.Timeout(None, connect=CONNECT_SECONDS)},
                )
                first = await _first_event(events, on_activity)
            except openai.APIConnectionError:
                raise
            except openai.APIError as error:
                if isinstance(error, openai.APIStatusError) and error.status_code not in _MAY_NAME_A_FIELD:
                    raise
                refusal = refusal_of(error)
                is_the_prompt = overflow(refusal) is not None or (has_images and refuses_images(refusal))
                field = None if is_the_prompt else refused_field(refusal, set(extra))
                if field is None:
                    raise
                rejected.add(field)
            else:
                self._remember(rejected)
                return events, first

    def _remember(self, rejected: set[str]) -> None:
        """Leave these fields out from now on. Only said of a request that was then accepted: they were the reason."""
        for field in sorted(rejected - self._rejected_fields):
            log.info("the server turned down a field; leaving it out from now on", field=field)
        self._rejected_fields |= rejected
        if rejected & self._served.template_fields.keys():
            self._served.template_fields = {}

    @contextlib.contextmanager
    def _translated_errors(
        self, sent: Sequence[str] = (), *, in_reply: bool = False, has_images: bool = False
    ) -> Iterator[None]:
        """Turn an error of the server or the connection into ours, and note what it says about the server."""
        try:
            yield
        except Exception as error:
            result = translate(error, [*sent, *self._secrets], in_reply=in_reply, has_images=has_images)
            if isinstance(result, ContextExceeded) and result.context_length:
                self._served.learn_context_length(result.context_length)
            if isinstance(result, ImagesNotSeen):
                self._images.learn_refusal(self._served.known_name)
            elif isinstance(error, openai.NotFoundError):
                self._served.forget_name()
            if type(result) is EngineUnavailable:
                message = _DIED_MESSAGE if in_reply else _NOT_READY_MESSAGES.get(self.state, result.user_message)
                result = EngineUnavailable(result.reason, message)
            if result is error:
                raise
            raise result from error


def _read(reader: ChunkReader, splitter: ReasoningSplitter, event: Event) -> Iterator[Delta | Thinking]:
    """What one event of the stream says."""
    if event is None:
        return
    before = reader.thought
    text = reader.read(event)
    if reader.thought > before:
        yield Thinking(reader.thought - before)
    if text:
        yield from _pieces(splitter.push(text))


def _pieces(split: Split) -> Iterator[Delta | Thinking]:
    if split.thought or split.retracts:
        yield Thinking(split.thought, split.retracts)
    if split.answer:
        yield Delta(split.answer)


async def _first_event(events: EventStream, on_activity: Callable[[], None]) -> Event:
    """The first event with data, or None if the stream ends before. Closes the stream on any exception."""
    try:
        async for event in events:
            on_activity()
            if event is not None:
                return event
    except BaseException:
        await events.close()
        raise
    return None
