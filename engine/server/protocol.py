"""The request bodies of the API, as Pydantic models with OpenAI's field names.

Knows no tokenizer, no model and no HTTP. Unknown fields are ignored, because clients send the extensions of other
engines. A field that would change the reply and that this engine does not implement (tools, several choices,
penalties, …) is refused by name, unless its value is neutral.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, Tag, model_validator

from engine.server.errors import RequestError
from engine.server.field_types import (
    LIST,
    TEXT,
    Count,
    Integer,
    Label,
    One,
    PartType,
    Penalty,
    Refused,
    Role,
    SinglePrompt,
    StopString,
    StringAsList,
    Text,
    TextFormat,
    TextModality,
    TextOrList,
    TokenIds,
)
from engine.server.request_body import JsonObject, validate

if TYPE_CHECKING:
    from engine.chat_format import Message


class ContentPart(JsonObject):
    """A part of a message."""

    type: PartType = Field(None, validate_default=True)
    text: Text


ContentParts = Annotated[list[ContentPart], Field(fail_fast=True)]


class ChatMessage(JsonObject):
    """One message of a dialog. Only an assistant's content may be absent: an empty reply."""

    role: Role
    tool_calls: Refused = None
    function_call: Refused = None
    content: Annotated[Annotated[Text, Tag(TEXT)] | Annotated[ContentParts, Tag(LIST)], TextOrList]

    @model_validator(mode="before")
    @classmethod
    def _empty_reply(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("role") == "assistant" and value.get("content") is None:
            return {**value, "content": ""}
        return value

    @property
    def text(self) -> str:
        """The content; parts are joined by newlines."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class DialogRequest(JsonObject):
    """A body that holds a dialog."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]

    def dialog(self) -> "list[Message]":
        """The messages as the chat formats take them."""
        return [{"role": message.role, "content": message.text} for message in self.messages]


class StreamOptions(JsonObject):
    """What a stream holds besides the text."""

    include_usage: bool = False


class GenerationRequest(JsonObject):
    """The fields that chat and plain completions share."""

    tools: Refused = None
    functions: Refused = None
    logit_bias: Refused = None
    logprobs: Refused = None
    top_logprobs: Refused = None
    audio: Refused = None
    prediction: Refused = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    response_format: TextFormat | None = None
    modalities: TextModality | None = None
    n: One = 1

    stream_options: StreamOptions = StreamOptions()
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None
    model: Text = ""
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    stop: Annotated[list[StopString], Field(max_length=16, fail_fast=True), StringAsList] = Field([])
    seed: Integer | None = Field(None, ge=-(1 << 63), le=(1 << 63) - 1)
    ignore_eos: bool = False
    stream: bool = False
    user: Label = ""
    cache_salt: Label = ""

    @property
    def token_limit(self) -> int | None:
        """The maximum number of completion tokens, by the newer or the older name of the field; None: not given."""
        return self.max_completion_tokens or self.max_tokens


class ChatRequest(DialogRequest, GenerationRequest):
    """POST /v1/chat/completions."""


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    echo: Refused = None
    suffix: Refused = None
    best_of: One = 1
    max_tokens: Count | None = 16
    prompt: Annotated[Annotated[Text, Tag(TEXT)] | Annotated[TokenIds, Tag(LIST)], TextOrList, SinglePrompt]


class TokenizeTextRequest(JsonObject):
    """POST /tokenize with a prompt."""

    prompt: Text
    add_special_tokens: bool = True


class TokenizeChatRequest(DialogRequest):
    """POST /tokenize with messages."""

    add_generation_prompt: bool = True


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
