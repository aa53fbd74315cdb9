"""Random checkpoints: published shapes, equal weights in any number of shards, and their inspection report."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.bench.make_checkpoint import SHAPES, main, make_checkpoint, synthetic_vocabulary
from engine.checkpoint import open_checkpoint
from engine.errors import ConfigError
from engine.runner.weight_memory import cpu_weight_bytes
from engine.server import inspect_checkpoint
from engine.tokenizers.sentencepiece import SentencePieceTokenizer
from tests.engine.checkpoint.builders import TOKENIZER, read_all


def test_shards_make_no_difference(tmp_path: Path) -> None:
    shape = replace(SHAPES["tiny"], n_kv_heads=4, n_heads=8, ffn_dim_multiplier=1.3)
    models = []
    for shards in (1, 2, 4):
        make_checkpoint(tmp_path / str(shards), replace(shape, shards=shards), seed=3)
        models.append(read_all(open_checkpoint(tmp_path / str(shards))))
    for name, tensor in models[0].items():
        assert all(torch.equal(tensor, other[name]) for other in models[1:]), name
        mean = 1.0 if tensor.dim() == 1 else 0.0
        assert abs(tensor.mean().item() - mean) < 0.02
        assert 0.01 < tensor.std().item() < 0.03
    other = tmp_path / "other"
    make_checkpoint(other, shape, seed=4)
    assert not torch.equal(read_all(open_checkpoint(other))["norm.weight"], models[0]["norm.weight"])


def test_as_a_command_with_a_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path), "--shape", "tiny", "--shards", "2", "--layers", "1", "--tokenizer", str(TOKENIZER)])
    assert "2 shards" in capsys.readouterr().out
    spec = open_checkpoint(tmp_path).spec
    assert (spec.n_layers, spec.shards, spec.vocab_size) == (1, 2, 512)


@pytest.mark.parametrize(
    ("name", "ffn", "parameters"), [("7b", 11008, 6738415616), ("13b", 13824, 13015864320), ("70b", 28672, 68976648192)]
)
def test_published_shapes(name: str, ffn: int, parameters: int) -> None:
    shape = SHAPES[name]
    assert shape.ffn_dim == ffn
    kv = shape.dim // shape.n_heads * shape.n_kv_heads
    layer = 2 * shape.dim * shape.dim + 2 * kv * shape.dim + 3 * shape.dim * ffn + 2 * shape.dim
    assert shape.n_layers * layer + 2 * shape.vocab_size * shape.dim + shape.dim == parameters


def test_synthetic_vocabulary_encodes_any_text() -> None:
    tokenizer = SentencePieceTokenizer(synthetic_vocabulary(32000), source="here")
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (32000, 1, 2)
    for text in ("Hello, who are you?\n", "안녕 🐱", "the theme of these"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
    assert len(tokenizer.encode("the theme of these")) < len("the theme of these")


def test_inspection_counts(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, replace(SHAPES["tiny"], shards=2))
    report = json.loads(inspect_checkpoint.report(tmp_path, as_json=True))
    assert (report["shards"], report["layers"], report["context"], report["stored_as"]) == (2, 2, 4096, "bfloat16")
    assert report["parameters"] == 166208
    assert report["weight_bytes_per_rank"] == 2 * report["parameters"]
    assert report["kv_bytes_per_token_per_rank"] == 2 * 2 * 64 * 2
    half = json.loads(inspect_checkpoint.report(tmp_path, world_size=2, as_json=True))
    replicated = 512 * 64 + 5 * 64  # embeddings and norms
    assert half["weight_bytes_per_rank"] == 2 * (replicated + (report["parameters"] - replicated) // 2)
    assert half["kv_bytes_per_token_per_rank"] == report["kv_bytes_per_token_per_rank"] // 2
    on_gpu = torch.cuda.is_available()
    assert report["served_bytes_per_rank"] == (2 if on_gpu else 4) * report["parameters"]  # a CPU computes in float32
    text = inspect_checkpoint.report(tmp_path)
    assert ("float32 here: 649.2 KiB" in text) == (not on_gpu)
    assert "166,208" in text
    assert "4,096 tokens" in text
    with pytest.raises(ConfigError, match="found 3"):
        inspect_checkpoint.report(tmp_path, world_size=3)


@pytest.mark.parametrize("bits", [4, 8])
def test_every_rank_on_a_cpu_holds_the_embeddings(tmp_path: Path, bits: int) -> None:
    make_checkpoint(tmp_path, SHAPES["tiny"])
    spec = open_checkpoint(tmp_path).spec
    one, two = (cpu_weight_bytes(spec, bits, world_size) for world_size in (1, 2))
    assert 2 * two - one == spec.vocab_size * spec.dim * 4


def test_inspection_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "engine", "inspect"]
    ran = subprocess.run([*command, "smollm2", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout)["parameters"] == 134515008
    failed = subprocess.run([*command, str(tmp_path / "nowhere")], capture_output=True, text=True, check=False)
    assert failed.returncode == 78
    assert failed.stderr.count("\n") == 1
    assert "Traceback" not in failed.stderr
