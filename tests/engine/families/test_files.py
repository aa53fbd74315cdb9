"""Files of other forms: split GGUF files, quantized ones, and files that promise what they do not hold."""

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from engine.checkpoint import open_checkpoint
from engine.config import resolve
from engine.core.worker import load_weights
from engine.errors import ConfigError
from engine.server.inspect_checkpoint import make_report, report
from tests.engine.checkpoint.builders import read_all
from tests.engine.distributed.rank_worker import all_logits
from tests.engine.families.cases import CASES, make_oracle, write_huggingface
from tests.engine.families.gguf_form import write_gguf

IDS = list(range(20, 60))


@pytest.fixture(scope="module")
def qwen2() -> PreTrainedModel:
    return make_oracle(CASES["qwen2-small"])


def refuse(path: Path, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("named", [1, 3])
def test_the_parts_of_a_split_file_are_one_model(tmp_path: Path, qwen2: PreTrainedModel, named: int) -> None:
    case = CASES["qwen2-small"]
    whole = open_checkpoint(write_gguf(tmp_path / "whole.gguf", case, qwen2))
    write_gguf(tmp_path / "m.gguf", case, qwen2, parts=3)
    split = open_checkpoint(tmp_path / f"m-{named:05}-of-00003.gguf")
    assert (split.spec.shards, split.spec.architecture) == (3, whole.spec.architecture)
    expected, found = read_all(whole), read_all(split)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert split.tokenizer().encode("hello") == whole.tokenizer().encode("hello")


def test_attack_parts_that_do_not_belong_together(tmp_path: Path, qwen2: PreTrainedModel) -> None:
    case = CASES["qwen2-small"]
    first = write_gguf(tmp_path / "m.gguf", case, qwen2, parts=3)
    second, third = (tmp_path / f"m-0000{n}-of-00003.gguf" for n in (2, 3))
    content = second.read_bytes()
    second.unlink()
    refuse(first, "the part m-00002-of-00003.gguf beside it; found none")
    second.write_bytes(third.read_bytes())
    refuse(first, "part 2 of 3; found split.no 2")
    second.write_bytes(content[: len(content) // 2])
    refuse(first, "bytes")
    second.write_bytes(content)
    third.rename(tmp_path / "other.gguf")
    refuse(tmp_path / "other.gguf", "the name of a part")
    key = b"split.tensors.count" + struct.pack("<I", 5)  # an int32
    raw = first.read_bytes()
    at = raw.index(key) + len(key)
    (tmp_path / "other.gguf").rename(third)
    first.write_bytes(raw[:at] + struct.pack("<i", 99) + raw[at + 4 :])
    refuse(first, "99 tensors in 3 parts; found 26")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_0", "Q4_1"])
@pytest.mark.parametrize("name", ["qwen2-small", "gemma2", "phi3"])
def test_quantized_files_hold_what_their_blocks_decode_to(tmp_path: Path, name: str, kind: str) -> None:
    """Compared with transformers over the rounded weights; fused matrices and halves included."""
    case = CASES[name]
    oracle = make_oracle(case)
    quantization = gguf.GGMLQuantizationType[kind]
    path = write_gguf(tmp_path / "m.gguf", case, oracle, kind=quantization)
    checkpoint = open_checkpoint(path)
    assert checkpoint.spec.quantization == kind
    stored = gguf.GGUFReader(path).tensors
    bits = 8 * sum(int(each.n_bytes) for each in stored) / sum(int(each.n_elements) for each in stored)
    assert make_report(checkpoint, 1).stored_bits == pytest.approx(bits, abs=0.01)
    for parameter in oracle.parameters():
        values = parameter.detach().numpy()
        if values.ndim == 2 and values.shape[-1] % 32 == 0:
            rounded = gguf.quants.dequantize(gguf.quants.quantize(values, quantization), quantization)
            parameter.data = torch.from_numpy(rounded)
    with torch.inference_mode():
        expected = oracle(torch.tensor([IDS])).logits[0].numpy()
    config = resolve(checkpoint.spec, device="cpu", max_context=128, quantize="none")
    assert np.abs(all_logits(load_weights(config, checkpoint), IDS).numpy() - expected).max() < 1e-3


def test_attack_a_window_past_32_bits_is_the_context(tmp_path: Path) -> None:
    """Of a family whose layers keep their window, however long, since their RoPE differs."""
    folder = write_huggingface(tmp_path, make_oracle(CASES["gemma3"]))
    spec = open_checkpoint(change(folder, sliding_window=2**32 + 5)).spec
    assert spec.architecture.windows == (*[spec.max_context] * 5, None, spec.max_context)


@pytest.fixture
def folder(tmp_path: Path, qwen2: PreTrainedModel) -> Path:
    return write_huggingface(tmp_path / "qwen2", qwen2)


def change(folder: Path, **settings: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.mark.parametrize(
    "architecture",
    [
        *("Qwen3NextForCausalLM", "Qwen3_5ForConditionalGeneration", "MambaForCausalLM", "Mamba2ForCausalLM"),
        *("FalconH1ForCausalLM", "JambaForCausalLM", "Lfm2ForCausalLM", "RwkvForCausalLM", "NemotronHForCausalLM"),
        *("GraniteMoeHybridForCausalLM", "RecurrentGemmaForCausalLM", "Zamba2ForCausalLM"),
    ],
)
def test_attack_recurrent_layers_are_refused_with_a_way_out(folder: Path, architecture: str) -> None:
    refuse(change(folder, architectures=[architecture]), f"GUILDLLAMA_ENGINE_URL; found {architecture}")


@pytest.mark.parametrize("architecture", ["qwen3next", "qwen35", "mamba2", "falcon-h1", "lfm2", "nemotron_h"])
def test_attack_recurrent_gguf_files_too(tmp_path: Path, architecture: str) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", architecture)
    writer.add_tensor("token_embd.weight", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refuse(tmp_path / "m.gguf", f"GUILDLLAMA_ENGINE_URL; found {architecture}")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "a GGUF file of the model; found .*bitsandbytes"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 8}}, "as its gptq says; found none"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "GUILDLLAMA_ENGINE_URL"),
        ({"num_hidden_layers": 4096}, "tensors of 4096 layers; found 26 tensors"),
        ({"intermediate_size": 96}, "feed_forward.w1.weight of shape"),
        ({"head_dim": 4}, "attention.wq.bias of shape|attention.wq.weight of shape"),
        ({"vocab_size": 2_000_000}, "tok_embeddings.weight of shape"),
        ({"vocab_size": 1 << 41}, "vocab_size to be at most"),
        ({"tie_word_embeddings": False}, "the tensor output.weight; found none"),
        ({"architectures": ["LlamaForCausalLM"]}, "2-layer llama; found .*bias besides"),
    ],
)  # fmt: skip
def test_attack_a_config_that_promises_what_the_tensors_are_not(
    folder: Path, settings: dict[str, object], problem: str
) -> None:
    refuse(change(folder, **settings), problem)


@pytest.mark.parametrize("file", ["../other.safetensors", "/etc/passwd", "sub/other.safetensors", "..", "", "x" * 300])
def test_attack_an_index_that_points_outside_its_folder(folder: Path, file: str) -> None:
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    names = load_file(folder.parent / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, file)}))
    refuse(folder, "beside it; found none")


def test_attack_safetensors_headers(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]

    def write(**changes: object) -> None:
        raw = json.dumps(header | changes).encode()
        file.write_bytes(struct.pack("<Q", len(raw)) + raw + data)

    name = "model.norm.weight"
    begin, end = header[name]["data_offsets"]
    for offsets in ([begin, end + 4], [begin + (1 << 40), end + (1 << 40)], [0, end - begin], [end, begin], [-4, 124]):
        write(**{name: header[name] | {"data_offsets": offsets}})
        refuse(folder, "complete safetensors file")
    write(**{name: header[name] | {"shape": [1 << 50]}})
    refuse(folder, "complete safetensors file")
    file.write_bytes(struct.pack("<Q", 1 << 60) + content[8:])
    refuse(folder, "complete safetensors file")


def test_inspect_names_what_a_file_has(tmp_path: Path, folder: Path) -> None:
    text = report(folder)
    for part in ("qwen2, qkv_bias, tied_embeddings", "32 bits each", "256 tokens", "for the whole context"):
        assert part in text
    gemma = report(write_gguf(tmp_path / "g.gguf", CASES["gemma3"], make_oracle(CASES["gemma3"])))
    for part in ("gemma3, ", "local_rope", "windows", "qk_norm", "post_norms", "rope_linear"):
        assert part in gemma
