"""Encodes user text so that it never becomes a control token.

Tokenizer libraries turn the text "<|im_end|>" into the control token of that name, which would let a member forge the
end of a message or a system prompt. Control tokens come from the chat format only, by id.
"""

import re
from collections.abc import Callable, Mapping

_CONTROL_NAME = re.compile(
    r"<\|[^<>|]+\|>|<｜[^<>｜]+｜>"  # ChatML, Llama 3; DeepSeek, with wide bars
    r"|\[/?[A-Z_]+\]|\[control_\d+\]|<SPECIAL_\d+>"  # Mistral
    r"|</?s>|<(?:bos|eos|pad|unk|mask|sep|cls)>|<(?:start|end)_of_\w+>"  # SentencePiece, Gemma
)

Encode = Callable[[str], list[int]]


def looks_like_control(name: str) -> bool:
    """Whether an added or user-defined token is a control token (`<|im_end|>`, `[INST]`, `</s>`) by its name."""
    return _CONTROL_NAME.fullmatch(name) is not None


def valid_unicode(text: str) -> str:
    """The text with lone surrogates, which no tokenizer library accepts, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text


def encode_ordinary(text: str, encode: Encode, controls: Mapping[str, int]) -> list[int]:
    """`encode(text)` without the ids in `controls`, even if the vocabulary lists control tokens as ordinary pieces.

    Where the library yields a control id, each control token's name in the text is split after its first character and
    the halves are encoded separately. Neither half is the name, and decoding still gives the same text.
    """
    text = valid_unicode(text)
    ids = encode(text)
    reserved = set(controls.values())
    if reserved.isdisjoint(ids):
        return ids
    names = "|".join(re.escape(name) for name in sorted(controls, key=len, reverse=True) if len(name) > 1)
    parts = re.sub(f"(?:{names})", lambda match: match[0][0] + "\0" + match[0][1:], text.replace("\0", "")).split("\0")
    return [i for part in parts for i in encode(part) if i not in reserved]
