"""Codes of a few bits in 32-bit words, the lowest bits first."""

import torch
from torch import Tensor

from engine.checkpoint.reading import Extent, FileReader

WORD = 32  # bits
# A word of AWQ holds columns 0, 2, 4, 6, 1, 3, 5, 7 of eight; AWQ_PLACES[c] is column c's place.
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


def unpack_columns(words: Tensor, bits: int, places: tuple[int, ...] | None = None) -> Tensor:
    """int32 words [rows, n] -> codes [rows, n * 32 / bits]; column i of a word is at `places[i]`, by default at i."""
    shifts = torch.tensor(places or range(WORD // bits), dtype=torch.int32, device=words.device) * bits
    return ((words[:, :, None] >> shifts) & ((1 << bits) - 1)).flatten(1)


def unpack_rows(words: Tensor, bits: int) -> Tensor:
    """int32 words [n, columns], whose codes are one below the other -> codes [n * 32 / bits, columns]."""
    shifts = torch.arange(WORD // bits, dtype=torch.int32, device=words.device) * bits
    return ((words[:, None, :] >> shifts[:, None]) & ((1 << bits) - 1)).flatten(0, 1)


def read_rectangle(
    reader: FileReader, extent: Extent, row: int, col: int, rows: int, cols: int, device: torch.device
) -> Tensor:
    """The rectangle at (row, col), as it is stored."""
    stored = torch.empty(rows, cols, dtype=extent.encoding.dtype, device=device)
    reader.copy(extent, stored, row=row, col=col)
    return stored
