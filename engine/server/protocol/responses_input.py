"""The `input` of OpenAI's /v1/responses as the messages of a chat: texts, calls of functions, and their outputs.

Knows which item became which message, so that an error of the chat can name the item. Validates only what a chat
request could not name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.server.protocol.errors import RequestError

_PLACE = re.compile(r"\bmessages\[(\d+)\](?:\.tool_calls\[(\d+)\])?")


@dataclass(slots=True)
class InputDialog:
    """`messages`, and the items from which each and each of its calls came; None: from `instructions`."""

    is_text: bool = False
    messages: list[dict[str, Any]] = field(default_factory=list)
    _items: list[int | None] = field(default_factory=list)
    _call_items: list[list[int]] = field(default_factory=list)

    def add(self, message: dict[str, Any], item: int | None) -> None:
        """A message of its own."""
        self.messages.append(message)
        self._items.append(item)
        self._call_items.append([])

    def add_call(self, call: Mapping[str, Any], item: int) -> None:
        """A call: one of the assistant's last message, if nothing has followed that."""
        if not self.messages or self.messages[-1].get("role") != "assistant":
            self.add({"role": "assistant", "content": None}, item)
        self.messages[-1].setdefault("tool_calls", []).append(call)
        self._call_items[-1].append(item)

    def rename(self, text: str) -> str:
        """The names of messages in a text, as names of items."""
        return _PLACE.sub(self._name, text)

    def _name(self, match: re.Match[str]) -> str:
        if self.is_text:
            return "input"
        message = int(match[1])
        item = self._items[message] if match[2] is None else self._call_items[message][int(match[2])]
        return "instructions" if item is None else f"input[{item}]"


def dialog_of(given: str | Sequence[Mapping[str, Any]], instructions: str | None) -> InputDialog:
    """Raises RequestError for an item of another type, and for the output of a call that is not there."""
    dialog = InputDialog(isinstance(given, str))
    if instructions:
        dialog.add({"role": "system", "content": instructions}, None)
    if isinstance(given, str):
        dialog.add({"role": "user", "content": given}, 0)
        return dialog
    calls: set[object] = set()
    for index, item in enumerate(given):
        kind = item.get("type") or "message"
        if kind == "message":
            _add_message(dialog, item, index)
        elif kind == "function_call":
            calls.add(_call_id(item, index))
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            dialog.add_call({"id": item["call_id"], "type": "function", "function": function}, index)
        elif kind == "function_call_output":
            if _call_id(item, index) not in calls:
                param = f"input[{index}].call_id"
                problem = f"'{param}' is the id of no 'function_call' before it."
                raise RequestError(problem, param=param, code="invalid_value")
            dialog.add({"role": "tool", "tool_call_id": item["call_id"], "content": item.get("output")}, index)
        elif kind != "reasoning":  # which is not part of later prompts
            param = f"input[{index}].type"
            problem = f"'{param}' is not supported: an item may be a message, a function's call or its output."
            raise RequestError(problem, param=param, code="unsupported_parameter")
    return dialog


def _add_message(dialog: InputDialog, item: Mapping[str, Any], index: int) -> None:
    message = {name: entry for name, entry in item.items() if name not in ("type", "id", "status", "phase")}
    last = dialog.messages[-1] if dialog.messages else {}
    if message.get("role") == "assistant" and last.get("tool_calls") and last["content"] is None:
        last["content"] = message.get("content")  # one reply may have calls and a text, in either order
    else:
        dialog.add(message, index)


def _call_id(item: Mapping[str, Any], index: int) -> str:
    call_id = item.get("call_id")
    if not isinstance(call_id, str) or not call_id:
        param = f"input[{index}].call_id"
        raise RequestError(f"'{param}' must be the id of a call.", param=param, code="invalid_value")
    return call_id
