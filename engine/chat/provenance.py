"""Text that records the writer of each character: the template, or others.

Only characters of the template may become a control token, and a plain `str` counts as others'. So an operation that
drops the writers loses a control token at worst; it never makes one of a member's words. Knows neither templates nor
tokenizers.
"""

from collections.abc import Iterable, Iterator
from typing import SupportsIndex

OTHERS, TEMPLATE, CONTINUATION = 0, 1, 2
"""The writer of a character. CONTINUATION marks the place where a reply that is given in part ends."""


class SourcedText(str):
    """A `str` with the writer of each character; a str method returns plain text, which counts as others'."""

    __slots__ = ("_writers",)
    _writers: bytes

    def __new__(cls, text: str, writers: bytes) -> "SourcedText":
        """`writers` has one byte for each character."""
        value = super().__new__(cls, text)
        value._writers = writers
        return value

    def __str__(self) -> str:
        return self

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        text = super().__getitem__(key)
        index = key if isinstance(key, slice) else key.__index__()
        writers = self._writers[index] if isinstance(index, slice) else bytes([self._writers[index]])
        return SourcedText(text, writers)

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


def by_template(text: str) -> SourcedText:
    """Text that the template wrote."""
    return SourcedText(text, bytes([TEMPLATE]) * len(text))


def writers_of(text: str) -> bytes:
    """The writer of each character."""
    return text._writers if isinstance(text, SourcedText) else bytes(len(text))


def concat(parts: Iterable[str]) -> str:
    """The parts, joined."""
    texts = list(parts)
    joined = "".join(texts)
    if not any(isinstance(text, SourcedText) for text in texts):
        return joined
    return SourcedText(joined, b"".join(map(writers_of, texts)))


def changed(text: str, result: str) -> str:
    """`result`, made from `text` character by character, with its writers where that can be told."""
    if not isinstance(text, SourcedText):
        return result
    writers = writers_of(text)
    if len(result) == len(text):
        return SourcedText(result, writers)
    if writers and writers == writers[:1] * len(writers):
        return SourcedText(result, writers[:1] * len(result))
    return result
