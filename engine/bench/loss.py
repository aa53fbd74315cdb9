"""Measures the loss of quantized weights and KV caches on a GPU against unquantized ones, on real text.

    python -m engine.bench.loss [int8 fp8 kv-int8 …] [--model smollm2] [--tokens 512] [--text FILE …] [--together]

Prints one JSON line for each variant: mean and 99th percentile of the KL divergence of the next-token distributions
(nats), agreement of the most likely token, and both perplexities. On a GPU the text goes through the kernels that serve
it: a prompt in one step, then one token at a time with teacher forcing; with --together all texts at once, each in its
own row, through the kernels for several rows. On a CPU, or with --plain, it goes through plain torch.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.bench.report import emit
from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import EngineConfig, resolve
from engine.layers.fp8_tokens import rounded_tokens
from engine.layers.paged_attention import PLAIN, AttentionRule, DenseAttention
from engine.layers.quantized_kv import stored_values
from engine.model.loader import load_model
from engine.model.quantization import has_wider_matrices, quantize_block, quantized_weight
from engine.model.transformer import Block, Transformer
from engine.runner.memory import kv_storage
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan

PROMPT_LEN = 160  # tokens of the first step: enough for the kernels for many tokens
# By name: (quantize, kv_dtype).
VARIANTS = {
    "int8": ("int8", "auto"),
    "fp8": ("fp8", "auto"),
    "fp8-both": ("fp8-both", "auto"),  # all activations in fp8, too, as the kernels have a prompt's; plain torch only
    "int4": ("int4", "auto"),
    "int4-shuffled": ("int4-shuffled", "auto"),
    "kv-int8": ("none", "int8"),
    "kv-fp8": ("none", "fp8"),
    "int8+kv-int8": ("int8", "int8"),
    "int8+kv-fp8": ("int8", "fp8"),
    "fp8+kv-int8": ("fp8", "int8"),
    "fp8+kv-fp8": ("fp8", "fp8"),
    "int4+kv-int8": ("int4", "int8"),
    "int4+kv-fp8": ("int4", "fp8"),
}
DOCUMENTS = ("CONTRIBUTING.md", "LICENSE", "docs/http-api.md")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m engine.bench.loss", description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="*", metavar="|".join(VARIANTS))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--text", type=Path, action="append", help="instead of this project's own documents")
    parser.add_argument("--tokens", type=int, default=512, help="of each text")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--plain", action="store_true", help="plain torch, on a GPU too")
    parser.add_argument("--together", action="store_true", help="the texts in one batch, not one after the other")
    options = parser.parse_args(arguments)
    checkpoint = open_checkpoint(options.model)
    tokens = min(options.tokens, checkpoint.spec.max_context)
    texts = read_texts(checkpoint, tokens, options.text)
    rows = len(texts) if options.together else 1
    config = resolve(checkpoint.spec, device=options.device, quantize="none", max_context=tokens, max_num_seqs=rows)
    plain = options.plain or config.device.type != "cuda"
    names = options.variants or [name for name in VARIANTS if plain or name != "fp8-both"]
    for line in lines(config, checkpoint, texts, names, plain):
        emit({"model": options.model, **line})
    return 0


def lines(
    config: EngineConfig, checkpoint: Checkpoint, texts: list[list[int]], variants: Sequence[str], plain: bool
) -> Iterator[dict[str, object]]:
    """One line for each variant; `config` is the unquantized one, and its rows are the texts that are read at once.

    `plain`: plain torch instead of the kernels.
    """
    compute = log_probabilities_in_torch if plain else log_probabilities_through_kernels
    reference = compute(config, quantized_model(config, checkpoint), texts)
    for variant in variants:
        quantize, kv_dtype = VARIANTS[variant]
        chosen = replace(config, quantize=quantize, kv_dtype=kv_dtype)
        quantized = compute(chosen, quantized_model(chosen, checkpoint), texts)
        yield {
            "quantize": quantize,
            "kv_dtype": kv_dtype,
            "stored_as": checkpoint.spec.quantization or str(checkpoint.spec.dtype).removeprefix("torch."),
            "through": "plain torch" if plain else f"kernels, {config.max_num_seqs} rows",
            "device": torch.cuda.get_device_name(config.device) if config.device.type == "cuda" else "cpu",
            "dtype": str(config.dtype).removeprefix("torch."),
            **compare(reference, quantized, [ids[-len(each) :] for ids, each in zip(texts, reference, strict=True)]),
        }


def quantized_model(config: EngineConfig, checkpoint: Checkpoint) -> Transformer:
    """The model with its weights quantized as on a GPU, on any device."""
    if config.quantize == "int4-shuffled":
        return load_model(config, checkpoint, quantize_shuffled)
    if config.quantize == "fp8-both":
        return load_model(config, checkpoint, quantize_both)
    bits = {"int8": 8, "fp8": 8, "int4": 4}.get(config.quantize)
    stored = checkpoint.spec.quantization
    if bits is None:
        return load_model(config, checkpoint)
    quantize = partial(quantize_block, bits=bits, fp8=config.quantize == "fp8", mixed=has_wider_matrices(stored))
    return load_model(config, checkpoint, quantize, exact=bits == 4 and stored is not None)


def quantize_shuffled(block: Block) -> None:
    """Round a block's weights to int4 with the columns in random order.

    A checkpoint that is stored in 4-bit groups of columns is quantized almost without loss, as its groups are ours too.
    Shuffled columns show the loss of other weights.
    """
    for layer in block.linears:
        order = torch.randperm(layer.weight.shape[1], generator=torch.Generator().manual_seed(1))
        order = order.to(layer.weight.device)
        layer.weight[:, order] = quantized_weight(layer.weight[:, order], 4).dequantize().to(layer.weight.dtype)


class RoundedInput(nn.Module):
    """A quantized weight whose input is in fp8, too."""

    def __init__(self, weight: nn.Module) -> None:
        super().__init__()
        self._weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """x [T, columns] -> [T, rows]."""
        result: Tensor = self._weight(rounded_tokens(x))
        return result


def quantize_both(block: Block) -> None:
    """Quantize a block's weights and its products' inputs to fp8."""
    quantize_block(block, 8, fp8=True)
    for layer in block.linears:
        if layer.quantized is not None:
            layer.quantized = RoundedInput(layer.quantized)


class QuantizedKVAttention(DenseAttention):
    """Dense attention over keys and values rounded as a KV cache of dtype `storage` rounds them."""

    def __init__(self, length: int, device: torch.device, storage: torch.dtype) -> None:
        super().__init__(length, device)
        self._storage = storage

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule = PLAIN) -> Tensor:
        """See `transformer.Attention`."""
        return super().__call__(layer, q, stored_values(k, self._storage), stored_values(v, self._storage), rule)


@torch.inference_mode()
def log_probabilities_in_torch(config: EngineConfig, model: Transformer, texts: list[list[int]]) -> list[Tensor]:
    """Log probabilities of the next token after each token: float64 [tokens, vocab_size] for each text."""
    results = []
    for ids in texts:
        attend = QuantizedKVAttention(len(ids), config.device, kv_storage(config))
        hidden = model(torch.tensor(ids, device=config.device), torch.arange(len(ids), device=config.device), attend)
        results.append(model.logits(hidden).double().log_softmax(-1))
    return results


@torch.inference_mode()
def log_probabilities_through_kernels(
    config: EngineConfig, model: Transformer, texts: list[list[int]], prompt_len: int = PROMPT_LEN
) -> list[Tensor]:
    """The same, from each prompt's last token on; as many texts at a time as the config has rows."""
    from engine.runner.cuda.cuda_runner import CudaRunner  # needs Triton

    class TeacherForcedRunner(CudaRunner):
        """Decodes given tokens instead of the sampled ones."""

        def step(self, plan: StepPlan, tokens: Mapping[int, int]) -> list[Tensor]:
            """Log probabilities of the next token [vocab_size] for each sample of the plan; `tokens` by row."""
            for row, token in tokens.items():
                self._batch_state.last_tokens[row] = token
            self._synchronize()
            rows = self.wait(self.execute_async(plan))
            self._synchronize()
            return list(self._forward.logits[: len(rows)].double().log_softmax(-1))

        def _synchronize(self) -> None:
            if self._gpu:
                torch.cuda.synchronize(self._device)

    per_row = config.max_pages_per_seq
    runner = TeacherForcedRunner(config, model)
    runner.start(per_row * config.max_num_seqs)
    pages = tuple((row, index, row * per_row + index) for row in range(config.max_num_seqs) for index in range(per_row))
    results: list[Tensor] = []
    for first in range(0, len(texts), config.max_num_seqs):
        batch = texts[first : first + config.max_num_seqs]
        steps: list[list[Tensor]] = []
        for row, ids in enumerate(batch):
            chunk = PrefillChunk(row, 0, tuple(ids[:prompt_len]), True)
            new = NewSequence(row, 0.0, 1.0, 1)
            steps.append(runner.step(StepPlan(0, (new,), pages if row == 0 else (), (chunk,)), {}))
        for position in range(prompt_len, max(map(len, batch))):
            tokens = {row: ids[position] for row, ids in enumerate(batch) if position < len(ids)}
            sampled = runner.step(StepPlan(1, decode_rows=tuple(tokens)), tokens)
            for row, log_probabilities in zip(tokens, sampled, strict=True):
                steps[row].append(log_probabilities)
        results += map(torch.stack, steps)
    runner.close()
    return results


def compare(reference: list[Tensor], quantized: list[Tensor], texts: list[list[int]]) -> dict[str, object]:
    """Divergence and perplexity of two models' log probabilities [tokens, vocab_size] after the texts' tokens."""
    divergence = torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in zip(reference, quantized, strict=True)])
    same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(reference, quantized, strict=True)])
    return {
        "tokens": len(divergence),
        "kl": round(divergence.mean().item(), 5),
        "kl_p99": round(divergence.quantile(0.99).item(), 4),
        "top1": round(same.double().mean().item(), 4),
        "perplexity_none": round(_perplexity(reference, texts), 3),
        "perplexity": round(_perplexity(quantized, texts), 3),
    }


def _perplexity(log_probabilities: list[Tensor], texts: list[list[int]]) -> float:
    losses = []
    for each, ids in zip(log_probabilities, texts, strict=True):
        following = torch.tensor(ids[1:], device=each.device).unsqueeze(1)
        losses.append(-each[:-1].gather(1, following))
    return torch.cat(losses).mean().exp().item()


def read_texts(checkpoint: Checkpoint, tokens: int, files: Sequence[Path] | None = None) -> list[list[int]]:
    """The first `tokens` ids of each file; by default of this project's own documents."""
    root = Path(__file__).resolve().parent.parent.parent
    paths = files or [path for name in DOCUMENTS if (path := root / name).exists()] or [Path(__file__)]
    tokenizer = checkpoint.tokenizer()
    return [tokenizer.encode(path.read_text(encoding="utf-8"))[:tokens] for path in paths]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
