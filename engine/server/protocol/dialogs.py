"""The part of a request body that becomes the prompt: a dialog, the tools that it may call, and how it ends.

Knows OpenAI's shapes, and what may follow what; knows neither templates nor tokens.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import Field, JsonValue, Tag, model_validator

from engine.server.protocol.errors import RequestError
from engine.server.protocol.field_types import LIST, TEXT, Label, PartType, Refused, Role, Text, TextOrList
from engine.server.protocol.request_body import JsonObject
from engine.server.protocol.tools import Calls, ToolChoice, ToolChoiceField, Tools
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
    tool_choice: ToolChoiceField | None = None

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
        self._check_tool_choice()
        _ = self.dialog  # now, on the thread that reads large bodies
        return self

    @cached_property
    def dialog(self) -> "list[Message]":
        """The messages as the chat formats take them."""
        return [cast("Message", message.for_format) for message in self.messages]

    def _check_tool_choice(self) -> None:
        choice, known = self.chosen_tools, {tool["function"]["name"] for tool in self.tools or []}
        if choice.mode in ("required", "named") and not self.tools:
            problem = "'tool_choice' asks for a call, but there are no 'tools'."
            raise RequestError(problem, param="tool_choice", code="invalid_value")
        if unknown := [name for name in choice.names if name not in known]:
            problem = f"'tool_choice' names the function '{unknown[0][:64]}', which is not among the 'tools'."
            raise RequestError(problem, param="tool_choice", code="invalid_value")

    @property
    def chosen_tools(self) -> ToolChoice:
        """Which tools the reply may or must call."""
        return self.tool_choice or ToolChoice()

    @property
    def offered_tools(self) -> list[dict[str, Any]]:
        """The tools that the prompt describes. A named function is called from among all of them."""
        choice = self.chosen_tools
        if choice.mode == "none":
            return []
        tools = self.tools or []
        if choice.mode == "named" or not choice.names:
            return tools
        return [tool for tool in tools if tool["function"]["name"] in choice.names]
