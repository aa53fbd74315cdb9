"""Hugging Face's `tokenizer.json`: byte-level (Llama 3, SmolLM2) or with byte fallback (Llama 2, Mistral)."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from engine.errors import ConfigError
from engine.tokenizers.base import DecodeRules
from engine.tokenizers.bpe import BpeTokenizer, byte_alphabet, token_bytes
from engine.tokenizers.ordinary import looks_like_control

_WORD_START = "\u2581"
_MAX_TOKEN_ID = 1 << 24  # far above any real vocabulary; bounds the memory that a damaged file can ask for


def from_tokenizer_json(
    path: Path,
    *,
    bos: str | None,
    eos: str | None,
    stop_ids: frozenset[int],
    stop_names: Collection[str] = (),
    adds_bos: bool,
) -> BpeTokenizer:
    """The tokenizer in a file; `bos` and `eos` are the texts of these tokens. ConfigError if damaged or not BPE.

    A reply ends with `stop_ids`, and with those of `stop_names` that are control tokens.
    """
    content, library = _load(path)
    vocabulary: dict[str, int] = content["model"]["vocab"]
    pieces: list[bytes | str] = [b""] * (1 + max([*vocabulary.values(), *(t["id"] for t in content["added_tokens"])]))
    alphabet, rules = byte_alphabet(), _rules(path, content)
    for token, i in vocabulary.items():
        pieces[i] = token_bytes(token, alphabet) if rules.replace == "sequence" else _fallback_piece(token)
    controls: dict[str, int] = {}
    for token in content["added_tokens"]:
        name, i = token["content"], token["id"]
        if token["special"] or name in (bos, eos) or looks_like_control(name):
            controls[name] = i
        pieces[i] = name.encode()  # unless it is a control token (below), an added token is ordinary text
    for special in (bos, eos):
        if special is not None and special in vocabulary:
            controls.setdefault(special, vocabulary[special])
    for i in controls.values():
        pieces[i] = b""
    if eos is None:
        raise ConfigError(path, expected="an end-of-text token", found="none that the files beside it name")
    if eos not in controls:
        raise ConfigError(path, expected=f"the end-of-text token {eos} in the vocabulary", found="none of that name")
    bos_id = controls.get(bos) if bos else None
    return BpeTokenizer(
        library,
        pieces,
        controls,
        rules,
        bos_id=bos_id,
        eos_id=controls[eos],
        stop_ids=stop_ids | {controls[name] for name in stop_names if name in controls},
        adds_bos=adds_bos,
    )


def _load(path: Path) -> tuple[dict[str, Any], Library]:
    """The file's content with its added tokens normalized, and the library's tokenizer without them."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        content["added_tokens"] = [
            {"content": str(token["content"]), "id": int(token["id"]), "special": bool(token.get("special"))}
            for token in content.get("added_tokens") or ()
        ]
        if content["model"].get("type", "BPE") != "BPE":
            raise ValueError(f"a model of type {content['model']['type']}")
        ids = [*content["model"]["vocab"].values(), *(token["id"] for token in content["added_tokens"])]
        if not ids or min(ids) < 0 or max(ids) > _MAX_TOKEN_ID:
            raise ValueError(f"token ids that are not from 0 to {_MAX_TOKEN_ID}")
        library = Library.from_str(json.dumps(content | {"added_tokens": [], "post_processor": None}))
    except Exception as error:  # the library raises bare Exceptions
        raise ConfigError(path, expected="a BPE tokenizer.json", found=f"{type(error).__name__}: {error}") from error
    return content, library


def _rules(path: Path, content: dict[str, Any]) -> DecodeRules:
    parts = json.dumps([content.get("pre_tokenizer"), content.get("decoder")])
    if "ByteLevel" in parts:
        return DecodeRules("sequence")
    if content["model"].get("byte_fallback"):
        return DecodeRules("byte", "once" if "Strip" in parts or "Metaspace" in parts else "keep")
    raise ConfigError(
        path, expected="byte-level BPE or byte fallback", found="neither: some texts would have no tokens"
    )


def _fallback_piece(token: str) -> bytes | str:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(_WORD_START, " ")
