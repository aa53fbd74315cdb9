"""Finds the control tokens in a text that a chat template rendered, by the writer of each character.

A name counts only if the template wrote all of it. SentencePiece and tiktoken get the texts between such names. The
`tokenizers` library gets a sentinel for each name, a random text of this process that no member can know: the library
splits, strips and merges around it as around the name, and takes the name itself for ordinary text. Knows no templates.
"""

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

_NONCE = secrets.token_hex(12)
_TRUSTED_RUN = re.compile(rb"\x01+")


class Span(NamedTuple):
    """A control token in a text."""

    start: int
    end: int
    token_id: int


def sentinel(token_id: int) -> str:
    """The text that replaces a control token for the `tokenizers` library."""
    return f"\ufdd0{_NONCE}{token_id:x}\ufdd1"


class ControlNames:
    """The names of control tokens, to be found in texts: the leftmost first, and the longest where several begin."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = {name: i for name, i in ids.items() if name}
        self._lengths = sorted({len(name) for name in self._ids}, reverse=True)
        first = "".join(sorted({name[0] for name in self._ids}))
        self._first = re.compile(f"[{re.escape(first)}]") if first else None

    def spans(self, text: str, trusted: bytes) -> Iterator[Span]:
        """The control tokens in `text`. `trusted` has a byte 1 for each character that may be part of one."""
        for run in _TRUSTED_RUN.finditer(trusted):
            yield from self._in_run(text, run.start(), run.end())

    def _in_run(self, text: str, at: int, end: int) -> Iterator[Span]:
        while self._first is not None and (match := self._first.search(text, at, end)):
            start = match.start()
            for length in self._lengths:
                name = text[start : start + length]
                if start + length <= end and name in self._ids:
                    yield Span(start, start + length, self._ids[name])
                    at = start + length
                    break
            else:
                at = start + 1


def with_sentinels(text: str, spans: list[Span]) -> str:
    """The text with each control token's name replaced by its sentinel."""
    parts, at = [], 0
    for span in spans:
        parts += [text[at : span.start], sentinel(span.token_id)]
        at = span.end
    return "".join([*parts, text[at:]])


def encode_segments(text: str, spans: Iterable[Span], encode: Callable[[str], list[int]]) -> list[int]:
    """The control tokens by their ids, and what `encode` makes of the texts between them."""
    ids: list[int] = []
    at = 0
    for span in spans:
        if span.start > at:
            ids += encode(text[at : span.start])
        ids.append(span.token_id)
        at = span.end
    return ids + encode(text[at:]) if at < len(text) else ids
