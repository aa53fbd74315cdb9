"""What the server does with a valid request: readiness, prompt to token ids, limits, submission, the response stream.

Runs on the event loop. Knows the loaded engine, its tokenizer and its chat format; knows neither HTTP nor torch. The
model runs on another thread, the step loop's: `EngineCore.submit` puts a request into that thread's inbox and returns a
`RequestStream`, and the step loop hands token ids back through that stream (see streaming.py). Nothing here blocks.
Before the model is loaded, and after it has failed, every request is refused with the reason.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from engine.chat.reasoning import reasoning_decoder
from engine.core.request_stream import EngineDead
from engine.errors import Busy, EngineError, PromptTooLong
from engine.logits_params import TokenConstraint
from engine.scheduler.request import SamplingParams
from engine.server.detokenizer import IncrementalDetokenizer
from engine.server.generation.choices import Choices
from engine.server.generation.repetition import RepetitionGuard
from engine.server.generation.structured_outputs import StructuredOutputManager
from engine.server.generation.token_logprobs import LogprobsQueue
from engine.server.loaded_model import LoadedModel
from engine.server.metrics import Metrics
from engine.server.protocol.errors import RequestError, engine_unavailable, rate_limited
from engine.server.protocol.requests import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
)
from engine.server.reply_parts import ReplyParts
from engine.server.streaming import ResponseStream
from engine.server.tokenizing import PromptTokenization, context_length_exceeded
from engine.tokenizers.base import StreamDecoder

MAX_LOGPROB_ENTRIES = 1 << 18  # of one request, which are kept until its client has read them

State = Literal["loading", "ready", "stopping", "failed"]


class ServingService:
    """The state of the server and the responses that are running."""

    def __init__(
        self, name: str, metrics: Metrics, *, max_reply_tokens: int | None = None, repetition_guard: bool = True
    ) -> None:
        """`name`: of the model, for clients; `max_reply_tokens`: upper bound for every response.

        `repetition_guard`: a response that does nothing but repeat itself is ended.
        """
        self.name = name
        self.state: State = "loading"
        self.detail = "The model is being loaded."
        self._metrics = metrics
        self._max_reply_tokens = max_reply_tokens
        self._repetition_guard = repetition_guard
        self._tokenization = PromptTokenization()
        self._structured_outputs = StructuredOutputManager()
        self._loaded: LoadedModel | None = None
        self._created = int(time.time())
        self._streams: set[ResponseStream] = set()
        self._all_ended = asyncio.Event()

    def set_ready(self, loaded: LoadedModel) -> None:
        """Accept requests from now on, unless the server is already shutting down."""
        if self.state == "loading":
            self._loaded, self.state, self.detail = loaded, "ready", "The model answers."

    def set_failed(self, reason: str) -> None:
        """Refuse all requests with `reason` from now on."""
        self.state, self.detail = "failed", reason

    async def stop(self, grace: float) -> None:
        """Refuse new requests, give running ones `grace` seconds to finish, then end the rest with an error."""
        self.state, self.detail = "stopping", "The engine is shutting down."
        if self._streams:
            self._all_ended.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_ended.wait(), grace)
        for stream in tuple(self._streams):
            stream.abort(self.detail)

    def health(self) -> tuple[int, dict[str, object]]:
        """HTTP status and body of /health."""
        failure = self._loaded.engine.failure if self._loaded and self.state == "ready" else None
        if failure is not None:
            self.set_failed(failure)
        status = 200 if self.state == "ready" else 503
        return status, {"status": "ok" if status == 200 else self.state, "detail": self.detail, "model": self.name}

    def model_card(self) -> dict[str, object]:
        """The model as /v1/models lists it, with vLLM's `max_model_len`."""
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

    async def chat(self, request: ChatRequest) -> Choices:
        """Submit a dialog. Raises RequestError."""
        loaded = self._require_model()
        prompt_ids = await self._tokenization.dialog(
            loaded,
            request.dialog,
            continue_last=request.continue_last,
            variables=request.chat_template_kwargs,
            tools=request.offered_tools,
        )
        stop_ids, continues = loaded.chat.stop_ids, request.continues_text
        return await self._submit_all(loaded, [prompt_ids], stop_ids, request, "messages", continues=continues)

    async def complete(self, request: CompletionRequest) -> tuple[Choices, list[str]]:
        """Submit prompts of text or token ids; also the text before each choice, if asked for. Raises RequestError."""
        loaded = self._require_model()
        prompts = [await self._prompt_ids(loaded, prompt, request) for prompt in request.prompt]
        choices = await self._submit_all(loaded, prompts, loaded.tokenizer.stop_ids, request, "prompt")
        if not request.echo:
            return choices, []
        texts = [prompt if isinstance(prompt, str) else loaded.tokenizer.decode(prompt) for prompt in request.prompt]
        return choices, [text for text in texts for _ in range(request.n)]

    async def _prompt_ids(self, loaded: LoadedModel, prompt: str | list[int], request: CompletionRequest) -> list[int]:
        if isinstance(prompt, str):
            prompt_ids = await self._tokenization.text(loaded, prompt, special_tokens=request.add_special_tokens)
        elif len(prompt) >= loaded.max_context:
            raise context_length_exceeded(loaded.max_context, len(prompt), "prompt")
        else:
            prompt_ids = _check_vocabulary(loaded, prompt, "prompt")
        if not prompt_ids:
            raise RequestError("'prompt' must not be empty.", param="prompt", code="invalid_value")
        return prompt_ids

    async def tokenize(self, request: TokenizeChatRequest | TokenizeTextRequest) -> dict[str, object]:
        """The body of /tokenize, with every token id. Raises RequestError."""
        loaded = self._require_model()
        dropped: dict[str, object] = {}
        if isinstance(request, TokenizeTextRequest):
            ids = await self._tokenization.text(loaded, request.prompt, special_tokens=request.add_special_tokens)
        elif request.max_prompt_tokens is not None:
            ids, num_dropped = await self._tokenization.fitting_dialog(
                loaded,
                request.dialog,
                request.max_prompt_tokens,
                continue_last=request.continue_last,
                variables=request.chat_template_kwargs,
                tools=request.offered_tools,
            )
            dropped = {"dropped_messages": num_dropped}
        else:
            ids = await self._tokenization.dialog(
                loaded,
                request.dialog,
                continue_last=request.continue_last,
                variables=request.chat_template_kwargs,
                tools=request.offered_tools,
            )
        return {"count": len(ids), "max_model_len": loaded.max_context, "tokens": ids, "token_strs": None, **dropped}

    async def detokenize(self, tokens: list[int]) -> str:
        """The text of as many tokens as the context holds. Raises RequestError."""
        loaded = self._require_model()
        if len(tokens) > loaded.max_context:
            message = f"'tokens' may have at most {loaded.max_context} ids, as many as the context holds."
            raise RequestError(message, param="tokens", code="invalid_value")
        return await asyncio.to_thread(loaded.tokenizer.decode, _check_vocabulary(loaded, tokens, "tokens"))

    def _require_model(self) -> LoadedModel:
        if self.state == "ready" and self._loaded is not None:
            return self._loaded
        raise RequestError(
            self.detail,
            status=503,
            error_type="server_error",
            code=f"engine_{self.state}",
            retry_after=5 if self.state == "loading" else None,
        )

    async def _submit_all(
        self,
        loaded: LoadedModel,
        prompts: Sequence[list[int]],
        stop_token_ids: frozenset[int],
        request: GenerationRequest,
        param: str,
        *,
        continues: bool = False,
    ) -> Choices:
        """`n` choices for each prompt, or RequestError and none. `param`: the field that errors of a prompt name.

        `continues`: the reply goes on in the middle of a text, so that a space at its beginning counts.
        """
        for prompt_ids in prompts:
            if len(prompt_ids) >= loaded.max_context:
                raise context_length_exceeded(loaded.max_context, len(prompt_ids), param)
        params = _sampling_params(loaded, stop_token_ids, request)
        if params.num_logprobs is not None:
            num_tokens = request.n * sum(self._max_tokens(loaded, prompt_ids, request) for prompt_ids in prompts)
            if num_tokens * (params.num_logprobs + 1) > MAX_LOGPROB_ENTRIES:
                message = f"'logprobs' of {num_tokens} tokens would be too many. Send a lower 'max_tokens'."
                raise RequestError(message, param="logprobs", code="invalid_value")
        constraints = await self._structured_outputs.constraints(
            loaded, request, stop_token_ids, len(prompts) * request.n
        )
        streams: list[ResponseStream] = []
        try:
            for prompt_ids in prompts:
                for index in range(request.n):
                    seed = None if params.seed is None else params.seed + index
                    own = replace(params, max_tokens=self._max_tokens(loaded, prompt_ids, request), seed=seed)
                    constraint = constraints[len(streams)]
                    streams.append(
                        self._submit(loaded, prompt_ids, own, constraint, request, param, continues=continues)
                    )
        except RequestError:
            for stream in streams:
                stream.cancel()
            raise
        return Choices(streams, request.n)

    def _max_tokens(self, loaded: LoadedModel, prompt_ids: list[int], request: GenerationRequest) -> int:
        limits = (request.token_limit, self._max_reply_tokens, loaded.max_context - len(prompt_ids))
        return min(limit for limit in limits if limit is not None)

    def _submit(
        self,
        loaded: LoadedModel,
        prompt_ids: list[int],
        params: SamplingParams,
        constraint: TokenConstraint | None,
        request: GenerationRequest,
        param: str,
        *,
        continues: bool,
    ) -> ResponseStream:
        """Hand one choice to the step loop's thread."""
        try:
            tokens = loaded.engine.submit(
                prompt_ids, params, client=request.user, tenant=request.cache_salt, constraint=constraint
            )
        except PromptTooLong as error:
            raise context_length_exceeded(error.limit, error.got, param) from error
        except Busy as error:
            raise rate_limited(f"{error}.", max(1, math.ceil(error.retry_after))) from error
        except EngineDead as error:
            raise engine_unavailable(str(error)) from error
        except EngineError as error:
            raise RequestError(f"{error}.", param=param, code="invalid_value") from error
        # A reply that follows a grammar is all answer.
        decoder = StreamDecoder(loaded.tokenizer, after=prompt_ids[-1] if continues else None)
        parts = None if constraint is not None else _reply_parts(loaded, request, prompt_ids, decoder)
        stream = ResponseStream(
            tokens,
            IncrementalDetokenizer(parts or decoder, request.stop, min_tokens=request.min_tokens),
            self._metrics,
            self._on_stream_end,
            parts=parts,
            logprobs=None if params.num_logprobs is None else LogprobsQueue(loaded.tokenizer),
            # A client that ignores the end of the text measures the engine.
            guard=RepetitionGuard(loaded.tokenizer.decode)
            if self._repetition_guard and request.repetition_guard and not request.ignore_eos
            else None,
        )
        self._streams.add(stream)
        return stream

    def _on_stream_end(self, stream: ResponseStream) -> None:
        self._streams.discard(stream)
        if not self._streams:
            self._all_ended.set()


def _reply_parts(
    loaded: LoadedModel, request: GenerationRequest, prompt_ids: list[int], plain: StreamDecoder
) -> ReplyParts | None:
    """What takes reasoning and tool calls out of the reply, if it may have any."""
    template = loaded.template
    if template is None or not isinstance(request, ChatRequest):
        return None
    reasoning = None
    if template.reasoning is not None and not request.continues_text:
        reasoning = reasoning_decoder(loaded.tokenizer, template.reasoning, prompt_ids)
    tools = template.tools if request.offered_tools else None
    if reasoning is None and tools is None:
        return None
    names = {tool["function"]["name"] for tool in request.offered_tools}
    return ReplyParts(plain, reasoning, tools, tool_names=names, include_reasoning=request.include_reasoning)


def _sampling_params(loaded: LoadedModel, stop_token_ids: frozenset[int], request: GenerationRequest) -> SamplingParams:
    """What all choices of a request share. Raises RequestError for ids that the vocabulary lacks."""
    own_stops = _check_vocabulary(loaded, request.stop_token_ids, "stop_token_ids")
    if request.logit_bias and request.logit_bias[-1][0] >= loaded.tokenizer.vocab_size:
        _check_vocabulary(loaded, [request.logit_bias[-1][0]], "logit_bias")
    return SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p,
        # As in vLLM, ignore_eos leaves the request's own stop tokens alone.
        stop_token_ids=frozenset(own_stops) if request.ignore_eos and own_stops else stop_token_ids | {*own_stops},
        seed=request.seed,
        ignore_eos=request.ignore_eos and not own_stops,
        logits=request.logits_params,
        num_logprobs=request.num_logprobs,
    )


def _check_vocabulary(loaded: LoadedModel, ids: list[int], param: str) -> list[int]:
    size = loaded.tokenizer.vocab_size
    if ids and max(ids) >= size:
        message = f"'{param}' holds an id that the vocabulary of {size} tokens lacks."
        raise RequestError(message, param=param, code="invalid_value")
    return ids
