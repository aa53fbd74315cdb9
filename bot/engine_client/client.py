"""The client of an OpenAI-compatible server: ours, vLLM, llama.cpp's server, Ollama or a hosted one.

Only this module knows the `openai` package. It asks for nothing that such a server need not have: no /health, no
/tokenize, no usage, and it leaves out any extra field that a server turns down. Nothing is ever sent twice on its own
account once a reply may have been started: a second try could generate a second reply.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import httpx2
import openai
import structlog

from bot.chat.prompt import Message
from bot.engine_client.errors import ContextExceeded, refused_field, translate
from bot.engine_client.sse import objects
from bot.errors import EngineRefused, EngineUnavailable

log = structlog.get_logger(__name__)

EngineState = Literal["loading", "ready", "restarting", "unreachable"]

_WAITING = {
    "loading": "The model is still loading. Please try again in a minute.",
    "restarting": "The model is restarting. Please try again in a moment.",
}
_CONNECT_SECONDS = 5.0
_SMALL_CALL_SECONDS = 15.0
_HEALTH_SECONDS = 5.0
_ANY_MODEL = "default"


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the reply."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of the reply. The counts are None where the server does not say."""

    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, slots=True)
class TokenCount:
    """What a prompt takes, and what the model's context holds."""

    count: int
    limit: int


class EngineClient:
    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        uds: str | None = None,
        model: str | None = None,
        state: EngineState = "unreachable",
    ) -> None:
        self._told_model = model
        self._model: str | None = None
        self._limit: int | None = None
        self._counts = True  # until the server turns out to have no /tokenize
        self._left_out: set[str] = set()  # extra fields that this server turned down
        self.state: EngineState = state
        self.on_timeout: Callable[[], None] = lambda: None
        """Called when a reply did not come in time: the supervisor has a look at the process."""
        root = base_url.rstrip("/")
        self._root = root.removesuffix("/v1")
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
        # Giving a transport turns the environment's proxies off: they are for other machines.
        near = uds is not None or urlsplit(root).hostname in {"127.0.0.1", "::1", "localhost"}
        self._http = httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(uds=uds, limits=limits) if near else None,
            limits=limits,
            timeout=httpx2.Timeout(_SMALL_CALL_SECONDS, connect=_CONNECT_SECONDS, pool=None),
        )
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._openai = openai.AsyncOpenAI(
            base_url=root, api_key=api_key or "none", http_client=self._http, max_retries=0
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    @property
    def limit(self) -> int | None:
        """The model's context in tokens, once the server has told it."""
        return self._limit

    def forget(self) -> None:
        """Another process may answer from now on: ask for its model and abilities anew."""
        self._model, self._limit, self._counts = None, None, True
        self._left_out.clear()

    def unavailable(self, reason: str) -> EngineUnavailable:
        """The error for a server that is not there, in the words that fit what we know of it."""
        waiting = _WAITING.get(self.state)
        return EngineUnavailable(reason, waiting) if waiting else EngineUnavailable(reason)

    async def ready(self) -> bool:
        """Whether the server would answer now. A server without /health is ready when it lists its models."""
        with contextlib.suppress(httpx2.HTTPError, OSError):
            response = await self._http.get(f"{self._root}/health", headers=self._headers, timeout=_HEALTH_SECONDS)
            if response.status_code not in {401, 403, 404, 405, 501}:
                return response.status_code == 200
            response = await self._http.get(f"{self._openai.base_url}models", headers=self._headers)
            return response.status_code == 200
        return False

    async def model(self) -> str:
        """The name to ask for: the one we were told, if there is a choice; else the one that is served."""
        if self._model is None:
            self._model = await self._find_model()
        return self._model

    async def _find_model(self) -> str:
        try:
            answer = await self._openai.get("/models", cast_to=object, options={"timeout": _SMALL_CALL_SECONDS})
        except Exception as error:
            if isinstance(error, openai.NotFoundError):  # no such list: a server of one model that minds no name
                return self._told_model or _ANY_MODEL
            raise self._translated(error) from error
        served = _listed(answer)
        if self._told_model in served or (self._told_model and len(served) != 1):
            name = self._told_model or ""
        elif served:
            name = next(iter(served))
            if self._told_model:
                log.warning("the server knows another model only", told=self._told_model, used=name)
        else:
            raise EngineRefused("the server lists no model; name one with GUILDLLAMA_MODEL")
        self._limit = served.get(name) or self._limit
        return name

    async def count(self, messages: Sequence[Message]) -> TokenCount | None:
        """The tokens of a prompt by the server's /tokenize; None where the server has none like vLLM's."""
        if not self._counts:
            return None
        model = await self.model()
        body = {"model": model, "messages": list(messages), "add_generation_prompt": True}
        try:
            response = await self._http.post(f"{self._root}/tokenize", json=body, headers=self._headers)
        except (httpx2.HTTPError, OSError) as error:
            raise self._translated(error) from error
        if response.status_code == 503:
            raise self.unavailable("503 from /tokenize")
        count, limit = _token_count(response) if response.status_code == 200 else (None, None)
        limit = limit or self._limit
        if count is None or limit is None:
            # llama.cpp's endpoint of this name wants a text, Ollama has none: from now on the answers to overlong
            # prompts tell. A passing failure is no reason to give up counting for good.
            self._counts = response.status_code in {400, 408, 429, 500, 502, 504} and self._counts
            return None
        self._limit = limit
        return TokenCount(count, limit)

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
        """The reply, piece by piece, and last one `Finished`. Closing the iterator cancels the generation.

        Raises ContextExceeded, Busy or an EngineUnavailable.
        """
        fields: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        fields |= {"user": user, "stream_options": {"include_usage": True}, "cache_salt": cache_salt}
        try:
            chunks = await self._open(messages, fields)
        except Exception as error:
            raise self._translated(error) from error
        finished: str | None = None
        prompt_tokens = completion_tokens = None
        try:
            async for chunk in objects(chunks.response.aiter_bytes()):
                if chunk.get("error"):
                    raise _told(chunk["error"], chunks.response.request)
                if usage := chunk.get("usage"):
                    prompt_tokens, completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
                for choice in chunk.get("choices") or ():
                    finished = choice.get("finish_reason") or finished
                    if text := (choice.get("delta") or {}).get("content"):
                        yield Delta(text)
        except Exception as error:
            raise self._translated(error, in_reply=True) from error
        finally:
            await chunks.close()
        if finished in {None, "error", "cancelled"}:
            raise self._died(f"the stream ended with {finished or 'no finish_reason'}")
        self.state = "ready"
        yield Finished(finished, prompt_tokens, completion_tokens)

    async def _open(self, messages: Sequence[Message], fields: dict[str, Any]) -> openai.AsyncStream[object]:
        """Start the request, leaving out what this server has turned down. A refusal has generated nothing."""
        model = await self.model()
        while True:
            extra = {name: value for name, value in fields.items() if name not in self._left_out}
            if "max_tokens" in self._left_out:
                extra["max_completion_tokens"] = fields["max_tokens"]
            try:
                # As `chat.completions.create` does, without its walk through every message's types.
                return await self._openai.post(
                    "/chat/completions",
                    body={"model": model, "messages": list(messages), "stream": True, **extra},
                    cast_to=object,
                    stream=True,
                    stream_cls=openai.AsyncStream[object],
                    options={
                        "timeout": httpx2.Timeout(None, connect=_CONNECT_SECONDS)
                    },  # the caller watches for silence
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                field = refused_field(error, set(extra))
                if field is None:
                    raise
                log.info("the server turned down a field; leaving it out from now on", field=field)
                self._left_out.add(field)

    def _translated(self, error: Exception, *, in_reply: bool = False) -> Exception:
        result = translate(error)
        if isinstance(error, openai.NotFoundError):
            self._model = None  # perhaps another model is served by now
        if isinstance(result, ContextExceeded) and result.limit:
            self._limit = self._limit or result.limit
        if type(result) is EngineUnavailable:
            return self._died(result.reason) if in_reply else self.unavailable(result.reason)
        return result

    def _died(self, reason: str) -> EngineUnavailable:
        return EngineUnavailable(reason, "The model stopped in the middle of this reply. Please ask again in a moment.")


def _told(error: object, request: httpx2.Request) -> openai.APIError:
    """An error that came as an event, in the middle of a reply."""
    message = error.get("message") if isinstance(error, dict) else error
    return openai.APIError(str(message), request=request, body=error)


def _listed(answer: object) -> dict[str, int | None]:
    """The models of a /v1/models answer, with the context of each where the server tells it (vLLM and our own do)."""
    data = answer.get("data") if isinstance(answer, dict) else None
    found: dict[str, int | None] = {}
    for entry in data if isinstance(data, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("id"), str):
            length = entry.get("max_model_len")
            found[entry["id"]] = length if isinstance(length, int) and length > 0 else None
    return found


def _token_count(response: httpx2.Response) -> tuple[int | None, int | None]:
    try:
        body = response.json()
    except ValueError:
        return None, None
    if not isinstance(body, dict):
        return None, None
    count, limit = body.get("count"), body.get("max_model_len")
    return (count if isinstance(count, int) else None), (limit if isinstance(limit, int) else None)
