"""Padding of a vocabulary: known from every format, and never sampled, however much the weights favour it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import resolve
from engine.core.engine_core import EngineCore, SamplingParams
from tests.engine.checkpoint.builders import Tiny, weights, write_huggingface
from tests.engine.checkpoint.test_hostile_gguf import KINDS, PIECES, array, metadata, tensors, write

# Padding as converters write it: at the end, before a mark, of any type.
MORE = ["[PAD286]", "<dummy00001>", "<|im_end|>", "<|im_start|>", "[PAD290]", ""]
PADDING = (286, 287, 290, 291)


def padded_gguf(path: Path, kinds: list[int]) -> Path:
    """The embeddings are the output matrix, too: every hidden state resembles padding most."""
    arrays = tensors()
    del arrays["output.weight"]
    rows = arrays["token_embd.weight"]
    loud = np.sign(rows.sum(0)) * 100.0
    arrays["token_embd.weight"] = np.concatenate([rows, np.tile(loud, (len(MORE), 1)).astype(np.float32)])
    tables = {
        "tokenizer__ggml__tokens": array(8, [*PIECES, *MORE]),
        "tokenizer__ggml__scores": array(6, [0.0] * (len(PIECES) + len(MORE))),
        "tokenizer__ggml__token_type": array(5, [*KINDS, *kinds]),
    }
    return write(path, metadata(**tables), arrays)


def sampled(checkpoint: Checkpoint, **changes: object) -> set[int]:
    config = resolve(checkpoint.spec, device="cpu", max_context=96, max_num_seqs=4, seed=1)
    engine = EngineCore.start(dataclasses.replace(config, **changes), checkpoint)
    try:
        asked = [SamplingParams(temperature=t, max_tokens=60, ignore_eos=True) for t in (0.0, 1.0, 2.0)]
        replies = [engine.submit([1, 270, 280], params) for params in asked]
        return {token_id for reply in replies for token_id in reply.result(60)}
    finally:
        engine.close()


@pytest.mark.parametrize("kinds", [[5, 5, 3, 3, 5, 5], [2, 1, 4, 4, 4, 1], [3, 3, 3, 3, 3, 3]])
def test_case_03_padding_of_a_gguf_file_is_never_sampled(tmp_path: Path, kinds: list[int]) -> None:
    checkpoint = open_checkpoint(padded_gguf(tmp_path / "m.gguf", kinds))
    assert checkpoint.spec.padding_ids == PADDING
    assert set(PADDING).isdisjoint(sampled(checkpoint))
    kept = dataclasses.replace(checkpoint.spec, padding_ids=())
    checkpoint.spec = kept  # else nothing would be sampled but padding and marks
    assert sampled(checkpoint) <= {*PADDING, 288, 289}


def test_case_03_rows_beyond_a_hugging_face_tokenizer_are_never_sampled(tmp_path: Path) -> None:
    tiny = Tiny(vocab_size=520)
    tensors_of = weights(tiny)
    tensors_of["output.weight"][512:] *= 100
    checkpoint = open_checkpoint(write_huggingface(tmp_path, tiny, tensors=tensors_of))
    assert checkpoint.spec.padding_ids == tuple(range(512, 520))
    assert max(sampled(checkpoint)) < 512
