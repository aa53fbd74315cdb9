"""The client of an OpenAI-compatible server: our engine, vLLM, llama.cpp's server, Ollama or a hosted one.

/health, /tokenize and usage may be missing there. A request that may have started a reply is never retried: that could
generate a second reply. Knows what a server is asked and in which state it is; how a reply is begun and read, and what
an answer means, are files of their own. Knows neither dialogs nor members.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import httpx2
import openai

from bot.engine_client.completions import Completions
from bot.engine_client.engine import EngineState
from bot.engine_client.errors import ContextExceeded, translate
from bot.engine_client.http.transport import Transport
from bot.engine_client.images.support import ImageSupport
from bot.engine_client.messages import (
    Message,
    ReplyEvent,
    TokenCount,
    continuation_fields,
    count_images,
    text_of,
)
from bot.engine_client.own_engine import OwnEngine, load_progress
from bot.engine_client.replicas.report import ReplicaReport
from bot.engine_client.served_model import ServedModel
from bot.engine_client.stream.reasoning import ReasoningSplitter, has_mark
from bot.engine_client.stream.reply_end import events_to_the_end
from bot.engine_client.stream.reply_reader import ReplyReader
from bot.errors import EngineUnavailable, ImagesNotSeen
from bot.i18n.language import N_, pgettext
from bot.i18n.language import gettext as _

Health = Literal["ready", "not_ready", "unreachable"]

_NOT_READY_MESSAGES = {
    "loading": N_("The model is still loading. Please try again in a minute."),
    "restarting": N_("The model is restarting. Please try again in a moment."),
}
_DIED_MESSAGE = N_("The model stopped in the middle of this reply. Please ask again in a moment.")
_HEALTH_SECONDS = 5.0
_NO_HEALTH_ENDPOINT = {401, 403, 404, 405, 501}


class EngineClient:
    """One server. `ready`, `is_busy`, `metrics_pages` and `erase_cache` never raise; the others raise a BotError.

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
        name: str = "",
    ) -> None:
        """`thinking`: whether a model that can think first is asked to, where the server lets one choose.

        `name`: which of several servers this is, for the log.
        """
        self.state: EngineState = state
        self.on_timeout: Callable[[], None] = lambda: None
        """Called when a reply timed out, so that the supervisor checks the process at once."""
        self.completed_replies = 0
        self.load_progress: str = ""
        """While our own engine loads its model: how far it is, such as "43 %"; "" if that is not known."""
        self._transport = Transport(base_url, api_key, uds=uds, name=name)
        self._served = ServedModel(self._transport, model, thinking=thinking)
        self._own = OwnEngine(self._transport)
        self._completions = Completions(self._transport, self._served)
        self._begins_inside = False
        """Whether the model's prompt opens its thoughts, as a reply has shown."""
        self._secrets = [api_key] if api_key else []
        self._images = ImageSupport()

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
    def shares_time(self) -> bool:
        """Whether the server is known to share its time among tenants, instead of serving in order of arrival."""
        return self._served.shares_time

    @property
    def context_length(self) -> int | None:
        """The model's context in tokens, or None until the server has reported it."""
        return self._served.context_length

    @property
    def transport(self) -> Transport:
        """The connections to the server."""
        return self._transport

    @property
    def known_model(self) -> str | None:
        """The name that is asked for, or None before the first request."""
        return self._served.known_name

    @property
    def can_erase(self) -> bool:
        """Whether the server may be able to drop what it caches: False once it has turned out that it cannot."""
        return self._own.can_erase

    def lane(self, cache_salt: str) -> int:
        """Which line this tenant's messages wait in: one server has one."""
        return 0

    async def ready(self) -> bool:
        """Whether the server would answer now. One without /health is ready if it lists its models."""
        return await self.health() == "ready"

    async def health(self) -> Health:
        """The same, and whether it said so itself if it is not. Never raises."""
        with contextlib.suppress(httpx2.HTTPError, OSError):
            response = await self._transport.get("/health", timeout=_HEALTH_SECONDS)
            if response.status_code in _NO_HEALTH_ENDPOINT:
                response = await self._transport.list_models()
            self.load_progress = load_progress(response)
            return "ready" if response.status_code == 200 else "not_ready"
        return "unreachable"

    async def is_busy(self, cache_salt: str | None = None) -> bool:
        """Whether our own engine has requests that run or wait, those of other clients included.

        False if that is not known, as with other servers.
        """
        return await self._own.is_busy()

    def reports(self) -> tuple[ReplicaReport, ...]:
        """See `Engine.reports`: this is one server."""
        return ()

    async def metrics_pages(self) -> tuple[str]:
        """The server's own numbers, as its /metrics has them; "" if it has none, or does not answer."""
        return (await self._own.metrics(),)

    async def model(self) -> str:
        """The name to ask for: the configured one if the server has a choice of models, else the one it serves."""
        with self._translated_errors():
            return await self._served.name()

    async def count(
        self, messages: Sequence[Message], *, max_tokens: int | None = None, cache_salt: str | None = None
    ) -> TokenCount | None:
        """The tokens of a prompt, or None if the server cannot count them.

        With `max_tokens` our engine leaves out the oldest exchanges until the prompt has no more tokens than that.
        """
        with self._translated_errors():
            return await self._served.count(messages, max_tokens=max_tokens)

    async def erase_cache(self, cache_salt: str) -> bool:
        """Have the server drop what it caches of prompts with this salt; whether it has. Never raises.

        Only our engine can. Another server is asked once.
        """
        return await self._own.erase_cache(cache_salt)

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
            stream, events = await self._completions.start(messages, fields, on_activity, has_images=has_images)
        splitter = ReasoningSplitter(
            begins_inside=self._begins_inside,
            only_answer=bool(continuation_fields(messages)),
            quotes_marks=has_mark(sent),
        )
        reader = ReplyReader(splitter)
        try:
            with self._translated_errors(sent, in_reply=True, has_images=has_images):
                for piece in reader.read(events):
                    yield piece
                async for events in events_to_the_end(stream, reader):
                    on_activity()
                    for piece in reader.read(events):
                        yield piece
        except EngineUnavailable:
            if reader.finish_reason is None:
                raise
            # The reply is complete; only its last words of protocol are missing.
        finally:
            await stream.close()
        finish_reason = reader.finish_reason or ("stop" if stream.done else None)
        if finish_reason is None or finish_reason == "error":
            raise EngineUnavailable(f"the stream ended with {finish_reason or 'no finish_reason'}", _(_DIED_MESSAGE))
        for piece in reader.end(finish_reason):
            yield piece
        self._begins_inside = (self._begins_inside or splitter.saw_lone_close) and not splitter.never_closed
        self.state = "ready"
        self.completed_replies += 1
        yield reader.finished(finish_reason)

    def _not_ready_message(self) -> str | None:
        message = _NOT_READY_MESSAGES.get(self.state)
        if message is not None and self.state == "loading" and self.load_progress:
            text = _("The model is still loading ({progress}). Please try again in a minute.")
            return text.format(progress=pgettext("loading", self.load_progress))
        return None if message is None else _(message)

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
                message = _(_DIED_MESSAGE) if in_reply else self._not_ready_message() or result.user_message
                result = EngineUnavailable(result.reason, message)
            if result is error:
                raise
            raise result from error
