"""Writes a model of transformers' as llama.cpp's converter does: its names, its metadata, its order of rows."""

from pathlib import Path
from typing import Any

import gguf
import torch
import transformers
from torch import Tensor

from engine.checkpoint import Llama3Scaling
from engine.checkpoint.rope import scaling_factors
from tests.engine.checkpoint.builders import finish_gguf
from tests.engine.checkpoint.vocabularies import sentencepiece_tables
from tests.engine.families.cases import Case

_ARCHITECTURES = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}


def write_gguf(
    path: Path,
    case: Case,
    oracle: transformers.PreTrainedModel,
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    parts: int = 1,
) -> Path:
    """One file, or `parts` files: the first is returned. Matrices in `kind` where their rows fit its blocks."""
    arch = str(case.arch)
    config = oracle.config
    split = -(-len(_tensors(case, oracle)) // parts) if parts > 1 else 0
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=split)
    _add_sizes(writer, config, arch)
    _add_rope(writer, config, arch)
    _add_vocabulary(writer)
    for name, tensor in _tensors(case, oracle).items():
        values = tensor.float().contiguous().numpy()
        if values.ndim == 1 or kind is gguf.GGMLQuantizationType.F32 or values.shape[-1] % 32:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    finish_gguf(writer)
    return path.with_name(f"{path.stem}-00001-of-{parts:05}.gguf") if parts > 1 else path


def _add_sizes(writer: gguf.GGUFWriter, config: Any, arch: str) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if head_dim := getattr(config, "head_dim", None):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if window := getattr(config, "sliding_window", None):
        writer.add_sliding_window(window)
    if per_token := getattr(config, "num_experts_per_tok", None):
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(per_token)
        if width := getattr(config, "moe_intermediate_size", None):
            writer.add_expert_feed_forward_length(width)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _add_rope(writer: gguf.GGUFWriter, config: Any, arch: str) -> None:
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if arch in ("llama", "phi3"):
        writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    match rope["rope_type"]:
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        case "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(rope["factor"])
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        case "llama3":
            scaling = Llama3Scaling(
                rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"],
                rope["original_max_position_embeddings"],
            )  # fmt: skip
            writer.add_tensor("rope_freqs.weight", scaling_factors(scaling, head_dim, rope["rope_theta"]).numpy())
        case "longrope":
            original = config.original_max_position_embeddings
            scale = config.max_position_embeddings / original
            attention = (1 + torch.tensor(scale).log() / torch.tensor(float(original)).log()).sqrt().item()
            writer.add_rope_scaling_orig_ctx_len(original)
            writer.add_rope_scaling_attn_factors(attention)
            for which in ("long", "short"):
                factors = torch.tensor(rope[f"{which}_factor"], dtype=torch.float32)
                writer.add_tensor(f"rope_factors_{which}.weight", factors.numpy())


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    tokens, scores, kinds = sentencepiece_tables()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _tensors(case: Case, oracle: transformers.PreTrainedModel) -> dict[str, Tensor]:
    config = oracle.config
    names = gguf.get_tensor_name_map(_ARCHITECTURES[str(case.arch)], config.num_hidden_layers)
    tensors = {}
    for name, tensor in oracle.state_dict().items():
        if ".mlp.experts." in name or name.endswith("mlp.gate.weight"):  # one matrix for all experts of a layer
            layer, kind = name.split(".")[2], name.split(".mlp.")[1]
            gate_up = tensor.chunk(2, dim=1) if "gate_up" in kind else ()
            parts = {
                "experts.gate_up_proj": zip(("ffn_gate_exps", "ffn_up_exps"), gate_up, strict=False),
                "experts.down_proj": [("ffn_down_exps", tensor)],
                "gate.weight": [("ffn_gate_inp", tensor)],
            }[kind]
            tensors |= {f"blk.{layer}.{part}.weight": value for part, value in parts}
            continue
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert ours is not None, name
        if case.arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        if case.model.startswith("Gemma") and name.endswith("norm.weight"):
            tensor = tensor + 1
        tensors[ours] = tensor
    return tensors
