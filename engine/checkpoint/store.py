"""A checkpoint as a table of named tensors, each made of rectangles that lie in files.

The formats differ only in how they fill the table. Here one place answers `copy_into` for all of them: which
rectangles a slice meets, rows in another RoPE order, and that no weight is NaN or infinite.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoint.reading import Extent, FileReader
from engine.checkpoint.spec import ModelSpec, tensor_shapes
from engine.errors import ConfigError
from engine.tokenizers.base import Tokenizer

_GROUP = 16 << 20  # weights reordered at a time


@dataclass(frozen=True, slots=True)
class Part:
    """A rectangle of a tensor whose corner is at (row, col); `data` is its place in a file, or a mapped tensor."""

    data: Extent | Tensor
    row: int = 0
    col: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        if isinstance(self.data, Extent):
            return self.data.rows, self.data.cols
        return self.data.shape[0], self.data.shape[1]


@dataclass(frozen=True, slots=True)
class Stored:
    """`halves` is the head size where the rows of each head come as two halves, not as interleaved pairs."""

    parts: tuple[Part, ...]
    where: Path
    halves: int | None = None


class StoredCheckpoint:
    """Implements `Checkpoint` over a table of stored tensors."""

    def __init__(
        self, path: Path, spec: ModelSpec, tensors: Mapping[str, Stored], make_tokenizer: Callable[[], Tokenizer]
    ) -> None:
        self.path, self.spec = path, spec
        self._tensors = tensors
        self._shapes = tensor_shapes(spec)
        self._make_tokenizer = make_tokenizer
        self._reader = FileReader()

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self._make_tokenizer()

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def close(self) -> None:
        self._reader.close()

    def copy_into(self, name: str, out: Tensor, *, dim: int | None = None, start: int = 0) -> None:
        if name == "output.weight" and self.spec.tied_embeddings:
            name = "tok_embeddings.weight"
        stored, shape = self._tensors[name], self._shapes[name]
        wanted = list(shape)
        if dim is not None:
            wanted[dim] = out.shape[dim]
        if list(out.shape) != wanted or (dim is not None and not 0 <= start <= shape[dim] - out.shape[dim]):
            raise ValueError(f"{name} is {shape}: no slice {tuple(out.shape)} at {start} along {dim}")
        matrix = out.detach().unsqueeze(-1) if out.dim() == 1 else out.detach()
        row, col = (0, start) if dim == 1 else (start, 0)
        self._expect_next_layer(name, row, matrix.shape[0])
        if stored.halves is not None:
            self._copy_interleaved(stored, stored.halves, matrix, row, col)
        else:
            self._copy(stored, matrix, row, col)
        if not _finite(matrix):
            where = self._not_finite(stored, matrix, row, col)
            raise ConfigError(where, expected="finite weights", found=f"NaN or infinity in {name}")

    def _expect_next_layer(self, name: str, row: int, rows: int) -> None:
        """The next layer's tensor of this name will be cut in the same way; the disk need not wait until it is asked.

        Without this the disk would idle whenever a tensor is nearly read, checked, or copied to the device.
        """
        match name.split(".", 2):
            case ["layers", layer, kind]:
                following = self._tensors.get(f"layers.{int(layer) + 1}.{kind}")
            case _:
                following = None
        for part in following.parts if following else ():
            top, bottom = max(row, part.row), min(row + rows, part.row + part.shape[0])
            if isinstance(part.data, Extent) and top < bottom:
                self._reader.prefetch(part.data, top - part.row, bottom - top)

    def _copy(self, stored: Stored, out: Tensor, row: int, col: int) -> None:
        """Fill `out`, whose corner is at (row, col) of the tensor, from every part that it meets."""
        for part in stored.parts:
            top, left = max(row, part.row), max(col, part.col)
            bottom = min(row + out.shape[0], part.row + part.shape[0])
            right = min(col + out.shape[1], part.col + part.shape[1])
            if top >= bottom or left >= right:
                continue
            target = out[top - row : bottom - row, left - col : right - col]
            if isinstance(part.data, Extent):
                self._reader.copy(part.data, target, row=top - part.row, col=left - part.col)
            else:
                rows, cols = slice(top - part.row, bottom - part.row), slice(left - part.col, right - part.col)
                target.copy_(part.data[rows, cols])

    def _not_finite(self, stored: Stored, filled: Tensor, row: int, col: int) -> Path:
        """The file that the trouble is in."""
        for part in stored.parts:
            top, left, bottom, right = (
                max(0, edge)
                for edge in (
                    part.row - row, part.col - col, part.row + part.shape[0] - row, part.col + part.shape[1] - col
                )
            )  # fmt: skip
            piece = filled[top:bottom, left:right]
            if isinstance(part.data, Extent) and piece.numel() and not _finite(piece):
                return part.data.path
        return stored.where

    def _copy_interleaved(self, stored: Stored, head: int, out: Tensor, row: int, col: int) -> None:
        """Rows i and i + head/2 of each head become rows 2i and 2i + 1; a few heads at a time are held beside `out`."""
        end, cols = row + out.shape[0], out.shape[1]
        group = head * max(1, _GROUP // (head * cols))
        for first in range(row - row % head, end, group):
            last = min(first + group, end + -end % head)
            halves = torch.empty(last - first, cols, dtype=out.dtype, device=out.device)
            self._copy(stored, halves, first, col)
            pairs = halves.view(-1, 2, head // 2, cols).transpose(1, 2).reshape(-1, cols)
            top, bottom = max(first, row), min(last, end)
            out[top - row : bottom - row].copy_(pairs[top - first : bottom - first])


def _finite(matrix: Tensor) -> bool:
    """Minimum and maximum carry NaN and infinity along: one pass over every weight where it now is, and no copy."""
    return bool(torch.isfinite(torch.stack(torch.aminmax(matrix))).all().item())
