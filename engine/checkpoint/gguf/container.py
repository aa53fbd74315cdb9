"""The container of a GGUF file: its settings, and where each tensor lies. Knows nothing of Llamas."""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.checkpoint.encoding import GGML
from engine.checkpoint.reading import Extent
from engine.errors import ConfigError

Value = int | float | bool | str | list[int] | list[float] | list[bool] | list[str]

# GGUF's numbers for the types of values.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class GgufFile:
    path: Path
    values: Mapping[str, Value]
    tensors: Mapping[str, Extent]
    dims: Mapping[str, tuple[int, ...]]  # as torch counts them: rows before columns


def is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == _MAGIC
    except OSError as error:
        raise ConfigError(path, expected="a readable file", found=str(error.strerror)) from error


def read_gguf(path: Path) -> GgufFile:
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _read(path, data, size)
        except (struct.error, IndexError) as error:
            raise ConfigError(path, expected="a complete GGUF file", found=f"its end after {size} bytes") from error
        except UnicodeDecodeError as error:
            raise ConfigError(path, expected="names in UTF-8", found=str(error)) from error


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def take(self, code: str) -> int:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        number: int = value
        return number

    def text(self) -> str:
        length = self.take("Q")
        if length > len(self.data) - self.at:
            raise IndexError(length)
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def value(self, kind: int) -> Value:
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            return self.take(_SCALARS[kind])
        if kind == _ARRAY:
            return self.array()
        raise struct.error(f"value of type {kind}")

    def array(self) -> Value:
        kind, count = self.take("I"), self.take("Q")
        if count > len(self.data) - self.at:  # every element takes at least a byte
            raise IndexError(count)
        if kind == _STRING:
            return [self.text() for _ in range(count)]
        if kind not in _SCALARS:
            raise struct.error(f"array of type {kind}")
        code = f"<{count}{_SCALARS[kind]}"
        values = list(struct.unpack_from(code, self.data, self.at))
        self.at += struct.calcsize(code)
        return values


def _read(path: Path, data: mmap.mmap, size: int) -> GgufFile:
    cursor = _Cursor(data)
    if data[:4] != _MAGIC:
        raise ConfigError(path, expected="a GGUF file", found=f"one that begins with {data[:4]!r}")
    cursor.at = 4
    version = cursor.take("I")
    if version not in _VERSIONS:
        raise ConfigError(path, expected="GGUF version 2 or 3, little-endian", found=f"version {version}")
    tensor_count, value_count = cursor.take("Q"), cursor.take("Q")
    values: dict[str, Value] = {}
    for _ in range(value_count):
        key = cursor.text()
        values[key] = cursor.value(cursor.take("I"))
    entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(tensor_count):
        name = cursor.text()
        dims = tuple(cursor.take("Q") for _ in range(cursor.take("I")))
        entries[name] = dims[::-1], cursor.take("I"), cursor.take("Q")
    alignment = values.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0:
        raise ConfigError(path, expected="a positive general.alignment", found=f"{alignment!r}")
    start = cursor.at + -cursor.at % alignment
    tensors = {name: _extent(path, size, name, dims, kind, start + at) for name, (dims, kind, at) in entries.items()}
    return GgufFile(path, values, tensors, {name: dims for name, (dims, _, _) in entries.items()})


def _extent(path: Path, size: int, name: str, dims: tuple[int, ...], kind: int, offset: int) -> Extent:
    if kind not in GGML:
        known = ", ".join(encoding.name for encoding in GGML.values())
        raise ConfigError(path, expected=f"{name} in one of {known}", found=f"GGML type {kind}")
    encoding = GGML[kind]
    if not dims or math.prod(dims) == 0 or dims[-1] % encoding.block:
        raise ConfigError(path, expected=f"rows of {name} in blocks of {encoding.block}", found=f"shape {list(dims)}")
    # A vector is kept as a column, except where its blocks need it to be a row; no Llama has such vectors.
    rows, cols = (dims[0], 1) if len(dims) == 1 and encoding.block == 1 else (math.prod(dims[:-1]), dims[-1])
    extent = Extent(path, offset, rows, cols, encoding)
    if extent.end > size:
        raise ConfigError(path, expected=f"{extent.end} bytes ({name} ends there)", found=f"{size} bytes")
    return extent
