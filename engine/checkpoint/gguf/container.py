"""Parses a GGUF file: its metadata, and the extent of each tensor. It knows nothing of models.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from engine.checkpoint.gguf.blocks import GGML_TYPES, OTHER_GGML_TYPES
from engine.checkpoint.reading import Extent
from engine.errors import ConfigError

Value = int | float | bool | str | list[int] | list[float] | list[bool] | list[str]

# `gguf_metadata_value_type` as `struct` codes.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_DIMS = 4  # GGML's
# Vocabularies of 256,000 tokens take 10 MB; without a bound, damaged counts would turn weights into lists of numbers.
MAX_HEADER_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The parsed header. `shapes` has torch's order of dimensions (rows, columns), the reverse of the file's."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, Extent]
    shapes: Mapping[str, tuple[int, ...]]


def is_gguf(path: Path) -> bool:
    """Whether the file begins with GGUF's magic number; ConfigError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4) == _MAGIC
    except OSError as error:
        raise ConfigError(path, expected="a readable file", found=str(error.strerror)) from error


def read_gguf(path: Path) -> GgufFile:
    """Parse the header; ConfigError if it is damaged, or a tensor reaches beyond the end of the file."""
    size = path.stat().st_size
    length = min(size, MAX_HEADER_BYTES)
    with path.open("rb") as file, mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ) as data:
        try:
            return _read(path, data, size)
        except (struct.error, IndexError) as error:
            if length < size:
                expected, found = f"a header of at most {MAX_HEADER_BYTES} bytes", "a longer or a damaged one"
                raise ConfigError(path, expected=expected, found=found) from error
            raise ConfigError(path, expected="a complete GGUF file", found=f"its end after {size} bytes") from error
        except UnicodeDecodeError as error:
            raise ConfigError(path, expected="names in UTF-8", found=str(error)) from error


class _Cursor:
    """Reads values one after the other; struct.error or IndexError at the end of the data."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0

    def take(self, code: str) -> int:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        number: int = value
        return number

    def name(self) -> str:
        return self._bytes().decode()

    def text(self) -> str:
        """A value; what is not UTF-8 becomes surrogates, so that a note in Latin-1 does not refuse a model."""
        return self._bytes().decode(errors="surrogateescape")

    def _bytes(self) -> bytes:
        length = self.take("Q")
        if length > len(self.data) - self.at:
            raise IndexError(length)
        self.at += length
        return self.data[self.at - length : self.at]

    def value(self, kind: int) -> Value:
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            return self.take(_SCALARS[kind])
        if kind == _ARRAY:
            return self.array()
        raise ConfigError(self.path, expected="values of GGUF's types", found=f"one of type {kind}")

    def array(self) -> Value:
        kind, count = self.take("I"), self.take("Q")
        if count > len(self.data) - self.at:  # every element takes at least a byte
            raise IndexError(count)
        if kind == _STRING:
            return [self.text() for _ in range(count)]
        if kind not in _SCALARS:
            raise ConfigError(self.path, expected="arrays of numbers or texts", found=f"one of type {kind}")
        code = f"<{count}{_SCALARS[kind]}"
        values = list(struct.unpack_from(code, self.data, self.at))
        self.at += struct.calcsize(code)
        return values


def _read(path: Path, data: mmap.mmap, size: int) -> GgufFile:
    cursor = _Cursor(path, data)
    if data[:4] != _MAGIC:
        raise ConfigError(path, expected="a GGUF file", found=f"one that begins with {data[:4]!r}")
    cursor.at = 4
    version = cursor.take("I")
    if version not in _VERSIONS:
        raise ConfigError(path, expected="GGUF version 2 or 3, little-endian", found=f"version {version}")
    tensor_count, value_count = cursor.take("Q"), cursor.take("Q")
    values: dict[str, Value] = {}
    for _ in range(value_count):
        key = cursor.name()
        if key in values:
            raise ConfigError(path, expected="each key once", found=f"{key[:80]!r} twice")
        values[key] = cursor.value(cursor.take("I"))
    entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(tensor_count):
        name = cursor.name()
        if name in entries:
            raise ConfigError(path, expected="each tensor once", found=f"{name[:80]!r} twice")
        num_dims = cursor.take("I")
        if num_dims > _MAX_DIMS:
            expected = f"at most {_MAX_DIMS} dimensions of {name[:80]!r}"
            raise ConfigError(path, expected=expected, found=f"{num_dims}")
        dims = tuple(cursor.take("Q") for _ in range(num_dims))
        entries[name] = dims[::-1], cursor.take("I"), cursor.take("Q")
    alignment = values.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or isinstance(alignment, bool) or alignment <= 0:
        raise ConfigError(path, expected="a positive general.alignment", found=f"{alignment!r}")
    start = cursor.at + -cursor.at % alignment
    tensors = {name: _extent(path, size, name, dims, kind, start + at) for name, (dims, kind, at) in entries.items()}
    _check_overlaps(path, tensors)
    return GgufFile(path, values, tensors, {name: dims for name, (dims, _, _) in entries.items()})


def _check_overlaps(path: Path, tensors: Mapping[str, Extent]) -> None:
    """ConfigError if two tensors share bytes, as they do where an offset is damaged."""
    ordered = sorted(tensors.items(), key=lambda item: item[1].offset)
    for (first, extent), (second, following) in pairwise(ordered):
        if following.offset < extent.end:
            raise ConfigError(path, expected="tensors one after the other", found=f"{second} within {first}")


def _extent(path: Path, size: int, name: str, dims: tuple[int, ...], kind: int, offset: int) -> Extent:
    if kind not in GGML_TYPES:
        known = ", ".join(encoding.name for encoding in GGML_TYPES.values())
        found = OTHER_GGML_TYPES.get(kind, f"GGML type {kind}")
        raise ConfigError(path, expected=f"{name} in one of {known}", found=found)
    encoding = GGML_TYPES[kind]
    if not dims or math.prod(dims) == 0 or dims[-1] % encoding.block_size:
        raise ConfigError(
            path, expected=f"rows of {name} in blocks of {encoding.block_size}", found=f"shape {list(dims)}"
        )
    # A vector is stored as a column, except a quantized one, whose blocks need a row; no model here has one.
    rows, cols = (dims[0], 1) if len(dims) == 1 and encoding.block_size == 1 else (math.prod(dims[:-1]), dims[-1])
    extent = Extent(path, offset, rows, cols, encoding)
    if extent.end > size:
        raise ConfigError(path, expected=f"{extent.end} bytes ({name} ends there)", found=f"{size} bytes")
    return extent
