"""Joins the parts of a split GGUF file: `NAME-00001-of-00003.gguf`, as llama-gguf-split names them.

The first part has the metadata, every part has a header for the tensors in it. Any part may be named.
"""

import re
from dataclasses import replace
from pathlib import Path

from engine.checkpoint.gguf.container import GgufFile, Value, read_gguf
from engine.errors import ConfigError

_PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_MAX_PARTS = 1 << 10


def read_parts(path: Path) -> GgufFile:
    """The file at `path`, or all parts if it is one of several; ConfigError if one is missing or does not belong."""
    file = read_gguf(path)
    count = _count(file)
    if count <= 1:
        return file
    match = _PART.fullmatch(path.name)
    if match is None or int(match["count"]) != count or not 1 <= int(match["number"]) <= count:
        expected = f"the name of a part, such as {path.stem}-00001-of-{count:05}.gguf"
        raise ConfigError(path, expected=expected, found=f"one of {count} parts by another name")
    paths = [path.with_name(f"{match['name']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    missing = next((each for each in paths if not each.is_file()), None)
    if missing is not None:
        raise ConfigError(path, expected=f"the part {missing.name} beside it", found="none")
    parts = [file if each == path else read_gguf(each) for each in paths]
    tensors, shapes = dict(parts[0].tensors), dict(parts[0].shapes)
    for number, part in enumerate(parts):
        if (_count(part), part.metadata.get("split.no")) != (count, number):
            expected = f"part {number + 1} of {count}"
            raise ConfigError(part.path, expected=expected, found=f"split.no {part.metadata.get('split.no')}")
        if number and (twice := sorted(tensors.keys() & part.tensors.keys())):
            raise ConfigError(part.path, expected="each tensor in one part", found=f"{twice[0][:80]} again")
        tensors |= part.tensors
        shapes |= part.shapes
    promised = parts[0].metadata.get("split.tensors.count", len(tensors))
    if promised != len(tensors):
        raise ConfigError(path, expected=f"{promised} tensors in {count} parts", found=f"{len(tensors)}")
    return replace(parts[0], path=path, tensors=tensors, shapes=shapes)


def _count(file: GgufFile) -> int:
    value: Value = file.metadata.get("split.count", 0)
    if not isinstance(value, int) or not 0 <= value <= _MAX_PARTS:
        raise ConfigError(file.path, expected=f"a split.count of at most {_MAX_PARTS}", found=f"{value}"[:80])
    return value
