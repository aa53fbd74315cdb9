"""The client of an OpenAI-compatible server: our engine, vLLM, llama.cpp's server, Ollama or a hosted one.

/health, /tokenize and usage may be missing there, and an extra field that the server rejects is left out from then on.
A request that may have started a reply is never retried: that could generate a second reply. Knows the protocol; knows
neither dialogs nor members.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import httpx2
import openai
import structlog

from bot.engine_client.errors import ContextExceeded, refused_field, translate
from bot.engine_client.messages import Delta, Finished, Message, TokenCount
from bot.engine_client.served_model import ServedModel
from bot.engine_client.transport import CONNECT_SECONDS, Transport
from bot.errors import EngineUnavailable

log = structlog.get_logger(__name__)

EngineState = Literal["loading", "ready", "restarting", "unreachable"]

_NOT_READY_MESSAGES = {
    "loading": "The model is still loading. Please try again in a minute.",
    "restarting": "The model is restarting. Please try again in a moment.",
}
_DIED_MESSAGE = "The model stopped in the middle of this reply. Please ask again in a moment."
_HEALTH_SECONDS = 5.0
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
    ) -> None:
        self.state: EngineState = state
        self.on_timeout: Callable[[], None] = lambda: None
        """Called when a reply timed out, so that the supervisor checks the process at once."""
        self._transport = Transport(base_url, api_key, uds=uds)
        self._served = ServedModel(self._transport, model)
        self._rejected_fields: set[str] = set()

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

    async def model(self) -> str:
        """The name to ask for: the configured one if the server has a choice of models, else the one it serves."""
        with self._translated_errors():
            return await self._served.name()

    async def count(self, messages: Sequence[Message]) -> TokenCount | None:
        """The tokens of a prompt, or None if the server cannot count them."""
        with self._translated_errors():
            return await self._served.count(messages)

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        temperature: float,
        top_p: float,
        max_tokens: int,
        user: str,
        cache_salt: str,
    ) -> AsyncGenerator[Delta | Finished, None]:
        """The reply piece by piece, and `Finished` last. Closing the iterator cancels the generation.

        Raises ContextExceeded, Busy or EngineUnavailable.
        """
        fields: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        fields |= {"user": user, "stream_options": {"include_usage": True}, "cache_salt": cache_salt}
        with self._translated_errors():
            chunks = await self._start(messages, fields)
        finish_reason: str | None = None
        prompt_tokens = completion_tokens = None
        try:
            with self._translated_errors(in_reply=True):
                async for chunk in chunks:
                    if not isinstance(chunk, dict):
                        raise ValueError(f"an event that is no JSON object: {chunk!r:.80}")
                    if usage := chunk.get("usage"):
                        prompt_tokens, completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
                    for choice in chunk.get("choices") or ():
                        finish_reason = choice.get("finish_reason") or finish_reason
                        if text := (choice.get("delta") or {}).get("content"):
                            yield Delta(text)
        finally:
            await chunks.close()
        if finish_reason in {None, "error", "cancelled"}:
            raise EngineUnavailable(f"the stream ended with {finish_reason or 'no finish_reason'}", _DIED_MESSAGE)
        self.state = "ready"
        yield Finished(finish_reason, prompt_tokens, completion_tokens)

    async def _start(self, messages: Sequence[Message], fields: dict[str, Any]) -> openai.AsyncStream[object]:
        """Start the request without the fields that this server rejected. A rejected request has generated nothing."""
        model = await self._served.name()
        while True:
            extra = {name: value for name, value in fields.items() if name not in self._rejected_fields}
            if "max_tokens" in self._rejected_fields:
                extra["max_completion_tokens"] = fields["max_tokens"]
            try:
                # `chat.completions.create` would validate each message and build a model of each chunk: twice the CPU.
                return await self._transport.openai.post(
                    "/chat/completions",
                    body={"model": model, "messages": list(messages), "stream": True, **extra},
                    cast_to=object,
                    stream=True,
                    stream_cls=openai.AsyncStream[object],
                    # No timeout between two chunks: the caller has its own.
                    options={"timeout": httpx2.Timeout(None, connect=CONNECT_SECONDS)},
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                field = refused_field(error, set(extra))
                if field is None:
                    raise
                log.info("the server turned down a field; leaving it out from now on", field=field)
                self._rejected_fields.add(field)

    @contextlib.contextmanager
    def _translated_errors(self, *, in_reply: bool = False) -> Iterator[None]:
        """Turn an error of the server or the connection into ours, and note what it says about the server."""
        try:
            yield
        except Exception as error:
            result = translate(error)
            if isinstance(error, openai.NotFoundError):
                self._served.forget_name()
            if isinstance(result, ContextExceeded) and result.context_length:
                self._served.context_length = self._served.context_length or result.context_length
            if type(result) is EngineUnavailable:
                message = _DIED_MESSAGE if in_reply else _NOT_READY_MESSAGES.get(self.state, result.user_message)
                result = EngineUnavailable(result.reason, message)
            if result is error:
                raise
            raise result from error
