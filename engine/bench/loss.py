"""What narrow weights and caches of a GPU cost in accuracy: a text's next-token distributions against the whole ones.

    python -m engine.bench.loss [int8 int4 kv-int8 …] [--model smollm2] [--tokens 512] [--text FILE …]

One JSON line for each: mean and 99th percentile of the KL divergence (nats), agreement of the likeliest token,
perplexity of both. On a GPU the text goes through the real kernels: a prompt in one step, then token by token as in a
reply, each time fed the text's own next token. On a CPU, or with --plain, the same numbers are computed in plain torch.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import EngineConfig, resolve
from engine.layers.paged_attention import DenseAttention
from engine.layers.quantized_kv import stored_values
from engine.model.loader import load_model
from engine.model.quantization import QuantizedWeight, dequantize, quantize_block
from engine.model.transformer import Block, Transformer
from engine.runner.memory import kv_storage
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan

PROMPT = 160  # tokens of the step before the single ones: enough for the products of many tokens
WAYS = {
    "int8": ("int8", "auto"),
    "int4": ("int4", "auto"),
    "int4-shuffled": ("int4-shuffled", "auto"),
    "kv-int8": ("none", "int8"),
    "kv-fp8": ("none", "fp8"),
    "int4+kv-int8": ("int4", "int8"),
}
DOCUMENTS = ("CONTRIBUTING.md", "LICENSE", "docs/http-api.md")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.bench.loss", description=__doc__.splitlines()[0])
    parser.add_argument("ways", nargs="*", metavar="|".join(WAYS))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--text", type=Path, action="append", help="instead of this project's own documents")
    parser.add_argument("--tokens", type=int, default=512, help="of each text")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--plain", action="store_true", help="plain torch, on a GPU too")
    options = parser.parse_args(arguments)
    checkpoint = open_checkpoint(options.model)
    tokens = min(options.tokens, checkpoint.spec.max_context)
    config = resolve(checkpoint.spec, device=options.device, quantize="none", max_context=tokens, max_num_seqs=1)
    texts = read_texts(checkpoint, tokens, options.text)
    for line in lines(
        config, checkpoint, texts, options.ways or list(WAYS), options.plain or config.device.type != "cuda"
    ):
        sys.stdout.write(json.dumps({"model": options.model, **line}) + "\n")
        sys.stdout.flush()
    return 0


def lines(
    config: EngineConfig, checkpoint: Checkpoint, texts: list[list[int]], ways: Sequence[str], plain: bool
) -> Iterator[dict[str, object]]:
    through = in_plain_torch if plain else through_kernels
    whole = through(config, packed_model(config, checkpoint), texts)
    for way in ways:
        quantize, kv_dtype = WAYS[way]
        chosen = replace(config, quantize=quantize, kv_dtype=kv_dtype)
        narrow = through(chosen, packed_model(chosen, checkpoint), texts)
        yield {
            "quantize": quantize,
            "kv_dtype": kv_dtype,
            "stored_as": checkpoint.spec.quantization or str(checkpoint.spec.dtype).removeprefix("torch."),
            "through": "plain torch" if plain else "kernels",
            "device": torch.cuda.get_device_name(config.device) if config.device.type == "cuda" else "cpu",
            "dtype": str(config.dtype).removeprefix("torch."),
            **compare(whole, narrow, [ids[-len(each) :] for ids, each in zip(texts, whole, strict=True)]),
        }


def packed_model(config: EngineConfig, checkpoint: Checkpoint) -> Transformer:
    """With the weights as a GPU packs them, on any device."""
    if config.quantize == "int4-shuffled":
        return load_model(config, checkpoint, round_shuffled)
    bits = {"int8": 8, "int4": 4}.get(config.quantize)
    return load_model(config, checkpoint, partial(quantize_block, bits=bits) if bits else None)


def round_shuffled(block: Block) -> None:
    """Round to 4 bits with the columns in random order. A file that holds groups of 4 bits itself is packed almost
    without loss, as its groups become ours; this says what other weights lose."""
    for layer in (block.wqkv, block.wo, block.w13, block.w2):
        order = torch.randperm(layer.weight.shape[1], generator=torch.Generator().manual_seed(1))
        order = order.to(layer.weight.device)
        layer.weight[:, order] = dequantize(QuantizedWeight(layer.weight[:, order], 4)).to(layer.weight.dtype)


class KeptAttend(DenseAttention):
    """Reads of each key and value what a cache of the given type would give back."""

    def __init__(self, length: int, device: torch.device, storage: torch.dtype) -> None:
        super().__init__(length, device)
        self._storage = storage

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().__call__(layer, q, stored_values(k, self._storage), stored_values(v, self._storage))


@torch.inference_mode()
def in_plain_torch(config: EngineConfig, model: Transformer, texts: list[list[int]]) -> list[Tensor]:
    """Log probabilities of what follows each token: [tokens, vocabulary] for each text."""
    found = []
    for ids in texts:
        attend = KeptAttend(len(ids), config.device, kv_storage(config))
        hidden = model(torch.tensor(ids, device=config.device), torch.arange(len(ids), device=config.device), attend)
        found.append(model.logits(hidden).double().log_softmax(-1))
    return found


@torch.inference_mode()
def through_kernels(
    config: EngineConfig, model: Transformer, texts: list[list[int]], prompt: int = PROMPT
) -> list[Tensor]:
    """The same from the prompt's last token on."""
    from engine.runner.cuda.cuda_runner import CudaRunner  # needs Triton

    class Told(CudaRunner):
        """Feeds its only row what it is told instead of what it has sampled."""

        def after(self, plan: StepPlan, token: int | None) -> Tensor:
            if token is not None:
                self._batch_state.last_tokens[0] = token
            self._wait()
            self.wait(self.execute_async(plan))
            self._wait()
            return self._forward.logits[0].double().log_softmax(-1)

        def _wait(self) -> None:
            if self._gpu:
                torch.cuda.synchronize(self._device)

    runner = Told(config, model)
    runner.start(config.max_pages_per_seq)
    grants = tuple((0, index, index) for index in range(config.max_pages_per_seq))
    found = []
    for ids in texts:
        start = StepPlan(0, (NewSequence(0, 0.0, 1.0, 1),), grants, (PrefillChunk(0, 0, tuple(ids[:prompt]), True),))
        rows = [runner.after(start, None)]
        rows += [runner.after(StepPlan(1, decode_rows=(0,)), token) for token in ids[prompt:]]
        found.append(torch.stack(rows))
    runner.close()
    return found


def compare(whole: list[Tensor], narrow: list[Tensor], texts: list[list[int]]) -> dict[str, object]:
    """Of log probabilities behind each token of some texts."""
    divergence = torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in zip(whole, narrow, strict=True)])
    same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(whole, narrow, strict=True)])
    return {
        "tokens": len(divergence),
        "kl": round(divergence.mean().item(), 5),
        "kl_p99": round(divergence.quantile(0.99).item(), 4),
        "top1": round(same.double().mean().item(), 4),
        "perplexity_none": round(_perplexity(whole, texts), 3),
        "perplexity": round(_perplexity(narrow, texts), 3),
    }


def _perplexity(found: list[Tensor], texts: list[list[int]]) -> float:
    losses = []
    for each, ids in zip(found, texts, strict=True):
        following = torch.tensor(ids[1:], device=each.device).unsqueeze(1)
        losses.append(-each[:-1].gather(1, following))
    return torch.cat(losses).mean().exp().item()


def read_texts(checkpoint: Checkpoint, tokens: int, files: Sequence[Path] | None = None) -> list[list[int]]:
    """Real text that every checkout has: this project's own."""
    root = Path(__file__).resolve().parent.parent.parent
    found = files or [path for name in DOCUMENTS if (path := root / name).exists()] or [Path(__file__)]
    tokenizer = checkpoint.tokenizer()
    return [tokenizer.encode(path.read_text(encoding="utf-8"))[:tokens] for path in found]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
