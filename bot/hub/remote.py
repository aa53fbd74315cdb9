"""What the hub says of a repository: its commit and its files with their sums. Wraps huggingface_hub; writes no file.

Answers are untrusted: names of files are plain names, sizes are numbers, sums are hexadecimal.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants, errors, get_hf_file_metadata, get_token, hf_hub_url
from huggingface_hub.hf_api import HfApi
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented as public

from bot.hub.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub.file_download import HfFileMetadata

ASK_SECONDS = 20.0
MAX_FILES = 200
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOO_MANY = 429
_REFUSED_LINK = {400, 401, 403, 410}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to fetch. A large file has its sha256; a small one, which git stores itself, has git's sum."""

    path: str
    size: int
    sha256: str | None
    git_sha1: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where one file's bytes are now, and the headers to ask for them with."""

    url: str
    headers: dict[str, str]
    size: int | None
    etag: str | None
    is_of_hub: bool = True
    """Whether the hub serves the bytes itself, and not a store by a signed link."""


def list_files(repo: str, patterns: Sequence[str]) -> tuple[str, list[RemoteFile]]:
    """The newest commit of a repository, and its files of these names. Raises HubError."""
    with hub_errors(repo):
        info = HfApi().model_info(repo, files_metadata=True, timeout=ASK_SECONDS)
    files = []
    for sibling in info.siblings or ():
        name = sibling.rfilename
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        if not _NAME.fullmatch(name):
            raise HubError(f"The hub names a file of {repo} that is no plain name. Nothing was fetched.")
        sha256 = sibling.lfs.sha256 if sibling.lfs is not None else None
        size = sibling.size if sibling.size is not None else -1
        if (sha256 is not None and not _SHA256.fullmatch(sha256)) or size < 0 or (not sha256 and not sibling.blob_id):
            raise HubError(f"The hub states no size or sum of {repo}/{name}. Nothing was fetched.")
        files.append(RemoteFile(name, size, sha256, sibling.blob_id))
    if not files or info.sha is None or not _COMMIT.fullmatch(info.sha) or len(files) > MAX_FILES:
        raise HubError(f"{repo} has no files that make up a model. Nothing was fetched.")
    return info.sha, files


def locate(repo: str, revision: str, path: str) -> Source:
    """Where a file is served now. Raises HubError, and RevisionNotFoundError of huggingface_hub."""
    url = hf_hub_url(repo, path, revision=revision)
    with hub_errors(repo, path):
        found: HfFileMetadata = get_hf_file_metadata(url, timeout=ASK_SECONDS)
    headers = build_hf_headers()
    headers["Accept-Encoding"] = "identity"
    is_of_hub = urlsplit(found.location).netloc == urlsplit(url).netloc
    if not is_of_hub:
        headers.pop("authorization", None)  # the token is for the hub, not for where it keeps its bytes
    return Source(found.location, headers, found.size, found.etag, is_of_hub)


@contextlib.contextmanager
def hub_errors(repo: str, path: str = "", *, link: str | None = None) -> Iterator[None]:
    """Turn what huggingface_hub and httpx2 raise into a HubError of one line.

    The refusal of a signed `link` to a store says nothing of the account, and is left as it is.
    """
    try:
        yield
    except errors.RevisionNotFoundError:
        raise
    except errors.GatedRepoError as error:
        raise HubError(_gated(repo), reason=_reason(error)) from None
    except errors.RepositoryNotFoundError as error:
        raise HubError(_missing(repo), reason=_reason(error)) from None
    except errors.EntryNotFoundError as error:
        raise HubError(
            f"{repo} has no file {path} any more. A newer version of guildllama may know where it went.",
            reason=str(error),
        ) from None
    except errors.OfflineModeIsEnabled:
        raise HubError("HF_HUB_OFFLINE is set, so the hub is not asked. Unset it to pull a model.") from None
    except errors.HfHubHTTPError as error:
        if link is not None and error.response.status_code in _REFUSED_LINK:
            raise
        raise HubError(_refused(repo, error.response.status_code), reason=_reason(error)) from None
    except (httpx2.HTTPError, ConnectionError, TimeoutError) as error:
        raise HubError(
            f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}). Check the network, a proxy, or "
            "HF_ENDPOINT, and pull again: it goes on where it stopped.",
            reason=str(error),
        ) from None


def _gated(repo: str) -> str:
    page = f"{constants.ENDPOINT}/{repo}"
    if get_token() is None:
        return (
            f"{repo} is gated: sign in at {page}, accept its licence there, and pull again with a token of your "
            f"account in HF_TOKEN (made at {constants.ENDPOINT}/settings/tokens)."
        )
    return (
        f"{repo} is gated, and the account of your token has no access yet: accept its licence at {page}, and pull "
        "again."
    )


def _missing(repo: str) -> str:
    return (
        f"{constants.ENDPOINT} has no {repo}, or shows it only to some accounts (HF_TOKEN). It may have moved: a newer "
        "version of guildllama may know where."
    )


def _refused(repo: str, status: int) -> str:
    if status in {401, 403}:
        return f"The hub does not accept the token (HF_TOKEN, or `hf auth login`) for {repo}: status {status}."
    if status == _TOO_MANY:
        return "The hub says that there were too many requests. Wait a few minutes, or set HF_TOKEN, and pull again."
    return f"The hub answered {status} for {repo}. Pull again later: it goes on where it stopped."


def _reason(error: errors.HfHubHTTPError) -> str:
    return f"status {error.response.status_code}"
