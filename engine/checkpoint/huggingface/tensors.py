"""Finds the tensors of a directory's safetensors files, under the files' own names."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from engine.checkpoint.encoding import BF16, F8_E4M3, F8_E8M0, F16, F32, I8, I32, I64, PLAIN, Encoding
from engine.checkpoint.files import ConfigReader, read_json
from engine.checkpoint.reading import Extent
from engine.errors import ConfigError

_ENCODINGS: dict[str, Encoding] = {each.name: each for each in (F32, F16, BF16, F8_E4M3, F8_E8M0, I8, I32, I64)}
_MAX_NAME = 255  # bytes, on the usual file systems
# Of vision-language models: what turns pictures into embeddings is not used.
_VISION = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")


def locate(path: Path) -> dict[str, Extent]:
    """The extent of every tensor of the language model in the directory."""
    index = path / "model.safetensors.index.json"
    # As transformers: one file, where there is one, wins over an index that an earlier version of the model left.
    if (path / "model.safetensors").is_file():
        return _extents(path / "model.safetensors")
    if not index.is_file():
        raise ConfigError(path, expected="model.safetensors, or its index", found="neither")
    weight_map = ConfigReader(index, read_json(index)).section("weight_map")
    if weight_map is None:
        raise ConfigError(index, expected="a weight_map", found="none")
    listed = {str(name): str(file) for name, file in weight_map.values.items()}
    for file in sorted(set(listed.values())):
        if "/" in file or len(file) > _MAX_NAME or not (path / file).is_file():
            raise ConfigError(index, expected=f"the file {file[:_MAX_NAME]} beside it", found="none")
    extents = {file: _extents(path / file) for file in set(listed.values())}
    found: dict[str, Extent] = {}
    for name, file in listed.items():
        if not _is_used(name):
            continue
        if name not in extents[file]:
            raise ConfigError(path / file, expected=f"the tensor {name}", found="none of that name")
        found[name] = extents[file][name]
    return found


def check_plain(name: str, extent: Extent) -> None:
    """ConfigError unless the tensor is one of plain floats."""
    if extent.encoding.dtype not in PLAIN:
        raise ConfigError(extent.path, expected=f"{name} in F32, F16 or BF16", found=extent.encoding.name)


def _is_used(name: str) -> bool:
    return not name.startswith(_VISION) and not name.endswith("rotary_emb.inv_freq")


def _extents(file: Path) -> dict[str, Extent]:
    """The extents in one file. The library validates the header (sizes, overlaps, gaps), which is then read as JSON."""
    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ConfigError(file, expected="a complete safetensors file", found=str(error)) from error
    with file.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        header: dict[str, Any] = json.loads(raw.read(length))
    extents: dict[str, Extent] = {}
    for name, entry in header.items():
        if name == "__metadata__" or not _is_used(name):
            continue
        if entry["dtype"] not in _ENCODINGS:
            expected = f"{name} in one of {', '.join(_ENCODINGS)}"
            raise ConfigError(file, expected=expected, found=str(entry["dtype"]))
        if len(entry["shape"]) > 2:
            raise ConfigError(file, expected=f"{name} as a vector or a matrix", found=f"shape {entry['shape']}")
        rows, cols = [*entry["shape"], 1, 1][:2]
        offset = 8 + length + int(entry["data_offsets"][0])
        extents[name] = Extent(file, offset, rows, cols, _ENCODINGS[entry["dtype"]])
    return extents
