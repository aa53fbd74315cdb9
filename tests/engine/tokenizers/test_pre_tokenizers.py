"""Each named splitting gives the ids of the library that the models' own tokenizer.json configures."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from engine.checkpoint.gguf.container import GgufFile
from engine.checkpoint.gguf.tokenizer import make_tokenizer
from engine.tokenizers.pre_tokenizers import _CASED_LETTERS, _NAMED
from engine.tokenizers.tokenizer_json import from_tokenizer_json
from tests.engine.tokenizers.texts import TEXTS

END = "<|endoftext|>"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
_UP, _LOW = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]", "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
_AHEAD = "[^\\r\\n\\p{L}\\p{N}]?"


def split(*patterns: str) -> list[dict[str, Any]]:
    return [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WORDS = BYTES | {"use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
# As in the tokenizer.json of: Llama 3.1, Qwen2.5, Mistral Nemo, gpt-oss, GPT-2, StarCoder2, DeepSeek's.
PUBLISHED: dict[str, list[dict[str, Any]]] = {
    "llama-bpe": [*split(f"{_CONTRACTIONS}|{_AHEAD}\\p{{L}}+|\\p{{N}}{{1,3}}{_TAIL}"), BYTES],
    "qwen2": [*split(f"{_CONTRACTIONS}|{_AHEAD}\\p{{L}}+|\\p{{N}}{_TAIL}"), BYTES],
    "tekken": [
        *split(f"{_AHEAD}{_UP}*{_LOW}+|{_AHEAD}{_UP}+{_LOW}*|\\p{{N}}" + _TAIL.replace("[\\r\\n]*", "[\\r\\n/]*")),
        BYTES,
    ],
    "gpt-4o": [
        *split(
            f"{_AHEAD}{_UP}*{_LOW}+{_CONTRACTIONS}?|{_AHEAD}{_UP}+{_LOW}*{_CONTRACTIONS}?|\\p{{N}}{{1,3}}"
            + _TAIL.replace("[\\r\\n]*", "[\\r\\n/]*")
        ),
        BYTES,
    ],
    "gpt-2": [WORDS],
    "starcoder": [DIGITS, WORDS],
    "deepseek-llm": [
        *split(
            "[\r\n]", f"\\s?[{_CASED_LETTERS}]+", "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
        ),
        *split("\\s+$", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
        DIGITS,
        BYTES,
    ],
    "deepseek-coder": [
        *split("[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
        DIGITS,
        BYTES,
    ],
    "deepseek-v3": [
        *split("\\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
        *split(
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
            "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
        ),
        BYTES,
    ],
}
SAME = {
    "llama-bpe": ["llama3", "llama-v3", "falcon3", "smaug-bpe", "dbrx"],
    "qwen2": ["deepseek-r1-qwen"],
    "gpt-4o": ["llama4"],
    "gpt-2": ["gpt2", "phi-2", "mpt", "olmo", "jais"],
    "starcoder": ["smollm", "refact", "command-r", "codeshell"],
}
NAMES = [(name, shape) for shape in PUBLISHED for name in [shape, *SAME.get(shape, [])]]
IGNORING = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")


@cache
def published(shape: str, ignore_merges: bool, normalizer: str | None) -> dict[str, Any]:
    """The content of a tokenizer.json with that splitting, with words learned from the texts."""
    library = Library(BPE(ignore_merges=ignore_merges))
    library.decoder = decoders.ByteLevel()
    content = json.loads(library.to_str())
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": PUBLISHED[shape]}
    content["normalizer"] = None if normalizer is None else {"type": normalizer}
    library = Library.from_str(json.dumps(content))
    trainer = BpeTrainer(
        vocab_size=1400, special_tokens=[END], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    library.train_from_iterator([text for text in TEXTS for _ in range(2)], trainer)
    return json.loads(library.to_str())  # type: ignore[no-any-return]


def content_of(name: str, shape: str) -> dict[str, Any]:
    return published(shape, name in IGNORING, "NFC" if shape == "qwen2" else None)


def gguf(content: dict[str, Any], name: str) -> GgufFile:
    """The same vocabulary in GGUF's tables, with the splitting by its name."""
    vocabulary = content["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    metadata = {
        "model": "gpt2",
        "pre": name,
        "tokens": tokens,
        "token_type": [3 if token == END else 1 for token in tokens],
        "merges": [" ".join(merge) for merge in content["model"]["merges"]],
        "eos_token_id": vocabulary[END],
    }
    return GgufFile(Path("m.gguf"), {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}, {}, {})


def test_the_letters_of_deepseeks_first_models_are_the_published_ones() -> None:
    """The list in their tokenizer.json; PUBLISHED above takes it from the engine, so it proves nothing about it."""
    digest = hashlib.sha256(_CASED_LETTERS.encode()).hexdigest()
    assert digest == "1cb93cd26ae2021435c2d1dd5e37b323adf5c6c02e8032731c797cba86b9806a"


def test_every_name_is_tested() -> None:
    assert {name for name, _ in NAMES} == set(_NAMED)


@pytest.mark.parametrize(("name", "shape"), NAMES)
def test_a_gguf_file_has_the_ids_of_the_models_own_tokenizer(name: str, shape: str) -> None:
    content = content_of(name, shape)
    library, ours = Library.from_str(json.dumps(content)), make_tokenizer(gguf(content, name), "other")
    for text in TEXTS:
        assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids, text
        if shape != "qwen2":  # which composes characters
            assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("shape", PUBLISHED)
def test_a_tokenizer_json_has_the_ids_of_the_library(shape: str) -> None:
    content = content_of(shape, shape)
    library = Library.from_str(json.dumps(content))
    ours = from_tokenizer_json(Path("tokenizer.json"), content, bos=None, eos=END, stop_ids=frozenset(), adds_bos=False)
    for text in TEXTS:
        assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids, text


def test_splittings_differ_on_these_texts() -> None:
    """Otherwise the tests above would prove nothing."""
    ids = {
        shape: [tuple(make_tokenizer(gguf(content_of("gpt-2", "gpt-2"), shape), "other").encode(t)) for t in TEXTS]
        for shape in PUBLISHED
    }
    assert len({tuple(map(tuple, value)) for value in ids.values()}) == len(PUBLISHED)
