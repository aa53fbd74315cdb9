"""GPTQ's and AWQ's layout: codes for [inputs, outputs], a scale and a zero point for each group of inputs and output.

weight = (code - zero point) * scale, in float32. GPTQ packs a word from consecutive inputs, AWQ from eight outputs in
an order of its own. `groups_of`, GPTQ's g_idx, names each input's group; without it groups are consecutive inputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.checkpoint.quantized.bits import AWQ_PLACES, WORD, read_rectangle, unpack_columns, unpack_rows
from engine.checkpoint.reading import Extent, FileReader
from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class GroupedLayout:
    """`zero_offset` is added to stored zero points, within their bits: 1 in GPTQ's first format, else 0."""

    codes: Extent
    zeros: Extent
    scales: Extent
    rows: int
    cols: int
    bits: int
    group_size: int
    awq: bool = False
    zero_offset: int = 0
    groups_of: Extent | None = None
    name: str = ""
    transposed: bool = True

    def decode(self, reader: FileReader, row: int, col: int, rows: int, cols: int, device: torch.device) -> Tensor:
        """See `Layout.decode`."""
        groups = self._groups(reader, col, cols, device)
        first = int(groups.min())
        count = int(groups.max()) + 1 - first
        q = self._codes(reader, row, col, rows, cols, device)
        zeros = self._zeros(reader, first, count, row, rows, device)
        scales = read_rectangle(reader, self.scales, first, row, count, rows, device).float()
        return ((q - zeros[groups - first]).float() * scales[groups - first]).t()

    def _codes(self, reader: FileReader, row: int, col: int, rows: int, cols: int, device: torch.device) -> Tensor:
        """int32 [cols, rows]."""
        if self.awq:
            return self._outputs(reader, self.codes, col, cols, row, rows, device)
        per_word = WORD // self.bits
        first, last = col // per_word, -(-(col + cols) // per_word)
        words = read_rectangle(reader, self.codes, first, row, last - first, rows, device)
        return unpack_rows(words, self.bits)[col - first * per_word :][:cols]

    def _zeros(self, reader: FileReader, first: int, count: int, row: int, rows: int, device: torch.device) -> Tensor:
        zeros = self._outputs(reader, self.zeros, first, count, row, rows, device)
        return (zeros + self.zero_offset) & ((1 << self.bits) - 1)

    def _outputs(
        self, reader: FileReader, extent: Extent, first: int, count: int, row: int, rows: int, device: torch.device
    ) -> Tensor:
        """Codes [count, rows] of some outputs, from words that pack outputs."""
        per_word = WORD // self.bits
        left, right = row // per_word, -(-(row + rows) // per_word)
        words = read_rectangle(reader, extent, first, left, count, right - left, device)
        unpacked = unpack_columns(words, self.bits, AWQ_PLACES if self.awq else None)
        return unpacked[:, row - left * per_word :][:, :rows]

    def _groups(self, reader: FileReader, col: int, cols: int, device: torch.device) -> Tensor:
        """The group of each input, int64 [cols]."""
        if self.groups_of is None:
            return torch.arange(col, col + cols, device=device) // self.group_size
        return read_groups(reader, self.groups_of, col, cols, self.scales.rows, self.name, device)


def read_groups(
    reader: FileReader, extent: Extent, col: int, cols: int, groups: int, name: str, device: torch.device
) -> Tensor:
    """The group of each input; ConfigError if there is none of that number."""
    found = read_rectangle(reader, extent, col, 0, cols, 1, device).flatten().long()
    low, high = (int(each) for each in torch.aminmax(found))
    if low < 0 or high >= groups:
        raise ConfigError(
            extent.path, expected=f"{name} with groups 0 to {groups - 1}", found=f"group {low if low < 0 else high}"
        )
    return found
