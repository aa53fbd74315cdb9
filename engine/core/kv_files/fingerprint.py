"""What cached keys and values depend on, as a digest: they are of use only to an engine for which it is the same.

The checkpoint is told by its files' names, sizes, times and some bytes of each; reading all of it would take as long as
loading it.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.model.transformer import Transformer

CODE_VERSION: Final = 1  # another one once this program computes other keys and values, or lays them out differently
_SAMPLES: Final = 16
_SAMPLE_BYTES: Final = 4096
_ROPE_ROWS: Final = 64


def cache_fingerprint(config: EngineConfig, checkpoint: Checkpoint, model: Transformer, runner: str) -> bytes:
    """32 bytes; `runner` is the kind of runner."""
    digest = hashlib.sha256()
    facts = (
        CODE_VERSION, runner, config.dtype, config.kv_dtype, config.quantize, config.page_size, config.world_size,
        config.rank, config.device.type, checkpoint.spec,
    )  # fmt: skip
    digest.update("\n".join(map(repr, facts)).encode())
    for table in (model.rope, model.local_rope):
        if table is not None:
            digest.update(table[:_ROPE_ROWS].cpu().numpy().tobytes())
    for path in _files(checkpoint.path):
        _add_file(digest, path)
    return digest.digest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(each for each in path.iterdir() if each.is_file())
    elif path.is_file():
        # A checkpoint in several files is named by one of them.
        yield from sorted(each for each in path.parent.iterdir() if each.is_file() and each.suffix == path.suffix)


def _add_file(digest: "hashlib._Hash", path: Path) -> None:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        digest.update(repr((path.name, status.st_size, status.st_mtime_ns)).encode())
        for sample in range(_SAMPLES):
            digest.update(os.pread(file.fileno(), _SAMPLE_BYTES, status.st_size * sample // _SAMPLES))
        digest.update(os.pread(file.fileno(), _SAMPLE_BYTES, max(0, status.st_size - _SAMPLE_BYTES)))
