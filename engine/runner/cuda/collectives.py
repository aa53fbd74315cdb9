"""Where several GPUs meet in a step: sums of what each has computed, the logits' columns, the sampled ids.

Holds what they exchange and counts the sites; `kernels/exchange.py` does it. Every rank passes the same sites in the
same order, as all run the same steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from engine.distributed.symmetric_memory import SymmetricMemory, aligned_size
from engine.kernels import all_reduce as kernels
from engine.kernels.gemv import Push

ArenaFactory: TypeAlias = Callable[
    [int], SymmetricMemory | None
]  # bytes -> an exchange with so much room, if the ranks can have one


class Collectives:
    """`most` tokens in a step, `samples` rows of logits of `width` columns on each rank."""

    @classmethod
    def create(
        cls,
        create_arena: ArenaFactory,
        *,
        ranks: int,
        most: int,
        dim: int,
        samples: int,
        width: int,
        dtype: torch.dtype,
        pdl: bool,
    ) -> Collectives | None:
        parts = (most * dim * dtype.itemsize,) * 2 + (ranks * dim * 8,) * 2 + (samples * width * 4, samples * 4)
        exchange = create_arena(sum(map(aligned_size, parts)))
        if exchange is None:
            return None
        return cls(exchange, most=most, dim=dim, samples=samples, width=width, dtype=dtype, pdl=pdl)

    def __init__(
        self, exchange: SymmetricMemory, *, most: int, dim: int, samples: int, width: int, dtype: torch.dtype, pdl: bool
    ) -> None:
        self._memory, self._pdl, self._width, self._dim = exchange, pdl, width, dim
        self.rank, self.site = exchange.rank, 0
        self._deltas = [exchange.allocate((most, dim), dtype) for _ in range(2)]
        self._boxes = [exchange.allocate((exchange.world_size, dim), torch.int64) for _ in range(2)]
        self._logits = exchange.allocate((samples * width,), torch.float32)
        self._ids = exchange.allocate((samples,), torch.int32)
        self._own = torch.zeros(dim, dtype=torch.float32, device=exchange.epoch.device)

    @property
    def epoch(self) -> Tensor:
        return self._memory.epoch

    def begin_step(self) -> None:
        """A step begins."""
        self.site = 0

    @property
    def partial_sum(self) -> Tensor:
        """[most, dim]: this rank's share of the next sum."""
        return self._deltas[self.site % 2][self.rank]

    def all_reduce(
        self, h: Tensor, gain: Tensor, tokens: int, *, out: Tensor | None = None, squares: Tensor | None = None,
        eps: float = 0.0,
    ) -> None:  # fmt: skip
        """h += all ranks' `delta`; and what the next product reads."""
        deltas = self._deltas[self.site % 2]
        self.site += 1
        kernels.all_reduce(
            self._memory, deltas, h, gain, tokens, self.site, out=out, squares=squares, eps=eps, pdl=self._pdl
        )

    @property
    def row_partial_sum(self) -> Tensor:
        """[1, dim]: for one row, this rank's share of the next sum, in 32 bits."""
        return self._own[None]

    @property
    def push(self) -> Push:
        """And where the others get it."""
        return Push(self._boxes[self.site % 2], self.epoch, self.site + 1, self.rank)

    def all_reduce_row(self, h: Tensor) -> None:
        """h += all ranks' shares that were pushed."""
        boxes = self._boxes[self.site % 2]
        self.site += 1
        kernels.all_reduce_row(self._memory, self._own, boxes, h, self.site, pdl=self._pdl)

    def logits(self, rows: int, columns: int) -> Tensor:
        """[rows, columns]: this rank's part of the logits."""
        return self._logits[self.rank][: rows * columns].view(rows, columns)

    def gather_logits(self, out: Tensor, rows: int) -> None:
        """On rank 0: the logits of all ranks."""
        self.site += 1
        kernels.gather_logits(self._memory, self._logits, out, rows, self._width, self.site, pdl=self._pdl)

    @property
    def ids(self) -> Tensor:
        """Where rank 0 samples to."""
        return self._ids[self.rank]

    def broadcast_ids(self, out: Tensor) -> None:
        """Rank 0's `ids` on every rank."""
        self.site += 1
        kernels.broadcast_ids(self._memory, self._ids, out, out.shape[0], self.site, pdl=self._pdl)
