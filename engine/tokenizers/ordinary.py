"""Keeping text ordinary, whatever the tokenizer library would like to read into it."""

import re
from collections.abc import Callable, Mapping

_CONTROL = re.compile(r"<\|[^<>|]+\|>|\[/?[A-Z_]+\]|</?s>")

Encode = Callable[[str], list[int]]


def looks_like_control(name: str) -> bool:
    """Whether a token that its vocabulary sets apart is a mark (`<|im_end|>`, `[INST]`, `</s>`) and not a text."""
    return _CONTROL.fullmatch(name) is not None


def valid_unicode(text: str) -> str:
    """The text with U+FFFD in place of lone surrogates, which no tokenizer library can take."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text


def encode_ordinary(text: str, encode: Encode, controls: Mapping[str, int]) -> list[int]:
    """Encode so that no control id comes out, even where a vocabulary lists its control tokens as ordinary pieces."""
    text = valid_unicode(text)
    ids = encode(text)
    reserved = set(controls.values())
    if reserved.isdisjoint(ids):
        return ids
    # Cut every such name after its first character: neither half is the name, and decoding gives the same text.
    names = "|".join(re.escape(name) for name in sorted(controls, key=len, reverse=True) if len(name) > 1)
    parts = re.sub(f"(?:{names})", lambda match: match[0][0] + "\0" + match[0][1:], text.replace("\0", "")).split("\0")
    return [i for part in parts for i in encode(part) if i not in reserved]
