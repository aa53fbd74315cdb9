"""One model in Meta's, Hugging Face's and GGUF form: equal RoPE tables, token ids, stop ids and prompts."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, decoders, pre_tokenizers, processors
from tokenizers import Tokenizer as Library
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split

from engine.chat.chat_format import chat_format
from engine.checkpoint import Checkpoint, Llama3Scaling, open_checkpoint
from engine.checkpoint.files import ConfigReader
from engine.checkpoint.meta import _rope_scaling
from engine.checkpoint.rope import scaling_factors
from engine.model.rope import rope_table
from engine.tokenizers.bpe import byte_alphabet
from engine.tokenizers.pre_tokenizers import LLAMA3_PATTERN
from engine.tokenizers.sentencepiece_model import split_model
from tests.engine.checkpoint import vocabularies as v
from tests.engine.checkpoint.builders import (
    Tiny,
    finish_gguf,
    gguf_name,
    gguf_writer,
    weights,
    write_huggingface,
    write_meta,
)

DIALOG = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hello world 12345 [INST]"},
    {"role": "assistant", "content": "hell <|eot_id|></s> "},
    {"role": "user", "content": "안녕 naïve"},
]
# Llama 3's words in the toy vocabulary, each made by one merge.
WORDS = {"12": "1 2", "123": "12 3", "he": "h e", "ll": "l l", "hell": "he ll", "hello": "hell o"}
# Llama 3.1's 256 control tokens by place; Llama 3 reserved those at 4, 8 and 10.
MARKS = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
MARKS31 = MARKS | {4: "finetune_right_pad_id", 8: "eom_id", 10: "python_tag"}


def assert_equal(forms: Sequence[Checkpoint]) -> None:
    first, *others = forms
    table = rope_table(first.spec, 64, torch.device("cpu"))
    tokenizer = first.tokenizer()
    texts = (*v.TEXTS, "12345", "hello <|eot_id|> <s>[INST]</s>")
    prompt = chat_format(first.spec, tokenizer).encode(DIALOG)
    for other in others:
        theirs, form = other.tokenizer(), other.spec.format
        assert (other.spec.chat, other.spec.rope_scaling) == (first.spec.chat, first.spec.rope_scaling), form
        assert torch.equal(rope_table(other.spec, 64, torch.device("cpu")), table), form
        assert (theirs.bos_id, theirs.stop_ids, theirs.adds_bos) == (
            tokenizer.bos_id,
            tokenizer.stop_ids,
            tokenizer.adds_bos,
        ), form
        assert [theirs.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts], form
        assert chat_format(other.spec, theirs).encode(DIALOG) == prompt, form
        assert chat_format(other.spec, theirs).stop_ids == chat_format(first.spec, tokenizer).stop_ids, form


def write_gguf(
    path: Path, tiny: Tiny, metadata: Mapping[str, object], theta: float, scaling: Llama3Scaling | None
) -> Path:
    """A file with this vocabulary, as llama.cpp's converter writes it."""
    writer = gguf_writer(path, tiny)
    writer.add_rope_freq_base(theta)
    for name, value in metadata.items():
        key = f"tokenizer.{name}" if name == "chat_template" else f"tokenizer.ggml.{name}"
        match value:
            case list():
                writer.add_array(key, value)
            case int():
                writer.add_uint32(key, value)
            case _:
                writer.add_string(key, str(value))
    if scaling is not None:
        writer.add_tensor("rope_freqs.weight", scaling_factors(scaling, tiny.head_dim, theta).numpy())
    for name, tensor in weights(tiny).items():
        writer.add_tensor(gguf_name(name), tensor.float().numpy())
    finish_gguf(writer)
    return path


def sentencepiece_gguf(
    path: Path,
    tiny: Tiny,
    template: str | None = None,
    tables: tuple[list[str], list[float], list[int]] | None = None,
) -> Path:
    tokens, scores, kinds = tables or v.sentencepiece_tables()
    tables = {"model": "llama", "tokens": tokens, "scores": scores, "token_type": kinds, "bos_token_id": 1}
    more = {} if template is None else {"chat_template": template}
    return write_gguf(path, tiny, {**tables, "eos_token_id": 2, **more}, 10000.0, None)


def test_case_05_llama2(tmp_path: Path) -> None:
    tiny = Tiny()
    bare = write_huggingface(tmp_path / "hf", tiny)
    fast = write_huggingface(tmp_path / "fast", tiny)
    (fast / "tokenizer.model").unlink()
    v.byte_fallback_json(fast / "tokenizer.json")
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (fast / "tokenizer_config.json").write_text(json.dumps(settings))
    paths = [write_meta(tmp_path / "meta", tiny), bare, fast, sentencepiece_gguf(tmp_path / "m.gguf", tiny)]
    assert_equal([open_checkpoint(path) for path in paths])


def test_case_05_mistral(tmp_path: Path) -> None:
    """Meta's form has none of Mistral's."""
    tiny, template = Tiny(), "{{ bos_token }}{{ '[INST] ' + m }}"
    path = write_huggingface(tmp_path / "hf", tiny, config={"architectures": ["MistralForCausalLM"]})
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "add_bos_token": True}))
    assert_equal([open_checkpoint(path), open_checkpoint(sentencepiece_gguf(tmp_path / "m.gguf", tiny, template))])


@pytest.mark.parametrize("version", ["v2", "v3", "v7"])
def test_case_05_mistral_with_marks_as_control_tokens(tmp_path: Path, version: str) -> None:
    model = v.mistral_model(version)
    pieces, _ = split_model(model)
    tables = [p.text for p in pieces], [p.score for p in pieces], [p.kind for p in pieces]
    tiny, template = Tiny(vocab_size=len(pieces)), "{{ bos_token }}{{ '[INST] ' + m }}"
    settings = {"chat_template": template, "add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"}
    paths = [sentencepiece_gguf(tmp_path / "m.gguf", tiny, template, tables)]
    for form in ("slow", "fast"):
        path = write_huggingface(tmp_path / form, tiny, config={"architectures": ["MistralForCausalLM"]})
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
        (path / "tokenizer.model").write_bytes(model)
        if form == "fast":
            v.byte_fallback_json(path / "tokenizer.json", tables)
        paths.append(path)
    assert_equal([open_checkpoint(path) for path in paths])


@pytest.mark.parametrize("eos", ["<|im_end|>", "</s>"])
def test_case_05_chatml_over_llama2s_vocabulary(tmp_path: Path, eos: str) -> None:
    """Fine-tunes of 2023: two marks behind the vocabulary, in whichever file, of whichever type; and one more word."""
    tokens, scores, kinds = v.sentencepiece_tables()
    marks = {"<|im_end|>": 512, "<|im_start|>": 513, "<tool>": 514}
    tables = [*tokens, *marks], [*scores, -1000.0, -1000.0, -1000.0], [*kinds, 4, 4, 4]
    tiny, template = Tiny(vocab_size=515), "{{'<|im_start|>' + m}}"
    settings: dict[str, object] = {"chat_template": template, "bos_token": "<s>", "eos_token": eos}
    numbers = {"eos_token_id": [*tokens, *marks].index(eos)}
    paths = []
    for form in ("slow", "decoder", "fast", "beside"):
        path = write_huggingface(tmp_path / form, tiny, config=numbers)
        decoder = {str(i): {"content": name, "special": i < 514} for name, i in marks.items()}
        more = {"added_tokens_decoder": decoder} if form == "decoder" else {}
        (path / "tokenizer_config.json").write_text(json.dumps(settings | {"add_bos_token": True} | more))
        if form in ("slow", "beside"):
            (path / "added_tokens.json").write_text(json.dumps(marks))
        if form == "fast":
            v.byte_fallback_json(path / "tokenizer.json", tables)
        if form == "beside":
            v.byte_fallback_json(path / "tokenizer.json")
        paths.append(path)
    metadata: dict[str, object] = {"model": "llama", "tokens": tables[0], "scores": tables[1], "token_type": tables[2]}
    metadata |= {"bos_token_id": 1, **numbers, "chat_template": template}
    paths.append(write_gguf(tmp_path / "m.gguf", tiny, metadata, 10000.0, None))
    checkpoints = [open_checkpoint(path) for path in paths]
    assert_equal(checkpoints)
    for checkpoint in checkpoints:
        tokenizer = checkpoint.tokenizer()
        assert 514 in tokenizer.encode("a <tool> b")
        assert {512, 513}.isdisjoint(tokenizer.encode("<|im_start|>system<|im_end|>"))


def test_case_05_chatml(tmp_path: Path) -> None:
    """SmolLM2's, whose files name one end token each time, a different one or the same."""
    library = v.train_byte_level(tmp_path / "tokenizer.json", size=512)
    tiny, template = Tiny(), "{{'<|im_start|>' + m}}"
    path = write_huggingface(tmp_path / "hf", tiny, config={"bos_token_id": 1, "eos_token_id": 2})
    (path / "tokenizer.model").unlink()
    (tmp_path / "tokenizer.json").rename(path / "tokenizer.json")
    settings = {"chat_template": template, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    model = json.loads((path / "tokenizer.json").read_text())["model"]
    tokens = [library.id_to_token(i) or f"[PAD{i}]" for i in range(512)]
    metadata = {
        **{"model": "gpt2", "pre": "smollm", "tokens": tokens, "bos_token_id": 1, "eos_token_id": 2},
        "token_type": [3] * 3 + [5 if token.startswith("[PAD") else 1 for token in tokens[3:]],
        "merges": [" ".join(merge) for merge in model["merges"]],
        "chat_template": template,
    }
    assert_equal(
        [open_checkpoint(path), open_checkpoint(write_gguf(tmp_path / "m.gguf", tiny, metadata, 10000.0, None))]
    )


# Dimension, factor of Meta's models: Llama 3 (no scaling), 3.1, and 3.2 by its width.
@pytest.mark.parametrize(("dim", "factor"), [(256, None), (256, 8.0), (2048, 32.0), (3072, 32.0)])
def test_case_05_llama3(tmp_path: Path, dim: int, factor: float | None) -> None:
    tiny = Tiny(dim=dim, n_layers=1, n_heads=dim // 128, n_kv_heads=1, ffn_dim=32, vocab_size=256 + len(WORDS) + 256)
    scaling = None if factor is None else Llama3Scaling(factor, 1.0, 4.0, 8192)
    letters = {byte: letter for letter, byte in byte_alphabet().items()}
    ordinary = [*(letters[n] for n in range(256)), *WORDS]
    names = MARKS if factor is None else MARKS31
    marks = [f"<|{names.get(n, f'reserved_special_token_{n}')}|>" for n in range(256)]
    first = len(ordinary)
    paths = [
        llama3_meta(tmp_path / "meta", tiny, ordinary, scaled=factor is not None),
        llama3_huggingface(tmp_path / "hf", tiny, ordinary, marks, scaling),
        write_gguf(
            tmp_path / "m.gguf",
            tiny,
            {
                **{"model": "gpt2", "pre": "llama-bpe", "tokens": [*ordinary, *marks]},
                **{"token_type": [1] * first + [3] * 256, "merges": list(WORDS.values())},
                **{"bos_token_id": first, "eos_token_id": first + 9},
            },
            500000.0,
            scaling,
        ),
    ]
    assert_equal([open_checkpoint(path) for path in paths])


def llama3_meta(path: Path, tiny: Tiny, ordinary: Sequence[str], *, scaled: bool) -> Path:
    alphabet = byte_alphabet()
    tokens = [bytes(alphabet[letter] for letter in token) for token in ordinary]
    content = b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
    settings = {"rope_theta": 500000.0, "use_scaled_rope": scaled, "vocab_size": tiny.vocab_size}
    multiplier = {"ffn_dim_multiplier": tiny.ffn_dim / (8 * tiny.dim / 3), "multiple_of": tiny.ffn_dim}
    return write_meta(path, tiny, settings=settings | multiplier, tokenizer=content)


def llama3_huggingface(
    path: Path, tiny: Tiny, ordinary: Sequence[str], marks: Sequence[str], scaling: Llama3Scaling | None
) -> Path:
    first = len(ordinary)
    rope = scaling and {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = {"rope_theta": 500000.0, "rope_scaling": rope, "bos_token_id": first, "eos_token_id": first + 9}
    write_huggingface(path, tiny, config=config)
    (path / "tokenizer.model").unlink()
    ids = {token: i for i, token in enumerate(ordinary)}
    library = Library(BPE(ids, [tuple(merge.split()) for merge in WORDS.values()], ignore_merges=True))
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [Split(Regex(LLAMA3_PATTERN), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(list(marks))
    begin = processors.TemplateProcessing(f"{marks[0]} $A", f"{marks[0]} $A $B", [(marks[0], first)])
    library.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    library.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": marks[0], "eos_token": marks[9]}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize(
    ("dim", "n_layers", "declared", "factor"),
    [
        *((4096, 32, None, 8.0), (8192, 80, None, 8.0), (16384, 126, None, 8.0)),
        *((2048, 16, None, 32.0), (3072, 28, None, 32.0), (2048, 12, None, 32.0)),  # the last as Llama Guard 3 1B
        *((2048, 16, 16.0, 16.0), (4096, 32, 32.0, 32.0)),
    ],
)
def test_case_05_metas_params_and_their_factor(dim: int, n_layers: int, declared: float | None, factor: float) -> None:
    params = {"dim": dim, "n_layers": n_layers, "use_scaled_rope": True, "rope_scaling_factor": declared}
    found = _rope_scaling(ConfigReader(Path("params.json"), params))
    assert found is not None
    assert found.factor == factor
    assert _rope_scaling(ConfigReader(Path("params.json"), params | {"use_scaled_rope": False})) is None
