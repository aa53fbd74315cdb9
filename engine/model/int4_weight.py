"""4-bit weights for GPUs: 4.5 or 5 bits a weight with the groups' scales, stored in the order the matrix unit reads.

A group is 32 columns of a row: w = row_scale * (scale * (code - zero) + offset) with code 0 … 15 and row_scale a power
of two. Three formats say what a group stores:

- SCALE: scale as float16; zero is 8, offset 0 (GGUF's Q4_0, symmetric GPTQ).
- ZERO: 16 bits that are scale as float16, but for the low 4 bits, which are zero. Weights that we round have it.
- OFFSET: scale and offset as float16; zero is 8 (GGUF's Q4_1 and Q4_K, AWQ, other GPTQ).

Layout: a matrix is padded to whole tiles of 8 rows and 256 columns. `words` int16 [row tiles, column tiles, 2, 8, 32]:
word m of half h and row r has 4 codes, bits [4 * p, 4 * p + 4) of it being column h * 128 + p * 32 + COLUMN_OF_WORD[m]
of the tile. So a thread of a warp that reads 8 words, as its 16 bytes, holds just the pairs of columns that are its
part of a tensor core's operand: nothing is exchanged between threads. `groups` int32 [row tiles, column tiles, planes,
8, 4]: two groups of a row each, the first in the low half; plane 0 has the scales, plane 1 the offsets.

This module knows tensors, no kernels; `int4_groups` finds the groups.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.int4_groups import GROUP, OFFSET, ZERO, find_groups, has_codes
from engine.model.quantized_weight import QuantizedWeight, row_chunks

TILE_ROWS: Final = 8
TILE_COLUMNS: Final = 256
_TILE_GROUPS: Final = TILE_COLUMNS // GROUP
_MERGED_CHUNKS: Final = 4  # rounded at once: for fewer rows, launching the kernels would take longer than running them
# Thread t of the four that share a row holds the columns 2t and 2t + 1 of each 8.
COLUMN_OF_WORD: Final = tuple(8 * pair + 2 * thread + bit for thread in range(4) for pair in range(4) for bit in (0, 1))


class Int4Weight(QuantizedWeight):
    """`words` and `groups` as above, `format` of all groups. `scales`: float32 [rows], powers of two."""

    bits = 4

    def __init__(self, weight: Tensor) -> None:
        """`weight` [rows, columns], kept as it is where it was 4-bit codes, else rounded."""
        super().__init__()
        self.shape = weight.shape
        found = [find_groups(_padded(weight[rows]), coded=coded) for rows, coded in _parts(weight)]
        formats = {each.format for each in found}
        self.format = OFFSET if len(formats) > 1 else formats.pop()
        found = [each.converted(self.format) for each in found]
        self.register_buffer("words", torch.cat([_words(each.codes) for each in found]))
        self.register_buffer("scales", torch.cat([each.row_scales for each in found])[: len(weight)].clone())
        self.register_buffer("groups", torch.cat([_group_words(torch.stack(each.planes())) for each in found]))

    @property
    def planes(self) -> int:
        """16-bit numbers of a group."""
        return 2 if self.format == OFFSET else 1

    def dequantize(self) -> Tensor:
        """The matrix in float32, [rows, columns]."""
        rows, columns = self.shape
        order = torch.tensor(COLUMN_OF_WORD, device=self.words.device).argsort()
        words = self.words[..., order].int()
        codes = torch.stack([(words >> 4 * part) & 15 for part in range(4)], 3)  # [rows, columns, half, part, 8, 32]
        codes = codes.permute(0, 4, 1, 2, 3, 5).reshape(-1, self.words.shape[1] * _TILE_GROUPS, GROUP).float()
        scale, zero, offset = (each[..., None].float() for each in self._group_terms())
        w = (codes - zero) * scale + offset
        return w.reshape(len(w), -1)[:rows, :columns] * self.scales[:, None]

    def add_offsets(self) -> None:
        """Change the format to OFFSET, with the same weights."""
        if self.format != OFFSET:
            scale, zero, _ = self._group_terms()
            offset = ((8 - zero) * scale.float()).half()
            self.groups = _group_words(torch.stack((scale.view(torch.int16), offset.view(torch.int16))))
            self.format = OFFSET

    def _group_terms(self) -> tuple[Tensor, Tensor, Tensor]:
        """(scale float16, zero int16, offset float16) of each group [padded rows, groups]."""
        pairs = torch.stack((self.groups, self.groups >> 16), -1).flatten(-2).to(torch.int16)
        planes = pairs.permute(2, 0, 3, 1, 4).reshape(self.planes, len(pairs) * TILE_ROWS, -1)
        scale, zero = planes[0], torch.full_like(planes[0], 8)
        if self.format == ZERO:
            scale, zero = scale & -16, scale & 15
        offset = planes[1] if self.format == OFFSET else torch.zeros_like(scale)
        return scale.view(torch.float16), zero, offset.view(torch.float16)


def num_tiles(rows: int, columns: int) -> tuple[int, int]:
    """Tiles of a matrix: of rows, of columns."""
    return -(-rows // TILE_ROWS), -(-columns // TILE_COLUMNS)


def int4_bytes(rows: int, columns: int) -> int:
    """Bytes of an `Int4Weight`'s buffers where a group stores 16 bits."""
    row_tiles, column_tiles = num_tiles(rows, columns)
    return 4 * rows + row_tiles * column_tiles * TILE_ROWS * (TILE_COLUMNS // 2 + _TILE_GROUPS * 2)


def _parts(weight: Tensor) -> list[tuple[slice, bool]]:
    """Rows to quantize at a time, and whether they have a file's codes. Adjacent chunks without codes are merged."""
    parts: list[tuple[slice, bool]] = []
    num_merged = 0
    for chunk in row_chunks(weight):
        coded = has_codes(_padded(weight[chunk]))
        if parts and not coded and not parts[-1][1] and num_merged < _MERGED_CHUNKS:
            parts[-1] = (slice(parts[-1][0].start, chunk.stop), False)
            num_merged += 1
        else:
            parts.append((chunk, coded))
            num_merged = 1
    return parts


def _padded(weight: Tensor) -> Tensor:
    """[rows, columns] -> [whole tiles of rows, groups, GROUP]."""
    rows, columns = weight.shape
    missing = (0, -columns % TILE_COLUMNS, 0, -rows % TILE_ROWS)
    padded = F.pad(weight, missing) if any(missing) else weight.contiguous()
    return padded.view(len(padded), -1, GROUP)


def _words(codes: Tensor) -> Tensor:
    """uint8 codes [rows, groups, GROUP] -> words."""
    order = torch.tensor(COLUMN_OF_WORD, device=codes.device)
    tiles = codes.view(-1, TILE_ROWS, codes.shape[1] // _TILE_GROUPS, 2, 4, GROUP)[..., order].int()
    words = tiles[..., 0, :] | tiles[..., 1, :] << 4 | tiles[..., 2, :] << 8 | tiles[..., 3, :] << 12
    return (words << 16 >> 16).to(torch.int16).permute(0, 2, 3, 1, 4).contiguous()


def _group_words(planes: Tensor) -> Tensor:
    """int16 [planes, rows, groups] -> groups."""
    pairs = planes.view(len(planes), -1, TILE_ROWS, planes.shape[2] // _TILE_GROUPS, 4, 2).int()
    return ((pairs[..., 0] & 0xFFFF) | pairs[..., 1] << 16).permute(1, 3, 0, 2, 4).contiguous()
