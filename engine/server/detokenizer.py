"""Turns the token ids of one reply into text that may be sent: whole characters, and nothing of a stop string.

Runs on the server's side, once per request, never on the torch thread. A stop string may begin in the middle of a
token and end in the middle of another, so the longest tail that could still become one is held back until the next
tokens decide.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol


class Decoder(Protocol):
    """What is needed of the tokenizer's stream decoder: text of whole characters only."""

    def push(self, token: int, /) -> str: ...

    def finish(self) -> str: ...


class IncrementalDetokenizer:
    """Feed it ids with `push`; it returns what may be shown. `stopped` tells that a stop string ended the reply."""

    def __init__(self, decoder: Decoder, stops: Sequence[str] = ()) -> None:
        self._decoder = decoder
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        self.tokens = 0
        """Tokens that were taken, including those that made up the stop string, and none after it."""

    def push(self, ids: Iterable[int]) -> str:
        if not self._stops:
            shown = []
            for token in ids:
                self.tokens += 1
                shown.append(self._decoder.push(token))
            return "".join(shown)
        out = ""
        for token in ids:
            if self.stopped:
                break
            self.tokens += 1
            out += self._sift(self._decoder.push(token))
        return out

    def finish(self) -> str:
        """The rest, once no more tokens come: what was held back turned out to be ordinary text."""
        if self.stopped:
            return ""
        out = self._sift(self._decoder.finish())
        if not self.stopped:
            out, self._held = out + self._held, ""
        return out

    def _sift(self, fresh: str) -> str:
        if not self._stops:
            return fresh
        if not fresh:
            return ""
        text = self._held + fresh
        # The stop string that is complete first ends the reply, so that the cut does not depend on how tokens fall.
        found = min(((at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0), default=None)
        if found is not None:
            self.stopped = True
            self._held = ""
            return text[: found[1]]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
