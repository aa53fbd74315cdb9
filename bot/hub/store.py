"""The pulled models on this machine: a folder each, with a record of what was fetched. Knows files; asks nobody.

A model counts as pulled once its record is written, which is the last step; until then its folder holds parts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bot.hub.catalogue import CatalogueModel
from models.private_files import create_folder, write_text

_RECORD = "pulled.json"


@dataclass(frozen=True, slots=True)
class PulledFile:
    """One file as it was fetched. `sha256` was computed from the bytes here."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PulledModel:
    """What was fetched, from where, and whether its sums were known before."""

    name: str
    repo: str
    revision: str
    pinned: bool
    """False: commit and sums are those that the hub named at the first fetch."""
    files: tuple[PulledFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class ModelStore:
    """All pulled models, in one folder that only its owner can read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def folder_of(self, name: str) -> Path:
        """Where a model's files are, or would be."""
        return self.folder / name

    def pulled(self, name: str) -> PulledModel | None:
        """The record of a model whose files are all here in full size; None for one that is missing or unfinished."""
        record = self._read(name)
        if record is None:
            return None
        for file in record.files:
            path = self.folder_of(name) / file.path
            if not path.is_file() or path.stat().st_size != file.size:
                return None
        return record

    def record(self, name: str) -> PulledModel | None:
        """The record of a model, whatever became of its files."""
        return self._read(name)

    def path(self, pulled: PulledModel) -> Path:
        """What the engine is told to open: the one GGUF file, or the folder of a checkpoint with several files."""
        folder = self.folder_of(pulled.name)
        return folder / pulled.files[0].path if len(pulled.files) == 1 else folder

    def save(self, pulled: PulledModel) -> None:
        """Write the record, which completes a model. Raises OSError."""
        target = self.folder_of(pulled.name) / _RECORD
        temporary = target.with_name(f".{_RECORD}.{os.getpid()}")
        write_text(temporary, json.dumps(asdict(pulled), indent=2) + "\n")
        temporary.replace(target)

    def has_files(self, name: str) -> bool:
        """Whether anything of a model is here, also the part of an unfinished fetch."""
        return self.folder_of(name).is_dir()

    def bytes_on_disk(self, name: str) -> int:
        """What removing a model frees."""
        files = self.folder_of(name).rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file() and not path.is_symlink())

    def remove(self, model: CatalogueModel) -> None:
        """Delete a model's folder: the record first, so that what is left of a crash counts as unfinished."""
        folder = self.folder_of(model.name)
        (folder / _RECORD).unlink(missing_ok=True)
        shutil.rmtree(folder)

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[bool]:
        """Whether this process alone fetches the model while the block runs. The lock ends with the process."""
        import fcntl

        create_folder(self.folder_of(name))
        descriptor = os.open(self.folder_of(name) / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def _read(self, name: str) -> PulledModel | None:
        try:
            found = json.loads((self.folder_of(name) / _RECORD).read_text(encoding="utf-8"))
            files = tuple(PulledFile(str(f["path"]), int(f["size"]), str(f["sha256"])) for f in found["files"])
            record = PulledModel(name, str(found["repo"]), str(found["revision"]), bool(found["pinned"]), files)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if files and all(Path(file.path).name == file.path for file in files) else None
