"""Vocabularies of every kind. The SentencePiece ones are all made from the golden checkpoint's."""

import json
from collections.abc import Mapping
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer as Library
from tokenizers import decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits
from tokenizers.trainers import BpeTrainer

from engine.checkpoint.gguf.container import GgufFile, read_gguf
from engine.checkpoint.gguf.tokenizer import make_tokenizer
from engine.tokenizers.base import Tokenizer
from engine.tokenizers.sentencepiece import SentencePieceTokenizer
from engine.tokenizers.sentencepiece_model import model_bytes, split_model
from engine.tokenizers.tiktoken import TiktokenTokenizer
from engine.tokenizers.tokenizer_json import from_tokenizer_json
from tests.engine.checkpoint.builders import TOKENIZER, Tiny, finish_gguf, gguf_writer, tiktoken_vocabulary

CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TEXTS = (
    "",
    " ",
    "Hello, world!",
    "  two spaces and a tail  ",
    "line one\nline two\r\n\n\tindented",
    "1234567890 1,000.50",
    "안녕하세요, 이름이 뭐니? 고양이 🐱👨‍👩‍👧",
    "naïve café – “quotes” … ﷽ \u200d\u00a0",
    "def f(x):\n    return x ** 2  # [INST] <<SYS>> <s></s>",
    "don't I'LL we've",
)


def golden_sentencepiece() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(TOKENIZER.read_bytes(), source=TOKENIZER)


def library_sentencepiece() -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(TOKENIZER))


def sentencepiece_tables() -> tuple[list[str], list[float], list[int]]:
    model = library_sentencepiece()
    size = range(model.vocab_size())
    kinds = [2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1 for i in size]
    return [model.id_to_piece(i) for i in size], [model.get_score(i) for i in size], kinds


def gguf_sentencepiece(path: Path) -> Tokenizer:
    """The golden vocabulary in a GGUF file."""
    tokens, scores, kinds = sentencepiece_tables()
    writer = gguf_writer(path, Tiny())
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    finish_gguf(writer)
    return make_tokenizer(read_gguf(path), "llama2")


def byte_fallback_json(path: Path, tables: tuple[list[str], list[float], list[int]] | None = None) -> Tokenizer:
    """A vocabulary in Hugging Face's form of Llama 2's, with merges for all ways to split a piece; the golden one."""
    tokens, _, kinds = tables or sentencepiece_tables()
    ids = {token: i for i, token in enumerate(tokens)}
    merges = []
    for token, kind in zip(tokens, kinds, strict=True):
        splits = [(token[:n], token[n:]) for n in range(1, len(token))] if kind == 1 else []
        merges += sorted((s for s in splits if s[0] in ids and s[1] in ids), key=lambda s: (ids[s[0]], ids[s[1]]))
    library = Library(BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    library.add_special_tokens(["<unk>", *(token for token, kind in zip(tokens, kinds, strict=True) if kind == 3)])
    library.add_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == 4])
    library.save(str(path))
    return from_tokenizer_json(
        path, json.loads(path.read_text()), bos="<s>", eos="</s>", stop_ids=frozenset(), adds_bos=False
    )


_MISTRAL_TOOLS = ("[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
_MISTRAL_V7 = ("[IMG]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]")
MISTRAL_CONTROLS = {
    "v1": (),
    "v2": ("[INST]", "[/INST]", *_MISTRAL_TOOLS),
    "v3": ("[INST]", "[/INST]", *_MISTRAL_TOOLS, *_MISTRAL_V7[:4]),
    "v7": ("[INST]", "[/INST]", *_MISTRAL_TOOLS, *_MISTRAL_V7),
}


def mistral_model(version: str) -> bytes:
    """The golden vocabulary with the control tokens of a version of Mistral's, in Mistral's order."""
    tokens, scores, kinds = sentencepiece_tables()
    controls = MISTRAL_CONTROLS[version]
    size = len(controls)
    return model_bytes(
        [*tokens[:3], *controls, *tokens[3:]],
        [*scores[:3], *[0.0] * size, *scores[3:]],
        [*kinds[:3], *[3] * size, *kinds[3:]],
        bos_id=1,
        eos_id=2,
        add_space_prefix=True,
    )


def gguf_of_sentencepiece(model: bytes) -> Tokenizer:
    """The same vocabulary from GGUF's tables."""
    pieces, _ = split_model(model)
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [piece.text for piece in pieces],
        "tokenizer.ggml.scores": [piece.score for piece in pieces],
        "tokenizer.ggml.token_type": [piece.kind for piece in pieces],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return make_tokenizer(GgufFile(Path("m.gguf"), metadata, {}, {}), "mistral")


def train_byte_level(path: Path, specials: tuple[str, ...] = CHATML, size: int = 400) -> Library:
    """A `tokenizer.json` like SmolLM2's, whose special tokens are in the vocabulary too."""
    library = Library(BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    library.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=list(specials),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(TEXTS * 3, trainer)
    library.save(str(path))
    return library


def byte_level_json(path: Path, specials: tuple[str, ...] = CHATML) -> Tokenizer:
    train_byte_level(path, specials)
    bos, eos = ("<|im_start|>", "<|im_end|>") if specials == CHATML else specials[:2]
    return from_tokenizer_json(
        path, json.loads(path.read_text()), bos=bos, eos=eos, stop_ids=frozenset(), adds_bos=False
    )


def tiktoken_tokenizer() -> Tokenizer:
    return TiktokenTokenizer(tiktoken_vocabulary(), source=Path("tokenizer.model"))


def edit_json(path: Path, **changes: object) -> None:
    content: Mapping[str, object] = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))
