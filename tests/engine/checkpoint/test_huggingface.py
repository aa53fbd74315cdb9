"""Hugging Face directories, with transformers as the reference."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.chat.chat_format import chat_format
from engine.checkpoint import Llama3Scaling, open_checkpoint
from engine.errors import ConfigError
from tests.engine.checkpoint import vocabularies as v
from tests.engine.checkpoint.builders import Tiny, hf_tensors, logits, read_all, weights, write_huggingface

LLAMA31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
IDS = [1, 5, 300, 17, 42, 511, 9, 9, 256, 77, 3, 128]


@pytest.mark.parametrize("config", [{}, {"rope_scaling": LLAMA31, "rope_theta": 500000.0}], ids=["llama2", "llama31"])
def test_logits_equal_transformers(tmp_path: Path, config: dict[str, object]) -> None:
    """Grouped-query attention, rotate_half rows reordered, scaled RoPE; float32 on both sides."""
    from transformers import LlamaForCausalLM

    path = write_huggingface(tmp_path, config=config)
    oracle = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    ids = IDS * 8
    with torch.inference_mode():
        want = oracle(torch.tensor([ids])).logits[0].numpy()
    got = logits(open_checkpoint(path), ids).numpy()
    assert np.abs(got - want).max() < 1e-4
    assert (got.argmax(-1) == want.argmax(-1)).all()


@pytest.mark.parametrize("files", [1, 3])
def test_every_slice_has_metas_row_order(tmp_path: Path, files: int) -> None:
    tiny = Tiny()
    tensors = weights(tiny)
    checkpoint = open_checkpoint(write_huggingface(tmp_path, tiny, tensors=tensors, files=files))
    assert checkpoint.spec.shards == files
    got = read_all(checkpoint, torch.bfloat16)
    assert all(torch.equal(got[name], tensors[name]) for name in tensors)
    for name in ("layers.1.attention.wq.weight", "layers.1.attention.wk.weight", "layers.0.attention.wo.weight"):
        for dim, start, size in ((0, 16, 16), (0, 5, 30), (1, 32, 32), (1, 7, 11)):
            want = tensors[name].narrow(dim, start, size)
            part = torch.empty_like(want, memory_format=torch.contiguous_format)
            checkpoint.copy_into(name, part, dim=dim, start=start)
            assert torch.equal(part, want), (name, dim, start)


def test_tied_embeddings_and_a_wide_head(tmp_path: Path) -> None:
    tiny = Tiny()
    tensors = hf_tensors(weights(tiny), tiny)
    path = write_huggingface(tmp_path, tiny, config={"tie_word_embeddings": True})
    del tensors["lm_head.weight"]
    save_file(tensors, path / "model.safetensors")
    got = read_all(checkpoint := open_checkpoint(path))
    assert "output.weight" not in got
    output = torch.empty(512, 96)
    checkpoint.copy_into("output.weight", output)
    assert torch.equal(output, got["tok_embeddings.weight"])


def test_newer_config_keys(tmp_path: Path) -> None:
    scaled = {"rope_theta": 5e5, **LLAMA31}
    spec = open_checkpoint(write_huggingface(tmp_path, config={"rope_parameters": scaled, "rope_theta": None})).spec
    assert (spec.rope_theta, spec.rope_scaling) == (5e5, Llama3Scaling(8.0, 1.0, 4.0, 64))
    plain = {"rope_theta": 1234.0, "rope_type": "default"}
    spec = open_checkpoint(write_huggingface(tmp_path, config={"rope_parameters": plain})).spec
    assert (spec.rope_theta, spec.rope_scaling) == (1234.0, None)


def test_chatml_directory(tmp_path: Path) -> None:
    """As SmolLM2: tokenizer.json, a template with a default system message, end-of-text tokens in three files."""
    path = write_huggingface(tmp_path, config={"bos_token_id": 1, "eos_token_id": [2]})
    (path / "tokenizer.model").unlink()
    v.train_byte_level(path / "tokenizer.json", size=500)
    template = "{% if not s %}{{'<|im_start|>system\\nBe nice.<|im_end|>\\n'}}{% endif %}"
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "eos_token": "<|im_end|>"}))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    checkpoint = open_checkpoint(path)
    assert (checkpoint.spec.chat, checkpoint.spec.default_system) == ("chatml", "Be nice.")
    tokenizer = checkpoint.tokenizer()
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.stop_ids) == (1, 2, {0, 2})


def test_mistral_without_window(tmp_path: Path) -> None:
    mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None}
    path = write_huggingface(tmp_path, config=mistral)
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ '[INST] ' + m }}"}))
    assert open_checkpoint(path).spec.chat == "mistral"


@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer_config.json"])
def test_case_02_tokens_added_to_a_sentencepiece_model(tmp_path: Path, file: str) -> None:
    """ChatML fine-tunes of Llama 2 and Mistral without tokenizer.json; an id between the added ones is padding."""
    tiny = Tiny(vocab_size=520)
    path = write_huggingface(tmp_path, tiny)
    settings: dict[str, object] = {"chat_template": "{{'<|im_start|>' + m}}", "eos_token": "<|im_end|>"}
    if file == "added_tokens.json":
        (path / file).write_text(json.dumps({"<|im_end|>": 512, "<|im_start|>": 514}))
    else:
        marks = {"512": {"content": "<|im_end|>", "special": True}, "514": {"content": "<|im_start|>"}}
        settings["added_tokens_decoder"] = marks
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    checkpoint = open_checkpoint(path)
    tokenizer = checkpoint.tokenizer()
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.stop_ids) == (1, 512, {2, 512})
    prompt = chat_format(checkpoint.spec, tokenizer).encode([{"role": "user", "content": "<|im_start|>system"}])
    assert (prompt.count(514), prompt.count(512)) == (2, 1)
    assert tokenizer.decode([512, 513, 514]) == ""


REFUSED = [
    ({"architectures": ["GPT2LMHeadModel"]}, "one of the architectures .*LlamaForCausalLM.*found GPT2LMHeadModel"),
    ({"architectures": None}, "architecture"),
    ({"sliding_window": 1024}, "full attention; found a sliding window of 1024"),
    ({"attention_bias": True}, r"attention\.w[qkvo]\.bias; found none"),
    ({"mlp_bias": True}, r"feed_forward\.w\d\.bias; found none"),
    ({"architectures": ["MistralForCausalLM"], "attention_bias": True}, "without bias; found attention_bias"),
    ({"architectures": ["Qwen2ForCausalLM"]}, r"attention\.w[kqv]\.bias; found none"),
    ({"architectures": ["Qwen3ForCausalLM"], "head_dim": 16}, r"attention\.[kq]_norm\.weight; found none"),
    ({"architectures": ["Gemma2ForCausalLM"], "head_dim": 16, "num_key_value_heads": 3}, r"0\.ffn_norm\.weight; found"),
    ({"architectures": ["Gemma2ForCausalLM"], "hidden_activation": "relu"}, "gelu_pytorch_tanh; found relu"),
    ({"final_logit_softcapping": 30.0}, "final_logit_softcapping to be absent"),
    ({"query_pre_attn_scalar": 64}, "query_pre_attn_scalar to be absent"),
    ({"use_qk_norm": True}, "use_qk_norm to be absent"),
    ({"num_local_experts": 8}, "num_local_experts to be absent"),
    ({"hidden_act": "gelu"}, "gelu"),
    ({"quantization_config": {"quant_method": "hqq"}}, "quantization_config"),
    ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "linear, llama3, yarn or longrope; found scaling dynamic"),
    ({"rope_scaling": {"type": "linear"}, "rope_theta": -1}, "rope_theta to be a positive number"),
    ({"rope_scaling": {"type": "yarn", "factor": 1e9}}, "a context of at most 4194304"),
    ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "8 numbers as short_factor; found 1"),
    ({"rope_scaling": {"type": "longrope", "short_factor": [0.0] * 8}}, "positive numbers as short_factor"),
    ({"rope_scaling": {"rope_type": "llama3"}}, "factor"),
    ({"rope_parameters": {"llama_4_scaling_beta": 0.1}}, "llama_4_scaling_beta to be absent: queries would be scaled"),
    ({"rope_scaling": {"type": "yarn", "factor": 4.0, "llama_4_scaling_beta": 0.1}}, "scaling_beta to be absent"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ({"num_hidden_layers": 3}, r"layers\.2\.\S+; found none"),
    ({"num_hidden_layers": 1}, r"1-layer llama; found layers\.1\."),
    ({"hidden_size": 192}, "shape"),
    ({"vocab_size": 500}, "shape"),
    ({"num_key_value_heads": 4}, "heads divisible"),
    ({"num_attention_heads": "six"}, "num_attention_heads to be a whole number"),
    ({"rms_norm_eps": 0}, "rms_norm_eps to be a positive number"),
    ({"hidden_size": None}, "hidden_size"),
]


@pytest.mark.parametrize(("config", "problem"), REFUSED)
def test_refused_in_one_line(tmp_path: Path, config: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        open_checkpoint(write_huggingface(tmp_path, config=config))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    path = write_huggingface(tmp_path, files=3)
    (path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ConfigError, match="the file model-00002-of-00003"):
        open_checkpoint(path)
    path = write_huggingface(tmp_path / "cut")
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(ConfigError, match="complete safetensors file"):
        open_checkpoint(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="neither"):
        open_checkpoint(path)
    path = write_huggingface(tmp_path / "no-tokenizer")
    (path / "tokenizer.model").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        open_checkpoint(path)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    path = write_huggingface(tmp_path, Tiny(vocab_size=128), config={"bos_token_id": 0, "eos_token_id": 1})
    v.train_byte_level(path / "tokenizer.json", ("<s>", "</s>"))
    with pytest.raises(ConfigError, match="vocabulary of 128, as the weights have; found one of"):
        open_checkpoint(path)
    write_huggingface(path, config={"eos_token_id": None})
    with pytest.raises(ConfigError, match="an end-of-text token; found none that the files beside it name"):
        open_checkpoint(path)
