"""Separates thoughts from the answer in the text of a reply, piece by piece.

Knows the marks that models put around their thoughts. They count where a reply begins; later on they are text, like
those that a member types, with one exception: some prompts open the thoughts themselves, so that a reply has the
closing mark alone. Pure; what was thought is not kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

_MARKS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "[think]": "[/think]",
    "◁think▷": "◁/think▷",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|start_thinking|>": "<|end_thinking|>",
    "<|channel>thought": "<channel|>",
}
"""Of DeepSeek, Qwen and many others, Seed, Mistral, Kimi, OpenThinker, Cohere, Gemma; in small letters."""
_CLOSING = tuple(_MARKS.values())
_CHANNEL, _MESSAGE = "<|channel|>", "<|message|>"
_CHANNELS = (_CHANNEL, "<|start|>assistant")
_CHANNEL_ENDS = ("<|end|>", "<|return|>", "<|call|>", "<|start|>", _CHANNEL)
"""Of harmony, the format of gpt-oss: <|channel|>NAME<|message|>TEXT<|end|><|start|>assistant<|channel|>…"""
_SHOWN_CHANNEL = "final"
_FIRST_CHARS = "<[◁"
_MAX_BLANK = 400
"""After this many characters of white space the answer has begun."""
_MAX_HEADER = 200
_LONGEST_MARK = 24


@dataclass(frozen=True, slots=True)
class Split:
    """One piece, split into answer and thought."""

    answer: str = ""
    thought: int = 0
    """Characters of thought."""
    retracts: bool = False
    """Whether everything that was passed on as the answer so far was thought."""


class _State(Enum):
    START = auto()
    THOUGHT = auto()
    HEADER = auto()
    ANSWER = auto()


class ReasoningSplitter:
    """Splits one reply."""

    def __init__(self, *, begins_inside: bool = False, only_answer: bool = False, quotes_marks: bool = False) -> None:
        """`begins_inside`: whether this model's prompt opens the thoughts. `only_answer`: whether the reply continues
        an answer. `quotes_marks`: whether someone typed a mark in the prompt, so that an answer may repeat it.
        """
        self.saw_lone_close = False
        """Whether the thoughts were closed and never opened."""
        self.never_closed = False
        """Whether the prompt was wrongly believed to open thoughts: the reply was an answer."""
        self._state = _State.ANSWER if only_answer else _State.START
        self._begins_inside = begins_inside
        self._quotes_marks = quotes_marks
        self._is_tentative = False
        self._has_thought = False
        self._watches = not (only_answer or quotes_marks)
        self._closing: tuple[str, ...] = _CLOSING
        self._in_channel = False
        self._held = ""
        self._tail = ""
        self._believed: list[str] = []

    def push(self, text: str) -> Split:
        """Take the next piece."""
        if self._state is _State.ANSWER and not self._held and not self._in_channel:
            if not self._watches:
                return Split(text)
            recent = self._tail + text
            if not any(char in recent for char in _FIRST_CHARS):
                self._tail = recent[-_LONGEST_MARK:]
                return Split(text)
        self._held += text
        answer, thought, retracts = "", 0, False
        while True:
            before = (self._state, self._held)
            piece, characters, closes = self._step()
            if closes:
                thought, answer, retracts = thought + len(answer), "", True
            answer += piece
            thought += characters
            if not self._held or before == (self._state, self._held):
                return Split(answer, thought, retracts)

    def end(self, finish_reason: str) -> Split:
        """Split the text that is still held back. `finish_reason`: how the reply ended."""
        held, self._held = self._held, ""
        if self._state is _State.ANSWER or (self._state is _State.START and not self._has_thought):
            return Split(held)
        if self._is_tentative and finish_reason != "length":
            self.never_closed = True
            return Split("".join(self._believed) + held)
        return Split(thought=len(held))

    def _step(self) -> tuple[str, int, bool]:
        """Do one thing with what is held: the answer, characters of thought, and whether a lone mark closes."""
        return {
            _State.START: self._start,
            _State.THOUGHT: self._think,
            _State.HEADER: self._read_header,
            _State.ANSWER: self._answer,
        }[self._state]()

    def _start(self) -> tuple[str, int, bool]:
        text = self._held.lstrip()
        small = text.lower()
        for mark, closing in _MARKS.items():
            if small.startswith(mark):
                self._open((closing,))
                self._held = text[len(mark) :]
                self._is_tentative = self._quotes_marks
                if self._is_tentative:
                    self._believed.append(text[: len(mark)])
                return "", len(mark), False
        if small.startswith(_CHANNELS):
            self._state, self._in_channel = _State.HEADER, True
            return "", 0, False
        may_open = any(mark.startswith(small) for mark in (*_MARKS, *_CHANNELS))
        if may_open and len(self._held) < _MAX_BLANK:
            return "", 0, False
        if self._begins_inside and not self._has_thought:
            self._state, self._is_tentative = _State.THOUGHT, True
        else:
            self._state = _State.ANSWER
            self._held = text if self._has_thought else self._held
        return "", 0, False

    def _open(self, closing: tuple[str, ...]) -> None:
        self._state, self._closing, self._is_tentative, self._watches = _State.THOUGHT, closing, False, False
        self._has_thought = True

    def _think(self) -> tuple[str, int, bool]:
        at, mark = _first(self._held, self._closing)
        if not mark:
            kept = len(self._held) - _overlap(self._held, self._closing)
            thought, self._held = self._held[:kept], self._held[kept:]
            if self._is_tentative:
                self._believed.append(thought)
            return "", len(thought), False
        self._believed.clear()
        self._is_tentative = self._watches = False
        self._has_thought = True
        if self._in_channel:
            self._held = self._held[at if mark in _CHANNELS or mark == "<|start|>" else at + len(mark) :]
        else:
            self._held = self._held[at + len(mark) :].lstrip()
        self._state = _State.START
        return "", at + len(mark), False

    def _read_header(self) -> tuple[str, int, bool]:
        """The channel's name, and where its text begins."""
        at = self._held.lower().find(_MESSAGE)
        if at < 0:
            if len(self._held) < _MAX_HEADER:
                return "", 0, False
            self._state, self._in_channel = _State.ANSWER, False  # no header that anyone writes
            return "", 0, False
        words = self._held[:at].lower().replace("<|start|>assistant", " ").replace(_CHANNEL, " ").split()
        self._held = self._held[at + len(_MESSAGE) :]
        if words[:1] == [_SHOWN_CHANNEL]:
            self._state, self._watches = _State.ANSWER, False
        else:
            self._open(_CHANNEL_ENDS)
        return "", at + len(_MESSAGE), False

    def _answer(self) -> tuple[str, int, bool]:
        marks = _CHANNEL_ENDS if self._in_channel else _CLOSING if self._watches else ()
        at, mark = _first(self._held, marks)
        if not mark:
            kept = len(self._held) - _overlap(self._held, marks)
            return self._say(kept), 0, False
        if self._in_channel:
            said = self._say(at)
            self._held = self._held[0 if mark in _CHANNELS or mark == "<|start|>" else len(mark) :]
            self._state = _State.START
            return said, 0, False
        before = (self._tail + self._held[:at]).lower()
        self._watches = False
        if before.endswith("`") or any(opening in before for opening in _MARKS):
            return "", 0, False
        self.saw_lone_close = self._has_thought = True
        self._held = self._held[at + len(mark) :].lstrip()
        self._state = _State.START
        return "", at + len(mark), True

    def _say(self, count: int) -> str:
        said, self._held = self._held[:count], self._held[count:]
        if self._watches:
            recent = self._tail + said
            self._tail = recent[-_LONGEST_MARK:]
            if any(mark in recent.lower() for mark in _MARKS):
                self._watches = False  # the answer speaks of marks
        return said


def has_mark(texts: Iterable[str]) -> bool:
    """Whether one of these texts has a mark that opens or closes thoughts."""
    return any(mark in small for text in texts if (small := text.lower()) for pair in _MARKS.items() for mark in pair)


def _first(text: str, marks: tuple[str, ...]) -> tuple[int, str]:
    """The mark that comes first, and where; "" if there is none."""
    small = text.lower()
    found = [(at, mark) for mark in marks if (at := small.find(mark)) >= 0]
    return min(found, default=(len(text), ""))


def _overlap(text: str, marks: tuple[str, ...]) -> int:
    """How many characters at the end may be the beginning of a mark."""
    small = text[-_LONGEST_MARK:].lower()
    lengths = (n for mark in marks for n in range(1, min(len(mark), len(small) + 1)) if small.endswith(mark[:n]))
    return max(lengths, default=0)
