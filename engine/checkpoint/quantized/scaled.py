"""FP8's and compressed-tensors' layout: codes for [outputs, inputs], and a grid of scales.

weight = (code - zero point) * scale, in float32. A scale belongs to the whole matrix, a row, a group of columns or
a block. A code is a number of eight bits, or of a few bits in a 32-bit word, where half its range is added to it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.checkpoint.quantized.bits import WORD, read_rectangle, unpack_columns, unpack_rows
from engine.checkpoint.quantized.grouped import read_groups
from engine.checkpoint.reading import Extent, FileReader


@dataclass(frozen=True, slots=True)
class ScaledLayout:
    """`block` is the rows and columns that share a scale. `packed_bits` is 0 where a code is a number of its own."""

    codes: Extent
    scales: Extent
    rows: int
    cols: int
    block: tuple[int, int]
    packed_bits: int = 0
    zeros: Extent | None = None
    packed_zeros: bool = False  # one below the other in words
    groups_of: Extent | None = None
    name: str = ""
    transposed: bool = False

    def decode(self, reader: FileReader, row: int, col: int, rows: int, cols: int, device: torch.device) -> Tensor:
        """See `Layout.decode`."""
        w = self._codes(reader, row, col, rows, cols, device).float()
        grid_row = torch.arange(row, row + rows, device=device) // self.block[0]
        if self.groups_of is None:
            grid_col = torch.arange(col, col + cols, device=device) // self.block[1]
        else:
            grid_col = read_groups(reader, self.groups_of, col, cols, self.scales.cols, self.name, device)
        top, bottom = int(grid_row[0]), int(grid_row[-1]) + 1

        def spread(grid: Tensor) -> Tensor:
            """One number for each weight; a single column is left to broadcasting."""
            of_rows = grid[grid_row - top]
            return of_rows if grid.shape[1] == 1 else of_rows[:, grid_col]

        if self.zeros is not None:
            w -= spread(self._zeros(reader, self.zeros, top, bottom - top, device)).float()
        scales = read_rectangle(reader, self.scales, top, 0, bottom - top, self.scales.cols, device)
        return w.mul_(spread(scales.float()))

    def _codes(self, reader: FileReader, row: int, col: int, rows: int, cols: int, device: torch.device) -> Tensor:
        if not self.packed_bits:
            return read_rectangle(reader, self.codes, row, col, rows, cols, device)
        per_word = WORD // self.packed_bits
        first, last = col // per_word, -(-(col + cols) // per_word)
        words = read_rectangle(reader, self.codes, row, first, rows, last - first, device)
        unpacked = unpack_columns(words, self.packed_bits)[:, col - first * per_word :][:, :cols]
        return unpacked - (1 << (self.packed_bits - 1))

    def _zeros(self, reader: FileReader, zeros: Extent, top: int, count: int, device: torch.device) -> Tensor:
        if not self.packed_zeros:
            return read_rectangle(reader, zeros, top, 0, count, zeros.cols, device)
        per_word = WORD // self.packed_bits
        first, last = top // per_word, -(-(top + count) // per_word)
        words = read_rectangle(reader, zeros, first, 0, last - first, zeros.cols, device)
        unpacked = unpack_rows(words, self.packed_bits)[top - first * per_word :][:count]
        return unpacked - (1 << (self.packed_bits - 1))
