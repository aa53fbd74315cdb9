"""The grammar of a reply that calls tools, written as the model's template teaches, with schemas for the arguments.

What the grammar allows `ToolCallDecoder` can read. Knows the formats of calls and of reasoning; knows no requests.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

from engine.chat.reasoning import ReasoningFormat
from engine.chat.tool_calls import MAX_CALLS, ToolFormat
from engine.structured_output.lark import JSON_SPACE, control_token, json_value, literal, pattern

_ANYTHING: Final = r"(.|\n)*"
_CALL_ID: Final = "[a-zA-Z0-9]{9}"
_SPACE: Final = r"[ \n]{1,4}"

ReplyKind = Literal["calls", "calls or text", "calls or answer"]


@dataclass(frozen=True, slots=True)
class CallableTool:
    """`parameters`: a JSON schema. A strict one is kept exactly, another one as far as llguidance can."""

    name: str
    parameters: Mapping[str, Any]
    strict: bool = False

    @classmethod
    def of_function(cls, function: Mapping[str, Any]) -> "CallableTool":
        """From a function as OpenAI defines it. Without parameters it takes none."""
        schema = function.get("parameters") or {"properties": {}, "additionalProperties": False}
        return cls(function["name"], {**schema, "type": "object"}, function.get("strict") is True)


@dataclass(frozen=True, slots=True)
class ReplyRule:
    """What a reply may be. `parallel`: several calls.

    In "calls or answer" the answer is JSON of the schema `answer`. In "calls or text" a text may come before the calls.
    """

    kind: ReplyKind
    parallel: bool = True
    answer: Mapping[str, object] = field(default_factory=dict)

    def enforces_schema(self, tool: CallableTool) -> bool:
        """Whether the arguments of a call follow the tool's schema; otherwise they are any object."""
        return self.kind == "calls" or tool.strict


def tool_grammar(
    tool_format: ToolFormat,
    tools: Sequence[CallableTool],
    rule: ReplyRule,
    reasoning: ReasoningFormat | None = None,
    *,
    reasoning_has_begun: bool = False,
) -> str:
    """A grammar in llguidance's Lark. `reasoning`: what may come first, or must if the prompt has begun it."""
    return _Writer(tool_format, tools, rule).grammar(reasoning, reasoning_has_begun)


class _Writer:
    def __init__(self, tool_format: ToolFormat, tools: Sequence[CallableTool], rule: ReplyRule) -> None:
        self._format, self._tools, self._rule = tool_format, tools, rule
        self._ids = {name: token_id for token_id, name in tool_format.controls.items()}
        self._rules = [f"space: {pattern(_SPACE)}", f"ws: {pattern(JSON_SPACE)}"]

    def grammar(self, reasoning: ReasoningFormat | None, has_begun: bool) -> str:
        """See `tool_grammar`."""
        self._rules += [f"args_{number}: {self._arguments(tool)}" for number, tool in enumerate(self._tools)]
        self._rules.append("object: " + self._one_of(self._as_object))
        self._add_calls()
        first = "" if reasoning is None else self._reasoning(reasoning, has_begun)
        return "\n".join([f"start: {first} reply", f"reply: {self._reply()}", *self._rules, ""])

    def _one_of(self, term: Callable[[CallableTool, str], str]) -> str:
        return " | ".join(term(tool, f"args_{number}") for number, tool in enumerate(self._tools))

    def _as_object(self, tool: CallableTool, arguments: str, fence: str = "") -> str:
        key = "parameters" if self._format.family == "llama3" else "arguments"
        name = json.dumps(tool.name, ensure_ascii=False)
        tokens = ("{", '"name"', ":", name, ",", f'"{key}"', ":")
        if self._rule.kind == "calls or text":  # one lexeme, which goes on beside that of a text
            before = pattern(fence + f"({JSON_SPACE})?".join(map(re.escape, tokens)))
        else:  # those of JSON, so that until the name it may still be an answer in JSON
            before = " ws? ".join(map(literal, tokens))
        after = f"space? {literal('```')}" if fence else ""
        return f"{before} ws? {arguments} ws? {literal('}')} {after}"

    def _as_item(self, tool: CallableTool, arguments: str) -> str:
        return " ".join([literal(tool.name), *map(self._item_mark, self._format.item_marks), arguments])

    def _reply(self) -> str:
        if self._rule.kind == "calls":
            return "calls"
        if self._rule.kind == "calls or answer":
            self._rules.append(f"answer: {json_value(self._rule.answer)}")
            return "answer | calls | object"
        # A text that begins like a call without marks is one: see ToolCallDecoder.
        names = "|".join(re.escape(json.dumps(tool.name, ensure_ascii=False)) for tool in self._tools)
        begun = rf'\s*(```(json)?\n)?\{{\s*"name"\s*:\s*({names}){_ANYTHING}'
        self._rules.append(f"TEXT: {pattern(_ANYTHING)} & ~{pattern(begun)}")
        self._rules.append("fenced: " + self._one_of(partial(self._as_object, fence="```(json)?\n")))
        bare = "object | fenced"
        if self._format.family == "llama3":
            return f"TEXT | {bare}"
        opening = self._format.marks[0]
        if opening in self._ids:
            self._rules.append(f"head: TEXT? {self._mark(opening)}")
        else:
            self._rules.append(f"head[lazy]: TEXT {literal(opening)}")
        return f"TEXT | head rest | {bare}"

    def _add_calls(self) -> None:
        """The rules `calls`, and `rest`: calls after their first mark."""
        opening = self._mark(self._format.marks[0])

        def with_more(one: str, more: str) -> str:
            return f"{one} ({more}){{0,{MAX_CALLS - 1}}}" if self._rule.parallel else one

        if self._format.family == "llama3":  # its template takes one call in a message
            self._rules.append("calls: object")
        elif self._format.family == "hermes":
            call = f"space? object space? {self._mark('</tool_call>')}"
            self._rules.append("rest: " + with_more(call, f"space? {opening} {call}"))
            self._rules.append(f"calls: {opening} rest")
        elif self._format.item_marks:
            self._rules.append("named: " + self._one_of(self._as_item))
            self._rules.append("rest: " + with_more("named", f"{opening} named"))
            self._rules.append(f"calls: {opening} rest")
        else:
            self._rules.append('rest: space? "[" ' + with_more("object", '"," space? object') + ' "]"')
            self._rules.append(f"calls: {opening} rest")

    def _reasoning(self, reasoning: ReasoningFormat, has_begun: bool) -> str:
        """Adds the rule `reasoning`, and returns what `start` has of it."""
        marks = {name: control_token(token_id) for token_id, name in reasoning.controls.items()}
        opening = "" if has_begun else marks.get(reasoning.opening, literal(reasoning.opening))
        if reasoning.closing in marks:
            self._rules.append(f"reasoning: {opening} {pattern(_ANYTHING)} {marks[reasoning.closing]} space?")
        else:
            self._rules.append(f"thought[lazy]: {pattern(_ANYTHING)} {literal(reasoning.closing)}")
            self._rules.append(f"reasoning: {opening} thought space?")
        return "reasoning" if has_begun else "reasoning?"

    def _mark(self, name: str) -> str:
        return control_token(self._ids[name]) if name in self._ids else literal(name)

    def _item_mark(self, name: str) -> str:
        return f"{self._mark(name)} {pattern(_CALL_ID)}" if name == "[CALL_ID]" else self._mark(name)

    def _arguments(self, tool: CallableTool) -> str:
        if self._rule.enforces_schema(tool):
            return json_value(tool.parameters, lenient=not tool.strict)
        return json_value({"type": "object"})
