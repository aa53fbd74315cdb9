"""Whether kernels run in Triton's interpreter, which has no inline assembly: on a CPU, for the tests."""

from __future__ import annotations

import os

import triton.language as tl

INTERPRETED: tl.constexpr = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
