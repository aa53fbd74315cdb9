"""The pulled models on this machine: a folder each, with a record of what was fetched. Knows files, and no network.

A model counts as pulled once its record is written, which is the last step; until then its folder holds a part.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bot.hub.catalogue import CatalogueModel, HubFile
from models.private_files import create_folder, write_text

_RECORD = "pulled.json"


@dataclass(frozen=True, slots=True)
class PulledModel:
    """What was fetched, and from where. Its sha256 was computed from the bytes on this disk."""

    name: str
    repo: str
    revision: str
    pinned: bool
    """False: commit and sum are those that the hub named at the first fetch."""
    file: HubFile


class ModelStore:
    """All pulled models, in one folder that only its owner can read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def folder_of(self, name: str) -> Path:
        """Where a model's files are, or would be."""
        return self.folder / name

    def pulled(self, model: CatalogueModel) -> PulledModel | None:
        """The record of a model that is here in full size and as it is pinned now; None if it is to be pulled."""
        record = self.record(model.name)
        if record is None or (model.file is not None and _identity(record.file) != _identity(model.file)):
            return None
        path = self.path(record)
        return record if path.is_file() and path.stat().st_size == record.file.size else None

    def record(self, name: str) -> PulledModel | None:
        """The record of a model, also if its file is missing. None if the record is missing or damaged."""
        try:
            found = json.loads((self.folder_of(name) / _RECORD).read_text(encoding="utf-8"))
            file = HubFile(str(found["file"]["path"]), int(found["file"]["size"]), str(found["file"]["sha256"]))
            record = PulledModel(name, str(found["repo"]), str(found["revision"]), bool(found["pinned"]), file)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if file.path and Path(file.path).name == file.path else None

    def path(self, pulled: PulledModel) -> Path:
        """The GGUF file that the engine is told to open."""
        return self.folder_of(pulled.name) / pulled.file.path

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


def _identity(file: HubFile) -> tuple[str, str]:
    """What makes a file the same. Not its size: the hub's is believed over the catalogue's, and the sum decides."""
    return file.path, file.sha256
