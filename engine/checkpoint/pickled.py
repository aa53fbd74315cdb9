"""One `.pth` file: parsed by torch without running anything in it, then only remembered as places in the file.

`torch.load(mmap=True, weights_only=True)` decides what the tensors are. Reading them through its mapping would fault
in one small page after another and keep them resident, so the tensors are traced back to the offsets of the zip
entries they lie in. Where that cannot be done with certainty, the mapped tensor itself is the place.
"""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoint.encoding import PLAIN
from engine.checkpoint.reading import Extent
from engine.checkpoint.store import Part
from engine.errors import ConfigError

_LOCAL_HEADER = 30  # bytes before the name in a zip entry's own header


def read_shard(file: Path) -> Mapping[str, Tensor]:
    try:
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
    except Exception as error:  # a damaged pickle can fail in any of its instructions, in any way
        size = file.stat().st_size
        raise ConfigError(
            file, expected="a complete torch file", found=f"{size} bytes that are none ({error!s:.80})"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise ConfigError(file, expected="a dictionary of named tensors", found=type(content).__name__)
    return content


def locate(file: Path, shard: Mapping[str, Tensor]) -> dict[str, Part]:
    offsets = _storage_offsets(file, shard)
    places: dict[str, Part] = {}
    for name, tensor in shard.items():
        matrix = tensor.unsqueeze(-1) if tensor.dim() == 1 else tensor
        if matrix.dim() != 2:
            continue  # no tensor of a Llama; the caller has refused it by its shape
        storage = tensor.untyped_storage().data_ptr()
        if storage in offsets and matrix.is_contiguous() and tensor.dtype in PLAIN:
            begin = offsets[storage] + int(tensor.storage_offset()) * tensor.element_size()
            places[name] = Part(Extent(file, begin, matrix.shape[0], matrix.shape[1], PLAIN[tensor.dtype]))
        else:
            places[name] = Part(matrix)
    return places


def _storage_offsets(file: Path, shard: Mapping[str, Tensor]) -> dict[int, int]:
    """File offset of each storage, by its address; empty if files and addresses do not match one to one.

    All storages of a file lie in one mapping, so their addresses and the offsets of the zip entries differ by one
    constant. That it holds for every one of them, sizes included, is the proof that the match is right.
    """
    sizes = {s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in shard.values())}
    try:
        entries = _entries(file)
    except (zipfile.BadZipFile, NotImplementedError):  # torch is more lenient than Python
        return {}
    if not sizes or len(entries) != len(sizes):
        return {}
    match = dict(zip(sorted(sizes), sorted(entries), strict=True))
    shift = min(sizes) - min(entries)
    right = all(address - offset == shift and sizes[address] == entries[offset] for address, offset in match.items())
    return match if right else {}


def _entries(file: Path) -> dict[int, int]:
    """Offset and size of each storage in the archive."""
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
