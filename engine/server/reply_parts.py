"""Splits a reply into its answer, its reasoning and its tool calls.

A decoder for `IncrementalDetokenizer`, which gets only the text of the answer. Knows the fields of a message; knows
neither requests nor HTTP.
"""

from collections.abc import Collection

from engine.chat.reasoning import ReasoningDecoder
from engine.chat.tool_calls import ToolCallDecoder, ToolFormat
from engine.server.protocol.tools import call_body
from engine.tokenizers.base import StreamDecoder


class ReplyParts:
    """Decodes one reply."""

    def __init__(
        self,
        plain: StreamDecoder,
        reasoning: ReasoningDecoder | None,
        tools: ToolFormat | None,
        *,
        tool_names: Collection[str] = (),
        include_reasoning: bool = True,
    ) -> None:
        """`plain` decodes a reply without reasoning. `reasoning` and `tools`: None if the reply cannot have any.

        `include_reasoning`: whether `take_fields` has the reasoning, or drops it.
        """
        self._reasoning, self._include_reasoning = reasoning, include_reasoning
        inner = self._reasoning or plain
        self._tools = None if tools is None else ToolCallDecoder(inner, tools, tool_names)
        self._decoder = self._tools or inner

    @property
    def reasoning_tokens(self) -> int | None:
        """The number of reasoning tokens; None for a model without reasoning."""
        return None if self._reasoning is None else self._reasoning.num_reasoning_tokens

    @property
    def has_calls(self) -> bool:
        """Whether the reply calls a tool."""
        return self._tools is not None and self._tools.num_calls > 0

    def push(self, token: int, /) -> str:
        """The text of the answer that `token` completes."""
        return self._decoder.push(token)

    def finish(self) -> str:
        """The rest of the answer."""
        return self._decoder.finish()

    def take_fields(self) -> dict[str, object]:
        """The fields of a message, or of a delta, since the last call: mostly none."""
        fields: dict[str, object] = {}
        reasoning = "" if self._reasoning is None else self._reasoning.take_reasoning()
        if reasoning and self._include_reasoning:
            fields["reasoning_content"] = reasoning
        if self._tools is not None and (calls := self._tools.take_calls()):
            first = self._tools.num_calls - len(calls)
            fields["tool_calls"] = [{"index": first + n, **call_body(call)} for n, call in enumerate(calls)]
        return fields
