"""Submits a request to the engine: its choices, sampling parameters, grammar and limits, and their response streams.

Runs on the event loop. `EngineCore.submit` puts a request into the step loop's inbox and returns a `RequestStream`;
the step loop hands token ids back through that stream (see streaming.py). Knows the loaded model and token ids; knows
neither HTTP nor how a prompt was made.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

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
from engine.server.protocol.errors import RequestError, engine_unavailable, rate_limited
from engine.server.protocol.requests import ChatRequest, GenerationRequest
from engine.server.reply_parts import ReplyParts
from engine.server.streaming import ResponseObserver, ResponseStream
from engine.server.tokenizing import check_vocabulary, context_length_exceeded
from engine.server.traces import RequestTraces
from engine.tokenizers.base import StreamDecoder

MAX_LOGPROB_ENTRIES = 1 << 18  # of one request, which are kept until its client has read them


class RequestSubmitter:
    """Submits requests and keeps the response streams that have not ended."""

    def __init__(
        self,
        observer: ResponseObserver,
        *,
        max_reply_tokens: int | None = None,
        repetition_guard: bool = True,
        traces: RequestTraces | None = None,
    ) -> None:
        """See `ServingService`."""
        self._observer = observer
        self._max_reply_tokens = max_reply_tokens
        self._repetition_guard = repetition_guard
        self._traces = traces
        self._structured_outputs = StructuredOutputManager()
        self._streams: set[ResponseStream] = set()
        self._all_ended = asyncio.Event()

    async def drain(self, grace: float, reason: str) -> None:
        """Give the running responses `grace` seconds to finish, then end the rest with `reason` as an error."""
        if self._streams:
            self._all_ended.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_ended.wait(), grace)
        for stream in tuple(self._streams):
            stream.abort(reason)

    async def submit(
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
        constraints = await self._structured_outputs.constraints(loaded, request, stop_token_ids, prompts)
        streams: list[ResponseStream] = []
        try:
            for prompt_ids in prompts:
                for index in range(request.n):
                    seed = None if params.seed is None else params.seed + index
                    own = replace(params, max_tokens=self._max_tokens(loaded, prompt_ids, request), seed=seed)
                    constraint = constraints[len(streams)]
                    streams.append(
                        self._submit_choice(loaded, prompt_ids, own, constraint, request, param, continues=continues)
                    )
        except RequestError:
            for stream in streams:
                stream.cancel()
            raise
        return Choices(streams, request.n)

    def _max_tokens(self, loaded: LoadedModel, prompt_ids: list[int], request: GenerationRequest) -> int:
        limits = (request.token_limit, self._max_reply_tokens, loaded.max_context - len(prompt_ids))
        return min(limit for limit in limits if limit is not None)

    def _submit_choice(
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
        decoder = StreamDecoder(loaded.tokenizer, after=prompt_ids[-1] if continues else None)
        # A reply that follows a grammar has neither reasoning nor tool calls, unless that is what the grammar is for.
        is_answer = constraint is not None and not request.has_tool_grammar
        parts = None if is_answer else _reply_parts(loaded, request, prompt_ids, decoder)
        stream = ResponseStream(
            tokens,
            IncrementalDetokenizer(parts or decoder, request.stop, min_tokens=request.min_tokens),
            self._observer,
            self._on_end_of(None if self._traces is None else self._traces.submitted()),
            parts=parts,
            logprobs=None if params.num_logprobs is None else LogprobsQueue(loaded.tokenizer),
            # A client that sets `ignore_eos` wants tokens, whatever they say: it measures the engine.
            guard=RepetitionGuard(loaded.tokenizer.decode)
            if self._repetition_guard and request.repetition_guard and not request.ignore_eos
            else None,
        )
        self._streams.add(stream)
        return stream

    def _on_end_of(self, trace: Callable[[ResponseStream], None] | None) -> Callable[[ResponseStream], None]:
        """What is called at the end of a stream."""
        if trace is None:
            return self._on_stream_end

        def on_end(stream: ResponseStream) -> None:
            self._on_stream_end(stream)
            trace(stream)

        return on_end

    def _on_stream_end(self, stream: ResponseStream) -> None:
        self._streams.discard(stream)
        if not self._streams:
            self._all_ended.set()


def _reply_parts(
    loaded: LoadedModel, request: GenerationRequest, prompt_ids: list[int], plain: StreamDecoder
) -> ReplyParts | None:
    """The decoder that separates reasoning and tool calls from the answer; None if the reply can have neither."""
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
    named = request.chosen_tools.mode == "named"
    return ReplyParts(
        plain,
        reasoning,
        tools,
        tool_names=names,
        max_calls=1 if named or not request.parallel_tool_calls else None,
        named_tool=named,
        include_reasoning=request.include_reasoning,
    )


def _sampling_params(loaded: LoadedModel, stop_token_ids: frozenset[int], request: GenerationRequest) -> SamplingParams:
    """What all choices of a request share. Raises RequestError for ids that the vocabulary lacks."""
    own_stops = check_vocabulary(loaded, request.stop_token_ids, "stop_token_ids")
    if request.logit_bias and request.logit_bias[-1][0] >= loaded.tokenizer.vocab_size:
        check_vocabulary(loaded, [request.logit_bias[-1][0]], "logit_bias")
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
