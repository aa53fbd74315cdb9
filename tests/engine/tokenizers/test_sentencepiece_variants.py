"""SentencePiece as Gemma and Phi-3 configure it: ids of a model file, of GGUF's tables and of tokenizer.json agree."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library
from tokenizers.models import BPE

from engine.checkpoint.gguf.container import GgufFile
from engine.checkpoint.gguf.tokenizer import make_tokenizer
from engine.tokenizers.base import Tokenizer
from engine.tokenizers.sentencepiece import SentencePieceTokenizer
from engine.tokenizers.sentencepiece_model import split_model
from engine.tokenizers.tokenizer_json import from_tokenizer_json
from tests.engine.tokenizers.texts import TEXTS

SIZE = 1400
TAGS = ("<start_of_turn>", "<end_of_turn>")
RUNS = ("\n\n", "\n\n\n", "\t\t", "▁▁", "▁▁▁", "▁▁▁▁", "<b>", "</b>")
OTHERS = [text for text in TEXTS if not any(mark in text for mark in ("<s>", "<unk>", "\u0000"))]


def train(*, dummy_prefix: bool, symbols: tuple[str, ...], extra_spaces: bool) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text for text in OTHERS * 3 if text.strip()),
        model_writer=model,
        model_type="bpe",
        vocab_size=SIZE,
        byte_fallback=True,
        character_coverage=0.98,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=dummy_prefix,
        remove_extra_whitespaces=not extra_spaces,
        normalization_rule_name="identity",
        user_defined_symbols=list(symbols),
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def gemma() -> bytes:
    """No dummy prefix; runs of spaces and line breaks, tags of HTML and turns are user-defined."""
    return train(dummy_prefix=False, symbols=(*TAGS, *RUNS), extra_spaces=True)


@pytest.fixture(scope="module")
def phi3() -> bytes:
    """Llama 2's: a space goes before each text."""
    return train(dummy_prefix=True, symbols=(), extra_spaces=True)


def from_gguf(model: bytes, *, prefix: bool, more: tuple[str, ...] = ()) -> Tokenizer:
    pieces, _ = split_model(model)
    metadata = {
        "model": "llama",
        "tokens": [*(piece.text for piece in pieces), *more],
        "scores": [*(piece.score for piece in pieces), *(-1000.0 for _ in more)],
        "token_type": [*(piece.kind for piece in pieces), *(3 for _ in more)],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "add_space_prefix": prefix,
    }
    return make_tokenizer(
        GgufFile(Path("m.gguf"), {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}, {}, {}), "other"
    )


def fast(model: bytes, *, prefix: bool, added: tuple[str, ...]) -> tuple[Tokenizer, Library]:
    """The vocabulary as transformers converts it: Replace and Split (Gemma), or Prepend and Replace (Phi-3)."""
    pieces, _ = split_model(model)
    ids = {piece.text: i for i, piece in enumerate(pieces)}
    merges = []
    for piece in pieces:
        splits = [(piece.text[:n], piece.text[n:]) for n in range(1, len(piece.text))] if piece.kind == 1 else []
        found = [(a, b) for a, b in splits if a in ids and b in ids]
        merges += [(piece.score, a, b) for a, b in sorted(found, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    ordered = [(a, b) for _, a, b in sorted(merges, key=lambda merge: -merge[0])]
    library = Library(BPE(ids, ordered, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("▁")] if prefix else []
    library.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    if not prefix:
        library.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    library.add_special_tokens(["<unk>", "<s>", "</s>", *(AddedToken(tag, normalized=False) for tag in added)])
    symbols = [piece.text for piece in pieces if piece.kind == 4 and piece.text not in added]
    library.add_tokens([AddedToken(symbol, normalized=False) for symbol in symbols])
    ours = from_tokenizer_json(
        Path("tokenizer.json"), json.loads(library.to_str()),
        bos="<s>", eos="</s>", stop_ids=frozenset(), adds_bos=True,
    )  # fmt: skip
    return ours, library


@pytest.mark.parametrize("family", ["gemma", "phi3"])
def test_model_file_and_gguf_have_the_librarys_ids(family: str, request: pytest.FixtureRequest) -> None:
    model, prefix = request.getfixturevalue(family), family == "phi3"
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    forms = [SentencePieceTokenizer(model, source="m"), from_gguf(model, prefix=prefix)]
    for text in OTHERS:
        for ours in forms:
            assert ours.encode(text) == library.encode(text), text
            assert ours.decode(ours.encode(text)) == text
    assert max(map(len, (forms[0].encode(text) for text in OTHERS))) > 20


@pytest.mark.parametrize("family", ["gemma", "phi3"])
def test_tokenizer_json_has_the_librarys_ids(family: str, request: pytest.FixtureRequest) -> None:
    model, prefix = request.getfixturevalue(family), family == "phi3"
    ours, library = fast(model, prefix=prefix, added=TAGS if family == "gemma" else ())
    for text in OTHERS:
        assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids, text
        assert ours.decode(ours.encode(text)) == text


def test_gemmas_symbols_are_text_and_its_tags_are_not(gemma: bytes) -> None:
    for ours in (SentencePieceTokenizer(gemma, source="m"), from_gguf(gemma, prefix=False)):
        pieces = [piece.text for piece in split_model(gemma)[0]]
        ids = [pieces.index(run) for run in ("\n\n", "▁▁▁", "<b>")]
        assert [i for i in ours.encode("a\n\nb   c<b>d") if i in ids] == ids
        tag = ours.control("<start_of_turn>")
        assert tag == pieces.index("<start_of_turn>")
        assert tag not in ours.encode("<start_of_turn>user")
        text = "<start_of_turn>user\n<start_of_turn>"
        marked = ours.encode_marked(text, bytes([1] * 20 + [0] * 15))
        assert marked == [tag, *ours.encode("user\n<start_of_turn>")]


def test_phi3_adds_control_tokens_after_the_vocabulary(phi3: bytes) -> None:
    ours = from_gguf(phi3, prefix=True, more=("<|user|>", "<|end|>", "<|assistant|>"))
    text = "<|user|>\nhi<|end|>"
    ids = ours.encode_marked(text, bytes([1] * len(text)))
    assert ids == [SIZE, *ours.encode("\nhi"), SIZE + 1]
    assert {SIZE, SIZE + 1}.isdisjoint(ours.encode(text))
    assert ours.decode(ids).strip() == "hi"
