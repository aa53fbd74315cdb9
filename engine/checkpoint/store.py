"""`copy_into` for all formats, over a table of named tensors whose parts are stored in files.

Each format fills the table. This module finds the parts that a slice overlaps, converts the RoPE row order and checks
that every weight is finite. It does not know how bytes are read (`reading`) or which format they came from.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoint.files import check_vocab_size
from engine.checkpoint.quantized.matrix import QuantizedMatrix
from engine.checkpoint.reading import Extent, FileReader
from engine.checkpoint.spec import ModelSpec, tensor_shapes
from engine.errors import ConfigError
from engine.tokenizers.base import Tokenizer

_INTERLEAVE_CHUNK = 4 << 20  # weights reordered at a time, which bounds the memory beside the destination


@dataclass(frozen=True, slots=True)
class TensorPart:
    """A rectangle of a tensor with its top left corner at (row, col), stored in files or held as a mapped tensor."""

    source: Extent | QuantizedMatrix | Tensor
    row: int = 0
    col: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the rectangle."""
        if isinstance(self.source, Tensor):
            return self.source.shape[0], self.source.shape[1]
        return self.source.rows, self.source.cols


@dataclass(frozen=True, slots=True)
class Halves:
    """The first `rotary_dim` of each head's `head_dim` rows are in Hugging Face's order; the others are not rotated."""

    head_dim: int
    rotary_dim: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """The parts that make up one tensor; a vector is a matrix of one column.

    `path` is the file or directory that errors name. `halves` is set if the rows of each head are in Hugging Face's
    order (first half, second half, for RoPE by `rotate_half`), None if they are in Meta's (interleaved pairs).
    `offset` is added to what is stored.
    """

    parts: tuple[TensorPart, ...]
    path: Path
    halves: Halves | None = None
    offset: float = 0.0


class StoredCheckpoint:
    """Implements `Checkpoint` over a table of stored tensors, one for each name in `tensor_shapes(spec)`."""

    def __init__(
        self, path: Path, spec: ModelSpec, tensors: Mapping[str, StoredTensor], make_tokenizer: Callable[[], Tokenizer]
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
        """The model's tokenizer, built on the first call."""
        return self._tokenizer

    def fit_vocabulary(self, source: Path, *, padded: bool = False) -> None:
        """ConfigError naming `source` unless the tokenizer fits the embeddings; it then notes the padding."""
        tokenizer, rows = self.tokenizer(), self.spec.vocab_size
        check_vocab_size(source, embeddings=rows, tokenizer=tokenizer.vocab_size, padded=padded)
        padding = {*tokenizer.padding_ids, *range(tokenizer.vocab_size, rows)}
        self.spec = replace(self.spec, padding_ids=tuple(sorted(padding)))

    def close(self) -> None:
        """Close the files and stop the reader threads."""
        self._reader.close()

    def copy_into(self, name: str, out: Tensor, *, dim: int | None = None, start: int = 0) -> None:
        """See `Checkpoint.copy_into`. For tied embeddings, `output.weight` reads the embedding matrix."""
        if name == "output.weight" and self.spec.tied_embeddings:
            name = "tok_embeddings.weight"
        stored, shape = self._tensors[name], self._shapes[name]
        slice_shape = list(shape)
        if dim is not None:
            slice_shape[dim] = out.shape[dim]
        if list(out.shape) != slice_shape or (dim is not None and not 0 <= start <= shape[dim] - out.shape[dim]):
            raise ValueError(f"{name} is {shape}: no slice {tuple(out.shape)} at {start} along {dim}")
        matrix = out.detach().unsqueeze(-1) if out.dim() == 1 else out.detach()
        row, col = (0, start) if dim == 1 else (start, 0)
        self._prefetch_next_layer(name, row, matrix.shape[0])
        if stored.halves is not None:
            self._copy_interleaved(stored, stored.halves, matrix, row, col)
        else:
            self._copy(stored, matrix, row, col)
        if stored.offset:
            matrix.add_(stored.offset)
        if not _all_finite(matrix):
            file = self._find_bad_file(stored, matrix, row, col)
            raise ConfigError(file, expected="finite weights", found=f"NaN or infinity in {name}")

    def _prefetch_next_layer(self, name: str, row: int, rows: int) -> None:
        """Start reading the same rows of the next layer's tensor into the page cache.

        Layers are loaded in order and split alike. Without this the disk would idle at the end of each tensor, and
        while weights are checked and copied to the device.
        """
        match name.split(".", 2):
            case ["layers", layer, kind]:
                next_tensor = self._tensors.get(f"layers.{int(layer) + 1}.{kind}")
            case _:
                next_tensor = None
        for part in next_tensor.parts if next_tensor else ():
            top, bottom = max(row, part.row), min(row + rows, part.row + part.shape[0])
            if top < bottom and not isinstance(part.source, Tensor):
                part.source.prefetch(self._reader, top - part.row, bottom - top)

    def _copy(self, stored: StoredTensor, out: Tensor, row: int, col: int) -> None:
        """Fill `out`, the rectangle at (row, col) of the tensor, from every part that overlaps it."""
        for part in stored.parts:
            top, left = max(row, part.row), max(col, part.col)
            bottom = min(row + out.shape[0], part.row + part.shape[0])
            right = min(col + out.shape[1], part.col + part.shape[1])
            if top >= bottom or left >= right:
                continue
            target = out[top - row : bottom - row, left - col : right - col]
            if isinstance(part.source, Tensor):
                rows, cols = slice(top - part.row, bottom - part.row), slice(left - part.col, right - part.col)
                target.copy_(part.source[rows, cols])
            else:
                part.source.copy(self._reader, target, row=top - part.row, col=left - part.col)

    def _find_bad_file(self, stored: StoredTensor, filled: Tensor, row: int, col: int) -> Path:
        """The file whose part of `filled`, the rectangle at (row, col), is not finite."""
        for part in stored.parts:
            top, left, bottom, right = (
                max(0, edge)
                for edge in (
                    part.row - row, part.col - col, part.row + part.shape[0] - row, part.col + part.shape[1] - col
                )
            )  # fmt: skip
            piece = filled[top:bottom, left:right]
            if not isinstance(part.source, Tensor) and piece.numel() and not _all_finite(piece):
                return part.source.path
        return stored.path

    def _copy_interleaved(self, stored: StoredTensor, halves: Halves, out: Tensor, row: int, col: int) -> None:
        """As `_copy`, but rows i and i + rotary_dim / 2 of each head become 2i and 2i + 1; done in groups of heads."""
        end, cols, head_dim, rotary_dim = row + out.shape[0], out.shape[1], halves.head_dim, halves.rotary_dim
        group = head_dim * max(1, _INTERLEAVE_CHUNK // (head_dim * cols))
        for first in range(row - row % head_dim, end, group):
            last = min(first + group, end + -end % head_dim)
            rows = torch.empty(last - first, cols, dtype=out.dtype, device=out.device)
            self._copy(stored, rows, first, col)
            heads = rows.view(-1, head_dim, cols)
            pairs = heads[:, :rotary_dim].reshape(len(heads), 2, rotary_dim // 2, cols).transpose(1, 2)
            heads[:, :rotary_dim] = pairs.reshape(len(heads), rotary_dim, cols)
            top, bottom = max(first, row), min(last, end)
            out[top - row : bottom - row].copy_(rows[top - first : bottom - first])


def _all_finite(matrix: Tensor) -> bool:
    """Minimum and maximum propagate NaN and infinity: one pass over the weights on their device, and no copy.

    Their values are looked at on the host: each further kernel would be loaded first, which takes longer than its work.
    """
    low, high = torch.aminmax(matrix)
    return math.isfinite(low.item()) and math.isfinite(high.item())
