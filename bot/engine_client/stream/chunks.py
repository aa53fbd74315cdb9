"""Reads the chunks of a streamed reply: its text, how it ended, and what it took. Checks and bounds every value.

Knows the shapes that servers give a chunk. What has no meaning for the text is ignored; what could hold text and is of
another shape is refused, because text left out silently would be worse.
"""

from __future__ import annotations

import re
from typing import Any

from bot.errors import EngineUnreadable

MAX_TOKENS = 100_000_000
"""A number of tokens beyond this is nonsense, and the bot counts for itself."""

_FINISH_REASONS = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed", "end"), "stop"),
    **dict.fromkeys(("finished", "normal", "stop_token", "stop_str", "done"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_length", "model_length", "max_output_tokens"), "length"),
    **dict.fromkeys(("content_filter", "safety", "recitation", "refusal", "prohibited_content"), "content_filter"),
    **dict.fromkeys(("tool_calls", "function_call", "tool_use"), "tool_calls"),
    **dict.fromkeys(("error", "cancelled", "canceled", "abort", "aborted", "failed"), "error"),
    "repetition": "repetition",
}
OTHER = "other"
_THINKING = {"thinking", "reasoning", "reasoning_content", "redacted_thinking", "reasoning_text", "thought"}
_THOUGHT_FIELDS = frozenset(("reasoning_content", "reasoning", "thinking", "reasoning_text", "thought"))
"""Of vLLM before 0.12, SGLang, llama.cpp and DeepSeek; of vLLM, LM Studio, Ollama and OpenRouter; of others."""
_SURROGATES = re.compile("[\ud800-\udfff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class ChunkReader:
    """Reads the chunks of one reply in order."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        """One of the few that the bot knows, or None until the server names one."""
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.thought = 0
        """Characters that the server has named as thoughts, in fields of their own."""
        self._half = ""
        self._said: list[str] = []  # of deltas

    def read(self, chunk: dict[str, Any]) -> str:
        """The text of this chunk. Raises EngineUnreadable."""
        if isinstance(usage := chunk.get("usage"), dict):
            self.prompt_tokens = _tokens(usage.get("prompt_tokens"), self.prompt_tokens)
            self.completion_tokens = _tokens(usage.get("completion_tokens"), self.completion_tokens)
        choices = chunk.get("choices")
        if choices is None:
            return ""
        if not isinstance(choices, list):
            raise _unreadable("choices", choices)
        text = ""
        for choice in choices:
            if choice is None:
                continue
            if not isinstance(choice, dict):
                raise _unreadable("a choice", choice)
            index = choice.get("index")
            if type(index) is int and index > 0:  # another reply, which was not asked for
                continue
            text += self._new_text(choice)
            self.thought += _thought_of_choice(choice)
            self.finish_reason = _finish_reason(choice.get("finish_reason")) or self.finish_reason
            if choice.get("stop_reason") == "repetition":  # our engine's, and vLLM's field
                self.finish_reason = "repetition"
        return self._joined(text)

    def _new_text(self, choice: dict[str, Any]) -> str:
        """The text of a choice. Some servers repeat the whole reply as a `message` after its deltas."""
        text, is_message = _text_of_choice(choice)
        if not is_message or not self._said:
            if text and not is_message:
                self._said.append(text)
            return text
        said = "".join(self._said)
        self._said = [said]
        return text.removeprefix(said)

    def _joined(self, text: str) -> str:
        """The text with characters in two halves joined, across chunks too: JSON escapes an emoji as two surrogates."""
        if not text:
            return ""
        text, self._half = self._half + text, ""
        if not _SURROGATES.search(text):
            return text
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        text = _PAIR.sub(lambda pair: pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le"), text)
        return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)


def _text_of_choice(choice: dict[str, Any]) -> tuple[str, bool]:
    """The text, and whether it stands in a `message`, which is a whole reply or a piece of it."""
    for name in ("delta", "message"):  # `message`: from a server that does not stream
        part = choice.get(name)
        if part is None:
            continue
        if isinstance(part, str):
            return part, name == "message"
        if not isinstance(part, dict):
            raise _unreadable(name, part)
        if text := _content(part.get("content"), 0) or _content(part.get("refusal"), 0):
            return text, name == "message"
    return _content(choice.get("text"), 0), False  # the shape of /v1/completions


def _thought_of_choice(choice: dict[str, Any]) -> int:
    """How many characters of this choice are thoughts. What has another shape than a text is none, and is not shown."""
    total = 0
    for part in (choice.get("delta"), choice.get("message")):
        if isinstance(part, dict):
            if not _THOUGHT_FIELDS.isdisjoint(part):
                total += sum(len(part[name]) for name in _THOUGHT_FIELDS if isinstance(part.get(name), str))
            content = part.get("content")
            total += sum(_is_thought(piece) for piece in content) if isinstance(content, list) else _is_thought(content)
    return total


def _is_thought(part: object) -> bool:
    if not isinstance(part, dict):
        return False
    kind = part.get("type")
    return part.get("thought") is True or (isinstance(kind, str) and kind in _THINKING)


def _content(content: object, depth: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if depth > 3:
        raise EngineUnreadable("content that is nested too deeply")
    if isinstance(content, list):
        return "".join(_content(part, depth + 1) for part in content)
    if isinstance(content, dict):
        if _is_thought(content):
            return ""
        for name in ("text", "value", "content"):
            if name in content:
                return _content(content[name], depth + 1)
        return ""
    raise _unreadable("content", content)


def _finish_reason(value: object) -> str | None:
    if value is None or value == "" or value == "null":
        return None
    if isinstance(value, dict):  # TGI's and SGLang's own: {"type": "stop", "matched": 2}
        value = value.get("type")
    return _FINISH_REASONS.get(value.lower(), OTHER) if isinstance(value, str) and len(value) < 64 else OTHER


def _tokens(value: object, before: int | None) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else before


def _unreadable(what: str, value: object) -> EngineUnreadable:
    return EngineUnreadable(f"{what} of type {type(value).__name__}")
