"""Finds where the tensors of a `.pth` file are stored, without executing anything in it.

`torch.load(mmap=True, weights_only=True)` parses the file. Reading the weights through its mapping would fault in one
small memory page after another and keep them resident. So each tensor is traced to the offset of its zip entry, and
`reading` reads it from there. Where that is not certain, the mapped tensor itself is used.
"""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoint.encoding import PLAIN
from engine.checkpoint.reading import Extent
from engine.checkpoint.store import TensorPart
from engine.errors import ConfigError

_LOCAL_HEADER = 30  # bytes of a zip entry's local header before its file name


def read_shard(file: Path) -> Mapping[str, Tensor]:
    """The file's tensors by name, memory-mapped. ConfigError if it holds anything else, damaged or dangerous."""
    try:
        if file.exists() and not file.is_file():  # a pipe or a device would never end
            raise ConfigError(file, expected="a readable file", found="something else")
        with file.open("rb") as raw:
            raw.read(1)
    except OSError as error:
        raise ConfigError(file, expected="a readable file", found=str(error.strerror)) from error
    try:
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            file, expected="tensors and nothing else", found="a pickle of other objects, which was not run"
        ) from error
    except Exception as error:  # a damaged pickle can raise any exception
        size = file.stat().st_size
        raise ConfigError(
            file, expected="a complete torch file", found=f"{size} bytes that are none ({error!s:.80})"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise ConfigError(file, expected="a dictionary of named tensors", found=type(content).__name__)
    return content


def locate_tensors(file: Path, shard: Mapping[str, Tensor]) -> dict[str, TensorPart]:
    """Each matrix and vector of the shard as an extent of its file, or as the mapped tensor where none is known."""
    offsets = _storage_offsets(file, shard)
    parts: dict[str, TensorPart] = {}
    for name, tensor in shard.items():
        matrix = tensor.unsqueeze(-1) if tensor.dim() == 1 else tensor
        if matrix.dim() != 2:
            continue  # the caller has already refused a tensor of this shape
        storage = tensor.untyped_storage().data_ptr()
        if storage in offsets and matrix.is_contiguous() and tensor.dtype in PLAIN:
            offset = offsets[storage] + int(tensor.storage_offset()) * tensor.element_size()
            parts[name] = TensorPart(Extent(file, offset, matrix.shape[0], matrix.shape[1], PLAIN[tensor.dtype]))
        else:
            parts[name] = TensorPart(matrix)
    return parts


def _storage_offsets(file: Path, shard: Mapping[str, Tensor]) -> dict[int, int]:
    """File offset of each storage by its address; empty unless storages and zip entries match one to one.

    All storages of a file are in one mapping, so their addresses and the offsets of the zip entries differ by one
    constant. The match is accepted only if this holds for all of them and their sizes are equal.
    """
    sizes = {s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in shard.values())}
    try:
        entries = _storage_entries(file)
    except (zipfile.BadZipFile, NotImplementedError):  # torch accepts archives that Python's zipfile does not
        return {}
    if not sizes or len(entries) != len(sizes):
        return {}
    match = dict(zip(sorted(sizes), sorted(entries), strict=True))
    shift = min(sizes) - min(entries)
    valid = all(address - offset == shift and sizes[address] == entries[offset] for address, offset in match.items())
    return match if valid else {}


def _storage_entries(file: Path) -> dict[int, int]:
    """Size of each storage in the archive, by its offset in the file."""
    entries: dict[int, int] = {}
    with zipfile.ZipFile(file) as archive, file.open("rb") as raw:
        for info in archive.infolist():
            if Path(info.filename).parent.name != "data" or info.compress_type != zipfile.ZIP_STORED:
                continue
            raw.seek(info.header_offset)
            header = raw.read(_LOCAL_HEADER)
            lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            entries[info.header_offset + _LOCAL_HEADER + lengths] = info.file_size
    return entries
