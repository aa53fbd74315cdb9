"""Which parts of an architecture the compiled paths have; the runner in plain torch has all of them.

A model's features are what its blocks have beyond those of a plain Llama. RoPE's scalings, and RoPE over a part of the
head, are no features: they are in the table that every path reads.
"""

from typing import Final

from engine.checkpoint import ModelSpec

# What each path computes besides a plain Llama. A path that learns a feature is entered here, and nowhere else.
NATIVE: Final = frozenset(
    (
        "qkv_bias", "output_bias", "ffn_bias", "qk_norm", "post_norms", "float32_norms", "gelu_tanh", "embedding_scale",
        "attention_scale", "attention_softcap", "logit_softcap", "windows", "local_rope", "head_size",
        "experts",
    )
)  # fmt: skip
TRITON: Final = frozenset(
    (
        "qkv_bias", "output_bias", "ffn_bias", "qk_norm", "post_norms", "float32_norms", "gelu_tanh", "embedding_scale",
        "attention_scale", "attention_softcap", "logit_softcap", "windows", "local_rope", "head_size",
        "experts",
    )
)  # fmt: skip


def features(spec: ModelSpec, max_context: int) -> frozenset[str]:
    """The features of a model. A window counts where it is shorter than the engine's longest context."""
    blocks = spec.architecture
    has = {
        "qkv_bias": blocks.qkv_bias,
        "output_bias": blocks.output_bias,
        "ffn_bias": blocks.ffn_bias,
        "qk_norm": blocks.qk_norm,
        "post_norms": blocks.post_norms,
        "float32_norms": blocks.float32_norms,
        "gelu_tanh": blocks.activation == "gelu_tanh",
        "embedding_scale": blocks.embedding_scale != 1,
        "attention_scale": blocks.attention_scale not in (None, spec.head_dim**-0.5),
        "attention_softcap": blocks.attention_softcap is not None,
        "logit_softcap": blocks.logit_softcap is not None,
        "windows": any(window is not None and window < max_context for window in blocks.windows),
        "head_size": spec.head_dim & (spec.head_dim - 1) != 0,  # other than a power of two
        "experts": blocks.experts > 0,
        "local_rope": blocks.local_rope_theta is not None,
    }
    return frozenset(name for name, present in has.items() if present)


def unsupported_by_native(spec: ModelSpec, max_context: int) -> frozenset[str]:
    """The features of a model that the compiled CPU path lacks."""
    return features(spec, max_context) - NATIVE


def unsupported_by_triton(spec: ModelSpec, max_context: int) -> frozenset[str]:
    """The features of a model that the Triton path lacks."""
    return features(spec, max_context) - TRITON
