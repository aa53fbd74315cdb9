"""The two files of a rank in the store's folder: pages in records of one size, and the index that says what they are.

    rank0.pages    written in place
    rank0.index    replaced as a whole by
    rank0.new      which is there for a moment only

Both are for their owner only. One engine at a time has them. It knows files and offsets, not what is in them.
"""

import fcntl
import os
import stat
from pathlib import Path
from typing import Final

_OPEN: Final = os.O_CLOEXEC | os.O_NOFOLLOW
_ZEROS: Final = bytes(1 << 20)


class StoreFiles:
    """The open files. Every method but the first raises OSError if the file system does."""

    def __init__(self, folder: Path, rank: int, record_bytes: int) -> None:
        """Raises OSError, BlockingIOError among them if another engine has the folder."""
        self._folder, self._record_bytes = folder, record_bytes
        self.index_path, self._new_index_path = folder / f"rank{rank}.index", folder / f"rank{rank}.new"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._pages = os.open(folder / f"rank{rank}.pages", os.O_RDWR | os.O_CREAT | _OPEN, 0o600)
        try:
            fcntl.flock(self._pages, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _check_file(self._pages)
        except OSError:
            os.close(self._pages)
            raise

    @property
    def num_records(self) -> int:
        """Records that the page file has room for now, the last one perhaps in part."""
        return -(-os.fstat(self._pages).st_size // self._record_bytes)

    def read_index(self, max_bytes: int) -> bytes | None:
        """The whole index; None if there is none. Raises OSError, also for one that is too long."""
        try:
            descriptor = os.open(self.index_path, os.O_RDONLY | _OPEN)
        except FileNotFoundError:
            return None
        with open(descriptor, "rb") as file:
            _check_file(descriptor)
            if os.fstat(descriptor).st_size > max_bytes:
                raise OSError(0, "it is larger than any index")
            return file.read(max_bytes)

    def write_index(self, data: bytes) -> None:
        """Make durable what was written to records, then replace the index; a crash leaves the old or the new one."""
        os.fdatasync(self._pages)
        self._new_index_path.unlink(missing_ok=True)
        descriptor = os.open(self._new_index_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        self._new_index_path.replace(self.index_path)
        self._sync_folder()

    def read_record(self, record: int, size: int | None = None) -> bytes:
        """The record, or its first `size` bytes; shorter where the file ends."""
        return os.pread(self._pages, size or self._record_bytes, record * self._record_bytes)

    def write_record(self, record: int, data: bytes) -> None:
        """The whole record."""
        view, offset = memoryview(data), record * self._record_bytes
        while view:
            count = os.pwrite(self._pages, view, offset)
            view, offset = view[count:], offset + count

    def overwrite_record(self, record: int) -> None:
        """With zeros, where the file has it."""
        offset = record * self._record_bytes
        end = min(offset + self._record_bytes, os.fstat(self._pages).st_size)
        while offset < end:
            offset += os.pwrite(self._pages, memoryview(_ZEROS)[: end - offset], offset)

    def truncate(self, num_records: int) -> None:
        """Cut off all records from this one on."""
        os.ftruncate(self._pages, min(os.fstat(self._pages).st_size, num_records * self._record_bytes))

    def clear(self) -> None:
        """No index and no record is left; the files stay in use."""
        os.ftruncate(self._pages, 0)
        self.index_path.unlink(missing_ok=True)
        self._new_index_path.unlink(missing_ok=True)
        self._sync_folder()

    def close(self) -> None:
        """Let another engine have them."""
        os.close(self._pages)

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def may_exist(folder: Path, rank: int) -> bool:
    """Whether files of the rank are in the folder, or that cannot be told."""
    try:
        return any(name.startswith(f"rank{rank}.") for name in os.listdir(folder))
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _check_file(descriptor: int) -> None:
    """Raises OSError unless it is an ordinary file, which from now on only its owner can open."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(0, "it is not an ordinary file")
    os.fchmod(descriptor, 0o600)
