"""How many tokens of a prompt one program of the chunk attention takes. Host and kernel must agree on it."""

from __future__ import annotations

from engine.kernels.attention.attention_rules import LARGE_HEAD
from engine.runner.cuda.batch.input_batch import BatchShape


def query_block(shape: BatchShape, *, gpu: bool, head_dim: int) -> int:
    """Prefill tokens that one program of the chunk attention takes.

    A step is recorded with as many programs as its chunks could ever need, and most of them find no work. Larger blocks
    are faster, but so large that only one program fits a multiprocessor at a time. With few tokens, the idle programs
    would then take longer than the work. Large heads fill registers and shared memory with fewer queries.
    """
    if gpu:
        return 64 if shape.num_prefill_tokens <= 128 or head_dim > LARGE_HEAD else 128
    return 16 if shape.num_prefill_tokens <= 16 else 32
