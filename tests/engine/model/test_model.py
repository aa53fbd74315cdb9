"""The transformer against independent implementations, and paged attention against its formula."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from engine.checkpoint import Llama3Scaling, open_checkpoint
from engine.config import resolve
from engine.core.worker import start_worker
from engine.distributed.communicator import SingleRank
from engine.layers.paged_attention import PagedAttention, Segment
from engine.layers.paged_kv import PagedKV
from engine.model.loader import load_model
from engine.model.rope import rope_table
from tests.engine.distributed.rank_worker import all_logits
from tests.engine.tiny import write_checkpoint

CPU = torch.device("cpu")


def rotate_half_rows(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows from Meta's order (interleaved pairs) to Hugging Face's (two halves of each head)."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def test_the_logits_are_those_of_hugging_faces_llama(tmp_path: Path) -> None:
    """With grouped-query attention and Llama 3.1's scaled RoPE."""
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, dim=96, heads=6, kv_heads=2))
    scaling = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64)
    spec = replace(checkpoint.spec, rope_scaling=scaling, rope_theta=500.0)
    config = resolve(spec, device="cpu", max_context=300)
    model = load_model(config, checkpoint)
    model.rope = rope_table(spec, 300, CPU)
    other = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=spec.vocab_size,
            hidden_size=spec.dim,
            intermediate_size=spec.ffn_dim,
            num_hidden_layers=spec.n_layers,
            num_attention_heads=6,
            num_key_value_heads=2,
            rms_norm_eps=spec.norm_eps,
            max_position_embeddings=2048,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            tie_word_embeddings=False,
        )
    ).eval()
    state = {"model.embed_tokens.weight": model.tok_embeddings.weight, "model.norm.weight": model.norm.weight}
    state["lm_head.weight"] = model.output.weight
    for n, block in enumerate(model.blocks):
        q, kv = 96, 32
        wq, wk, wv = block.wqkv.weight.split((q, kv, kv))
        gate, up = block.w13.weight.chunk(2)
        for name, weight in {
            "self_attn.q_proj": rotate_half_rows(wq, 6),
            "self_attn.k_proj": rotate_half_rows(wk, 2),
            "self_attn.v_proj": wv,
            "self_attn.o_proj": block.wo.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.w2.weight,
            "input_layernorm": block.attention_norm.weight,
            "post_attention_layernorm": block.ffn_norm.weight,
        }.items():
            state[f"model.layers.{n}.{name}.weight"] = weight
    other.load_state_dict(state, strict=True)
    ids = torch.randint(0, spec.vocab_size, (250,), generator=torch.Generator().manual_seed(2)).tolist()
    with torch.inference_mode():
        expected = other(torch.tensor([ids])).logits[0]
    assert float((all_logits(model, ids) - expected).abs().max()) < 1e-3


def test_smollm2s_logits_are_those_of_an_independent_reader() -> None:
    """Recorded from transformers, which has its own reader for GGUF files."""
    golden = json.loads((Path(__file__).parent / "smollm2_logits.json").read_text())
    checkpoint = open_checkpoint("smollm2")
    model = start_worker(
        resolve(checkpoint.spec, device="cpu", max_context=128, quantize="none"), checkpoint, SingleRank()
    ).model
    logits = all_logits(model, golden["ids"])
    for position, expected in golden["logits"].items():
        got = logits[int(position)]
        chosen = torch.tensor([got[int(token)] for token in expected])
        assert float((chosen - torch.tensor(list(expected.values()))).abs().max()) < 1e-3
        assert int(got.argmax()) == golden["argmax"][position]
        assert float(got.logsumexp(0)) == pytest.approx(golden["logsumexp"][position], abs=1e-3)
    assert model.output.weight.data_ptr() == model.tok_embeddings.weight.data_ptr()  # tied: one copy in memory


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_paged_attention_is_the_plain_formula(data: st.DataObject) -> None:
    """Segments of any length after any number of earlier tokens, pages in any order, grouped heads."""
    page_size, kv_heads, group, dim = 4, 2, data.draw(st.sampled_from([1, 3])), 8
    heads, generator = kv_heads * group, torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    kv = PagedKV(1, 24, page_size, kv_heads, dim, torch.float32, CPU)
    kv.k[0].fill_(math.nan)  # unwritten slots must not be read
    kv.v[0].fill_(math.nan)
    order = data.draw(st.permutations(range(24)))
    segments, history = [], []
    for n in range(data.draw(st.integers(1, 3))):
        start, length = data.draw(st.integers(0, 20)), data.draw(st.integers(1, 8))
        pages = order[n * 7 : n * 7 + 7]
        past = torch.randn(2, start, kv_heads, dim, generator=generator)
        for position in range(start):
            kv.k[0][pages[position // page_size], position % page_size] = past[0, position]
            kv.v[0][pages[position // page_size], position % page_size] = past[1, position]
        segments.append(Segment(pages, start, length))
        history.append(past)
    total = sum(segment.length for segment in segments)
    q = torch.randn(total, heads, dim, generator=generator)
    k, v = torch.randn(2, total, kv_heads, dim, generator=generator)
    got = PagedAttention(kv, segments, CPU)(0, q, k, v).view(total, heads, dim)
    at = 0
    for segment, past in zip(segments, history, strict=True):
        new = slice(at, at + segment.length)
        keys = torch.cat((past[0], k[new])).repeat_interleave(group, dim=1)
        values = torch.cat((past[1], v[new])).repeat_interleave(group, dim=1)
        for i in range(segment.length):
            seen = segment.start + i + 1
            scores = torch.einsum("hd,lhd->hl", q[at + i], keys[:seen]) / math.sqrt(dim)
            expected = torch.einsum("hl,lhd->hd", scores.softmax(-1), values[:seen])
            assert torch.allclose(got[at + i], expected, atol=1e-5)
        at += segment.length
