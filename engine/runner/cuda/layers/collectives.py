"""The collectives of a step over several GPUs: sums of partial results, the logits' columns, the sampled ids.

It owns the shared buffers and numbers the collectives; `engine/kernels/collectives` does the work. Every rank calls
the same collectives in the same order, as all ranks run the same steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from engine.distributed.symmetric_memory import SymmetricMemory, aligned_size
from engine.kernels.collectives.all_reduce import all_reduce
from engine.kernels.collectives.packets import all_reduce_row
from engine.kernels.collectives.sampling import broadcast_ids, gather_logits
from engine.kernels.collectives.two_shot_all_reduce import two_shot_all_reduce
from engine.kernels.linear.gemv import Push

# Bytes -> shared memory of that size, or None where the ranks cannot share memory. All ranks call it together.
ArenaFactory: TypeAlias = Callable[[int], SymmetricMemory | None]


class Collectives:
    """For steps of up to `max_tokens` tokens of width `dim` and `max_samples` samples of `columns` logits a rank."""

    @classmethod
    def create(
        cls,
        create_arena: ArenaFactory,
        *,
        world_size: int,
        max_tokens: int,
        dim: int,
        max_samples: int,
        columns: int,
        dtype: torch.dtype,
        pdl: bool,
    ) -> Collectives | None:
        """Collectives in a new arena, or None where the ranks cannot share memory."""
        buffer_bytes = (
            *(max_tokens * dim * dtype.itemsize,) * 4,
            *(world_size * dim * 8,) * 2,
            max_samples * columns * 4,
            max_samples * 4,
        )
        memory = create_arena(sum(map(aligned_size, buffer_bytes)))
        if memory is None:
            return None
        return cls(
            memory, max_tokens=max_tokens, dim=dim, max_samples=max_samples, columns=columns, dtype=dtype, pdl=pdl
        )

    def __init__(
        self,
        memory: SymmetricMemory,
        *,
        max_tokens: int,
        dim: int,
        max_samples: int,
        columns: int,
        dtype: torch.dtype,
        pdl: bool,
    ) -> None:
        self._memory, self._pdl, self._columns, self._dim = memory, pdl, columns, dim
        self.rank, self.count = memory.rank, 0  # count: of this step's collectives so far
        # Two of each, used alternately, so that no rank overwrites what another is still reading.
        self._partial_sums = [memory.allocate((max_tokens, dim), dtype) for _ in range(2)]
        self._h, self._x = (memory.allocate((max_tokens, dim), dtype) for _ in range(2))
        self._inboxes = [memory.allocate((memory.world_size, dim), torch.int64) for _ in range(2)]
        self._logits = memory.allocate((max_samples * columns,), torch.float32)
        self._ids = memory.allocate((max_samples,), torch.int32)
        self._row_partial_sum = torch.zeros(dim, dtype=torch.float32, device=memory.epoch.device)

    @property
    def epoch(self) -> Tensor:
        """int32 [1]: collectives of all earlier steps."""
        return self._memory.epoch

    def begin_step(self) -> None:
        """Number the collectives from 1 again."""
        self.count = 0

    @property
    def h(self) -> Tensor:
        """[max_tokens, dim]: the residual stream, which `two_shot_all_reduce` adds to."""
        return self._h[self.rank]

    @property
    def x(self) -> Tensor:
        """[max_tokens, dim]: the next product's input, the residual stream normalized or scaled."""
        return self._x[self.rank]

    @property
    def partial_sum(self) -> Tensor:
        """[max_tokens, dim]: where this rank puts its part of the next `all_reduce`."""
        return self._partial_sums[self.count % 2][self.rank]

    def all_reduce(
        self, h: Tensor, gain: Tensor, tokens: int, *, out: Tensor | None = None, squares: Tensor | None = None,
        eps: float = 0.0,
    ) -> int:  # fmt: skip
        """h [tokens, dim] += all ranks' partial sums. `out`, `squares`, result: see the kernel's `all_reduce`."""
        partial_sums = self._partial_sums[self.count % 2]
        self.count += 1
        return all_reduce(
            self._memory, partial_sums, h, gain, tokens, self.count, out=out, squares=squares, eps=eps, pdl=self._pdl
        )

    def two_shot_all_reduce(self, gain: Tensor, tokens: int, *, norm: bool, whole: bool, eps: float) -> None:
        """self.h [tokens, dim] += all ranks' partial sums, and with `norm` self.x = norm(self.h), on all ranks.

        All calls of a step have the same number of tokens: without `whole`, a rank's h is right only for those it sums.
        """
        partial_sums = self._partial_sums[self.count % 2]
        self.count += 2
        two_shot_all_reduce(
            self._memory, partial_sums, self._h, gain, tokens, self.count - 1, out=self._x if norm else None,
            whole=whole, eps=eps, pdl=self._pdl,
        )  # fmt: skip

    @property
    def row_partial_sum(self) -> Tensor:
        """float32 [1, dim]: where this rank puts its part of the next `all_reduce_row`."""
        return self._row_partial_sum[None]

    @property
    def push(self) -> Push:
        """Where the GEMV sends that part to the other ranks."""
        return Push(self._inboxes[self.count % 2], self.epoch, self.count + 1, self.rank)

    def all_reduce_row(self, h: Tensor) -> None:
        """h [1, dim] += all ranks' parts, which their GEMVs have pushed."""
        inboxes = self._inboxes[self.count % 2]
        self.count += 1
        all_reduce_row(self._memory, self._row_partial_sum, inboxes, h, self.count, pdl=self._pdl)

    def local_logits(self, samples: int, columns: int) -> Tensor:
        """[samples, columns]: where this rank puts its columns of the logits."""
        return self._logits[self.rank][: samples * columns].view(samples, columns)

    def gather_logits(self, out: Tensor, samples: int) -> None:
        """On rank 0, out [samples, vocab] = all ranks' logits."""
        self.count += 1
        gather_logits(self._memory, self._logits, out, samples, self._columns, self.count, pdl=self._pdl)

    @property
    def ids(self) -> Tensor:
        """int32 [max_samples]: where rank 0 puts the sampled ids."""
        return self._ids[self.rank]

    def broadcast_ids(self, out: Tensor) -> None:
        """out = rank 0's `ids`, on every rank."""
        self.count += 1
        broadcast_ids(self._memory, self._ids, out, out.shape[0], self.count, pdl=self._pdl)
