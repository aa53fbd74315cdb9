"""RoPE's scalings: checks settings, and derives Llama 3.1's from the table of factors that GGUF files carry."""

import math
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoint.architecture import Llama3Scaling, RopeScaling, YarnScaling
from engine.checkpoint.files import MAX_CONTEXT
from engine.errors import ConfigError

MAX_BETA = 1e6  # published models have 32
MAX_FACTOR = 1e30  # in float32, a frequency divided by more would be none


def check_rope_scaling(source: Path, scaling: Llama3Scaling) -> None:
    """ConfigError for settings that give no frequencies: between the two factors the formula divides by their span."""
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        found = f"{scaling.low_freq_factor} and {scaling.high_freq_factor}"
        raise ConfigError(source, expected="low_freq_factor below high_freq_factor", found=found)


def check_yarn(source: Path, scaling: YarnScaling, theta: float) -> None:
    """ConfigError for settings whose ramp has no ends: its formula divides by log(theta) and by both betas."""
    if theta <= 1:
        raise ConfigError(source, expected="a rope_theta above 1, as YaRN needs", found=f"{theta}")
    if not 1 / MAX_BETA <= scaling.beta_slow < scaling.beta_fast <= MAX_BETA:
        found = f"beta_fast {scaling.beta_fast} and beta_slow {scaling.beta_slow}"
        raise ConfigError(source, expected=f"a beta_slow below beta_fast, at most {MAX_BETA:g}", found=found)
    check_attention_factor(source, scaling.attention_factor)


def check_attention_factor(source: Path, factor: float) -> None:
    """ConfigError for a factor by which float32 cannot multiply queries and keys."""
    if not 1 / MAX_FACTOR <= factor <= MAX_FACTOR:
        raise ConfigError(source, expected=f"an attention factor of at most {MAX_FACTOR:g}", found=f"{factor}")


def stretched_context(source: Path, context: int, scaling: RopeScaling | None) -> int:
    """The context that the model was published for: with YaRN, a file may name the one before it was stretched."""
    if isinstance(scaling, YarnScaling):
        stretched = scaling.original_context * scaling.factor  # may be infinite
        if stretched > MAX_CONTEXT:
            raise ConfigError(source, expected=f"a context of at most {MAX_CONTEXT}", found=f"{stretched:g}")
        context = max(context, int(stretched))
    return context


def check_factors(source: Path, name: str, factors: object, count: int) -> tuple[float, ...]:
    """LongRoPE's divisors; ConfigError unless they are `count` positive numbers."""
    if not isinstance(factors, list) or len(factors) != count:
        found = f"{len(factors)}" if isinstance(factors, list) else "none"
        raise ConfigError(source, expected=f"{count} numbers as {name}", found=found)
    numbers = [f for f in factors if isinstance(f, int | float) and not isinstance(f, bool) and 0 < f <= MAX_FACTOR]
    if len(numbers) != count:
        raise ConfigError(source, expected=f"positive numbers as {name}", found="others")
    return tuple(map(float, numbers))


def default_yarn_attention(factor: float, scale: float = 1.0) -> float:
    """YaRN's attention factor for a scaling by `factor`."""
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0


def scaling_factors(scaling: Llama3Scaling, head_dim: int, theta: float) -> Tensor:
    """The divisor of each RoPE frequency, [head_dim / 2]: 1 for high ones, `factor` for low ones, smoothed between.

    The formula is Meta's `apply_scaling` in llama-models; llama.cpp's converter writes its result.
    """
    frequency = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    wavelength = 2 * math.pi / frequency
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = (scaling.original_context / wavelength - low) / (high - low)
    blend = 1 / ((1 - smooth) / scaling.factor + smooth)
    factors = torch.where(wavelength > scaling.original_context / low, scaling.factor, blend)
    return torch.where(wavelength < scaling.original_context / high, 1.0, factors).float()


def scaling_from_factors(source: Path, factors: Tensor, head_dim: int, theta: float) -> Llama3Scaling | None:
    """The settings that produce this table, None if it does not scale; ConfigError if it is not Llama 3.1's.

    Published models differ in `factor` only, so the other settings are Llama 3.1's.
    """
    if bool((factors == 1).all()):
        return None
    guess = Llama3Scaling(
        factor=round(float(factors.max()), 3), low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192
    )
    expected = scaling_factors(guess, head_dim, theta)
    if factors.shape != expected.shape or not torch.allclose(factors, expected, rtol=1e-3):
        raise ConfigError(source, expected="rope_freqs of Llama 3.1's scaling", found="another table")
    return guess
