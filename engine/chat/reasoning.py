"""Separates a model's reasoning from its answer, by the marks in its template or vocabulary.

The marks are a pair like `<think>…</think>`, whose opening one may be the end of the prompt, or harmony's channels
(gpt-oss). An opening mark counts at the beginning of a reply, a closing one inside reasoning; anywhere else it is text.
Knows token ids and text; knows neither requests nor HTTP.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.chat.partial_match import partial_match
from engine.tokenizers.base import StreamDecoder, Tokenizer

_PAIRS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_HARMONY = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")
_TAIL_TOKENS = 16  # last tokens of a prompt, where a template may put the opening mark


class Vocabulary(Protocol):
    """The part of a tokenizer that finds the marks."""

    @property
    def controls(self) -> Mapping[str, int]:
        """See Tokenizer."""

    def encode(self, text: str) -> list[int]:
        """See Tokenizer."""


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """`opening` and `closing` marks; empty for harmony. `controls`: the marks that are control tokens, by id."""

    opening: str
    closing: str
    controls: Mapping[int, str]

    @property
    def harmony(self) -> bool:
        """Whether channels tell reasoning and answer apart."""
        return not self.opening

    def without_reasoning(self, text: str) -> str:
        """An earlier reply without its reasoning, as the model reads it in later turns."""
        if self.harmony:
            return text
        stripped = text.lstrip()
        if not stripped.startswith(self.opening):
            return text
        return stripped.partition(self.closing)[2].lstrip()


def find_reasoning(source: str, vocabulary: Vocabulary) -> ReasoningFormat | None:
    """The format of a model, by its template and its vocabulary; None if it has none."""
    controls = vocabulary.controls
    if all(name in controls for name in _HARMONY) and _HARMONY[0] in source:
        return ReasoningFormat("", "", {controls[name]: name for name in _HARMONY})
    for opening, closing in _PAIRS:
        tokens = all(name in controls or len(vocabulary.encode(name)) == 1 for name in (opening, closing))
        if tokens or closing in source:
            return ReasoningFormat(
                opening, closing, {controls[name]: name for name in (opening, closing) if name in controls}
            )
    return None


class ReasoningDecoder(Protocol):
    """Decodes a reply id by id, as `StreamDecoder` does, to the text of the answer."""

    num_reasoning_tokens: int

    def push(self, token_id: int, /) -> str:
        """The text of the answer that this id completes."""

    def finish(self) -> str:
        """The rest of the answer, once there are no more ids."""

    def take_reasoning(self) -> str:
        """The reasoning since the last call."""


def reasoning_decoder(
    tokenizer: Tokenizer, reasoning_format: ReasoningFormat, prompt: Sequence[int]
) -> ReasoningDecoder:
    """A decoder for the reply to a prompt, which may end with an opening mark."""
    if reasoning_format.harmony:
        return _HarmonyDecoder(tokenizer, reasoning_format)
    tail = "".join(reasoning_format.controls.get(i) or tokenizer.decode([i]) for i in prompt[-_TAIL_TOKENS:])
    return _MarkDecoder(tokenizer, reasoning_format, opened=tail.rstrip().endswith(reasoning_format.opening))


class _MarkDecoder:
    """For `<think>…</think>`. The space around the reasoning is dropped."""

    def __init__(self, tokenizer: Tokenizer, reasoning_format: ReasoningFormat, *, opened: bool) -> None:
        self._inner, self._format = StreamDecoder(tokenizer), reasoning_format
        self._state = "reasoning" if opened else "start"
        self._held = ""
        self._reasoning: list[str] = []
        self._has_reasoning = False
        self.num_reasoning_tokens = 0

    def push(self, token_id: int, /) -> str:
        if self._state == "answer":
            return self._inner.push(token_id)
        before = self._state
        name = self._format.controls.get(token_id)
        text = self._inner.push(token_id) if name is None else self._inner.finish() + name
        answer = self._advance(text)
        if "reasoning" in (before, self._state):
            self.num_reasoning_tokens += 1
        return answer

    def finish(self) -> str:
        rest = self._inner.finish()
        if self._state == "start":
            rest, self._held = self._held + rest, ""
        elif self._state == "reasoning":
            self._think((self._held + rest).rstrip())
            rest = self._held = ""
        return rest

    def take_reasoning(self) -> str:
        text = "".join(self._reasoning)
        self._reasoning.clear()
        return text

    def _advance(self, text: str) -> str:
        if self._state == "start":
            self._held += text
            begun = self._held.lstrip()
            if not begun.startswith(self._format.opening):
                if self._format.opening.startswith(begun):
                    return ""
                self._state, answer, self._held = "answer", self._held, ""
                return answer
            self._state, self._held, text = "reasoning", "", begun[len(self._format.opening) :]
        if self._state == "reasoning":
            text = self._held + text
            thought, closing, rest = text.partition(self._format.closing)
            if not closing:
                thought = text[: len(text) - partial_match(text, self._format.closing)]
            thought = thought.rstrip()
            self._think(thought)
            if not closing:
                self._held = text[len(thought) :]
                return ""
            self._state, self._held, text = "after", "", rest
        text = text.lstrip()
        if text:
            self._state = "answer"
        return text

    def _think(self, text: str) -> None:
        text = text if self._has_reasoning else text.lstrip()
        if text:
            self._has_reasoning = True
            self._reasoning.append(text)


class _HarmonyDecoder:
    """For `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…`."""

    def __init__(self, tokenizer: Tokenizer, reasoning_format: ReasoningFormat) -> None:
        self._inner, self._format = StreamDecoder(tokenizer), reasoning_format
        self._in_header, self._answers, self._header = False, True, ""
        self._reasoning: list[str] = []
        self.num_reasoning_tokens = 0

    def push(self, token_id: int, /) -> str:
        name = self._format.controls.get(token_id)
        if name is None:
            answer = self._route(self._inner.push(token_id))
        else:
            answer = self._route(self._inner.finish())
            if name == "<|message|>":
                self._in_header, self._answers = False, self._header.strip().startswith("final")
            else:
                self._in_header, self._answers, self._header = True, False, ""
        if not self._answers:
            self.num_reasoning_tokens += 1
        return answer

    def finish(self) -> str:
        return self._route(self._inner.finish())

    def take_reasoning(self) -> str:
        text = "".join(self._reasoning)
        self._reasoning.clear()
        return text

    def _route(self, text: str) -> str:
        if self._in_header:
            self._header += text
        elif self._answers:
            return text
        elif text:
            self._reasoning.append(text)
        return ""
