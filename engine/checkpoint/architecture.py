"""What the blocks of a model consist of, where families differ; sizes are in `ModelSpec`.

The default values describe a plain Llama. Everything that computes reads this description and nothing of families;
`model_families` says which family has what.
"""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """The parts of a block and of the model around it.

    `windows` has a window or None (full attention) for each layer, and is empty if no layer has one: a token of a layer
    with window w sees itself and the w - 1 tokens before it. None stands for an attention scale of 1 / sqrt(head size),
    a softcap that is not there, RoPE over the whole head, and one theta for all layers.
    """

    qkv_bias: bool = False
    output_bias: bool = False  # of the attention's output matrix
    ffn_bias: bool = False  # of all three matrices
    qk_norm: bool = False  # each query and key head is normalized over its own dimensions, before RoPE
    post_norms: bool = False  # attention's and feed-forward's results are normalized before they are added
    float32_norms: bool = False  # norm weights keep float32 and are applied before the result is rounded
    activation: Activation = "silu"
    embedding_scale: float = 1.0  # rounded to the model's dtype
    attention_scale: float | None = None
    attention_softcap: float | None = None  # scores become cap * tanh(score / cap)
    logit_softcap: float | None = None
    windows: tuple[int | None, ...] = ()
    rotary_dim: int | None = None  # RoPE rotates the first dimensions of a head only
    local_rope_theta: float | None = None  # of the layers with a window, whose RoPE is not scaled
    experts: int = 0  # feed-forwards of a block, of which a token uses some; 0: a dense model
    experts_per_token: int = 0
    normalized_experts: bool = True  # the weights of a token's experts sum up to 1

    @property
    def uses_gelu(self) -> bool:
        """Whether the gate is GELU's, else it is SiLU's."""
        return self.activation == "gelu_tanh"


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's scaling: low RoPE frequencies are divided by `factor`, those between the two bounds partly."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All RoPE frequencies are divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN: a ramp over the dimensions from frequencies as they are to frequencies divided by `factor`.

    The ramp begins where a dimension rotates `beta_fast` times within the original context, and ends at `beta_slow`
    times; `truncate` rounds both ends outwards to whole dimensions. Queries and keys are multiplied by
    `attention_factor`.
    """

    factor: float
    original_context: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class LongRopeScaling:
    """LongRoPE: each frequency has a divisor of its own, one for short and one for long contexts.

    Cached keys cannot change their divisors when a dialog grows past the original context. So the engine's longest
    context decides once: `long_factors` if it is longer than `original_context`. Queries and keys are multiplied by
    `attention_factor` in both cases.
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_context: int
    attention_factor: float


RopeScaling = Llama3Scaling | LinearScaling | YarnScaling | LongRopeScaling
