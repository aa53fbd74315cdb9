"""The request bodies of the API, as Pydantic models with OpenAI's field names.

Knows no tokenizer, no model and no HTTP. Unknown fields are ignored, because clients send the extensions of other
engines, but not those that would change the reply: see foreign_fields.py.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import Field, JsonValue, Tag, model_validator

from engine.server.protocol.errors import RequestError
from engine.server.protocol.field_types import (
    LIST,
    MAX_PROMPTS,
    TEXT,
    Count,
    Integer,
    Label,
    PartType,
    Prompts,
    Refused,
    Role,
    StopString,
    StringAsList,
    Text,
    TextModality,
    TextOrList,
    TokenIds,
)
from engine.server.protocol.request_body import JsonObject, validate
from engine.server.protocol.sampling_fields import NumLogprobs, NumLogprobsOrFalse, SamplingFields
from engine.server.protocol.structured_output_fields import StructuredOutputFields
from engine.server.protocol.tools import Calls, ToolChoice, Tools
from engine.server.protocol.unsupported import refuse_unsupported

if TYPE_CHECKING:
    from engine.chat.formats import Message


class ContentPart(JsonObject):
    """A part of a message."""

    type: PartType = Field(None, validate_default=True)
    text: Text


ContentParts = Annotated[list[ContentPart], Field(fail_fast=True)]


class ChatMessage(JsonObject):
    """One message of a dialog. Only an assistant's content may be absent: an empty reply."""

    role: Role
    tool_calls: Calls | None = None
    tool_call_id: Label = ""
    function_call: Refused = None
    images: Refused = None  # Ollama's
    audio: Refused = None
    content: Annotated[Annotated[Text, Tag(TEXT)] | Annotated[ContentParts, Tag(LIST)], TextOrList]

    @model_validator(mode="before")
    @classmethod
    def _empty_reply(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("role") == "assistant" and value.get("content") is None:
            return {**value, "content": ""}
        return value

    @property
    def for_format(self) -> dict[str, object]:
        """The message as the chat formats take it."""
        message: dict[str, object] = {"role": self.role, "content": self.text}
        if self.tool_calls and self.role == "assistant":
            message["tool_calls"] = self.tool_calls
        if self.role == "tool":
            message["tool_call_id"] = self.tool_call_id
        return message

    @property
    def text(self) -> str:
        """The content; parts are joined by newlines."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class PromptRequest(JsonObject):
    """A body that holds a prompt. Refuses unsupported fields that would change the prompt or the reply."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, value: object) -> object:
        if isinstance(value, dict):
            refuse_unsupported(value, cls.model_fields)
        return value


class DialogRequest(PromptRequest):
    """A body that holds a dialog.

    A last message from the assistant is the beginning of the reply, unless `add_generation_prompt` asks for a new one
    (vLLM's fields).
    """

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    add_special_tokens: Literal[False] = False
    chat_template_kwargs: dict[str, JsonValue] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None

    @property
    def continue_last(self) -> bool:
        """Whether the last message is the beginning of the reply."""
        if self.continue_final_message is not None:
            return self.continue_final_message
        return self.messages[-1].role == "assistant" and not self.add_generation_prompt

    @property
    def continues_text(self) -> bool:
        """Whether the reply goes on in the middle of a text."""
        return self.continue_last and bool(self.dialog[-1]["content"].strip())

    @model_validator(mode="after")
    def _check_end(self) -> Self:
        if self.continue_final_message and self.messages[-1].role != "assistant":
            problem = "'continue_final_message' needs a last message from the assistant."
            raise RequestError(problem, param="continue_final_message", code="invalid_value")
        if self.continue_last == bool(self.add_generation_prompt) and self.add_generation_prompt is not None:
            problem = "'add_generation_prompt' must be false to continue the last message, and true otherwise."
            raise RequestError(problem, param="add_generation_prompt", code="unsupported_parameter")
        for index, message in enumerate(self.messages):
            before = self.messages[index - 1] if index else None
            if message.role == "tool" and not (before and (before.role == "tool" or before.tool_calls)):
                param = f"messages[{index}].role"
                problem = f"'{param}' must not be 'tool', except after a message with 'tool_calls'."
                raise RequestError(problem, param=param, code="invalid_value")
        _ = self.dialog  # now, on the thread that reads large bodies
        return self

    @cached_property
    def dialog(self) -> "list[Message]":
        """The messages as the chat formats take them."""
        return [cast("Message", message.for_format) for message in self.messages]

    @property
    def offered_tools(self) -> list[dict[str, Any]]:
        """The tools that the reply may call."""
        return [] if self.tool_choice == "none" else self.tools or []


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

    @model_validator(mode="after")
    def _check_min_tokens(self) -> Self:
        if self.token_limit is not None and self.min_tokens > self.token_limit:
            message = f"'min_tokens' must be less than or equal to 'max_tokens', {self.token_limit}."
            raise RequestError(message, param="min_tokens", code="invalid_value")
        if self.min_tokens and self.has_structured_output:  # a grammar says where the reply ends
            message = f"'min_tokens' cannot be combined with '{self.structured_output_param}'."
            raise RequestError(message, param="min_tokens", code="unsupported_parameter")
        return self


class ChatRequest(DialogRequest, GenerationRequest):
    """POST /v1/chat/completions. `include_reasoning`: whether the reasoning is in the response (vLLM's)."""

    include_reasoning: bool = True

    logprobs: bool = False
    top_logprobs: NumLogprobs = 0

    @property
    def num_logprobs(self) -> int | None:
        """See `GenerationRequest`."""
        return self.top_logprobs if self.logprobs else None

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


def validate_tokenize(value: dict[str, object]) -> TokenizeChatRequest | TokenizeTextRequest:
    """Chooses by `messages`, which come before `prompt`. Raises RequestError."""
    if value.get("messages") is not None:
        return validate(TokenizeChatRequest, value)
    if value.get("prompt") is None:
        raise RequestError("Either 'messages' or 'prompt' is needed.", param="messages", code="missing_parameter")
    return validate(TokenizeTextRequest, value)
