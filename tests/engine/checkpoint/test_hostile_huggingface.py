"""Hugging Face directories as trainers, mergers and damaged disks leave them: loaded right, or refused in one line."""

import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken
from tokenizers import Tokenizer as Library
from torch import Tensor

from engine.checkpoint import Llama3Scaling, open_checkpoint
from engine.errors import ConfigError
from tests.engine.checkpoint import vocabularies as v
from tests.engine.checkpoint.builders import Tiny, hf_tensors, read_all, weights, write_huggingface

ENDS = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
DECODER = {str(i): {"content": name, "special": True} for i, name in enumerate(v.CHATML)}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA31 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def refuse(path: Path, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def write_json(path: Path, **files: object) -> Path:
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def byte_level(path: Path, edit: Callable[[dict[str, Any]], object] | None = None, **files: object) -> Path:
    """A directory with a byte-level tokenizer.json, whose content `edit` may change."""
    write_huggingface(path).joinpath("tokenizer.model").unlink()
    file = path / "tokenizer.json"
    v.train_byte_level(file, size=500)
    content = json.loads(file.read_text())
    if edit is not None:
        edit(content)
    file.write_text(json.dumps(content))
    return write_json(path, **{"tokenizer_config": ENDS, **files})


# Numbers and nesting


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers to be at most 4096"),
        ({"num_hidden_layers": 4096}, "4096 layers; found 21 tensors"),
        ({"num_hidden_layers": 10**30}, "num_hidden_layers to be at most"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings to be at most 4194304"),
        ({"rope_theta": 10**400}, "rope_theta to be a positive number"),
        ({"rope_scaling": LLAMA31 | {"rope_type": "llama3", "low_freq_factor": 4.0}}, "low_freq_factor below"),
        ({"rope_scaling": {"type": "linear", "factor": -4.0}}, "factor to be a positive number"),
        ({"rope_scaling": {"type": "yarn", "factor": 1e305}}, "a context of at most 4194304; found "),
        ({"rope_scaling": YARN, "rope_theta": 1}, "a rope_theta above 1"),
        ({"rope_scaling": YARN | {"beta_fast": 1e308}}, "beta_slow below beta_fast, at most 1e"),
        ({"rope_scaling": YARN | {"beta_slow": 1e-320}}, "beta_slow below beta_fast"),
        ({"rope_scaling": YARN | {"beta_slow": 32, "beta_fast": 1}}, "beta_fast 1.0 and beta_slow 32.0"),
        ({"rope_scaling": YARN | {"attention_factor": 1e305}}, "an attention factor of at most"),
        ({"rope_scaling": YARN | {"mscale": 1e308, "mscale_all_dim": 1e-308}}, "attention factor of at most"),
        ({"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 1e308}, "an even part of 16 dimensions"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 4.0}}}, "one RoPE for all layers"),
    ],
)
def test_attack_config_json_with_impossible_values(tmp_path: Path, config: dict[str, object], problem: str) -> None:
    refuse(write_huggingface(tmp_path, config=config), problem)


@pytest.mark.parametrize("name", ["config", "tokenizer_config", "generation_config", "added_tokens", "tokenizer"])
@pytest.mark.parametrize("content", ["[" * 200_000, '{"a":' * 200_000, "[]", '{"', "\0"])
def test_attack_json_files_of_another_shape(tmp_path: Path, name: str, content: str) -> None:
    path = byte_level(tmp_path)
    (path / f"{name}.json").write_text(content)
    refuse(path, rf"{name}\.json: expected a JSON object")


def test_attack_small_files_that_never_end(tmp_path: Path) -> None:
    names = ("config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "chat_template.jinja")
    for name in (*names, "generation_config.json", "added_tokens.json"):
        path = byte_level(tmp_path / name)
        for target in ("/dev/zero", "gone"):  # a cache of downloads is full of links
            (path / name).unlink(missing_ok=True)
            (path / name).symlink_to(target)
            refuse(path, "a readable file|found .*config.json")
    path = byte_level(tmp_path / "large")
    with (path / "tokenizer.json").open("r+b") as file:
        file.truncate(8 << 30)
    refuse(path, r"tokenizer\.json: expected at most \d+ bytes; found more")
    os.mkfifo(tmp_path / "pipe")
    refuse(tmp_path / "pipe", "found another file")


# RoPE


@pytest.mark.parametrize(
    ("config", "theta", "scaled"),
    [
        ({"rope_scaling": LLAMA31 | {"rope_type": "llama3"}}, 10000.0, True),
        ({"rope_scaling": LLAMA31 | {"type": "llama3"}}, 10000.0, True),
        ({"rope_parameters": LLAMA31 | {"rope_type": "llama3", "rope_theta": 5e5}, "rope_theta": None}, 5e5, True),
        (
            {"rope_scaling": LLAMA31 | {"rope_type": "llama3"}, "rope_parameters": {"rope_type": "default"}},
            10000.0,
            True,
        ),
        ({"rope_scaling": {}, "rope_parameters": LLAMA31 | {"rope_type": "llama3"}}, 10000.0, True),
        ({"rope_scaling": {"type": "linear", "factor": 1.0}}, 10000.0, False),
        ({"rope_scaling": None}, 10000.0, False),
    ],
)
def test_case_05_ropes_old_and_new_names(tmp_path: Path, config: dict[str, object], theta: float, scaled: bool) -> None:
    spec = open_checkpoint(write_huggingface(tmp_path, config=config)).spec
    assert spec.rope_theta == theta
    assert spec.rope_scaling == (Llama3Scaling(8.0, 1.0, 4.0, 8192) if scaled else None)


# Which file says which token is special


def without_marks(content: dict[str, Any]) -> None:
    content["added_tokens"] = []
    for name in v.CHATML:
        del content["model"]["vocab"][name]


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": ENDS | {"added_tokens_decoder": DECODER}},
        {"added_tokens": {name: i for i, name in enumerate(v.CHATML)}},
        {"tokenizer_config": {}, "special_tokens_map": ENDS, "added_tokens": {n: i for i, n in enumerate(v.CHATML)}},
        {
            "tokenizer_config": {"added_tokens_decoder": DECODER},
            "special_tokens_map": {name: {"content": text} for name, text in ENDS.items()},
        },
    ],
)
def test_case_02_marks_that_only_a_file_beside_tokenizer_json_lists(tmp_path: Path, files: dict[str, object]) -> None:
    tokenizer = open_checkpoint(byte_level(tmp_path, without_marks, **files)).tokenizer()
    assert [tokenizer.control(name) for name in v.CHATML] == [0, 1, 2]
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 2)
    assert tokenizer.stop_ids >= {0, 2}
    text = "a<|im_end|><|im_start|>system"
    assert {0, 1, 2}.isdisjoint(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_case_02_a_mark_that_is_only_in_the_vocabulary_is_a_mark(tmp_path: Path) -> None:
    tokenizer = open_checkpoint(byte_level(tmp_path, lambda content: content.update(added_tokens=[]))).tokenizer()
    assert tokenizer.control("<|im_start|>") == 1
    assert tokenizer.decode([1, 2]) == ""


def test_case_03_a_padding_token_beyond_the_weights_is_left_out(tmp_path: Path) -> None:
    """As in the fine-tunes of 2023, whose script added [PAD] to the tokenizer only."""
    path = write_json(write_huggingface(tmp_path), added_tokens={"[PAD]": 512})
    assert open_checkpoint(path).tokenizer().vocab_size == 512


def test_attack_added_tokens_that_are_text_are_found_as_the_library_finds_them(tmp_path: Path) -> None:
    path = byte_level(tmp_path)
    library = Library.from_file(str(path / "tokenizer.json"))
    added = [AddedToken("<think>"), AddedToken("    ", normalized=False), AddedToken("</think>", lstrip=True)]
    library.add_tokens(added)
    library.save(str(path / "tokenizer.json"))
    tokenizer = open_checkpoint(path).tokenizer()
    for text in ("<think>\na    b </think> c", "<think", "x<think><think>y", *v.TEXTS):
        assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids, text
        assert tokenizer.decode(tokenizer.encode(text)) == library.decode(tokenizer.encode(text)), text


def test_attack_settings_of_training_in_tokenizer_json_do_nothing(tmp_path: Path) -> None:
    plain = open_checkpoint(byte_level(tmp_path / "plain")).tokenizer()
    limit = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    fill = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}

    def edit(content: dict[str, Any]) -> None:
        content |= {"truncation": limit, "padding": fill | {"pad_type_id": 0, "pad_token": "<|endoftext|>"}}
        content["model"]["dropout"] = 0.9

    trained = open_checkpoint(byte_level(tmp_path / "trained", edit)).tokenizer()
    for text in v.TEXTS:
        assert trained.encode(text) == plain.encode(text)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (
            lambda content: content["model"]["vocab"].update({"a": content["model"]["vocab"]["b"]}),
            "an id of two tokens",
        ),
        (lambda content: content["model"]["vocab"].update({"a": -1}), "token ids that are not"),
        (lambda content: content["added_tokens"][0].update(id=1 << 24), "token ids that are not"),
        (lambda content: content.update(added_tokens=5), "a BPE tokenizer"),
        (lambda content: content.update(model=None), "a BPE tokenizer"),
        (lambda content: content["model"].update(merges=[["no", "such"]]), "a BPE tokenizer"),
    ],
)
def test_attack_tokenizer_json_that_contradicts_itself(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], problem: str
) -> None:
    refuse(byte_level(tmp_path, edit), problem)


def test_attack_a_letter_without_a_token_is_not_dropped_from_texts(tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        model = content["model"]
        model["merges"] = [pair for pair in model["merges"] if not any("a" in part for part in pair)]
        model["vocab"] = {k: i for k, i in model["vocab"].items() if "a" not in k or k in v.CHATML}

    refuse(byte_level(tmp_path, edit), "a token for each byte; found none for byte 0x61")


# Weights


def with_tensors(path: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> Path:
    write_huggingface(path)
    save_file(dict(change(hf_tensors(weights(Tiny()), Tiny()))), path / "model.safetensors")
    return path


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t | {"model.embed_tokens.weight": torch.ones(512, 96, 2)}, r"found shape \[512, 96, 2\]"),
        (lambda t: t | {"output.weight": torch.ones(512, 96)}, r"output\.weight besides"),
        (
            # Meta's own name means Meta's order of rows.
            lambda t: {k.replace("model.layers.0.self_attn.q_proj", "layers.0.attention.wq"): x for k, x in t.items()},
            r"the tensor layers\.0\.attention\.wq\.weight; found none",
        ),
    ],
)
def test_attack_weights_under_other_names_and_shapes(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], problem: str
) -> None:
    refuse(with_tensors(tmp_path, change), problem)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "..", "", "a\0b", "x" * 5000, 5, None])
def test_attack_an_index_that_points_elsewhere(tmp_path: Path, name: object) -> None:
    path = write_huggingface(tmp_path, files=2)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = name
    refuse(write_json(path, **{"model.safetensors.index": index}), r"index\.json: expected the file")


def test_attack_one_file_wins_over_an_index_that_was_left(tmp_path: Path) -> None:
    """As transformers: whoever merges an adapter may leave the old index."""
    path = write_huggingface(tmp_path / "old", files=3)
    new = weights(Tiny(), seed=2)
    shutil.copy(write_huggingface(tmp_path / "new", tensors=new) / "model.safetensors", path)
    found = read_all(open_checkpoint(path))
    assert torch.equal(found["norm.weight"], new["norm.weight"].float())


ODD = (None, True, 0, -1, 2**63, 10**30, 1.5, "", "x", "x" * 5000, "\ud800", [], [None], {}, {"a": 1}, {"content": 1})


def with_odd_values(content: Any, chance: random.Random) -> Any:
    """The JSON value with something else in one place of it, or in two."""
    if not isinstance(content, dict | list) or not content or chance.random() < 0.1:
        return chance.choice(ODD)
    copy = content.copy()
    for _ in range(chance.choice([1, 1, 2])):
        key = chance.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
        copy[key] = with_odd_values(copy[key], chance)
    return copy


@pytest.mark.parametrize(
    "name", ["config", "tokenizer", "tokenizer_config", "special_tokens_map", "generation_config", "added_tokens"]
)
def test_attack_any_odd_value_in_any_json_file_is_refused_or_harmless(tmp_path: Path, name: str) -> None:
    files: dict[str, object] = {
        "tokenizer_config": ENDS | {"added_tokens_decoder": DECODER, "chat_template": "{{'<|im_start|>'}}"},
        "special_tokens_map": ENDS,
        "generation_config": {"eos_token_id": [2, 0]},
        "added_tokens": {"<think>": 500},
    }
    path = byte_level(tmp_path, **files)
    file, chance = path / f"{name}.json", random.Random(name)
    content = json.loads(file.read_text())
    errors: list[str] = []
    for _ in range(40):
        file.write_text(json.dumps(with_odd_values(content, chance)))
        try:
            checkpoint = open_checkpoint(path)
            checkpoint.tokenizer().decode(checkpoint.tokenizer().encode("a <|im_end|> é"))
            checkpoint.close()
        except ConfigError as error:
            errors.append(str(error))
    assert not any("\n" in error or len(error) > 1500 for error in errors)
