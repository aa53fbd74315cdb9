"""Every vocabulary against its format's own library, and text that looks like control tokens."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from engine.checkpoint import open_checkpoint
from engine.errors import ConfigError
from engine.tokenizers.base import StreamDecoder, Tokenizer
from engine.tokenizers.pre_tokenizers import pre_tokenization
from engine.tokenizers.sentencepiece import SentencePieceTokenizer
from engine.tokenizers.sentencepiece_model import model_bytes
from engine.tokenizers.tiktoken import TiktokenTokenizer
from engine.tokenizers.token_roles import token_roles
from engine.tokenizers.tokenizer_json import from_tokenizer_json
from tests.engine.checkpoint import vocabularies as v

MAKERS: dict[str, Callable[[Path], Tokenizer]] = {
    "sentencepiece": lambda path: v.golden_sentencepiece(),
    "gguf-sentencepiece": lambda path: v.gguf_sentencepiece(path / "v.gguf"),
    "byte-fallback-json": lambda path: v.byte_fallback_json(path / "tokenizer.json"),
    "byte-level-json": lambda path: v.byte_level_json(path / "tokenizer.json"),
    "tiktoken": lambda path: v.tiktoken_tokenizer(),
    "smollm2": lambda path: open_checkpoint("smollm2").tokenizer(),
}


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return MAKERS[request.param](tmp_path_factory.mktemp("vocabulary"))


# Bytes without a token in SmolLM2's vocabulary, which cannot encode text with them.
SMOLLM2_LACKS = {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xF1, 0xF2}


def stream(tokenizer: Tokenizer, ids: list[int]) -> str:
    decoder = StreamDecoder(tokenizer)
    return "".join([*(decoder.push(i) for i in ids), decoder.finish()])


@pytest.mark.parametrize("text", v.TEXTS)
def test_encode_and_decode_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert stream(tokenizer, ids) == text


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_streamed_text_equals_decode(tokenizer: Tokenizer, data: st.DataObject) -> None:
    """Any ids: incomplete characters, control tokens between others, ids outside the vocabulary."""
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=30))
    assert stream(tokenizer, ids) == tokenizer.decode(ids)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_text_survives_and_streams_in_complete_characters(tokenizer: Tokenizer, text: str) -> None:
    text = "".join(c for c in text if not (SMOLLM2_LACKS & set(c.encode())))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    decoder = StreamDecoder(tokenizer)
    shown = ""
    for i in ids:
        shown += decoder.push(i)
        assert text.startswith(shown)  # never part of a character, nothing to retract


MARKS = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.sampled_from([*MARKS, "<", "|", ">", "<|", " ", "\0", "user\n", "im_start", "s>"]), max_size=12)
)
def test_fault_31_text_never_becomes_a_control_token(tokenizer: Tokenizer, parts: list[str]) -> None:
    controls = set()
    for name in MARKS:
        try:
            controls.add(tokenizer.control(name))
        except KeyError:
            continue
    assert controls
    ids = tokenizer.encode("".join(parts))
    assert controls.isdisjoint(ids)
    assert tokenizer.stop_ids.isdisjoint(ids)


def test_a_reply_in_the_middle_of_a_text_keeps_its_first_space() -> None:
    tokenizer = v.golden_sentencepiece()
    first, second = tokenizer.encode("a b")
    assert StreamDecoder(tokenizer).push(second) == "b"
    assert StreamDecoder(tokenizer, after=first).push(second) == " b"


def test_lone_surrogates_are_replaced(tokenizer: Tokenizer) -> None:
    assert "\ufffd" in tokenizer.decode(tokenizer.encode("a\ud800b"))


def test_sentencepiece_decodes_as_the_library_does() -> None:
    ours, theirs = v.golden_sentencepiece(), v.library_sentencepiece()

    @settings(max_examples=500, deadline=None)
    @given(st.lists(st.integers(0, 511) | st.sampled_from([0, 1, 2, 430, 3 + 0xE2, 3 + 0x82, 3 + 0xAC]), max_size=12))
    def check(ids: list[int]) -> None:
        assert ours.decode(ids) == theirs.decode(ids)

    check()


@pytest.mark.parametrize("text", v.TEXTS)
def test_the_three_forms_of_one_vocabulary_agree(tmp_path: Path, text: str) -> None:
    expected = v.library_sentencepiece().encode(text)
    assert v.golden_sentencepiece().encode(text) == expected
    assert v.gguf_sentencepiece(tmp_path / "v.gguf").encode(text) == expected
    assert v.byte_fallback_json(tmp_path / "tokenizer.json").encode(text) == expected


def test_byte_level_json_equals_the_library(tmp_path: Path) -> None:
    library = v.train_byte_level(tmp_path / "tokenizer.json")
    ours = read(tmp_path / "tokenizer.json")
    for text in v.TEXTS:
        assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids
    assert ours.bos_id is None


def test_added_tokens_that_are_text_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    library = v.train_byte_level(path)
    library.add_tokens([AddedToken("<think>", special=False), AddedToken("<|tool|>", special=False)])
    library.save(str(path))
    ours = read(path)
    think, tool = library.token_to_id("<think>"), library.token_to_id("<|tool|>")
    assert ours.decode([think, tool]) == "<think>"
    assert ours.control("<|tool|>") == tool


def test_user_defined_control_tokens_in_sentencepiece_are_guarded() -> None:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "<|im_start|>", "\u2581"]
    kinds = [2, 3, 3, *[6] * 256, 4, 1]
    model = model_bytes(tokens, [0.0] * 260 + [-1.0], kinds, bos_id=1, eos_id=2, add_space_prefix=True)
    tokenizer = SentencePieceTokenizer(model, source="here")
    mark = tokenizer.control("<|im_start|>")
    assert mark == 259
    assert mark not in tokenizer.encode("a<|im_start|>b")
    assert tokenizer.decode([mark]) == ""


def test_tiktoken_control_tokens_and_words() -> None:
    tokenizer = v.tiktoken_tokenizer()
    assert tokenizer.vocab_size == 256 + 8 + 256
    assert tokenizer.control("<|begin_of_text|>") == tokenizer.bos_id == 264
    assert tokenizer.control("<|eot_id|>") == 264 + 9
    assert tokenizer.stop_ids == {265, 264 + 8, 264 + 9}
    assert tokenizer.encode("hello world") == [259, 263]
    long = "hello world" * 20_000
    assert tokenizer.decode(tokenizer.encode(long)) == long


def test_llama3_pre_tokenizer_is_the_same_in_gguf_and_tiktoken(tmp_path: Path) -> None:
    """The same merges through tiktoken, and through the library that is used for GGUF's tables."""
    from engine.tokenizers.bpe import byte_alphabet, byte_level

    letters = {byte: letter for letter, byte in byte_alphabet().items()}
    words = [b"he", b"ll", b"hell", b"hello", b" w", b"or", b" wor", b" world"]
    spelled = ["".join(letters[byte] for byte in word) for word in [*(bytes([n]) for n in range(256)), *words]]
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("o", "r"), ("Ġw", "or"), ("Ġwor", "ld")]
    merges = [merge for merge in merges if merge[0] in spelled and merge[1] in spelled]
    tokens = [*spelled, "<|end|>"]
    gguf = byte_level(
        tokens,
        merges,
        token_roles(tokens, [1] * len(tokens)),
        pre_tokenization("llama-bpe", tokens, tmp_path),
        bos_id=None,
        eos_id=264,
        stop_ids=frozenset(),
        adds_bos=False,
        source=tmp_path,
    )
    tiktoken = v.tiktoken_tokenizer()
    for text in (*v.TEXTS, "hello world hello  world", "worlds\n\n hello"):
        if " world" not in text:  # its last merge needs "ld", which is not a token
            assert gguf.encode(text) == tiktoken.encode(text)
    assert gguf.encode(" world") == tiktoken.encode(" world") == [263]  # a word that is a token needs no merges


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "SentencePiece"),
        (b"\x00\x01 nothing like it", "SentencePiece"),
        (v.TOKENIZER.read_bytes().replace(b"the", b"t\xffe"), "pieces in UTF-8"),
    ],
)
def test_other_files_are_no_sentencepiece_model(content: bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SentencePieceTokenizer(content, source="tokenizer.model")


@pytest.mark.parametrize("content", [b"aGU= 0\nbGw= x\n", b"aGU= 0\nbGw= 1\n", b"aGU= 0 1\n"])
def test_damaged_tiktoken_files(content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.model"):
        TiktokenTokenizer(content, source=Path("tokenizer.model"))


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]]}},
        {"model": None},
        {"added_tokens": []},
        {"pre_tokenizer": None, "decoder": None},
    ],
)
def test_damaged_tokenizer_json(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "tokenizer.json"
    v.train_byte_level(path)
    v.edit_json(path, **change)
    eos = "<|no such token|>" if "added_tokens" in change else "<|im_end|>"
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        read(path, eos)


def test_smollm2_splits_numbers_into_digits_and_has_two_stop_tokens() -> None:
    tokenizer = open_checkpoint("smollm2").tokenizer()
    assert tokenizer.encode("Hello 123") == [19556, 216, 33, 34, 35]
    assert tokenizer.stop_ids == {0, 2}


def read(path: Path, eos: str = "<|im_end|>") -> Tokenizer:
    """The tokenizer of a file whose directory has no others."""
    content = json.loads(path.read_text())
    return from_tokenizer_json(path, content, bos=None, eos=eos, stop_ids=frozenset(), adds_bos=False)
