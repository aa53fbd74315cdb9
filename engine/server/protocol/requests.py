"""The request bodies of the API, as Pydantic models with OpenAI's field names.

Knows no tokenizer, no model and no HTTP. Unknown fields are ignored, because clients send the extensions of other
engines, but not those that would change the reply: see foreign_fields.py.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from engine.server.protocol.dialogs import DialogRequest, PromptRequest
from engine.server.protocol.errors import RequestError
from engine.server.protocol.field_types import (
    MAX_PROMPTS,
    Count,
    Integer,
    Label,
    Prompts,
    StopString,
    StringAsList,
    Text,
    TextModality,
    TokenIds,
)
from engine.server.protocol.request_body import JsonObject, validate
from engine.server.protocol.sampling_fields import NumLogprobs, NumLogprobsOrFalse, SamplingFields
from engine.server.protocol.structured_output_fields import StructuredOutputFields


class StreamOptions(JsonObject):
    """Which events a stream has besides those of the text."""

    include_usage: bool = False


class GenerationRequest(PromptRequest, SamplingFields, StructuredOutputFields):
    """The fields that chat and plain completions share."""

    modalities: TextModality | None = None

    stream_options: StreamOptions = StreamOptions()
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None
    model: Text = ""
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    stop: Annotated[list[StopString], Field(max_length=20, fail_fast=True), StringAsList] = Field([])
    seed: Integer | None = Field(None, ge=-(1 << 63), le=(1 << 63) - 1)
    ignore_eos: bool = False
    stream: bool = False
    user: Label = ""
    cache_salt: Label = ""

    @property
    def token_limit(self) -> int | None:
        """The maximum number of completion tokens, by the newer or the older name of the field; None: not given."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are returned beside each token; None: no log-probabilities at all."""
        raise NotImplementedError

    @property
    def has_tool_grammar(self) -> bool:
        """Whether a grammar restricts how the reply calls tools."""
        return False

    @model_validator(mode="after")
    def _check_min_tokens(self) -> Self:
        if self.token_limit is not None and self.min_tokens > self.token_limit:
            message = f"'min_tokens' must be less than or equal to 'max_tokens', {self.token_limit}."
            raise RequestError(message, param="min_tokens", code="invalid_value")
        if self.min_tokens and (self.has_structured_output or self.has_tool_grammar):  # which says where it ends
            other = self.structured_output_param if self.has_structured_output else "tool_choice"
            message = f"'min_tokens' cannot be combined with '{other}'."
            raise RequestError(message, param="min_tokens", code="unsupported_parameter")
        return self


class ChatRequest(DialogRequest, GenerationRequest):
    """POST /v1/chat/completions. `include_reasoning`: whether the reasoning is in the response (vLLM's)."""

    include_reasoning: bool = True

    parallel_tool_calls: bool = True
    logprobs: bool = False
    top_logprobs: NumLogprobs = 0

    @property
    def has_tool_grammar(self) -> bool:
        """See `GenerationRequest`. A call must come, or a call must keep a strict schema, or the text must be JSON."""
        tools = self.offered_tools
        asked = self.chosen_tools.mode in ("required", "named") or self.has_structured_output
        return bool(tools) and (asked or any(tool["function"].get("strict") is True for tool in tools))

    @property
    def num_logprobs(self) -> int | None:
        """See `GenerationRequest`."""
        return self.top_logprobs if self.logprobs else None

    @model_validator(mode="after")
    def _check_tools_with_structured_output(self) -> Self:
        outputs = self.structured_outputs
        if outputs is not None and (outputs.regex or outputs.choice) and self.offered_tools:
            message = "'structured_outputs' with 'regex' or 'choice' cannot be combined with 'tools'."
            raise RequestError(message, param="structured_outputs", code="unsupported_parameter")
        return self

    @model_validator(mode="after")
    def _check_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            message = "'top_logprobs' needs 'logprobs' to be true."
            raise RequestError(message, param="top_logprobs", code="invalid_value")
        return self


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    max_tokens: Count | None = 16
    add_special_tokens: bool = True
    prompt: Prompts
    logprobs: NumLogprobsOrFalse = None
    echo: bool = False

    @property
    def num_logprobs(self) -> int | None:
        """See `GenerationRequest`."""
        return self.logprobs

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        if self.echo and self.logprobs is not None:
            message = "'logprobs' of an echoed prompt are not supported: send 'echo' or 'logprobs'."
            raise RequestError(message, param="logprobs", code="unsupported_parameter")
        if len(self.prompt) * self.n > MAX_PROMPTS:
            message = f"'n' times the number of prompts may be at most {MAX_PROMPTS}."
            raise RequestError(message, param="n", code="invalid_value")
        return self


class TokenizeTextRequest(PromptRequest):
    """POST /tokenize with a prompt."""

    prompt: Text
    add_special_tokens: bool = True


class TokenizeChatRequest(DialogRequest):
    """POST /tokenize with messages.

    With `max_prompt_tokens` the oldest exchanges are left out until the prompt has no more tokens than that.
    """

    max_prompt_tokens: Annotated[int, Field(ge=1)] | None = None


class DetokenizeRequest(JsonObject):
    """POST /detokenize."""

    tokens: TokenIds


class EraseRequest(JsonObject):
    """POST /cache/erase."""

    cache_salt: Label


def validate_tokenize(value: dict[str, object]) -> TokenizeChatRequest | TokenizeTextRequest:
    """Chooses by `messages`, which come before `prompt`. Raises RequestError."""
    if value.get("messages") is not None:
        return validate(TokenizeChatRequest, value)
    if value.get("prompt") is None:
        raise RequestError("Either 'messages' or 'prompt' is needed.", param="messages", code="missing_parameter")
    return validate(TokenizeTextRequest, value)
