"""What 8-bit weights cost in accuracy: a text's next-token distributions against those of the full weights.

    python -m engine.bench.loss --model smollm2 --text README.md [--tokens 512]

One JSON line: mean KL divergence (nats), agreement of the likeliest token, perplexity of both. Runs on the CPU or GPU.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from engine.attention import DenseAttend
from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import EngineConfig, resolve
from engine.load import load_model
from engine.quantize import pack_block


def log_probabilities(config: EngineConfig, checkpoint: Checkpoint, ids: list[int], packed: bool) -> torch.Tensor:
    model = load_model(config, checkpoint, pack_block if packed else None)
    tokens = torch.tensor(ids, device=config.device)
    with torch.inference_mode():
        hidden = model(tokens, torch.arange(len(ids), device=config.device), DenseAttend(len(ids), config.device))
        return model.logits(hidden).double().log_softmax(-1)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.bench.loss")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=512)
    options = parser.parse_args(arguments)
    checkpoint = open_checkpoint(options.model)
    config = resolve(checkpoint.spec, quantize="none")
    ids = checkpoint.tokenizer().encode(options.text.read_text())[: options.tokens]
    true, ours = (log_probabilities(config, checkpoint, ids, packed) for packed in (False, True))
    following = torch.tensor(ids[1:], device=true.device).unsqueeze(1)
    line = {
        "model": options.model,
        "quantize": "int8",
        "device": config.device.type,
        "tokens": len(ids),
        "kl": round((true.exp() * (true - ours)).sum(-1).mean().item(), 6),
        "top1": round((true.argmax(-1) == ours.argmax(-1)).double().mean().item(), 4),
        "perplexity": round((-true[:-1].gather(1, following).mean()).exp().item(), 3),
        "perplexity_int8": round((-ours[:-1].gather(1, following).mean()).exp().item(), 3),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
