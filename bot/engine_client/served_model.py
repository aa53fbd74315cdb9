"""The model that a server serves: its name, its context length, and how many tokens a prompt takes.

Asks /v1/models and /tokenize, and works with servers that have neither. Raises the errors of openai and httpx2 as they
are; `bot.engine_client.client` translates them.
"""

from __future__ import annotations

from collections.abc import Sequence

import httpx2
import openai
import structlog

from bot.engine_client.http.transport import SMALL_CALL_SECONDS, Transport
from bot.engine_client.messages import Message, TokenCount, continuation_fields
from bot.engine_client.refusals.refusal import tokens
from bot.errors import EngineRefused, EngineUnavailable

log = structlog.get_logger(__name__)

_NAME_CHARS = 500
_ANY_MODEL = "default"
_CONTEXT_FIELDS = ("max_model_len", "loaded_context_length", "context_length", "context_window", "max_context_length")
"""Where vLLM, SGLang and our engine, LM Studio, OpenRouter, Groq and Mistral report the context."""
_WITH_TEMPLATE_KWARGS = {"guildllama", "vllm", "sglang", "llamacpp"}
"""Servers whose list of models says that they are of these render a chat template with `chat_template_kwargs`; others
may refuse a field that they do not know."""
_OURS = "guildllama"
_TEMPORARY = {400, 408, 429, 500, 502, 504}


class ServedModel:
    """The model of one server. `configured` is the name that the operator chose, if any."""

    def __init__(self, transport: Transport, configured: str | None = None, *, thinking: bool = False) -> None:
        self.template_fields: dict[str, object] = {}
        """Fields for the chat template, on servers that are known to take them."""
        self.shares_time = False
        """Whether the server is known to share its time among tenants, instead of serving in order of arrival."""
        self._thinking = thinking
        self._transport = transport
        self._configured = configured
        self._name: str | None = None
        self._can_fit = True
        self._can_tokenize = True  # until the server turns out to have no /tokenize like vLLM's
        self._named_length: int | None = None
        self._learnt_length: int | None = None

    @property
    def context_length(self) -> int | None:
        """The model's context in tokens: what the server names as a number, else what a refusal said, else None."""
        return self._named_length or self._learnt_length

    def learn_context_length(self, length: int) -> None:
        """Keep a length that was read from a refusal's sentence, until the server names one."""
        self._learnt_length = length

    @property
    def known_name(self) -> str | None:
        """The name that is asked for now, or None before the first request."""
        return self._name

    async def name(self) -> str:
        """The name to ask for: the configured one if the server has a choice of models, else the one it serves."""
        if self._name is None:
            try:
                self._name = await self._choose()
            except openai.InternalServerError as error:
                # `transformers serve` fails to list its models where none was downloaded, and serves all the same.
                if self._configured is None or error.status_code != 500:
                    raise
                return self._configured
        return self._name

    def insist(self, asked: str, refusal: str) -> str | None:
        """The configured name, to ask for it from now on, if this refusal is about the name that was asked for instead.

        A server may list one model and be pinned to another one. None: the configured name was asked for, or there is
        none.
        """
        wanted = self._configured
        if wanted is None or asked == wanted or not (asked in refusal or wanted in refusal):
            return None
        if self._name != wanted:  # several requests may be refused at the same time
            self._name, self._named_length = wanted, None
            log.info("the server wants the configured model after all", model=wanted, **self._transport.log_fields)
        return wanted

    def forget_name(self) -> None:
        """Ask for the list of models again: the server no longer knows the name."""
        self._name = None

    async def _choose(self) -> str:
        try:
            answer = await self._transport.openai.get(
                "/models", cast_to=object, options={"timeout": SMALL_CALL_SECONDS}
            )
        except openai.NotFoundError:  # a server of one model, without a list, accepts any name
            return self._configured or _ANY_MODEL
        served = _context_sizes(answer)
        if self._configured in served or (self._configured and len(served) != 1):
            name = self._configured or ""
        elif served:
            name = next(iter(served))
            if self._configured:
                fields = self._transport.log_fields
                log.warning("the server serves only another model", configured=self._configured, used=name, **fields)
        else:
            raise EngineRefused("the server lists no model; name one with GUILDLLAMA_MODEL")
        self._named_length = served.get(name) or self._named_length
        owner = _owner(answer, name)
        self.shares_time = owner == _OURS
        if owner in _WITH_TEMPLATE_KWARGS:
            self.template_fields = {"chat_template_kwargs": {"enable_thinking": self._thinking}}
        return name

    async def count(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> TokenCount | None:
        """The tokens of a prompt by the server's /tokenize, or None if it has no such endpoint like vLLM's.

        `max_tokens` asks for a shorter dialog, which only our engine understands; vLLM ignores it.
        """
        if not self._can_tokenize:
            return None
        body: dict[str, object] = {"model": await self.name(), "messages": list(messages)}
        body |= continuation_fields(messages) or {"add_generation_prompt": True}
        body |= self.template_fields
        if max_tokens is not None and self._can_fit:
            body["max_prompt_tokens"] = max_tokens
        response = await self._transport.post("/tokenize", body)
        if response.status_code in {400, 422} and self.template_fields:
            body = {name: value for name, value in body.items() if name not in self.template_fields}
            response = await self._transport.post("/tokenize", body)
            if response.status_code == 200:
                self.template_fields = {}  # it was at fault
        if "max_prompt_tokens" in body and response.status_code in {400, 422}:
            self._can_fit = False  # or the dialog is at fault; then the reply will be refused as well
        if response.status_code == 503:
            raise EngineUnavailable("503 from /tokenize")
        count, length, dropped = _read_count(response) if response.status_code == 200 else (None, None, None)
        self._named_length = length or self._named_length
        length = self.context_length
        if count is None or length is None:
            # llama.cpp's /tokenize wants a text, and Ollama has none: from now on the server's refusal of a prompt
            # that is too long gives the numbers. A temporary failure does not end counting.
            if response.status_code not in _TEMPORARY:
                self._can_tokenize = False
            return None
        return TokenCount(count, length, dropped)


def _context_sizes(answer: object) -> dict[str, int | None]:
    """Each model of a /v1/models answer with its context in tokens, where the server reports it."""
    data = answer.get("data") if isinstance(answer, dict) else None
    found: dict[str, int | None] = {}
    for entry in data if isinstance(data, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("id"), str) and len(entry["id"]) <= _NAME_CHARS:
            meta = entry.get("meta")
            of_a_slot = meta.get("n_ctx") if isinstance(meta, dict) else None  # llama.cpp's server
            sizes = (tokens(size) for size in (*map(entry.get, _CONTEXT_FIELDS), of_a_slot))
            found[entry["id"]] = next(filter(None, sizes), None)
    return found


def _owner(answer: object, name: str) -> str | None:
    """What the list of models says whose this one is: vLLM, SGLang, llama.cpp and our engine name themselves there."""
    data = answer.get("data") if isinstance(answer, dict) else None
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    owner = next((entry.get("owned_by") for entry in entries if entry.get("id") == name), None)
    return owner if isinstance(owner, str) else None


def _read_count(response: httpx2.Response) -> tuple[int | None, int | None, int | None]:
    """Tokens, context length and dropped messages, as far as the answer names them."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return None, None, None
    if not isinstance(body, dict):
        return None, None, None
    dropped = body.get("dropped_messages")
    known = type(dropped) is int and 0 <= dropped < 10**6
    return tokens(body.get("count")) or None, tokens(body.get("max_model_len")) or None, dropped if known else None
