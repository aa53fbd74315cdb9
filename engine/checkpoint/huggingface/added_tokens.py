"""Tokens that a directory without tokenizer.json adds to its SentencePiece model, in two JSON files beside it."""

from collections.abc import Mapping
from pathlib import Path

from engine.checkpoint.files import ConfigReader, is_listed, read_json
from engine.errors import ConfigError
from engine.tokenizers.sentencepiece_model import Piece, join_model, split_model
from engine.tokenizers.token_roles import CONTROL, UNUSED, USER_DEFINED

_MOST_ADDED = 1 << 16  # bounds the memory that a damaged file can ask for


def added_tokens(directory: Path, settings: ConfigReader) -> dict[int, Piece]:
    """By id, from `added_tokens.json` and from tokenizer_config.json (`settings`), which also says what is special."""
    found: dict[int, Piece] = {}
    path = directory / "added_tokens.json"
    for name, number in (read_json(path) if is_listed(path) else {}).items():
        if isinstance(number, int) and number >= 0:
            found[number] = Piece(name, 0.0, USER_DEFINED)
    decoder = settings.section("added_tokens_decoder")
    for number, token in (decoder.values if decoder else {}).items():
        if isinstance(token, dict) and isinstance(token.get("content"), str) and number.isdecimal():
            found[int(number)] = Piece(token["content"], 0.0, CONTROL if token.get("special") else USER_DEFINED)
    return found


def with_added_tokens(model: bytes, added: Mapping[int, Piece], source: Path) -> bytes:
    """The SentencePiece model with these tokens behind its own; ids between them become unused pieces.

    A model that cannot be read is returned as it is: the tokenizer says what is wrong with it.
    """
    try:
        pieces, rest = split_model(model)
    except ValueError:
        return model
    size = len(pieces)
    last = max(added, default=-1)
    if last < size:
        return model
    if last >= size + _MOST_ADDED:
        raise ConfigError(source, expected=f"added tokens from {size} on", found=f"one of id {last}")
    pieces += [added.get(i, Piece(f"[PAD{i}]", 0.0, UNUSED)) for i in range(size, last + 1)]
    return join_model(pieces, rest)
