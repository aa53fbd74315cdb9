"""Opens a rank's files at the start of an engine, and says in one line why they are of no use if they are not."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from engine.kv_store.catalogue import StoredPage, decode
from engine.kv_store.files import StoreFiles, may_exist
from engine.kv_store.index import IndexUnusable, open_index
from engine.kv_store.sealing import SALT_BYTES, Sealer
from engine.kv_store.settings import StoreSettings

_INDEX_BYTES: Final = 1 << 20  # of an index, besides those of each record
_RECORD_INDEX_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class FileFormat:
    """What this engine writes: whose files they are, and the sizes of what is in them."""

    rank: int
    context: bytes  # names this rank among all
    record_bytes: int
    num_records: int
    page_size: int
    fingerprint: bytes


@dataclass(slots=True)
class OpenFiles:
    """`files`: None if nothing can be written. `is_clean`: nothing is left in the folder but what is said here."""

    files: StoreFiles | None
    sealer: Sealer
    salt: bytes
    stamps: dict[int, int] = field(default_factory=dict)  # by record
    catalogue: dict[int, StoredPage] = field(default_factory=dict)  # by record
    is_clean: bool = True


def open_store(settings: StoreSettings, form: FileFormat, log: Callable[[str], None]) -> OpenFiles:
    """Lock the files and read the index; without a usable one, begin with empty files."""
    folder, salt = settings.folder, os.urandom(SALT_BYTES)
    empty = OpenFiles(None, Sealer(settings.key, salt), salt)
    try:
        files = StoreFiles(folder, form.rank, form.record_bytes)
    except BlockingIOError:
        log(f"{folder} belongs to another engine that runs; this one keeps no pages over a restart")
        return empty
    except OSError as error:
        log(f"{folder} cannot be used ({error.strerror}); no pages are kept over a restart")
        empty.is_clean = not may_exist(folder, form.rank)
        return empty
    empty.files = files
    try:
        found = _read_index(settings, form, files)
        files.truncate(form.num_records)
        return found or empty
    except (IndexUnusable, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        log(f"{files.index_path} is not used, and the KV cache starts empty: {reason}")
    empty.is_clean = clear(files, settings, log)
    if not empty.is_clean:
        files.close()
        empty.files = None
    return empty


def clear(files: StoreFiles, settings: StoreSettings, log: Callable[[str], None]) -> bool:
    """Empty the files; False if that cannot be done."""
    try:
        files.clear()
    except OSError as error:
        log(f"{settings.folder} cannot be emptied ({error.strerror}); delete its files")
        return False
    return True


def _read_index(settings: StoreSettings, form: FileFormat, files: StoreFiles) -> OpenFiles | None:
    """None if there is no index. Raises IndexUnusable or OSError."""
    data = files.read_index(_INDEX_BYTES + form.num_records * _RECORD_INDEX_BYTES)
    if data is None:
        files.clear()
        return None
    index, sealer, salt = open_index(data, settings.key, fingerprint=form.fingerprint, context=form.context)
    stamps = {record: stamp for record, stamp in index.stamps.items() if record < form.num_records}
    try:
        pages = decode(index.catalogue, form.page_size) if index.catalogue else []
    except ValueError as error:
        raise IndexUnusable(f"it is malformed: {error}") from error
    return OpenFiles(files, sealer, salt, stamps, {page.record: page for page in pages if page.record in stamps})
