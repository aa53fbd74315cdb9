"""Hugging Face's `tokenizer.json`: byte-level (Llama 3, SmolLM2) or with byte fallback (Llama 2, Mistral).

Knows the content of that file; the other files of a folder are `engine.checkpoint`'s.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from engine.errors import ConfigError
from engine.tokenizers.base import DecodeRules
from engine.tokenizers.bpe import BpeTokenizer, byte_alphabet, check_alphabet, token_bytes
from engine.tokenizers.marked import sentinel
from engine.tokenizers.token_roles import CONTROL, NORMAL, UNUSED, USER_DEFINED, token_roles

_WORD_START = "\u2581"
_MAX_TOKEN_ID = 1 << 20  # far above any real vocabulary; bounds the memory that a damaged file can ask for


def from_tokenizer_json(
    path: Path,
    file: Mapping[str, Any],
    *,
    bos: str | None,
    eos: str | None,
    stop_ids: frozenset[int],
    stop_names: Collection[str] = (),
    more_added: Mapping[int, tuple[str, bool]] | None = None,
    adds_bos: bool,
) -> BpeTokenizer:
    """The tokenizer in `file`, the content of `path`; `bos` and `eos` are texts. ConfigError if damaged or not BPE.

    A reply ends with `stop_ids`, and with those of `stop_names` that are control tokens. `more_added` are added tokens
    that only files beside it list, by id: the text, and whether it is special.
    """
    content = _normalized(path, file)
    if more_added:
        _add(content, more_added)
    vocabulary: dict[str, int] = content["model"]["vocab"]
    added: list[dict[str, Any]] = content["added_tokens"]
    names, kinds = _table(vocabulary, added)
    ids = {name: i for i, name in enumerate(names)}
    if eos is None:
        raise ConfigError(path, expected="an end-of-text token", found="none that the files beside it name")
    if eos not in ids:
        raise ConfigError(path, expected=f"the end-of-text token {eos} in the vocabulary", found="none of that name")
    bos_id = ids.get(bos) if bos else None
    reserved = [ids[eos], *stop_ids, *([] if bos_id is None else [bos_id])]
    rules, alphabet = _rules(path, content), byte_alphabet()
    roles = token_roles(names, kinds, reserved=reserved, byte_level=rules.replace == "sequence")
    controls, silent = roles.controls, set(roles.silent)
    if roles.unknown is not None:
        controls = {names[roles.unknown]: roles.unknown} | controls
        silent.add(roles.unknown)
    if rules.replace == "sequence":
        check_alphabet(vocabulary, path)
    pieces: list[bytes | str] = [b""] * len(names)
    for token, i in vocabulary.items():
        pieces[i] = token_bytes(token, alphabet) if rules.replace == "sequence" else _fallback_piece(token)
    for entry in added:  # unless it is silent (below), an added token is ordinary text
        pieces[entry["id"]] = entry["content"].encode()
    for i in silent:
        pieces[i] = b""
    marked = {entry["content"]: entry["id"] for entry in added if controls.get(entry["content"]) == entry["id"]}
    return BpeTokenizer(
        _library(path, content, roles.user_defined, marked),
        pieces,
        controls,
        rules,
        bos_id=bos_id,
        eos_id=ids[eos],
        stop_ids=stop_ids | {controls[name] for name in stop_names if name in controls},
        padding_ids=roles.padding,
        adds_bos=adds_bos,
        marked=marked,
    )


def _normalized(path: Path, file: Mapping[str, Any]) -> dict[str, Any]:
    """The content with all fields of its added tokens. ConfigError if it is not that of a BPE tokenizer."""
    try:
        content = dict(file)
        content["added_tokens"] = [
            {
                "id": int(token["id"]),
                "content": str(token["content"]),
                **{
                    flag: bool(token.get(flag)) for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")
                },
            }
            for token in content.get("added_tokens") or ()
        ]
        if content["model"].get("type", "BPE") != "BPE":
            raise ValueError(f"a model of type {content['model']['type']}")
        vocabulary = content["model"]["vocab"]
        ids = [*vocabulary.values(), *(token["id"] for token in content["added_tokens"])]
        if not all(type(i) is int for i in vocabulary.values()):
            raise ValueError("token ids that are no whole numbers")
        if not ids or min(ids) < 0 or max(ids) > _MAX_TOKEN_ID:
            raise ValueError(f"token ids that are not from 0 to {_MAX_TOKEN_ID}")
        if len(set(vocabulary.values())) < len(vocabulary):
            raise ValueError("an id of two tokens")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(path, expected="a BPE tokenizer.json", found=f"{type(error).__name__}: {error}") from error
    return content


def _add(content: dict[str, Any], more: Mapping[int, tuple[str, bool]]) -> None:
    """Append the added tokens of other files, unless the text or the id is taken; a known one may become special."""
    added = {token["content"]: token for token in content["added_tokens"]}
    vocabulary = content["model"]["vocab"]
    used = {*vocabulary.values(), *(token["id"] for token in content["added_tokens"])}
    for i, (text, special) in sorted(more.items()):
        if text in added:
            added[text]["special"] |= special
        elif vocabulary.get(text, i) == i and (i not in used or text in vocabulary):
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            content["added_tokens"].append({"id": i, "content": text, "special": special, **flags})


def _table(vocabulary: Mapping[str, int], added: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[int]]:
    """The text and the piece type of each id."""
    size = 1 + max([*vocabulary.values(), *(token["id"] for token in added)])
    names, kinds = [""] * size, [UNUSED] * size
    for token, i in vocabulary.items():
        names[i], kinds[i] = token, NORMAL
    for entry in added:
        names[entry["id"]], kinds[entry["id"]] = entry["content"], CONTROL if entry["special"] else USER_DEFINED
    return names, kinds


def _library(path: Path, content: dict[str, Any], user_defined: Collection[int], marked: Mapping[str, int]) -> Library:
    """The library's tokenizer. Added tokens that are text stay; a sentinel replaces each of the others.

    ConfigError if it does not take the file.
    """
    added = content["added_tokens"]
    texts = [token for token in added if token["id"] in user_defined]
    texts += [{**token, "content": sentinel(token["id"])} for token in added if token["content"] in marked]
    # The library numbers added tokens from the end of the vocabulary, unless the vocabulary has them.
    vocabulary = content["model"]["vocab"] | {token["content"]: token["id"] for token in texts}
    changes = {
        "added_tokens": texts,
        "model": {**content["model"], "vocab": vocabulary, "dropout": None},  # of training: makes ids random
        "post_processor": None,
        "truncation": None,  # may be left over from training
        "padding": None,
    }
    try:
        return Library.from_str(json.dumps(content | changes))
    except BaseException as error:  # the library raises bare Exceptions, and its panics are none
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ConfigError(path, expected="a BPE tokenizer.json", found=f"{type(error).__name__}: {error}") from error


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
