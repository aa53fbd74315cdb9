"""What the engine does for a request, between HTTP and the torch thread: readiness, prompts, limits, and replies.

Knows the loaded engine, its tokenizer and its chat format; knows neither HTTP nor torch. Before the model is loaded,
and after it has failed, every request is answered with the reason.
"""

import asyncio
import contextlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.core.request_stream import EngineDead
from engine.errors import Busy, EngineError, InvalidDialog, PromptTooLong
from engine.scheduler.request import SamplingParams
from engine.server.detokenizer import IncrementalDetokenizer
from engine.server.fields import RequestError
from engine.server.metrics import Metrics
from engine.server.protocol import ChatRequest, CompletionRequest, Message, Options, TokenizeRequest
from engine.server.streaming import ResponseStream
from engine.tokenizers.base import StreamDecoder

if TYPE_CHECKING:
    from engine.chat_format import ChatFormat
    from engine.core.engine_core import EngineCore
    from engine.tokenizers.base import Tokenizer

State = Literal["loading", "ready", "stopping", "failed"]
INLINE_CHARS = 4096  # a longer text is encoded off the event loop, so that nobody's stream waits for it


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that answers."""

    engine: "EngineCore"
    tokenizer: "Tokenizer"
    chat: "ChatFormat"
    max_context: int


class ServingService:
    def __init__(self, name: str, metrics: Metrics, *, max_reply_tokens: int | None = None) -> None:
        self.name = name
        self.state: State = "loading"
        self.detail = "The model is being loaded."
        self._metrics = metrics
        self._max_reply_tokens = max_reply_tokens
        self._loaded: LoadedModel | None = None
        self._created = int(time.time())
        self._replies: set[ResponseStream] = set()
        self._idle = asyncio.Event()

    def ready(self, loaded: LoadedModel) -> None:
        if self.state == "loading":
            self._loaded, self.state, self.detail = loaded, "ready", "The model answers."

    def fail(self, reason: str) -> None:
        self.state, self.detail = "failed", reason

    async def stop(self, grace: float) -> None:
        """Refuse what is new, let what runs finish within `grace` seconds, then end the rest with an error."""
        self.state, self.detail = "stopping", "The engine is shutting down."
        if self._replies:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace)
        for reply in tuple(self._replies):
            reply.abort(self.detail)

    def health(self) -> tuple[int, dict[str, object]]:
        failure = self._loaded.engine.failure if self._loaded and self.state == "ready" else None
        if failure is not None:
            self.fail(failure)
        status = 200 if self.state == "ready" else 503
        return status, {"status": "ok" if status == 200 else self.state, "detail": self.detail, "model": self.name}

    def card(self) -> dict[str, object]:
        """The model as /v1/models lists it; max_model_len as vLLM has it."""
        card: dict[str, object] = {
            "id": self.name,
            "object": "model",
            "created": self._created,
            "owned_by": "guildllama",
            "root": self.name,
            "parent": None,
        }
        if self._loaded is not None:
            card["max_model_len"] = self._loaded.max_context
        return card

    async def chat(self, request: ChatRequest) -> ResponseStream:
        loaded = self._model()
        prompt = await self._dialog_ids(loaded, request.messages)
        return self._submit(loaded, prompt, loaded.chat.stop_ids, request.options, "messages")

    async def complete(self, request: CompletionRequest) -> ResponseStream:
        loaded = self._model()
        if isinstance(request.prompt, str):
            prompt = await self._text_ids(loaded, request.prompt, add_bos=True)
        else:
            prompt = list(_known_ids(loaded, request.prompt, "prompt"))
        if not prompt:
            raise RequestError("'prompt' must not be empty.", param="prompt", code="invalid_value")
        return self._submit(loaded, prompt, loaded.tokenizer.stop_ids, request.options, "prompt")

    async def tokenize(self, request: TokenizeRequest) -> dict[str, object]:
        loaded = self._model()
        if request.messages is None:
            ids = await self._text_ids(loaded, request.prompt, add_bos=request.add_special_tokens)
        elif request.add_generation_prompt:
            ids = await self._dialog_ids(loaded, request.messages)
        else:
            message = "'add_generation_prompt' must be true: only whole prompts are counted."
            raise RequestError(message, param="add_generation_prompt", code="unsupported_parameter")
        return {"count": len(ids), "max_model_len": loaded.max_context, "tokens": ids, "token_strs": None}

    async def detokenize(self, tokens: tuple[int, ...]) -> dict[str, object]:
        loaded = self._model()
        ids = _known_ids(loaded, tokens, "tokens")
        return {"prompt": await asyncio.to_thread(loaded.tokenizer.decode, ids)}

    def _model(self) -> LoadedModel:
        if self.state == "ready" and self._loaded is not None:
            return self._loaded
        error = RequestError(self.detail, status=503, kind="server_error", code=f"engine_{self.state}")
        error.retry_after = 5 if self.state == "loading" else None
        raise error

    async def _dialog_ids(self, loaded: LoadedModel, messages: tuple[Message, ...]) -> list[int]:
        try:
            if sum(len(message["content"]) for message in messages) > INLINE_CHARS:
                return await asyncio.to_thread(loaded.chat.encode, messages)
            return loaded.chat.encode(messages)
        except InvalidDialog as error:
            param = "messages" if error.index is None else f"messages[{error.index}]"
            raise RequestError(f"{error}.", param=param, code="invalid_dialog") from error

    async def _text_ids(self, loaded: LoadedModel, text: str, *, add_bos: bool) -> list[int]:
        long = len(text) > INLINE_CHARS
        ids = await asyncio.to_thread(loaded.tokenizer.encode, text) if long else loaded.tokenizer.encode(text)
        bos = loaded.tokenizer.bos_id
        return [bos, *ids] if add_bos and bos is not None else ids

    def _submit(
        self, loaded: LoadedModel, prompt: list[int], stop_ids: frozenset[int], options: Options, param: str
    ) -> ResponseStream:
        room = loaded.max_context - len(prompt)
        if room < 1:
            raise _too_long(loaded.max_context, len(prompt), param)
        wishes = (options.max_tokens, self._max_reply_tokens, room)
        params = SamplingParams(
            temperature=options.temperature,
            top_p=options.top_p,
            max_tokens=min(wish for wish in wishes if wish is not None),
            stop_token_ids=stop_ids,
            seed=options.seed,
            ignore_eos=options.ignore_eos,
        )
        try:
            generation = loaded.engine.submit(prompt, params, client=options.client, tenant=options.tenant)
        except PromptTooLong as error:
            raise _too_long(error.limit, error.got, param) from error
        except Busy as error:
            wait = max(1, math.ceil(error.retry_after))
            raise RequestError(
                f"{error}.", status=429, kind="rate_limit_error", code="rate_limit_exceeded", retry_after=wait
            ) from error
        except EngineDead as error:
            raise RequestError(str(error), status=503, kind="server_error", code="engine_unavailable") from error
        except EngineError as error:
            raise RequestError(f"{error}.", param=param, code="invalid_value") from error
        text = IncrementalDetokenizer(StreamDecoder(loaded.tokenizer), options.stop)
        reply = ResponseStream(generation, text, self._metrics, self._forget)
        self._replies.add(reply)
        return reply

    def _forget(self, reply: ResponseStream) -> None:
        self._replies.discard(reply)
        if not self._replies:
            self._idle.set()


def _known_ids(loaded: LoadedModel, ids: tuple[int, ...], param: str) -> tuple[int, ...]:
    size = loaded.tokenizer.vocab_size
    if any(token >= size for token in ids):
        message = f"'{param}' holds an id that the vocabulary of {size} tokens lacks."
        raise RequestError(message, param=param, code="invalid_value")
    return ids


def _too_long(limit: int, got: int, param: str) -> RequestError:
    return RequestError(
        f"This model's maximum context length is {limit} tokens. However, your {param} resulted in {got} tokens, "
        f"which leaves no room for a reply. Please reduce the length of the {param}.",
        param=param,
        code="context_length_exceeded",
    )
