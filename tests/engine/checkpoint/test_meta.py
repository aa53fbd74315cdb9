"""Meta's checkpoints: any slice of any number of shards, both splits of the embedding, both vocabularies."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.checkpoint import Llama3Scaling, open_checkpoint
from tests.engine.checkpoint.builders import (
    GOLDEN,
    SPLIT_DIMS,
    Tiny,
    logits,
    read_all,
    tiktoken_vocabulary,
    weights,
    write_meta,
)


@pytest.mark.parametrize("name", ["llama2-tiny", "llama2-tiny-mp2"])
def test_logits_equal_the_reference(name: str) -> None:
    golden, recorded = json.loads((GOLDEN / name / "golden.json").read_text()), np.load(GOLDEN / name / "logits.npz")
    checkpoint = open_checkpoint(GOLDEN / name)
    keys = sorted(recorded.files)
    assert len(keys) == len(golden["dialogs"])
    for dialog, key in zip(golden["dialogs"], keys, strict=True):
        want = recorded[key]
        got = logits(checkpoint, [*dialog["prompt_tokens"], *dialog["greedy_tokens"]][: want.shape[-2]])
        assert np.abs(got.numpy() - want.reshape(got.shape)).max() < 1e-3


@pytest.mark.parametrize("shards", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_slice_of_every_sharding(tmp_path: Path, shards: int, dtype: torch.dtype) -> None:
    tiny = Tiny()
    tensors = weights(tiny, dtype=dtype)
    if shards == 2:
        tiny = Tiny(n_kv_heads=6)
        tensors = weights(tiny, dtype=dtype)
    checkpoint = open_checkpoint(write_meta(tmp_path, tiny, tensors=tensors, shards=shards))
    assert (checkpoint.spec.shards, checkpoint.spec.dtype) == (shards, dtype)
    for name, tensor in tensors.items():
        for dim in range(tensor.dim()):
            for parts in (1, 2, 3, 4):
                size = tensor.shape[dim] // parts
                for start in range(0, parts * size, size):
                    want = tensor.narrow(dim, start, size)
                    got = torch.empty_like(want)
                    checkpoint.copy_into(name, got, dim=dim, start=start)
                    assert torch.equal(got, want), (name, dim, start)


def test_slices_need_not_be_even_or_contiguous(tmp_path: Path) -> None:
    tensors = weights(Tiny())
    checkpoint = open_checkpoint(write_meta(tmp_path, tensors=tensors, shards=3))
    target = torch.zeros(96, 10)[:, 2:9]
    checkpoint.copy_into("layers.1.attention.wo.weight", target, dim=1, start=29)
    assert torch.equal(target, tensors["layers.1.attention.wo.weight"][:, 29:36].float())


def test_parameters_and_inference_tensors_can_be_filled(tmp_path: Path) -> None:
    tensors = weights(Tiny())
    checkpoint = open_checkpoint(write_meta(tmp_path, tensors=tensors))
    parameter = torch.nn.Parameter(torch.zeros(96, dtype=torch.bfloat16))
    with torch.inference_mode():
        inference = torch.zeros(96, 96, dtype=torch.bfloat16)
    checkpoint.copy_into("norm.weight", parameter)
    checkpoint.copy_into("layers.0.attention.wo.weight", inference)
    assert torch.equal(parameter.detach(), tensors["norm.weight"])
    assert torch.equal(inference.clone(), tensors["layers.0.attention.wo.weight"])


def test_a_slice_outside_the_tensor_is_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_meta(tmp_path))
    with pytest.raises(ValueError, match="no slice"):
        checkpoint.copy_into("norm.weight", torch.zeros(50), dim=0, start=47)
    with pytest.raises(ValueError, match="no slice"):
        checkpoint.copy_into("norm.weight", torch.zeros(95))


def test_tensors_that_share_storage(tmp_path: Path) -> None:
    """torch.save stores views as views: several tensors in one storage, and non-contiguous columns."""
    tiny = Tiny()
    tensors = weights(tiny)
    path = write_meta(tmp_path, tiny, tensors=tensors, shards=3)
    for rank in range(3):
        views = {}
        for name, tensor in tensors.items():
            dim = SPLIT_DIMS.get(name.split(".")[-2])
            views[name] = tensor if dim is None else tensor.chunk(3, dim)[rank]
        torch.save(views, path / f"consolidated.{rank:02}.pth")
    got = read_all(open_checkpoint(path), torch.bfloat16)
    assert all(torch.equal(got[name], tensors[name]) for name in tensors)


def test_llama3_layout(tmp_path: Path) -> None:
    """Embeddings split by rows, a tiktoken vocabulary, scaled RoPE."""
    vocabulary = tiktoken_vocabulary()
    tiny = Tiny(vocab_size=256 + 8 + 256, n_kv_heads=2, n_heads=6)
    tensors = weights(tiny)
    settings = {"rope_theta": 500000.0, "use_scaled_rope": True, "vocab_size": tiny.vocab_size}
    path = write_meta(
        tmp_path,
        tiny,
        tensors=tensors,
        shards=2,
        settings=settings,
        tokenizer=vocabulary,
        split_dims=SPLIT_DIMS | {"tok_embeddings": 0},
    )
    checkpoint = open_checkpoint(path)
    spec = checkpoint.spec
    assert (spec.chat, spec.rope_theta, spec.max_context) == ("llama3", 500000.0, 131072)
    assert spec.rope_scaling == Llama3Scaling(8.0, 1.0, 4.0, 8192)
    got = read_all(checkpoint, torch.bfloat16)
    assert all(torch.equal(got[name], tensors[name]) for name in tensors)


def test_tokenizer_beside_the_checkpoint(tmp_path: Path) -> None:
    path = write_meta(tmp_path / "llama-2-7b-chat")
    (path / "tokenizer.model").rename(tmp_path / "tokenizer.model")
    assert open_checkpoint(path).tokenizer().vocab_size == 512


def test_70b_feed_forward_rule(tmp_path: Path) -> None:
    """ffn_dim_multiplier and multiple_of, as 70B has them: int(1.3 * int(8 * 96 / 3)) = 332, rounded up to 336."""
    tiny = Tiny(ffn_dim=336)
    checkpoint = open_checkpoint(
        write_meta(tmp_path, tiny, settings={"multiple_of": 16, "ffn_dim_multiplier": 1.3}, shards=3)
    )
    assert checkpoint.spec.ffn_dim == 336
    assert checkpoint.spec.n_kv_heads == 3
