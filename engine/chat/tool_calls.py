"""Separates tool calls from the text of a reply, in the format that the model's template teaches.

Hermes and Qwen: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`. Mistral: `[TOOL_CALLS]` and a list, or a name
and `[ARGS]`. Llama 3: the reply is `{"name": …, "parameters": {…}}`. Text that cannot be parsed as a call stays text.
Only replies to requests with tools are parsed. Small models often omit the marks, so in every format a reply that is
only JSON, fenced or not, counts as a call if it names tools of the request. Knows token ids and text; knows no HTTP.
"""

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from engine.chat.partial_match import partial_match
from engine.chat.reasoning import Vocabulary
from engine.chat.tool_call_parser import ToolFamily, parse_calls

MAX_CALLS: Final = 128  # of one message
_BARE_OPENINGS = ("{", "```json\n{", "```\n{")  # of a call without marks
_FENCED = re.compile(r"\s*```(?:json)?\n(.*)```\s*", re.DOTALL)
_MARKS: Mapping[ToolFamily, tuple[str, ...]] = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "mistral": ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    "llama3": ("<|python_tag|>",),
}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` is JSON; the id is made here."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """`controls`: the marks that are control tokens, by id.

    `item_marks`: those between a name and its arguments; none if calls are JSON.
    """

    family: ToolFamily
    controls: Mapping[int, str]
    item_marks: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """The family's marks, first the opening one."""
        return _MARKS[self.family]


class ReplyDecoder(Protocol):
    """Decodes a reply id by id."""

    def push(self, token_id: int, /) -> str:
        """The text that this id completes."""

    def finish(self) -> str:
        """The rest, once there are no more ids."""


def find_tool_format(source: str, vocabulary: Vocabulary) -> ToolFormat | None:
    """The format that a template teaches; None if it teaches none, or an unknown one."""
    family: ToolFamily
    if "[TOOL_CALLS]" in source and "[TOOL_CALLS]" in vocabulary.controls:
        family = "mistral"
    elif "<tool_call>" in source and "<function=" not in source:  # Qwen3-Coder's is XML
        family = "hermes"
    elif "ipython" in source and "parameters" in source:
        family = "llama3"
    else:
        return None
    controls = vocabulary.controls
    between = tuple(mark for mark in ("[CALL_ID]", "[ARGS]") if family == "mistral" and mark in source)
    return ToolFormat(family, {controls[name]: name for name in _MARKS[family] if name in controls}, between)


class ToolCallDecoder:
    """A reply's text without its tool calls; `take_calls` returns each call once it is complete."""

    def __init__(
        self, inner: ReplyDecoder, tool_format: ToolFormat, names: Collection[str], max_calls: int | None = None
    ) -> None:
        """`inner` decodes ids to text without reasoning; `names`: of the tools that the request brings.

        `max_calls`: later ones are dropped.
        """
        self._inner, self._format, self._names = inner, tool_format, names
        self._max_calls = max_calls
        self._opening = tool_format.marks[0]
        self._closing = "</tool_call>" if tool_format.family == "hermes" else None
        self._in_call, self._at_start, self._is_bare = False, True, False
        self._held = ""
        self._calls: list[ToolCall] = []
        self.num_calls = 0

    def push(self, token_id: int, /) -> str:
        """The text outside of calls that this id completes."""
        name = self._format.controls.get(token_id)
        text = self._inner.push(token_id) if name is None else self._inner.finish() + name
        return self._advance(text) if text else ""

    def finish(self) -> str:
        """The rest of the text; a call that lacks its closing mark counts if it can be read."""
        text = self._advance(self._inner.finish())
        if self._is_bare:
            self._is_bare = self._at_start = False
            if self._read_bare():
                return ""
            text += self._advance("")
        rest, self._held = self._held, ""
        if not self._in_call:
            return text + rest
        self._in_call = False
        if self._read(rest):
            return text
        return text + (self._opening if self._closing else "") + rest

    @property
    def is_full(self) -> bool:
        """Whether there are as many calls as there may be, so that nothing else may come."""
        return self._max_calls is not None and self.num_calls >= self._max_calls

    def take_calls(self) -> list[ToolCall]:
        """The tool calls that have become complete since this method was last called."""
        calls = self._calls.copy()
        self._calls.clear()
        return calls

    def _advance(self, text: str) -> str:
        answer = ""
        self._held += text
        if self._at_start and not self._is_bare:
            begun = self._held.lstrip()
            self._is_bare = begun.startswith(_BARE_OPENINGS)
            self._at_start = self._is_bare or any(opening.startswith(begun) for opening in _BARE_OPENINGS)
            if self._at_start and begun and not self._is_bare:
                return ""
        while not self._is_bare:
            if not self._in_call:
                answer += self._text()
            if not self._in_call or self._closing is None:
                return answer
            body, closing, rest = self._held.partition(self._closing)
            if not closing:
                return answer
            self._in_call, self._held = False, rest
            if self._read(body):
                self._held = rest.lstrip()
            else:
                answer += self._opening + body + closing
        return answer

    def _text(self) -> str:
        """Takes the text before a call from the held text; the rest is a call, or the start of its mark."""
        before, opening, rest = self._held.partition(self._opening)
        if opening:
            self._in_call, self._held = True, rest
            return before.rstrip()
        keep = partial_match(before, self._opening)
        text = before[: len(before) - keep]
        if not text.strip() and self.num_calls:
            text = ""
        self._held = before[len(before) - keep :]
        return text

    def _read_bare(self) -> bool:
        """Parses the held text as calls without marks; false if it is none, or names a tool that the request lacks."""
        fenced = _FENCED.fullmatch(self._held)
        calls = parse_calls(fenced[1] if fenced else self._held, "llama3")
        if not calls or not {name for name, _ in calls} <= {*self._names}:
            return False
        self._add(calls)
        self._held = ""
        return True

    def _read(self, body: str) -> bool:
        """Adds the tool calls in a text; false if it has none."""
        calls = parse_calls(body, self._format.family)
        self._add(calls)
        return bool(calls)

    def _add(self, calls: Sequence[tuple[str, str]]) -> None:
        left = None if self._max_calls is None else max(0, self._max_calls - self.num_calls)
        for name, arguments in calls[:left]:
            number = secrets.token_hex(12)
            call_id = number[:9] if self._format.family == "mistral" else f"call_{number}"  # nine, says its template
            self._calls.append(ToolCall(call_id, name, arguments))
            self.num_calls += 1
