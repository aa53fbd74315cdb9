"""Runs the engine's workloads on Hugging Face transformers, for comparison; prints one JSON line for each run.

    python docs/bench/scripts/peers.py W1 W2 --peer static|batching|both

"static" is `generate` with a static cache and compiled decoding; "batching" is its continuous batching, with paged sdpa
instead of flash-attn, which is a handicap. Greedy; random weights of the 7B shape; compilation and warm-up are not
timed.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

from engine.bench import trace
from engine.bench.drive import quantile
from engine.bench.random_model import SHAPES
from engine.bench.report import emit, today


def build(layers: int | None, attention: str) -> Any:
    """A random model of the 7B shape."""
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
    """An untyped GenerationConfig."""
    make: Any = GenerationConfig
    return make(**settings)


def static(model: Any, name: str) -> dict[str, float]:
    """W1 or W2: a static batch needs prompts of equal length, all at once."""
    requests = trace.w1() if name == "W1" else trace.w2()
    ids = torch.tensor([request.prompt for request in requests], device="cuda")
    settings: Any = generation_config(
        max_new_tokens=requests[0].output_len, do_sample=False, eos_token_id=None, pad_token_id=0,
        cache_implementation="static",
    )  # fmt: skip
    seconds = []
    for _ in range(4):
        torch.cuda.synchronize()
        start = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    best = sorted(seconds[2:])[0]
    return {
        "makespan_s": round(best, 4),
        "output_tok_s": round(sum(request.output_len for request in requests) / best, 1),
    }


def batching(model: Any, name: str) -> dict[str, float]:
    """W1, W2, W4 or M1 to M256."""
    if name.startswith("M"):
        return members(model, int(name[1:]))
    requests = {"W1": trace.w1, "W2": trace.w2, "W4": trace.w4}[name]()
    settings: Any = generation_config(max_new_tokens=256, do_sample=False, eos_token_id=None, pad_token_id=0)
    seconds = 0.0
    for _ in range(2 if name == "W1" else 1):
        with model.continuous_batching_context_manager(
            generation_config=settings, continuous_batching_config=ContinuousBatchingConfig()
        ) as manager:
            torch.cuda.synchronize()
            start = time.perf_counter()
            for request in requests:
                manager.add_request(request.prompt, max_new_tokens=request.output_len)
            left = len(requests)
            while left:
                done = manager.get_result(timeout=120)
                left -= done is not None and done.is_finished()
            seconds = time.perf_counter() - start
    return {
        "makespan_s": round(seconds, 4),
        "output_tok_s": round(sum(request.output_len for request in requests) / seconds, 1),
    }


def members(model: Any, users: int) -> dict[str, float]:
    """M1 to M256: each user sends the next message when the reply is complete, as in `drive.closed_loop`."""
    workload = trace.ChatWorkload(users=users, turns=3)
    settings: Any = generation_config(
        max_new_tokens=workload.reply_length, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    with model.continuous_batching_context_manager(
        generation_config=settings, continuous_batching_config=ContinuousBatchingConfig()
    ) as manager:
        torch.cuda.synchronize()
        start = time.perf_counter()
        user_of: dict[Any, int] = {}
        waits: list[float] = []
        outputs = 0

        def send(user: int) -> None:
            user_of[manager.add_request(workload.prompt(user), record_timestamps=True)] = user

        for user in range(users):
            send(user)
        while user_of:
            done = manager.get_result(timeout=120)
            if done is None or not done.is_finished():
                continue
            user = user_of.pop(done.request_id)
            outputs += len(done.generated_tokens)
            waits.append(done.timestamps[0] - done.created_time)
            if workload.reply(user, list(done.generated_tokens)):
                send(user)
        seconds = time.perf_counter() - start
    waits.sort()
    return {
        "makespan_s": round(seconds, 4), "output_tok_s": round(outputs / seconds, 1),
        "ttft_p50_ms": round(1000 * quantile(waits, 0.5), 1), "ttft_p95_ms": round(1000 * quantile(waits, 0.95), 1),
    }  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="peers.py")
    parser.add_argument("workloads", nargs="+")
    parser.add_argument("--peer", choices=["static", "batching", "both"], default="both")
    parser.add_argument("--layers", type=int)
    options = parser.parse_args(arguments)
    for peer, run in (("static", static), ("batching", batching)):
        if options.peer not in (peer, "both"):
            continue
        model = build(options.layers, "sdpa" if peer == "static" else "paged|sdpa")
        for name in options.workloads:
            if peer == "static" and name not in ("W1", "W2"):
                continue
            emit(
                {
                    "engine": f"hf-{peer}", "workload": name, **run(model, name), "model": "7b",
                    "layers": options.layers, "device": torch.cuda.get_device_name(), "dtype": "bfloat16",
                    "world_size": 1, "torch": torch.__version__, "transformers": transformers.__version__,
                    "date": today(),
                }
            )  # fmt: skip
        del model
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
