"""Whether plain text begins with the beginning-of-text token: what the files of each format say."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import processors

from engine.checkpoint import open_checkpoint
from engine.checkpoint.gguf.container import GgufFile
from engine.checkpoint.gguf.tokenizer import make_tokenizer
from engine.checkpoint.huggingface.tokenizer_bos import adds_bos
from engine.tokenizers.bpe import byte_alphabet
from tests.engine.checkpoint import vocabularies as v
from tests.engine.checkpoint.builders import write_huggingface, write_meta


@pytest.mark.parametrize(
    ("kind", "pre", "declared", "expected"),
    [
        ("llama", None, None, True),
        ("llama", None, False, False),
        ("llama", None, True, True),
        ("gpt2", "llama-bpe", None, True),
        ("gpt2", "llama-bpe", False, False),
        ("gpt2", "tekken", None, True),
        ("gpt2", "smollm", None, False),
        ("gpt2", "smollm", True, True),
        ("gpt2", "gpt-2", None, False),
    ],
)
def test_case_06_gguf_declares_it(kind: str, pre: str | None, declared: bool | None, expected: bool) -> None:
    tokens = ["<unk>", "<s>", "</s>", *byte_alphabet()]
    values = {
        "model": kind,
        "pre": pre,
        "tokens": tokens,
        "scores": [0.0] * 259,
        "token_type": [2, 3, 3, *[1] * 256],
        "merges": ["a b"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "add_bos_token": declared,
    }
    metadata = {f"tokenizer.ggml.{name}": value for name, value in values.items() if value is not None}
    if kind == "gpt2":
        metadata |= {"tokenizer.ggml.tokens": [*tokens, "ab"], "tokenizer.ggml.token_type": [2, 3, 3, *[1] * 257]}
    tokenizer = make_tokenizer(GgufFile(Path("x.gguf"), metadata, {}, {}), "llama2")
    assert (tokenizer.bos_id, tokenizer.adds_bos) == (1, expected)


def test_case_06_metas_vocabularies_add_it(tmp_path: Path) -> None:
    assert open_checkpoint(write_meta(tmp_path)).tokenizer().adds_bos
    assert v.tiktoken_tokenizer().adds_bos


TEMPLATE = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 0)])
AFTER = processors.TemplateProcessing("$A </s>", "$A $B </s>", [("</s>", 1)])
BYTES = processors.ByteLevel(trim_offsets=False)


@pytest.mark.parametrize(
    ("processor", "settings", "expected"),
    [
        (None, {}, False),
        (TEMPLATE, {}, True),
        (AFTER, {}, False),
        (BYTES, {}, False),
        (processors.Sequence([BYTES, TEMPLATE]), {"tokenizer_class": "PreTrainedTokenizerFast"}, True),  # Llama 3's
        (processors.Sequence([BYTES]), {}, False),
        (processors.RobertaProcessing(("</s>", 1), ("<s>", 0)), {}, True),
        (TEMPLATE, {"add_bos_token": False}, False),
        (None, {"add_bos_token": True}, True),
        (None, {"tokenizer_class": "LlamaTokenizerFast"}, True),
        (None, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}, False),
        (BYTES, {"tokenizer_class": "GPT2Tokenizer"}, False),
    ],
)
def test_case_06_a_hugging_face_directory_says_it(
    tmp_path: Path, processor: processors.PostProcessor | None, settings: dict[str, object], expected: bool
) -> None:
    path = write_huggingface(tmp_path, config={"bos_token_id": 0, "eos_token_id": 1})
    (path / "tokenizer.model").unlink()
    library = v.train_byte_level(path / "tokenizer.json", ("<s>", "</s>"), size=500)
    if processor is not None:
        library.post_processor = processor
        library.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"} | settings))
    assert open_checkpoint(path).tokenizer().adds_bos is expected
    if not settings:  # the file alone: the library is the reference
        ids = Library.from_file(str(path / "tokenizer.json")).encode("hello").ids
        assert (ids[0] == 0) is expected


def test_case_06_a_bare_sentencepiece_model_adds_it(tmp_path: Path) -> None:
    path = write_huggingface(tmp_path)
    assert open_checkpoint(path).tokenizer().adds_bos
    (path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert not open_checkpoint(path).tokenizer().adds_bos


@pytest.mark.parametrize("damaged", [[], "x", {"processors": [1, None]}, {"single": [1]}, {"single": []}, {"cls": 3}])
def test_a_damaged_post_processor_adds_nothing(damaged: object) -> None:
    assert not adds_bos({}, {"post_processor": damaged}, "<s>")
