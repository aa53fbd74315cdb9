"""Programmatic dependent launch: a kernel starts while its predecessor still runs, and waits before it touches data.

The rule all kernels here keep: whatever an earlier kernel wrote is read, and anything at all is written, after `wait`;
`release` comes after `wait`. So when a kernel starts, everything up to its predecessor's predecessor is complete, and
weights, page tables and the cached keys of earlier steps may be fetched at once. One exception leans on just that: the
values' programs in `one_row.py` need nothing of the kernel before them, and do not wait. A program that finds nothing
to do may leave without waiting, as long as another of its kernel does wait. Without the feature, and in Triton's
interpreter, PDL is False and both are nothing.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl


@triton.jit
def grid_wait(PDL: tl.constexpr):
    """Everything the preceding kernels wrote is visible after this."""
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def launch_dependents(PDL: tl.constexpr):
    """The next kernel may begin to start: its programs fill the places that ours leave free."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


def supported(device: torch.device) -> bool:
    """Hopper and later can; GUILDLLAMA_PDL=0 turns it off for comparisons."""
    if device.type != "cuda" or os.environ.get("GUILDLLAMA_PDL", "1") == "0":
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)
