"""Llama 3.1's scaled RoPE, told from the table of factors that GGUF files carry instead of its settings."""

import math
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoint.spec import RopeScaling
from engine.errors import ConfigError


def scaling_factors(scaling: RopeScaling, head_dim: int, theta: float) -> Tensor:
    """What each frequency is divided by: 1 for the high ones, `factor` for the low ones, a blend between."""
    frequency = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    wavelength = 2 * math.pi / frequency
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    share = (scaling.original_context / wavelength - low) / (high - low)
    blend = 1 / ((1 - share) / scaling.factor + share)
    factors = torch.where(wavelength > scaling.original_context / low, scaling.factor, blend)
    return torch.where(wavelength < scaling.original_context / high, 1.0, factors).float()


def scaling_from_factors(where: Path, factors: Tensor, head_dim: int, theta: float) -> RopeScaling | None:
    """The settings that give this table; every published one keeps Llama 3.1's bounds and chooses the factor."""
    if bool((factors == 1).all()):
        return None
    guess = RopeScaling(
        factor=round(float(factors.max()), 3), low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192
    )
    expected = scaling_factors(guess, head_dim, theta)
    if factors.shape != expected.shape or not torch.allclose(factors, expected, rtol=1e-3):
        raise ConfigError(where, expected="rope_freqs of Llama 3.1's scaling", found="another table")
    return guess
