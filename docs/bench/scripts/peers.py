"""The peers that a GPU machine has anyway, on the same requests: Hugging Face's `generate` with a static cache and
compiled decoding, and its continuous batching (paged sdpa, as flash-attn is not there: a handicap).

    python -m engine.bench.peers W1 W2 --peer static|batching|both

One JSON line a run. Greedy; random weights of the 7B shape; compilation and warm-up are not timed.
"""

import argparse
import datetime
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

from engine.bench import trace
from engine.bench.__main__ import emit
from engine.bench.random_model import SHAPES


def build(layers: int | None, attention: str) -> Any:
    dim, count, heads, kv_heads, ffn = SHAPES["7b"]
    config = LlamaConfig(
        hidden_size=dim, intermediate_size=ffn, num_hidden_layers=layers or count, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=32000, max_position_embeddings=4096, rms_norm_eps=1e-5,
    )  # fmt: skip
    config._attn_implementation = attention
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model: Any = LlamaForCausalLM(config)
    model.eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.02)
    return model


def generation_config(**settings: object) -> Any:
    make: Any = GenerationConfig  # untyped
    return make(**settings)


def static(model: Any, name: str) -> dict[str, float]:
    """Equal prompts only: a static batch cannot serve ragged or chat traffic."""
    asks = trace.w1() if name == "W1" else trace.w2()
    ids = torch.tensor([ask.prompt for ask in asks], device="cuda")
    settings: Any = generation_config(
        max_new_tokens=asks[0].output_len, do_sample=False, eos_token_id=None, pad_token_id=0, cache_implementation="static"
    )
    spent = []
    for _ in range(4):
        torch.cuda.synchronize()
        began = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        torch.cuda.synchronize()
        spent.append(time.perf_counter() - began)
    best = sorted(spent[2:])[0]
    return {"makespan_s": round(best, 4), "output_tok_s": round(sum(ask.output_len for ask in asks) / best, 1)}


def batching(model: Any, name: str) -> dict[str, float]:
    asks = {"W1": trace.w1, "W2": trace.w2, "W4": trace.w4}[name]()
    settings: Any = generation_config(max_new_tokens=256, do_sample=False, eos_token_id=None, pad_token_id=0)
    spent = 0.0
    for _ in range(2 if name == "W1" else 1):
        with model.continuous_batching_context_manager(
            generation_config=settings, continuous_batching_config=ContinuousBatchingConfig()
        ) as manager:
            torch.cuda.synchronize()
            began = time.perf_counter()
            for ask in asks:
                manager.add_request(ask.prompt, max_new_tokens=ask.output_len)
            left = len(asks)
            while left:
                done = manager.get_result(timeout=120)
                left -= done is not None and done.is_finished()
            spent = time.perf_counter() - began
    return {"makespan_s": round(spent, 4), "output_tok_s": round(sum(ask.output_len for ask in asks) / spent, 1)}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.bench.peers")
    parser.add_argument("workloads", nargs="+")
    parser.add_argument("--peer", choices=["static", "batching", "both"], default="both")
    parser.add_argument("--layers", type=int)
    options = parser.parse_args(arguments)
    for peer, run in (("static", static), ("batching", batching)):
        if options.peer not in (peer, "both"):
            continue
        model = build(options.layers, "sdpa" if peer == "static" else "paged|sdpa")
        for name in options.workloads:
            if peer == "static" and name == "W4":
                continue
            emit(
                {
                    "engine": f"hf-{peer}", "workload": name, **run(model, name), "model": "7b",
                    "layers": options.layers, "device": torch.cuda.get_device_name(), "dtype": "bfloat16",
                    "world_size": 1, "torch": torch.__version__, "transformers": transformers.__version__,
                    "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                }
            )  # fmt: skip
        del model
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
