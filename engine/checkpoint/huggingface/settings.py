"""What config.json says of a model: its family, its sizes, and what its blocks consist of.

A setting that would change the arithmetic and that the engine does not have is refused, not ignored.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from engine.checkpoint.architecture import Architecture
from engine.checkpoint.chat_families import chat_family, default_system
from engine.checkpoint.encoding import PLAIN
from engine.checkpoint.files import MAX_CONTEXT, MAX_EXPERTS, MAX_LAYERS, ConfigReader, check_heads
from engine.checkpoint.huggingface.rope import KINDS_OF_LAYERS, RopeSettings, read_rope
from engine.checkpoint.huggingface.tokenizer import TokenizerFiles
from engine.checkpoint.model_families import Family, huggingface_family, recurrent
from engine.checkpoint.reading import Extent
from engine.checkpoint.rope import stretched_context
from engine.checkpoint.spec import ModelSpec
from engine.errors import ConfigError

# Settings by which models of other families, or copies of these under their name, compute something else; and the
# values that change nothing.
_OTHER_ARITHMETIC: Mapping[str, tuple[object, ...]] = {
    "attention_multiplier": (),
    "attn_temperature_tuning": (False,),
    "clip_qkv": (),
    "embedding_multiplier": (1, 1.0),
    "decoder_sparse_step": (1,),
    "logit_scale": (1, 1.0),
    "logits_scaling": (1, 1.0),
    "mlp_only_layers": ([],),
    "no_rope_layers": (),
    "num_experts": (0,),
    "num_local_experts": (0, 1),
    "qk_layernorm": (False,),
    "residual_multiplier": (1, 1.0),
    "use_bidirectional_attention": (False,),
    "use_mrope": (False,),
    "use_qk_norm": (False,),
}
_EXPERTS = ("num_experts", "num_local_experts")
_ACTIVATIONS = {"silu": ("silu", "swish"), "gelu_tanh": ("gelu_pytorch_tanh", "gelu_new", "gelu")}


def read_settings(config: ConfigReader) -> tuple[Family, ConfigReader]:
    """The family, and the settings of its language model with the family's defaults."""
    family = huggingface_family(config.source, config.values.get("architectures"))
    text = config.section("text_config")  # of a vision-language model; its settings are the language model's
    inner = text.values if text else {}
    settings = ConfigReader(config.source, {**family.defaults, **config.values, **inner})
    kinds = settings.values.get("layer_types")
    if isinstance(kinds, list) and (other := [kind for kind in kinds if kind not in KINDS_OF_LAYERS]):
        raise recurrent(config.source, f"layers of type {other[0]!s:.40}")
    neutral = _OTHER_ARITHMETIC
    if family.expert_width:
        neutral = {key: values for key, values in neutral.items() if key not in _EXPERTS}
    family.check_arithmetic(settings, neutral)
    key = "hidden_activation" if settings.has("hidden_activation") else "hidden_act"
    known = _ACTIVATIONS[family.blocks.activation]
    if settings.text(key) not in (None, *known):
        raise ConfigError(config.source, expected=f"the activation {known[0]}", found=f"{settings.text(key)}")
    return family, settings


def read_spec(
    family: Family, config: ConfigReader, tensors: Mapping[str, Extent], tokenizer_files: TokenizerFiles
) -> ModelSpec:
    """The model's spec. `tensors` are the files' by their own names, for the dtype and the number of files.

    The dtype is that of the embeddings, or of a norm where those are quantized.
    """
    dim, n_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    n_kv_heads = config.integer("num_key_value_heads", n_heads)
    head_dim = config.integer("head_dim", dim // n_heads)
    check_heads(config.source, dim, n_heads, n_kv_heads, head_dim)
    rope = read_rope(config, family, head_dim)
    context = config.integer("max_position_embeddings", maximum=MAX_CONTEXT)
    max_context = stretched_context(config.source, context, rope.scaling)
    n_layers = config.integer("num_hidden_layers", maximum=MAX_LAYERS)
    plain = [(name, each.encoding.dtype) for name, each in tensors.items() if each.encoding.dtype in PLAIN]
    embeddings, norm = (
        next((d for n, d in plain if n.endswith(e)), None) for e in ("embed_tokens.weight", "norm.weight")
    )
    return ModelSpec(
        format="huggingface",
        chat=chat_family(tokenizer_files.template, tokenizer_files.added_token_names(), config.text("model_type")),
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        ffn_dim=config.integer(family.expert_width or "intermediate_size"),
        vocab_size=config.integer("vocab_size"),
        norm_eps=config.number("rms_norm_eps", 1e-6),
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        max_context=max_context,
        tied_embeddings=config.flag("tie_word_embeddings"),
        dtype=embeddings or norm or torch.float32,
        shards=len({extent.path for extent in tensors.values()}),
        default_system=default_system(tokenizer_files.template),
        chat_template=tokenizer_files.chat_template,
        family=family.name,
        architecture=_architecture(family, config, rope, n_layers, max_context),
    )


def _architecture(
    family: Family, config: ConfigReader, rope: RopeSettings, n_layers: int, max_context: int
) -> Architecture:
    blocks = family.blocks
    attention_bias, ffn_bias = config.flag("attention_bias"), config.flag("mlp_bias")
    if (attention_bias and not (family.attention_bias or blocks.qkv_bias)) or (ffn_bias and not family.ffn_bias):
        key = "attention_bias" if attention_bias else "mlp_bias"
        raise ConfigError(config.source, expected="linear layers without bias", found=f"{key} = true")
    windows = _windows(family, config, n_layers, max_context)
    scalar = config.number("query_pre_attn_scalar") if config.has("query_pre_attn_scalar") else None
    if scalar is not None and not family.query_scale:
        raise config.invalid("query_pre_attn_scalar", f"absent, as in a model of the family {family.name}")
    experts = 0
    if family.expert_width:
        experts = config.integer(next((key for key in _EXPERTS if config.has(key)), _EXPERTS[0]), maximum=MAX_EXPERTS)
    return replace(
        blocks,
        experts=experts,
        experts_per_token=config.integer("num_experts_per_tok", maximum=experts) if experts else 0,
        normalized_experts=config.flag("norm_topk_prob", True),
        qkv_bias=blocks.qkv_bias or attention_bias,
        output_bias=attention_bias and family.attention_bias,
        ffn_bias=ffn_bias,
        embedding_scale=math.sqrt(config.integer("hidden_size")) if family.scaled_embeddings else 1.0,
        attention_scale=None if scalar is None else scalar**-0.5,
        attention_softcap=_softcap(family, config, "attn_logit_softcapping"),
        logit_softcap=_softcap(family, config, "final_logit_softcapping"),
        windows=windows,
        rotary_dim=rope.rotary_dim,
        local_rope_theta=rope.local_theta if any(windows) else None,
    )


def _softcap(family: Family, config: ConfigReader, key: str) -> float | None:
    if not config.has(key):
        return None
    if not family.softcaps:
        raise config.invalid(key, f"absent, as in a model of the family {family.name}")
    return config.number(key)


def _windows(family: Family, config: ConfigReader, n_layers: int, max_context: int) -> tuple[int | None, ...]:
    """The window of each layer, empty if none has one that is shorter than the context."""
    if config.values.get("sliding_window") in (None, False):
        return ()
    if family.optional_window and not config.flag("use_sliding_window"):
        return ()
    window = config.integer("sliding_window")
    kinds = config.values.get("layer_types")
    if kinds is None:
        first = config.integer("max_window_layers", 28, minimum=0) if family.optional_window else 0
        every = config.integer("sliding_window_pattern", family.full_every, minimum=0)
        local = [layer >= first and not (every and (layer + 1) % every == 0) for layer in range(n_layers)]
    else:
        if not isinstance(kinds, list) or len(kinds) != n_layers:
            raise config.invalid("layer_types", f"full_attention or sliding_attention for each of {n_layers} layers")
        local = [kind == "sliding_attention" for kind in kinds]
    return family.windows(config.source, [window if each else None for each in local], max_context)
