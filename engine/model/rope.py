"""RoPE: the table of a model's rotations, and how it rotates queries and keys.

All scalings and partial RoPE end up in the table: dimensions that are not rotated have frequency 0, and a scaling's
attention factor is the magnitude of its entries. So whatever computes with the table knows none of them.
"""

import math

import torch
from torch import Tensor

from engine.checkpoint import LinearScaling, Llama3Scaling, LongRopeScaling, ModelSpec, RopeScaling, YarnScaling
from engine.checkpoint.rope import scaling_factors


def rope_table(spec: ModelSpec, length: int, device: torch.device) -> Tensor:
    """factor * exp(i * position * frequency), complex64 [length, head_dim / 2].

    `length` is the engine's longest context, which chooses between the two sets of LongRoPE's factors.
    """
    scaling = spec.rope_scaling
    frequency = _frequencies(spec, spec.rope_theta, device)
    if scaling is not None:
        frequency = _scaled(frequency, scaling, spec.rotary_dim, spec.rope_theta, length)
    factor = scaling.attention_factor if isinstance(scaling, YarnScaling | LongRopeScaling) else 1.0
    return _table(spec, frequency, length, factor)


def local_rope_table(spec: ModelSpec, length: int, device: torch.device) -> Tensor | None:
    """The table of the layers with a window; None if they share the others'."""
    theta = spec.architecture.local_rope_theta
    return None if theta is None else _table(spec, _frequencies(spec, theta, device), length, 1.0)


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Apply RoPE to interleaved pairs (Meta's layout): x [T, heads, D] -> same shape and dtype.

    x must be contiguous in its last two dimensions; a float32 x is modified in place. rope: complex [T, 1, D / 2].
    """
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs.mul_(rope)).flatten(-2).to(x.dtype)


def _frequencies(spec: ModelSpec, theta: float, device: torch.device) -> Tensor:
    dim = spec.rotary_dim
    exponent = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
    return 1.0 / (theta**exponent)


def _table(spec: ModelSpec, frequency: Tensor, length: int, factor: float) -> Tensor:
    still = spec.head_dim // 2 - len(frequency)  # pairs that are not rotated
    angle = torch.outer(torch.arange(length, dtype=torch.float32, device=frequency.device), frequency)
    table = torch.polar(torch.full_like(angle, factor), angle)
    return torch.cat((table, torch.ones(length, still, dtype=table.dtype, device=table.device)), 1) if still else table


def _scaled(frequency: Tensor, scaling: RopeScaling, dim: int, theta: float, length: int) -> Tensor:
    match scaling:
        case LinearScaling():
            return frequency / scaling.factor
        case Llama3Scaling():
            return frequency / scaling_factors(scaling, dim, theta).to(frequency.device)
        case LongRopeScaling():
            factors = scaling.long_factors if length > scaling.original_context else scaling.short_factors
            return frequency / torch.tensor(factors, dtype=torch.float32, device=frequency.device)
        case YarnScaling():
            first, last = _yarn_ramp(scaling, dim, theta)
            pair = torch.arange(len(frequency), dtype=torch.float32, device=frequency.device)
            kept = 1 - ((pair - first) / (last - first)).clamp(0, 1)
            return frequency * (kept + (1 - kept) / scaling.factor)


def _yarn_ramp(scaling: YarnScaling, dim: int, theta: float) -> tuple[float, float]:
    """The pair of dimensions at which the ramp begins, and that at which it ends."""

    def pair(rotations: float) -> float:
        """Where frequency theta ** (-2 pair / dim) rotates that many times within the original context."""
        return dim * math.log(scaling.original_context / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    return first, last + (0.001 if first == last else 0)
