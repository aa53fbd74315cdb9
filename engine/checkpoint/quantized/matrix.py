"""A matrix of which any rectangle can be decoded from quantized tensors, a few million weights at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from engine.checkpoint.reading import Extent, FileReader

_CHUNK_WEIGHTS = 1 << 22  # decoded at a time, which bounds the memory beside the destination


class Layout(Protocol):
    """How the tensors of one quantized matrix [rows, cols] are laid out."""

    @property
    def rows(self) -> int:
        """Outputs of the layer."""
        ...

    @property
    def cols(self) -> int:
        """Inputs of the layer."""
        ...

    @property
    def codes(self) -> Extent:
        """The tensor that holds the weights themselves."""
        ...

    @property
    def transposed(self) -> bool:
        """Whether a row of `codes` holds all outputs for one or a few inputs, so that inputs are read in order."""
        ...

    def decode(self, reader: FileReader, row: int, col: int, rows: int, cols: int, device: torch.device) -> Tensor:
        """The weights [rows, cols] at (row, col) in float32, on `device`. ConfigError if they cannot be read."""
        ...


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """`rows` of a layout's rows, from `first_row` on: the whole matrix, or a part of a fused one."""

    layout: Layout
    rows: int
    first_row: int = 0

    @property
    def cols(self) -> int:
        """Columns."""
        return self.layout.cols

    @property
    def path(self) -> Path:
        """The file that errors name."""
        return self.layout.codes.path

    def row_range(self, first: int, rows: int) -> "QuantizedMatrix":
        """The matrix of some of its rows."""
        return replace(self, first_row=self.first_row + first, rows=rows)

    def copy(self, reader: FileReader, out: Tensor, *, row: int = 0, col: int = 0) -> None:
        """Fill the matrix `out`, of any float dtype and on any device, with the rectangle at (row, col)."""
        along = 1 if self.layout.transposed else 0
        for first, count in _chunks(out.shape, along):
            target = out.narrow(along, first, count)
            top, left = (row, col + first) if along else (row + first, col)
            rows, cols = target.shape
            with torch.inference_mode():
                target.copy_(self.layout.decode(reader, self.first_row + top, left, rows, cols, out.device))

    def prefetch(self, reader: FileReader, row: int, rows: int) -> None:
        """Start reading these rows into the page cache."""
        codes = self.layout.codes
        if self.layout.transposed:  # a part of each row, which cannot be asked for alone
            reader.prefetch(codes, 0, codes.rows)
        else:
            reader.prefetch(codes, self.first_row + row, rows)


def _chunks(shape: Sequence[int], along: int) -> list[tuple[int, int]]:
    step = max(128, _CHUNK_WEIGHTS // max(1, shape[1 - along]) // 128 * 128)
    return [(first, min(step, shape[along] - first)) for first in range(0, shape[along], step)]
