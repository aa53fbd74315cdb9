"""Fetches a model into a part file, which survives a cut connection and a killed process; checks it, then renames it.

The part's name has the sum that its bytes must have, so parts of two versions never mix. Knows the disk and the order
of steps; `remote` knows the hub.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx2
from huggingface_hub.errors import RevisionNotFoundError

from bot.hub.catalogue import CatalogueModel, HubFile
from bot.hub.errors import HubError, disk_error
from bot.hub.remote import LinkRefused, Source, find_file, load, locate
from bot.hub.store import ModelStore, PulledModel
from models.private_files import FILE_MODE

SPARE_BYTES = 64 << 20
"""Bytes that a download leaves free on the disk."""
_NEWEST = "main"
_MAX_USELESS_LINKS = 2
"""Signed links in a row that are refused before a byte has come. One may have expired before it was used."""

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
    known = store.record(model.name)
    revision, file = _wanted(model, known, say)
    path = store.folder_of(model.name) / file.path
    if not _is_whole(path, file):
        source = _source(model, revision, file, say)
        _check_disk(path, file, source)
        _fetch(model, revision, file, source, path, say)
    if not model.pinned:
        say(f"{file.sha256}  {file.path}")
    pulled = PulledModel(model.name, model.repo, revision, model.pinned, replace(file, size=path.stat().st_size))
    store.save(pulled)
    if known is not None and store.path(known) != path:
        store.path(known).unlink(missing_ok=True)  # the model was pinned to another file before
    return pulled


def _wanted(model: CatalogueModel, known: PulledModel | None, say: Say) -> tuple[str, HubFile]:
    """The commit and the file to fetch. Without a pin: those of the first pull, which takes what the hub names now."""
    if model.revision is not None and model.file is not None:
        return model.revision, model.file
    if known is not None:
        return known.revision, known.file
    revision, file = find_file(model.repo, model.pattern)
    say(f"{model.name} has no pinned version: taking what the hub names now, commit {revision}, and its sum.")
    return revision, file


def _source(model: CatalogueModel, revision: str, file: HubFile, say: Say) -> Source:
    """Where to load a file from. If the hub has lost the pinned commit, the same file of the newest one is used."""
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
    if source.etag and len(source.etag) == len(file.sha256) and source.etag != file.sha256:
        raise HubError(
            f"The hub's {file.path} is another file than the one that this version of guildllama knows (its sum "
            f"begins with {source.etag[:12]} instead of {file.sha256[:12]}). Nothing was fetched."
        )
    return source


def _check_disk(path: Path, file: HubFile, source: Source) -> None:
    part = _part(path, file)
    missing = (source.size or file.size) - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(path.parent).free
    if missing + SPARE_BYTES > free:
        raise HubError(
            f"There is too little room in {path.parent}: {missing / 1e9:.1f} GB are still to come, and "
            f"{free / 1e9:.1f} GB are free. Make room, or choose another folder with GUILDLLAMA_MODELS_DIR."
        )


def _fetch(model: CatalogueModel, revision: str, file: HubFile, source: Source, path: Path, say: Say) -> None:
    """Load the rest of a file, check it and give it its name."""
    part = _part(path, file)
    size = file.size if source.size is None else source.size
    useless_links = 0
    with os.fdopen(os.open(part, os.O_CREAT | os.O_RDWR, FILE_MODE), "r+b") as target:
        have = target.seek(0, os.SEEK_END)
        if have > size:
            target.seek(0)
            target.truncate()
            have = 0
        if have:
            say(f"{file.path}: going on after {have / 1e6:,.0f} MB")
        while not size or have < size:
            try:
                load(model.repo, file, source, target, have, size)
                break
            except LinkRefused as refused:
                # A link is signed for about an hour, and a large file may take longer than that.
                arrived = target.seek(0, os.SEEK_END)
                useless_links = 0 if arrived > have else useless_links + 1
                if useless_links == _MAX_USELESS_LINKS:
                    text = f"The hub's links to {file.path} do not work. Pull again later."
                    raise HubError(text, reason=str(refused)) from None
                source, have = _source(model, revision, file, say), arrived
        target.flush()
        os.fsync(target.fileno())
    if _sha256(part) != file.sha256:
        part.unlink()  # a wrong byte somewhere: nothing of it can be used
        raise HubError(
            f"What came for {file.path} has a wrong sum, so it was deleted. Pull again; if that happens twice, "
            "something between you and the hub changes the file."
        )
    part.replace(path)


def _is_whole(path: Path, file: HubFile) -> bool:
    """Whether the file itself is here already. Another one of its name is deleted."""
    if not path.is_file():
        return False
    if _sha256(path) == file.sha256:
        return True
    path.unlink()
    return False


def _part(path: Path, file: HubFile) -> Path:
    return path.with_name(f".{file.sha256[:16]}.part")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
