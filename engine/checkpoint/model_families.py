"""The model families: what each has in its blocks, under which names files know it, and how they store its weights.

This is the one place that tells families apart. A reader of files looks a family up here, and fills in the numbers
that its file holds (windows, softcaps, RoPE).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.checkpoint.architecture import Architecture
from engine.checkpoint.files import ConfigReader
from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Family:
    """One family.

    `huggingface` and `gguf` are the names of its architecture in config.json and in GGUF files. `defaults` are
    transformers' defaults for settings that its published config.json files leave out.
    """

    name: str
    huggingface: tuple[str, ...]
    gguf: tuple[str, ...]
    blocks: Architecture = field(default_factory=Architecture)
    attention_bias: bool = False  # a file may ask for biases of q, k, v and the output matrix
    ffn_bias: bool = False  # a file may ask for biases of the feed-forward's matrices
    scaled_embeddings: bool = False  # by the square root of the model's width
    norm_offset: bool = False  # safetensors hold w where the norm multiplies by 1 + w; GGUF files hold 1 + w
    gguf_pairs: bool = False  # GGUF files hold query and key rows as interleaved pairs, as Llama's do; else as halves
    has_windows: bool = True
    optional_window: bool = False  # a window counts only where `use_sliding_window` is true
    full_every: int = 0  # where windows alternate: each layer of this number has full attention; 0: all have a window
    local_rope: bool = False  # layers with a window have a theta of their own
    partial_rotary: bool = False  # a file may ask for RoPE over a part of the head
    longrope_names: tuple[str, ...] = ()  # earlier names of longrope in config.json
    query_scale: bool = False  # a file says by what the scores are divided
    # Layers of the size whose scores are divided by the root of width / heads instead of the head size's. GGUF files do
    # not say it; llama.cpp, too, knows the size by its layers.
    gguf_width_scale_layers: int = 0
    softcaps: bool = False  # a file may ask for softcaps
    expert_width: str = ""  # of a mixture of experts: what config.json calls the width of an expert
    defaults: Mapping[str, object] = field(default_factory=dict)

    def check_arithmetic(
        self, config: ConfigReader, neutral: Mapping[str, Collection[object]], prefix: str = ""
    ) -> None:
        """ConfigError for a setting, its key after `prefix`, with another value than those that change nothing."""
        for key, values in neutral.items():
            value = config.values.get(prefix + key)
            if value is not None and value not in values:
                raise config.invalid(prefix + key, f"absent, as in a model of the family {self.name}")

    def windows(self, source: Path, windows: Sequence[int | None], max_context: int) -> tuple[int | None, ...]:
        """`windows` as `Architecture` has them; ConfigError if the family has none.

        A window that covers the context is none, unless the layer's RoPE depends on it; then it is at most the
        context.
        """
        if self.local_rope:
            return tuple(None if window is None else min(window, max_context) for window in windows)
        shorter = tuple(None if window is None or window >= max_context else window for window in windows)
        if not any(shorter):
            return ()
        if not self.has_windows:
            found = f"a sliding window of {max(window or 0 for window in shorter)}"
            raise ConfigError(source, expected="full attention", found=found)
        return shorter


_GEMMA_DEFAULTS: Mapping[str, object] = {
    "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True, "vocab_size": 256000,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 256, "sliding_window": 4096,
}  # fmt: skip

FAMILIES = (
    Family(
        "llama",
        ("LlamaForCausalLM",),
        ("llama",),
        attention_bias=True,
        ffn_bias=True,
        gguf_pairs=True,
        has_windows=False,
    ),
    # GGUF files call it a Llama.
    Family(
        "mistral",
        ("MistralForCausalLM", "MinistralForCausalLM", "Mistral3ForConditionalGeneration"),
        (),
        gguf_pairs=True,
        defaults={"num_key_value_heads": 8, "sliding_window": 4096},
    ),
    Family("qwen2", ("Qwen2ForCausalLM",), ("qwen2",), Architecture(qkv_bias=True), optional_window=True),
    Family(
        "qwen3",
        ("Qwen3ForCausalLM",),
        ("qwen3",),
        Architecture(qk_norm=True),
        attention_bias=True,
        optional_window=True,
        defaults={"head_dim": 128},
    ),
    # GGUF files call it a Llama.
    Family("mixtral", ("MixtralForCausalLM",), (), gguf_pairs=True, expert_width="intermediate_size"),
    Family(
        "qwen3moe",
        ("Qwen3MoeForCausalLM",),
        ("qwen3moe",),
        Architecture(qk_norm=True),
        attention_bias=True,
        optional_window=True,
        expert_width="moe_intermediate_size",
        defaults={"norm_topk_prob": False},
    ),
    # Phi-3, Phi-3.5, Phi-4 and Phi-4-mini. Their files fuse q, k and v, and gate and up.
    Family(
        "phi3",
        ("Phi3ForCausalLM",),
        ("phi3",),
        partial_rotary=True,
        longrope_names=("su", "yarn"),
        defaults={"rms_norm_eps": 1e-5},
    ),
    Family(
        "gemma",
        ("GemmaForCausalLM",),
        ("gemma",),
        Architecture(float32_norms=True, activation="gelu_tanh"),
        attention_bias=True,
        scaled_embeddings=True,
        norm_offset=True,
        has_windows=False,
        defaults={"tie_word_embeddings": True, "head_dim": 256},
    ),
    Family(
        "gemma2",
        ("Gemma2ForCausalLM",),
        ("gemma2",),
        Architecture(post_norms=True, float32_norms=True, activation="gelu_tanh"),
        attention_bias=True,
        scaled_embeddings=True,
        norm_offset=True,
        full_every=2,
        query_scale=True,
        gguf_width_scale_layers=46,
        softcaps=True,
        defaults={
            **_GEMMA_DEFAULTS,
            "max_position_embeddings": 8192,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    Family(
        "gemma3",
        ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        ("gemma3",),
        Architecture(qk_norm=True, post_norms=True, float32_norms=True, activation="gelu_tanh"),
        attention_bias=True,
        scaled_embeddings=True,
        norm_offset=True,
        full_every=6,
        local_rope=True,
        query_scale=True,
        gguf_width_scale_layers=62,
        softcaps=True,
        defaults={
            **_GEMMA_DEFAULTS,
            "max_position_embeddings": 131072,
            "vocab_size": 262208,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
        },
    ),
)

_LLAMA, _MISTRAL, _MIXTRAL = (
    next(each for each in FAMILIES if each.name == name) for name in ("llama", "mistral", "mixtral")
)

# Layers that carry a state from token to token instead of keys and values. Parts of names, in lower case.
_RECURRENT = (
    "qwen3next", "qwen3_5", "qwen35", "qwen3_next", "jamba", "mamba", "granitemoehybrid", "granitehybrid", "lfm2",
    "bamba", "falconh1", "falcon_h1", "falcon-h1", "nemotronh", "nemotron_h", "zamba", "rwkv", "plamo2", "kimilinear",
    "kimi-linear", "minimaxtext01", "recurrentgemma", "xlstm", "bailingmoelinear", "olmohybrid",
)  # fmt: skip


def huggingface_family(source: Path, architectures: object) -> Family:
    """The family that `architectures` in config.json names; ConfigError if there is none."""
    named = [str(name) for name in architectures] if isinstance(architectures, list) else []
    for family in FAMILIES:
        if any(name in family.huggingface for name in named):
            return family
    known = sorted(name for family in FAMILIES for name in family.huggingface)
    raise _unknown(source, named or [f"{architectures}"], known)


def gguf_family(metadata: ConfigReader) -> Family:
    """The family that general.architecture names; ConfigError if there is none.

    A Llama with experts is a Mixtral, and one with a window a Mistral.
    """
    architecture = metadata.text("general.architecture")
    family = next((each for each in FAMILIES if architecture in each.gguf), None)
    if family is None:
        known = sorted(name for each in FAMILIES for name in each.gguf)
        raise _unknown(metadata.source, [f"{architecture}"], known)
    if family is _LLAMA and metadata.integer("llama.expert_count", 0, minimum=0):
        return _MIXTRAL
    if family is _LLAMA and metadata.integer("llama.attention.sliding_window", 0, minimum=0):
        return _MISTRAL
    return family


def recurrent(source: Path, found: str) -> ConfigError:
    """The error for a model whose layers carry a state, which the cache of keys and values cannot hold."""
    expected = "a transformer; serve a model with recurrent layers by another server and set GUILDLLAMA_ENGINE_URL"
    return ConfigError(source, expected=expected, found=found)


def _unknown(source: Path, named: list[str], known: list[str]) -> ConfigError:
    found = ", ".join(named)
    if any(part in name.lower() for part in _RECURRENT for name in named):
        return recurrent(source, found)
    return ConfigError(source, expected=f"one of the architectures {', '.join(known)}", found=found)
