"""Finds the steps of weights that were 4-bit codes in a file, so that packing them again keeps the codes.

Such weights are whole multiples of a step (GPTQ, AWQ, packed compressed-tensors, GGUF's Q4_0). A group need not use the
lowest and the highest code, so its extremes alone do not tell the step. It knows groups of numbers, nothing of files.
"""

import torch
from torch import Tensor

MAX_CODE = 15
_SAMPLE = 64  # groups that tell whether it is worth looking at the others
_DIVISORS = (1, 2, 3, 4)  # the weight nearest to zero is most often one step away from it
# The weight of code 0, in steps. A float16 step times a power of two is a float16, too; times others it may not be.
_BASES = (-8, 0, -1, -2, -4, -16, *(-3, -5, -6, -7, -9, -10, -11, -12, -13, -14, -15))


def find_steps(weight: Tensor, tolerance: float = 0.0) -> Tensor:
    """The step [..., 1] of each group [..., n] of float32 weights, which are multiples of it within 15 steps; or 0.

    `tolerance`: how far a weight may be off, as a part of itself, because it was rounded. With 0 all must be exact.
    """
    groups = weight.reshape(-1, weight.shape[-1])
    smallest = groups.abs().masked_fill_(groups == 0, torch.inf).amin(-1, keepdim=True)
    steps = torch.zeros_like(smallest)
    left = torch.arange(len(groups), device=weight.device)
    if not bool((_try_steps(groups[:_SAMPLE], smallest[:_SAMPLE], tolerance) > 0).any()):  # weights that were floats
        left = left[:0]
    for divisor in _DIVISORS:
        if not len(left):
            break
        steps[left] = found = _try_steps(groups[left], smallest[left] / divisor, tolerance)
        left = left[found.flatten() == 0]
    return steps.view(*weight.shape[:-1], 1)


def find_float16_grid(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Step and minimum [..., 1] of each group [..., n] whose float32 weights are minimum + step * (0 … 15); or 0 and 0.

    The step is exact in float16, the minimum where there is one that is.
    """
    step = find_steps(weight)
    step = torch.where(step.half().float() == step, step, torch.zeros_like(step))
    low, high = (edge / step.clamp_min(1e-38) for edge in weight.aminmax(dim=-1, keepdim=True))
    minimum, undecided = weight.amin(-1, keepdim=True), step > 0
    for base in _BASES:
        if not bool(undecided.any()):
            break
        candidate = base * step
        exact = undecided & (low >= base) & (high <= base + MAX_CODE) & (candidate.half().float() == candidate)
        minimum, undecided = torch.where(exact, candidate, minimum), undecided & ~exact
    return step, torch.where(step > 0, minimum, torch.zeros_like(step))


def _try_steps(groups: Tensor, step: Tensor, tolerance: float) -> Tensor:
    """`step`, fitted to the weights where they are rounded, of the groups that it fits; 0 for others."""
    codes = (groups / step).round_()
    if tolerance:
        step = (groups * codes).sum(-1, keepdim=True) / codes.square().sum(-1, keepdim=True)
    low, high = codes.aminmax(dim=-1, keepdim=True)
    near = (codes * step - groups).abs() <= groups.abs() * tolerance
    return torch.where(near.all(-1, keepdim=True) & (high - low <= MAX_CODE), step, torch.zeros_like(step))
