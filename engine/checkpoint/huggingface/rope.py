"""RoPE's settings in config.json: `rope_theta` and `rope_scaling`, or `rope_parameters` as transformers 5 writes."""

import math
from dataclasses import dataclass

from engine.checkpoint.architecture import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeScaling,
    YarnScaling,
)
from engine.checkpoint.files import ConfigReader
from engine.checkpoint.model_families import Family
from engine.checkpoint.rope import (
    check_attention_factor,
    check_factors,
    check_rope_scaling,
    check_yarn,
    default_yarn_attention,
)
from engine.errors import ConfigError

KINDS_OF_LAYERS = ("full_attention", "sliding_attention")


@dataclass(frozen=True, slots=True)
class RopeSettings:
    """Values of `ModelSpec` and `Architecture`."""

    theta: float
    scaling: RopeScaling | None
    local_theta: float | None
    rotary_dim: int | None


def read_rope(config: ConfigReader, family: Family, head_dim: int) -> RopeSettings:
    """As transformers: the name of before version 5 wins where a file has both."""
    new = _filled(config.section("rope_parameters"))
    local_theta = config.number("rope_local_base_freq") if family.local_rope else None
    if new and any(new.has(kind) for kind in KINDS_OF_LAYERS):
        if not family.local_rope:
            raise ConfigError(config.source, expected="one RoPE for all layers", found="settings by kind of layer")
        if local := new.section("sliding_attention"):
            if _kind(local) != "default":
                raise ConfigError(
                    config.source, expected="unscaled RoPE in layers with a window", found=f"scaling {_kind(local)}"
                )
            local_theta = local.number("rope_theta", local_theta)
        new = new.section("full_attention")
    theta_source = new if new and new.has("rope_theta") else config
    theta = theta_source.number("rope_theta", 10000.0)
    rotary_dim = _rotary_dim(config, new, family, head_dim)
    rope = _filled(config.section("rope_scaling")) or new
    for section in (rope, new):  # of Ministral 3
        if section and section.values.get("llama_4_scaling_beta") not in (None, 0):
            raise section.invalid("llama_4_scaling_beta", "absent: queries would be scaled by position")
    scaling = None if rope is None else _scaling(config, rope, family, rotary_dim or head_dim)
    if isinstance(scaling, YarnScaling):
        check_yarn(config.source, scaling, theta)
    return RopeSettings(theta, scaling, local_theta, rotary_dim)


def _rotary_dim(config: ConfigReader, new: ConfigReader | None, family: Family, head_dim: int) -> int | None:
    source = new if new and new.has("partial_rotary_factor") else config
    part = source.number("partial_rotary_factor", 1.0)
    if part == 1:
        return None
    if not family.partial_rotary:
        raise ConfigError(config.source, expected="RoPE over whole heads", found="a partial_rotary_factor")
    dim = int(head_dim * min(part, 1.0))
    if part > 1 or dim < 2 or dim % 2:
        raise ConfigError(
            config.source, expected=f"RoPE over an even part of {head_dim} dimensions", found=f"a factor of {part}"
        )
    return dim


def _scaling(config: ConfigReader, rope: ConfigReader, family: Family, dim: int) -> RopeScaling | None:
    kind = _kind(rope)
    if kind in family.longrope_names:
        kind = "longrope"
    match kind:
        case "default":
            return None
        case "linear":
            factor = rope.number("factor", 1.0)
            return None if factor == 1 else LinearScaling(factor)
        case "llama3":
            scaling = Llama3Scaling(
                factor=rope.number("factor"),
                low_freq_factor=rope.number("low_freq_factor"),
                high_freq_factor=rope.number("high_freq_factor"),
                original_context=_original_context(config, rope),
            )
            check_rope_scaling(config.source, scaling)
            return scaling
        case "yarn":
            return _yarn(config, rope)
        case "longrope":
            return _long_rope(config, rope, dim)
    expected = "RoPE unscaled or scaled by linear, llama3, yarn or longrope"
    raise ConfigError(config.source, expected=expected, found=f"scaling {kind}")


def _yarn(config: ConfigReader, rope: ConfigReader) -> YarnScaling:
    original = _original_context(config, rope)
    factor = rope.number("factor") if rope.has("factor") else config.integer("max_position_embeddings") / original
    if rope.has("attention_factor"):
        attention = rope.number("attention_factor")
    elif rope.has("mscale") and rope.has("mscale_all_dim"):
        attention = default_yarn_attention(factor, rope.number("mscale"))
        attention /= default_yarn_attention(factor, rope.number("mscale_all_dim"))
    else:
        attention = default_yarn_attention(factor)
    return YarnScaling(
        factor=factor,
        original_context=original,
        attention_factor=attention,
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        truncate=rope.flag("truncate", True),
    )


def _long_rope(config: ConfigReader, rope: ConfigReader, dim: int) -> LongRopeScaling:
    original = _original_context(config, rope)
    factor = rope.number("factor") if rope.has("factor") else config.integer("max_position_embeddings") / original
    attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 < original else 1.0
    short, long = (
        check_factors(config.source, name, rope.values.get(name), dim // 2) for name in ("short_factor", "long_factor")
    )
    attention = rope.number("attention_factor", attention)
    check_attention_factor(config.source, attention)
    return LongRopeScaling(short, long, original, attention)


def _original_context(config: ConfigReader, rope: ConfigReader) -> int:
    """Beside the settings of RoPE, as Phi-3 has it, else among them, else the model's context."""
    name = "original_max_position_embeddings"
    if config.has(name):
        return config.integer(name)
    return rope.integer(name, config.integer("max_position_embeddings"))


def _kind(rope: ConfigReader) -> str:
    return rope.text("rope_type") or rope.text("type") or "default"


def _filled(section: ConfigReader | None) -> ConfigReader | None:
    """The section, None if there is nothing in it."""
    return section if section and section.values else None
