"""Small random checkpoints with the true structure of every family, made by transformers' own classes.

Their settings make every part matter: windows and caps are small, biases and norm weights are far from nothing.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from tests.engine.checkpoint.builders import TOKENIZER

SIZES = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "rms_norm_eps": 1e-3,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
PAIRS = 6  # of the 16 dimensions of a Phi-4-mini's head, the first three quarters are turned
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4,
    "short_factor": [1.0 + 0.1 * n for n in range(PAIRS)], "long_factor": [1.5 + n for n in range(PAIRS)],
}  # fmt: skip
EXPERTS = {"head_dim": 16, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16, "hidden_activation": "gelu_pytorch_tanh"}


@dataclass(frozen=True)
class Case:
    """A model of one family. `arch` is its name in GGUF files, None if such a file cannot hold it."""

    model: str  # a class of transformers'
    arch: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_context: int = 256
    rare: bool = False  # a variant that only the long tests run


def _phi4_mini(original: int) -> Mapping[str, Any]:
    more = {"partial_rotary_factor": 0.75, "original_max_position_embeddings": original, "tie_word_embeddings": True}
    return {"hidden_size": 64, "rope_parameters": {**LONG, "partial_rotary_factor": 0.75}, **more}


CASES = {
    "llama31": Case("Llama", "llama", {"hidden_size": 64, "rope_parameters": LLAMA3}),
    "llama-linear": Case(
        "Llama", "llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}, rare=True
    ),
    "llama-biases": Case("Llama", None, {"attention_bias": True, "mlp_bias": True}, rare=True),
    "mistral-7b-v0.1": Case("Mistral", "llama", {"sliding_window": 16}),
    "mistral-nemo": Case("Mistral", "llama", {"sliding_window": None, "head_dim": 16}, rare=True),
    "qwen2-small": Case("Qwen2", "qwen2", {"tie_word_embeddings": True}),
    "qwen2-yarn": Case("Qwen2", "qwen2", {"rope_parameters": YARN}),
    "qwen2-window": Case(
        "Qwen2", None, {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}, rare=True
    ),
    "qwen3": Case("Qwen3", "qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3-moe": Case(
        "Qwen3Moe",
        "qwen3moe",
        {**EXPERTS, "norm_topk_prob": True},
    ),
    "qwen3-moe-unnormalized": Case(
        "Qwen3Moe",
        None,
        EXPERTS,
        rare=True,
    ),
    "mixtral": Case("Mixtral", "llama", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "phi3": Case("Phi3", "phi3", {"sliding_window": 16, "num_key_value_heads": 4}),
    "phi4-mini": Case("Phi3", "phi3", _phi4_mini(160), 160, rare=True),  # LongRoPE's short factors
    "phi4-mini-long": Case("Phi3", "phi3", _phi4_mini(32)),
    "gemma": Case("Gemma", "gemma", {"head_dim": 16, "num_key_value_heads": 1}, rare=True),
    "gemma2": Case(
        "Gemma2", "gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
    ),
    "gemma2-27b": Case(
        "Gemma2", None, {**GEMMA, "query_pre_attn_scalar": 9, "head_dim": 80, "sliding_window": 21}, rare=True
    ),
    "gemma3": Case(
        "Gemma3",
        "gemma3",
        {
            **GEMMA,
            "num_hidden_layers": 7,  # the sixth has full attention
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
}  # fmt: skip


def make_oracle(case: Case) -> transformers.PreTrainedModel:
    """transformers' model in float32, with random weights."""
    kind = "Gemma3Text" if case.model == "Gemma3" else case.model
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **case.settings})
    config._attn_implementation = "eager"  # the others lack softcaps
    with torch.device("cpu"):
        model = getattr(transformers, f"{case.model}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        parameter.data = _random(name, parameter, case, generator)
    model.tie_weights()
    oracle: transformers.PreTrainedModel = model.eval()
    return oracle


def _random(name: str, parameter: Tensor, case: Case, generator: torch.Generator) -> Tensor:
    values = torch.randn(parameter.shape, generator=generator)
    if "norm" in name:
        return values * 0.3 + (0 if case.model.startswith("Gemma") else 1)
    if parameter.dim() == 1:  # a bias
        return values * 0.5
    return values * 1.3 * parameter.shape[-1] ** -0.5


def write_huggingface(folder: Path, oracle: transformers.PreTrainedModel) -> Path:
    """As transformers saves it, with the golden SentencePiece vocabulary."""
    oracle.save_pretrained(folder)
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    return folder
