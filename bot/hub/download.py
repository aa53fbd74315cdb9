"""Fetches a model: to a part file that outlives a cut connection and a killed process, checked, then named.

The part's name has the sum that its bytes must have, so parts of two versions never mix. Knows the disk and the order
of steps; `remote` knows the hub.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import httpx2
from huggingface_hub import errors
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.file_download import http_get

from bot.hub.catalogue import CatalogueModel
from bot.hub.errors import HubError, disk_error
from bot.hub.remote import RemoteFile, Source, hub_errors, list_files, locate
from bot.hub.store import ModelStore, PulledFile, PulledModel
from models.private_files import FILE_MODE

SPARE_BYTES = 64 << 20
"""What is left free on the disk."""
_CHUNK = 4 << 20
_NEWEST = "main"
_MAX_LINKS = 100
"""How often an expired link is replaced by a new one."""

Say = Callable[[str], None]


def pull(model: CatalogueModel, store: ModelStore, say: Say) -> PulledModel:
    """Fetch what is missing of a model, and record it. Raises HubError."""
    try:
        with store.locked(model.name) as alone:
            if not alone:
                raise HubError(f"Another process pulls {model.name} right now.")
            return _pull(model, store, say)
    except OSError as error:
        if isinstance(error, httpx2.HTTPError):
            raise
        raise disk_error(error, store.folder) from error


def _pull(model: CatalogueModel, store: ModelStore, say: Say) -> PulledModel:
    folder = store.folder_of(model.name)
    if model.revision is not None:
        revision = model.revision
        files = [RemoteFile(file.path, file.size, file.sha256) for file in model.files]
    else:
        revision, files = _without_pin(model, store, say)
    sources = {file.path: _source(model, revision, file, say) for file in files if not _is_whole(folder, file)}
    _check_disk(folder, files, sources)
    pulled = []
    for file in files:
        path = folder / file.path
        source = sources.get(file.path)
        sha256 = _sums(path)[0] if source is None else _fetch(model, revision, file, source, path, say)
        pulled.append(PulledFile(file.path, path.stat().st_size, sha256))
        if not model.pinned:
            say(f"{sha256}  {file.path}")
    result = PulledModel(model.name, model.repo, revision, model.pinned, tuple(pulled))
    store.save(result)
    return result


def _without_pin(model: CatalogueModel, store: ModelStore, say: Say) -> tuple[str, list[RemoteFile]]:
    """What the first pull was given, which later ones hold to; at the first one what the hub names now."""
    known = store.record(model.name)
    if known is not None:
        return known.revision, [RemoteFile(file.path, file.size, file.sha256) for file in known.files]
    revision, files = list_files(model.repo, model.patterns)
    say(f"{model.name} has no pinned version: taking what the hub names now, commit {revision}, and its sums.")
    return revision, files


def _source(model: CatalogueModel, revision: str, file: RemoteFile, say: Say) -> Source:
    """Where to load a file from. A commit that is gone is no harm while the newest one has the same file."""
    try:
        source = locate(model.repo, revision, file.path)
    except RevisionNotFoundError:
        say(
            f"The hub has no commit {revision[:12]} of {model.repo} any more; looking for the same file in the newest "
            "one."
        )
        try:
            source = locate(model.repo, _NEWEST, file.path)
        except RevisionNotFoundError as error:
            raise HubError(f"{model.repo} has no version to fetch.", reason=str(error)) from None
    if source.etag and file.sha256 and len(source.etag) == len(file.sha256) and source.etag != file.sha256:
        raise HubError(
            f"The hub's {file.path} is another file than the one that this version of guildllama knows (its sum "
            f"begins with {source.etag[:12]} instead of {file.sha256[:12]}). Nothing was fetched."
        )
    return source


def _check_disk(folder: Path, files: list[RemoteFile], sources: dict[str, Source]) -> None:
    missing = sum((sources[f.path].size or f.size) - _part_size(folder, f) for f in files if f.path in sources)
    free = shutil.disk_usage(folder).free
    if missing + SPARE_BYTES > free:
        raise HubError(
            f"There is too little room in {folder}: {missing / 1e9:.1f} GB are still to come, and {free / 1e9:.1f} GB "
            "are free. Make room, or choose another folder with GUILDLLAMA_MODELS_DIR."
        )


def _fetch(model: CatalogueModel, revision: str, file: RemoteFile, source: Source, path: Path, say: Say) -> str:
    """Load the rest of a file, check it and give it its name. The sha256 of its bytes."""
    part = _part(path.parent, file)
    size = file.size if source.size is None else source.size
    with os.fdopen(os.open(part, os.O_CREAT | os.O_RDWR, FILE_MODE), "r+b") as target:
        have = target.seek(0, os.SEEK_END)
        if have > size:
            target.seek(0)
            target.truncate()
            have = 0
        if have:
            say(f"{file.path}: going on after {have / 1e6:,.0f} MB")
        for links_left in range(_MAX_LINKS, -1, -1):
            if size and have >= size:
                break
            try:
                _load(model, file, source, target, have, size)
                break
            except errors.HfHubHTTPError as error:
                if not links_left:
                    raise HubError(f"The hub's links to {file.path} do not work. Pull again later.") from error
                # A link is signed for about an hour, and a large file may take longer than that.
                source = _source(model, revision, file, say)
                have = target.seek(0, os.SEEK_END)
        target.flush()
        os.fsync(target.fileno())
    sha256, git_sha1 = _sums(part)
    if (file.sha256 or sha256) != sha256 or (file.sha256 is None and file.git_sha1 != git_sha1):
        part.unlink()  # a wrong byte somewhere: nothing of it can be used
        raise HubError(
            f"What came for {file.path} has a wrong sum, so it was deleted. Pull again; if that happens twice, "
            "something between you and the hub changes the file."
        )
    part.replace(path)
    return sha256


def _load(model: CatalogueModel, file: RemoteFile, source: Source, target: BinaryIO, have: int, size: int) -> None:
    with hub_errors(model.repo, file.path, link=None if source.is_of_hub else source.url):
        try:
            http_get(
                source.url,
                target,
                resume_size=have,
                headers=source.headers,
                expected_size=size,
                displayed_filename=file.path,
            )
        except OSError as error:
            # Its check of the size raises a bare OSError; every other one names its number or is of the network.
            if error.errno is not None or isinstance(error, httpx2.HTTPError | ConnectionError | TimeoutError):
                raise
            target.truncate(0)
            raise HubError(f"{file.path} came with another size than the hub had named. Pull again.") from error


def _is_whole(folder: Path, file: RemoteFile) -> bool:
    """Whether the file itself is here already: its name is given only to checked bytes."""
    path = folder / file.path
    if not path.is_file():
        return False
    sha256, git_sha1 = _sums(path)
    if sha256 == file.sha256 or (file.sha256 is None and git_sha1 == file.git_sha1):
        return True
    path.unlink()
    return False


def _part(folder: Path, file: RemoteFile) -> Path:
    return folder / f".{(file.sha256 or file.git_sha1 or '')[:16]}.part"


def _part_size(folder: Path, file: RemoteFile) -> int:
    part = _part(folder, file)
    return part.stat().st_size if part.exists() else 0


def _sums(path: Path) -> tuple[str, str]:
    """The sha256, and the sha1 that git names a file by."""
    sha256 = hashlib.sha256()
    git = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            git.update(chunk)
    return sha256.hexdigest(), git.hexdigest()
