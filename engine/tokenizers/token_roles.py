"""What each entry of a vocabulary table is: text, a control token, or padding.

The types that a converter wrote are SentencePiece's piece types. They are often coarse (a mark as USER_DEFINED, padding
as UNKNOWN), so the names count as well. Scores are ignored, since converters write any. Knows no tokenizer library.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from engine.tokenizers.ordinary import looks_like_control

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_PADDING_NAME = re.compile(r"\[PAD\d+\]|<(?:dummy|pad|unused)_?\d+>|\[unused_?\d+\]", re.IGNORECASE)
_UNKNOWN_NAME = "<unk>"
_BYTE_NAME = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# Names that no tokenizer learns from text, so that a type is not needed to recognise them.
_MARK_NAME = re.compile(r"<\|[^<>|]+\|>")


@dataclass(frozen=True, slots=True)
class TokenRoles:
    """`controls`: names to ids. `unknown`: the token for text that has none, if the vocabulary has one.

    Text never becomes an id in `not_encoded` (control tokens, padding, a piece's repetition); those in `silent` never
    become text. `padding` fills the vocabulary up and is never sampled. `user_defined` are texts that are found in a
    text before it is split into words (`<think>`).
    """

    controls: dict[str, int]
    unknown: int | None
    not_encoded: frozenset[int]
    silent: frozenset[int]
    padding: frozenset[int]
    user_defined: frozenset[int]


def token_roles(
    tokens: Sequence[str], types: Sequence[int], *, reserved: Collection[int] = (), byte_level: bool = False
) -> TokenRoles:
    """The roles in a vocabulary; `reserved` are ids that its file or chat format uses as control tokens.

    `byte_level`: all bytes have tokens, so that a `<unk>` of type NORMAL is a word like others (Qwen has one).
    """
    unknown = _unknown(tokens, types)
    if byte_level and unknown is not None and types[unknown] == NORMAL:
        unknown = None
    used = {i for i in reserved if 0 <= i < len(tokens)}
    controls = {tokens[i]: i for i in sorted(used, reverse=True)}
    for i, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if i != unknown and _is_control(token, kind):
            controls.setdefault(token, i)
    not_encoded, silent = set(used), set(used)
    padding: set[int] = set()
    user_defined: set[int] = set()
    texts: set[str] = set()
    for i, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if i == unknown or i in used:
            continue
        if token in controls or kind in (UNUSED, UNKNOWN) or not token or _PADDING_NAME.fullmatch(token):
            not_encoded.add(i)
            silent.add(i)
            if token not in controls or _PADDING_NAME.fullmatch(token):  # converters type padding as CONTROL, too
                padding.add(i)
        elif token in texts:  # a repetition: text becomes the first one
            not_encoded.add(i)
        else:
            texts.add(token)
            if kind == USER_DEFINED:
                user_defined.add(i)
    return TokenRoles(
        controls, unknown, frozenset(not_encoded), frozenset(silent), frozenset(padding), frozenset(user_defined)
    )


def types_by_name(tokens: Sequence[str]) -> list[int]:
    """Piece types for a vocabulary whose file has none."""
    types = []
    for token in tokens:
        if _BYTE_NAME.fullmatch(token):
            types.append(BYTE)
        elif token == _UNKNOWN_NAME:
            types.append(UNKNOWN)
        else:
            types.append(CONTROL if token in ("<s>", "</s>") else NORMAL)
    return types


def byte_value(token: str) -> int | None:
    """The byte that a piece like `<0x0A>` stands for, None for other pieces."""
    return int(token[3:5], 16) if _BYTE_NAME.fullmatch(token) else None


def _unknown(tokens: Sequence[str], types: Sequence[int]) -> int | None:
    """`<unk>` whatever its type, else the first entry of type UNKNOWN that is not padding."""
    if _UNKNOWN_NAME in tokens:
        return tokens.index(_UNKNOWN_NAME)
    for i, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == UNKNOWN and token and not _PADDING_NAME.fullmatch(token) and not looks_like_control(token):
            return i
    return None


def _is_control(token: str, kind: int) -> bool:
    if kind == CONTROL:
        return bool(token)
    if kind in (USER_DEFINED, UNKNOWN, UNUSED):
        return looks_like_control(token)
    return _MARK_NAME.fullmatch(token) is not None
