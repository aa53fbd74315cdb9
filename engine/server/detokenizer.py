"""Turns the token ids of one response into text to send: complete characters, without any part of a stop string.

Runs on the event loop, never on the step loop's thread. A stop string may begin inside one token and end inside
another, so the longest suffix that could still become one is held back until later tokens decide. Knows no tokenizer
and no HTTP.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from engine.chat.partial_match import partial_match


class Decoder(Protocol):
    """The tokenizer's stream decoder: returns text of complete characters only."""

    def push(self, token: int, /) -> str:
        """The text that `token` completes."""

    def finish(self) -> str:
        """The text of the bytes that no later token will complete."""


class IncrementalDetokenizer:
    """`push` takes ids and returns the text that may be sent."""

    def __init__(self, decoder: Decoder, stop_strings: Sequence[str] = (), *, min_tokens: int = 0) -> None:
        """`min_tokens`: the text of the first tokens is part of no stop string."""
        self._decoder = decoder
        self._stop_strings = tuple(stop_strings)
        self._min_tokens = min_tokens
        self._held_back = ""
        self.stopped_by: str | None = None
        self.num_tokens = 0
        """Tokens taken so far: those that made up the stop string count, those after it do not."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the response."""
        return self.stopped_by is not None

    @property
    def num_held_back(self) -> int:
        """Characters that are held back, since they may be the beginning of a stop string."""
        return len(self._held_back)

    def push(self, ids: Iterable[int]) -> str:
        """The text that may be sent now; ids after a stop string are ignored."""
        if not self._stop_strings:
            pieces = []
            for token in ids:
                self.num_tokens += 1
                pieces.append(self._decoder.push(token))
            return "".join(pieces)
        text = ""
        for token in ids:
            if self.stopped:
                break
            self.num_tokens += 1
            new_text = self._decoder.push(token)
            text += new_text if self.num_tokens <= self._min_tokens else self._cut_at_stop(new_text)
        return text

    def finish(self) -> str:
        """The remaining text, once there are no more tokens: what was held back is ordinary text now."""
        if self.stopped:
            return ""
        text = self._cut_at_stop(self._decoder.finish())
        if not self.stopped:
            text, self._held_back = text + self._held_back, ""
        return text

    def _cut_at_stop(self, new_text: str) -> str:
        if not self._stop_strings:
            return new_text
        if not new_text:
            return ""
        text = self._held_back + new_text
        # The stop string that is complete first wins, so that the cut does not depend on where tokens end.
        matches = ((start + len(stop), start, stop) for stop in self._stop_strings if (start := text.find(stop)) >= 0)
        first = min(matches, default=None)
        if first is not None:
            self.stopped_by = first[2]
            self._held_back = ""
            return text[: first[1]]
        keep = max(partial_match(text, stop) for stop in self._stop_strings)
        self._held_back = text[len(text) - keep :]
        return text[: len(text) - keep]
