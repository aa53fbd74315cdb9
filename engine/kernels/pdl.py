"""Programmatic dependent launch (PTX `griddepcontrol`): a kernel starts while the kernel before it still runs.

Every kernel here keeps one rule: only after `grid_wait` does it read what the kernel before it wrote, and only after
`grid_wait` does it write anything; `launch_dependents` comes after `grid_wait`. So when a kernel starts, all kernels
before its predecessor are complete, and weights, page tables and the cached keys of earlier steps can be loaded before
`grid_wait`. A program without work may return without waiting, as long as another program of its kernel waits.

One exception relies on just that guarantee: the value projection in `fused_decode.py` needs nothing of the kernel
before it, and does not wait.

Where the hardware lacks the feature, and in Triton's interpreter, PDL is False and both functions do nothing.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl


@triton.jit
def grid_wait(PDL: tl.constexpr):
    """Wait until the preceding kernels are complete and what they wrote is visible (`griddepcontrol.wait`)."""
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def launch_dependents(PDL: tl.constexpr):
    """Let the next kernel's programs start where ours leave room (`griddepcontrol.launch_dependents`)."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


def supported(device: torch.device) -> bool:
    """Whether the device has the feature (Hopper and later). GUILDLLAMA_PDL=0 turns it off, for comparisons."""
    if device.type != "cuda" or os.environ.get("GUILDLLAMA_PDL", "1") == "0":
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)
